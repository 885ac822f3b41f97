"""A solver's choice of levels as a Draft, with what is proved of it.

draft = drafted(ask, setting, "max_drop", widths, bits)
draft = proven(draft, bound, 1e-3, timed_out=False)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from ..schema import Proof
from ..schema.plans import in_integers
from .asking import Ask, Draft, costs, keeps, over
from .branches import added_up
from .curves import Rung
from .modelling import Setting
from .order import Choice
from .products import Network
from .programs import Solution

Status = Literal["optimal", "time limit", "gap open"]


def read(ask: Ask, setting: Setting, network: Network, solution: Solution, goal: str) -> Draft:
    """The draft of a program's solution."""
    widths = {name: solution.taken(pick) for name, pick in network.width.items()}
    bits = {name: solution.taken(pick) for name, pick in network.bits.items()}
    return drafted(ask, setting, goal, widths, bits)


def drafted(ask: Ask, setting: Setting, goal: str, widths: Mapping[str, int], bits: Mapping[str, int]) -> Draft:
    """The draft of these levels of every group and layer; nothing is proved of it yet."""
    taken = {name: _rung(setting.widths[name], width) for name, width in widths.items()}
    rungs = [_rung(setting.bits[name], level) for name, level in bits.items()]
    drop = added_up(ask.graph, {n: r.drop for n, r in taken.items()}, widths) + sum(rung.drop for rung in rungs)
    if goal == "max_drop":
        weighed = {n: r.weighed(setting.factors.get(n, 1.0)) for n, r in taken.items()}
        value = added_up(ask.graph, weighed, widths) + sum(r.weighed() for r in rungs)
    else:
        value = float(costs(ask, widths, {**ask.bits, **bits})[goal])
    choices = [
        Choice(group=name, width=rung.level, score=rung.score)
        for name, rung in taken.items()
        if rung.level < ask.graph.group_of[name].width
    ]
    proof = Proof(objective=goal, value=value, bound=0.0, gap=1.0)
    return Draft(choices=choices, bits=in_integers(bits), drop=drop, proof=proof)


def _rung(rungs: tuple[Rung, ...], level: int) -> Rung:
    return next(rung for rung in rungs if rung.level == level)


def within(ask: Ask, limit_of: Mapping[str, float], draft: Draft) -> bool:
    """Whether exact costs and the drop keep every limit."""
    most = ask.budget.max_drop
    small = most is None or keeps(draft.drop or 0.0, most)
    return small and not over(ask, limit_of, draft.widths, {**ask.bits, **draft.bits})


def proven(draft: Draft, bound: float, gap: float, *, timed_out: bool) -> Draft:
    """The draft with its proof: nothing in the objective is below `bound`; optimal where that is as near as the `gap` asked for."""
    assert draft.proof is not None
    value = value_of(draft)
    bound = float(min(max(0.0, bound), value))
    status: Status = "optimal" if near(value, bound, gap) else "time limit" if timed_out else "gap open"
    left = (value - bound) / value if value > 1e-9 else 0.0
    return replace(draft, proof=replace(draft.proof, bound=bound, gap=left, status=status))


def near(value: float, bound: float, gap: float) -> bool:
    """Whether a bound is near enough to a value to be a proof of it."""
    return value - bound <= gap * abs(value) + 1e-9


def value_of(draft: Draft) -> float:
    """Its value of the objective."""
    assert draft.proof is not None
    return draft.proof.value
