"""Where the solver has no plan: the descent that finds one all the same, or the error that names the nearest.

draft = descended(ask, setting, "max_drop", {"bytes": 109034}, bound)     # every ladder stepped down, cheapest step first
raise unreachable(ask, setting, {"bytes": 2000})                         # BudgetError
"""

from collections.abc import Mapping
from itertools import pairwise

from ..errors import BudgetError
from .asking import Ask, Draft, costs, over
from .blocking import unreached
from .curves import Rung, check_curves
from .drafting import drafted, drop_of, proven, read, stated
from .modelling import Setting, modelled


def unreachable(ask: Ask, setting: Setting, limit_of: Mapping[str, float]) -> BudgetError:
    """The error that names the nearest plan: the one by which the limits are broken by the smallest share."""
    program, network, excess = modelled(ask, setting, "max_drop", limit_of, slack=True)
    solution = program.minimize(excess, seconds=setting.seconds, gap=1e-2)
    if solution.values is not None:
        nearest = read(ask, network, solution, "max_drop")
        widths, bits, drop = nearest.widths, nearest.bits, nearest.drop or 0.0
    else:
        widths = {name: rungs[-1].level for name, rungs in setting.widths.items()}
        bits = {name: rungs[-1].level for name, rungs in setting.bits.items()}
        drop = drop_of(setting.widths, widths) + drop_of(setting.bits, bits)
    reached = {**costs(ask, widths, {**ask.bits, **bits}), "max_drop": drop}
    asked = dict(limit_of) if ask.budget.max_drop is None else {**limit_of, "max_drop": ask.budget.max_drop}
    broken = {name: limit for name, limit in asked.items() if reached[name] > limit}
    floors = {g.name: setting.widths[g.name][-1].level for g in ask.graph.free}
    return unreached("knapsack", ask.graph, broken or asked, reached, widths, floors, check_curves(ask.profile))


def descended(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float], bound: float) -> Draft:
    """Step down the cheapest ladder until the limits hold. BudgetError where they hold at no step."""
    rungs = {("width", n): r for n, r in setting.widths.items()} | {("bits", n): r for n, r in setting.bits.items()}
    at = dict.fromkeys(rungs, 0)
    steps = sorted(
        (_slope(low, high), key, i) for key, each in rungs.items() for i, (low, high) in enumerate(pairwise(each), 1)
    )
    for _, key, i in [(0.0, None, 0), *steps]:
        if key is not None:
            at[key] = max(at[key], i)
        widths = {n: r[at["width", n]].level for n, r in setting.widths.items()}
        bits = {n: r[at["bits", n]].level for n, r in setting.bits.items()}
        drop = drop_of(setting.widths, widths) + drop_of(setting.bits, bits)
        if not over(ask, limit_of, widths, {**ask.bits, **bits}):
            return _landed(ask, setting, goal, widths, bits, drop, bound)
    raise unreachable(ask, setting, limit_of)


def _landed(
    ask: Ask, setting: Setting, goal: str, widths: dict[str, int], bits: dict[str, int], drop: float, bound: float
) -> Draft:
    value = drop if goal == "max_drop" else costs(ask, widths, {**ask.bits, **bits})[goal]
    draft = drafted(ask, setting.widths, widths, bits, drop, stated(goal, value))
    return proven(goal, draft, bound, timed_out=True)


def _slope(low: Rung, high: Rung) -> float:
    return (high.drop - low.drop) / (low.level - high.level)
