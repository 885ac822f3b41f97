"""The search behind knapsack: a bound by prices, an integer program over what the bound leaves open, and the proof.

    draft = solved(ask, setting, "max_drop", {"bytes": 109034})

1. `relaxing` gives a bound L, and for every level of every group and layer what it costs at best.
2. The levels within a window above L make a small integer program (`programs`, HiGHS), which gives a plan of value U.
3. A level that costs at best more than U cannot be in a better plan: once the window reaches U, or U is within the gap of L, it is
   proved; else the window widens.
Where the network of groups is too wide for the bound, all levels go to the integer program at once.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..errors import BudgetError, LamellaError
from ..schema import Proof
from .asking import Ask, Draft, costs, over
from .blocking import unreached
from .curves import Rung, check_curves
from .elimination import TooWideError
from .modelling import Rungs, Setting, modelled
from .order import Choice
from .products import Network
from .programs import Solution
from .relaxing import Bound, best_bound
from .tabling import CostTables

TOLERANCE = 2e-6  # by which the solver may break a row, as a share of the limit
FIRST_LEVELS = 1.25  # levels per group and layer, on average, in the first window: small programs are solved at once
GROWTH = 1.4  # levels of the next window


def solved(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float]) -> Draft:
    """The best draft in the time. BudgetError where there is none."""
    end = time.perf_counter() + setting.seconds
    bound = _bound(ask, setting, goal, limit_of)
    best = None if bound is None else _met(ask, setting, goal, limit_of, bound)
    lowest, window = (0.0, np.inf) if bound is None else (bound.value, _first_window(bound))
    while best is None or not _close(best, lowest, setting.gap):
        narrowed = replace(_within(setting, bound, lowest + window), seconds=max(0.05, end - time.perf_counter()))
        solution, draft = _attempt(ask, narrowed, goal, limit_of)
        if draft is not None and (best is None or _value(draft) < _value(best)):
            best = draft
        proved = min(solution.bound if solution.possible else np.inf, lowest + window)
        complete = bound is None or not np.isfinite(window)
        if best is not None and (proved >= _value(best) or _close(best, proved, setting.gap) or complete):
            lowest = max(lowest, min(proved, _value(best)))
            return replace(best, proof=_proof(goal, best, lowest, solution.timed_out))
        if complete or solution.timed_out:
            break
        window = _wider(bound, window, None if best is None else _value(best) - lowest)
    if best is not None:
        return replace(best, proof=_proof(goal, best, lowest, not _close(best, lowest, setting.gap)))
    if solution.possible:
        return _fallback(ask, setting, limit_of, goal, lowest)
    raise _unreachable(ask, setting, limit_of)


def _value(draft: Draft) -> float:
    assert draft.proof is not None
    return draft.proof.value


def _close(draft: Draft, bound: float, gap: float) -> bool:
    return _value(draft) - bound <= gap * abs(_value(draft)) + 1e-9


def _met(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float], bound: Bound) -> Draft | None:
    """The plan that the search for prices met, if exact costs agree that it keeps the limits."""
    found = bound.candidate
    if found is None or setting.align > 1:
        return None
    widths = {n: rungs[found.widths.get(n, 0)].level for n, rungs in setting.widths.items()}
    bits = {n: rungs[found.bits[n]].level for n, rungs in setting.bits.items()}
    if over(ask, limit_of, widths, {**ask.bits, **bits}):
        return None
    drop = drop_of(setting.widths, widths) + drop_of(setting.bits, bits)
    if ask.budget.max_drop is not None and drop > ask.budget.max_drop:
        return None
    return _drafted(ask, setting.widths, widths, bits, drop, _stated(goal, found.value))


def _bound(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float]) -> Bound | None:
    if goal == "memory":
        return None
    drop = {} if ask.budget.max_drop is None else {"max_drop": max(ask.budget.max_drop, 1e-6)}
    try:
        tables = CostTables(ask, setting.widths, setting.bits, setting.factors)
    except TooWideError:
        return None
    return best_bound(tables, goal, {**limit_of, **drop})


def _levels(bound: Bound) -> np.ndarray:
    return np.sort(np.concatenate([*bound.widths.values(), *bound.bits.values()])) - bound.value


def _first_window(bound: Bound) -> float:
    levels, picks = _levels(bound), len(bound.widths) + len(bound.bits)
    wanted = float(levels[min(len(levels) - 1, int(FIRST_LEVELS * picks))])
    met = np.inf if bound.candidate is None else bound.candidate.value - bound.value
    return max(min(wanted, met), 1e-6 * abs(bound.value), 1e-9)


def _wider(bound: Bound | None, window: float, needed: float | None) -> float:
    """Some more levels, or just as far as a better plan can lie."""
    assert bound is not None
    levels = _levels(bound)
    count = int(GROWTH * (levels <= window).sum()) + 1
    grown = float(levels[count]) if count < len(levels) else np.inf
    return grown if needed is None else min(max(grown, window * 1.2), needed * (1 + 1e-9) + 1e-9)


def _within(setting: Setting, bound: Bound | None, limit: float) -> Setting:
    """Only the levels that cost at best no more than the limit."""
    if bound is None or not np.isfinite(limit):
        return setting

    def kept(rungs: Rungs, costs: Mapping[str, np.ndarray]) -> dict[str, tuple[Rung, ...]]:
        ok = {n: costs[n] <= max(limit, float(costs[n].min())) for n in rungs if n in costs}
        return {n: tuple(r for i, r in enumerate(each) if n not in ok or ok[n][i]) for n, each in rungs.items()}

    return replace(setting, widths=kept(setting.widths, bound.widths), bits=kept(setting.bits, bound.bits))


def _attempt(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float]) -> tuple[Solution, Draft | None]:
    """Solve; where packed bytes were rounded up over a limit (or the solver's tolerance was), tighten it and solve again."""
    tight, excess = dict(limit_of), dict[str, float]()
    for attempt in range(1, 5):
        program, network, objective = modelled(ask, setting, goal, tight)
        solution = program.minimize(objective, seconds=setting.seconds, gap=setting.gap / 2)
        if solution.values is None:
            return solution, None
        draft = _read(ask, network, solution, goal)
        excess = over(ask, limit_of, draft.widths, {**ask.bits, **draft.bits})
        if not excess:
            return solution, draft
        rounding = {"bytes": attempt * len(setting.bits)}
        tight = {name: tight[name] * (1 - attempt * TOLERANCE) - rounding.get(name, 0) for name in tight}
    raise LamellaError(f"the solver does not keep {', '.join(excess)}; please report it.")


def _read(ask: Ask, network: Network, solution: Solution, goal: str) -> Draft:
    widths = {name: solution.taken(pick) for name, pick in network.width.items()}
    bits = {name: solution.taken(pick) for name, pick in network.bits.items()}
    drop = drop_of(network.width_rungs, widths) + drop_of(network.bit_rungs, bits)
    value = solution.value if goal == "max_drop" else costs(ask, widths, {**ask.bits, **bits})[goal]
    return _drafted(ask, network.width_rungs, widths, bits, drop, _stated(goal, value))


def _drafted(
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


def _stated(goal: str, value: float) -> Proof:
    return Proof(objective=goal, value=value, bound=0.0, gap=1.0)


def _proof(goal: str, draft: Draft, bound: float, timed_out: bool) -> Proof:
    assert draft.proof is not None
    value = draft.proof.value
    bound = float(min(max(0.0, bound), value))
    gap = (value - bound) / value if value > 1e-9 else 0.0
    return Proof(objective=goal, value=value, bound=bound, gap=gap, status="time limit" if timed_out else "optimal")


def _unreachable(ask: Ask, setting: Setting, limit_of: Mapping[str, float]) -> BudgetError:
    """The error that names the nearest plan: the one by which the limits are broken by the smallest share."""
    program, network, excess = modelled(ask, setting, "max_drop", limit_of, slack=True)
    solution = program.minimize(excess, seconds=setting.seconds, gap=1e-2)
    if solution.values is not None:
        nearest = _read(ask, network, solution, "max_drop")
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


def _fallback(ask: Ask, setting: Setting, limit_of: Mapping[str, float], goal: str, bound: float) -> Draft:
    """The solver found nothing in its time: step down the cheapest ladder until the limits hold."""
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
            return _fallen(ask, setting, goal, widths, bits, drop, bound)
    raise _unreachable(ask, setting, limit_of)


def _fallen(
    ask: Ask, setting: Setting, goal: str, widths: dict[str, int], bits: dict[str, int], drop: float, bound: float
) -> Draft:
    value = drop if goal == "max_drop" else costs(ask, widths, {**ask.bits, **bits})[goal]
    draft = _drafted(ask, setting.widths, widths, bits, drop, _stated(goal, value))
    return replace(draft, proof=_proof(goal, draft, bound, True))


def _slope(low: Rung, high: Rung) -> float:
    return (high.drop - low.drop) / (low.level - high.level)
