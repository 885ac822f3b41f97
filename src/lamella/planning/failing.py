"""Where the solver has no plan: a descent, or the nearest plan, that keeps the budget all the same; or the error that names the nearest.

draft = fallback(ask, settings, "max_drop", {"bytes": 109034}, bound)                          # out of time
fallback(ask, settings, "max_drop", {"bytes": 2000}, ruled_out=True)                           # raises BudgetError
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..errors import BudgetError
from .asking import Ask, Draft, costs, keeps
from .blocking import unreached
from .curves import Rung, check_curves
from .drafting import drafted, proven, read, value_of, within
from .modelling import Setting, modelled, sizes_seen


def fallback(
    ask: Ask,
    settings: Sequence[Setting],
    goal: str,
    limit_of: Mapping[str, float],
    bound: float = 0.0,
    *,
    ruled_out: bool = False,
) -> Draft:
    """A plan that keeps the limits, with what is proved of it; BudgetError if there is none, or none is found.

    `ruled_out`: it is proved that there is none, up to the tolerance of the solver.
    """
    gap = settings[0].gap
    stepped = [] if ruled_out else [d for s in settings if (d := _descended(ask, s, goal, limit_of)) is not None]
    if stepped:
        return proven(min(stepped, key=value_of), bound, gap, timed_out=True)
    nearest = [_nearest(ask, setting, goal, limit_of) for setting in settings]
    kept = [draft for draft, _, _ in nearest if within(ask, limit_of, draft)]
    if kept:
        return proven(min(kept, key=value_of), bound, gap, timed_out=True)
    late = not ruled_out and any(least <= 1e-6 for _, _, least in nearest)
    draft, _, _ = min(nearest, key=lambda each: each[1])
    raise _error(ask, settings[0], draft, limit_of, late)


def _descended(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float]) -> Draft | None:
    """The best of what a descent meets within the limits."""
    best = None
    for draft in _descent(ask, setting, goal):
        if ask.budget.max_drop is not None and not keeps(draft.drop or 0.0, ask.budget.max_drop):
            break  # no later step drops less
        if (best is None or value_of(draft) < value_of(best)) and within(ask, limit_of, draft):
            best = draft
            if goal == "max_drop":
                break
    return best


def _descent(ask: Ask, setting: Setting, goal: str) -> Iterator[Draft]:
    """Dense, then every ladder stepped down, cheapest step first; what is not aligned is left out."""
    seen = sizes_seen(ask.graph) if setting.align > 1 else ()

    def aligned(widths: Mapping[str, int]) -> bool:
        full = {**ask.graph.widths, **widths}
        return not any(size.at(full) % setting.align and size.at(full) != size.at(ask.graph.widths) for size in seen)

    ladders = {("width", n): tuple(r for r in each if aligned({n: r.level})) for n, each in setting.widths.items()}
    ladders |= {("bits", n): each for n, each in setting.bits.items()}
    at = dict.fromkeys(ladders, 0)
    for key, i in [(None, 0), *_cheapest_first(ladders)]:
        if key is not None:
            at[key] = max(at[key], i)
        levels = {key: each[at[key]].level for key, each in ladders.items()}
        widths = {n: level for (knob, n), level in levels.items() if knob == "width"}
        if aligned(widths):
            yield drafted(ask, setting, goal, widths, {n: b for (knob, n), b in levels.items() if knob == "bits"})


def _cheapest_first(ladders: Mapping[tuple[str, str], tuple[Rung, ...]]) -> list[tuple[tuple[str, str], int]]:
    """(ladder, step), by points lost per channel or bit."""
    steps = [
        ((high.drop - low.drop) / (low.level - high.level), key, i)
        for key, each in ladders.items()
        for i, (low, high) in enumerate(pairwise(each), 1)
    ]
    return [(key, i) for _, key, i in sorted(steps)]


def _nearest(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float]) -> tuple[Draft, float, float]:
    """The plan that breaks limits by the smallest share, that share, and what no plan's share is below."""
    program, network, excess = modelled(ask, setting, "max_drop", limit_of, slack=True)
    solution = program.minimize(excess, seconds=setting.seconds, gap=1e-2)
    if solution.values is not None:
        return read(ask, setting, network, solution, goal), solution.value, solution.bound
    widths = {name: rungs[-1].level for name, rungs in setting.widths.items()}
    bits = {name: rungs[-1].level for name, rungs in setting.bits.items()}
    return drafted(ask, setting, goal, widths, bits), np.inf, solution.bound


def _error(ask: Ask, setting: Setting, nearest: Draft, limit_of: Mapping[str, float], late: bool) -> BudgetError:
    drop = nearest.drop or 0.0
    reached = {**costs(ask, nearest.widths, {**ask.bits, **nearest.bits}), "max_drop": drop}
    asked = dict(limit_of) if ask.budget.max_drop is None else {**limit_of, "max_drop": ask.budget.max_drop}
    broken = {name: limit for name, limit in asked.items() if not keeps(reached[name], limit)}
    unmeasured = check_curves(ask.profile, "bits")
    floors = {g.name: setting.widths[g.name][-1].level for g in ask.graph.free if g.name not in unmeasured}
    error = unreached("knapsack", ask.graph, broken or asked, reached, nearest.widths, floors, unmeasured)
    if not late:
        return error
    return BudgetError(
        f"no plan was found within time_limit={setting.seconds:g} seconds, and none is proved impossible: "
        f"a longer time_limit= may find one. What was met on the way: {error}",
        error.nearest,
    )
