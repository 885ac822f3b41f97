"""A solver's choice of levels as a Draft, with what is proved of it.

draft = read(ask, network, solution, "max_drop")
draft = proven("max_drop", draft, bound, timed_out=False)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from ..schema import Proof
from .asking import Ask, Draft, costs
from .curves import Rung
from .order import Choice
from .products import Network
from .programs import Solution


def read(ask: Ask, network: Network, solution: Solution, goal: str) -> Draft:
    widths = {name: solution.taken(pick) for name, pick in network.width.items()}
    bits = {name: solution.taken(pick) for name, pick in network.bits.items()}
    drop = drop_of(network.width_rungs, widths) + drop_of(network.bit_rungs, bits)
    value = solution.value if goal == "max_drop" else costs(ask, widths, {**ask.bits, **bits})[goal]
    return drafted(ask, network.width_rungs, widths, bits, drop, stated(goal, value))


def drafted(
    ask: Ask,
    rungs: Mapping[str, tuple[Rung, ...]],
    widths: dict[str, int],
    bits: dict[str, int],
    drop: float,
    proof: Proof,
) -> Draft:
    scores = {name: {r.level: r.score for r in each} for name, each in rungs.items()}
    choices = [Choice(group=g, width=w, score=scores[g].get(w)) for g, w in _cuts(ask, widths).items()]
    return Draft(choices=choices, bits={n: b for n, b in bits.items() if b < 32}, drop=drop, proof=proof)


def _cuts(ask: Ask, widths: Mapping[str, int]) -> dict[str, int]:
    return {g: w for g, w in widths.items() if w < ask.graph.group_of[g].width}


def drop_of(rungs: Mapping[str, tuple[Rung, ...]], levels: Mapping[str, int]) -> float:
    """The sum of smoothed drops at these levels."""
    return sum(next(r.drop for r in rungs[name] if r.level == level) for name, level in levels.items())


def stated(goal: str, value: float) -> Proof:
    return Proof(objective=goal, value=value, bound=0.0, gap=1.0)


def proven(goal: str, draft: Draft, bound: float, *, timed_out: bool) -> Draft:
    """The draft with its proof: nothing in the objective is below `bound`."""
    value = value_of(draft)
    bound = float(min(max(0.0, bound), value))
    gap = (value - bound) / value if value > 1e-9 else 0.0
    status: Literal["time limit", "optimal"] = "time limit" if timed_out else "optimal"
    return replace(draft, proof=Proof(objective=goal, value=value, bound=bound, gap=gap, status=status))


def value_of(draft: Draft) -> float:
    """Its value of the objective."""
    assert draft.proof is not None
    return draft.proof.value
