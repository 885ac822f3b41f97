"""One ratio for all, or a ratio that follows a layer's share of the cost: planners that look at no curve.

    plan(profile, pruning_ratio=0.5, planner="uniform")                 every free group gives up half
    plan(profile, Budget(params="25%"), planner="uniform")              ... or as little as keeps the budget
    plan(profile, Budget(macs="50%"), planner="shares", by="macs")      FA: a layer's removal follows its share of the MACs

shares (Zawish et al. 2022, arXiv 2208.12816): removal in proportion to a layer's params (PA), MACs (FA) or activation memory
(MA). Group g with the share s_g of the cost (all shares sum to 1) and n groups give the pruning ratio P n s_g, at most 0.95:
P is the mean of the ratios before that limit.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

from ..costs import layer_cost
from ..errors import LamellaError, unknown_name
from ..schema import Graph
from .asking import Ask, Draft, keeps, limits, over
from .blocking import lossless
from .curves import bits_drop, check_curves, score_at
from .order import Choice

GRID = tuple(i / 100 for i in range(1, 100))
MOST = 0.95  # of a group's channels may leave by shares

By = Literal["params", "macs", "memory"]
Widths = Callable[[float], dict[str, int]]


def uniform(ask: Ask, *, pruning_ratio: float | None = None) -> Draft:
    """Every free group at `pruning_ratio`, or at the smallest hundredth that keeps the budget (the largest, if none does)."""
    return _draft(ask, "uniform", pruning_ratio, lambda ratio: _cut(ask.graph, dict.fromkeys(_names(ask.graph), ratio)))


def shares(ask: Ask, *, by: By = "params", pruning_ratio: float | None = None) -> Draft:
    """Every free group at a ratio that follows its share of params, macs or memory; `pruning_ratio` is their mean."""
    if by not in get_args(By):
        raise LamellaError(unknown_name("share", by, get_args(By)))
    share_of = group_shares(ask.graph, by)
    count = len(share_of)

    def widths(ratio: float) -> dict[str, int]:
        return _cut(ask.graph, {g: min(MOST, ratio * count * s) for g, s in share_of.items()})

    return _draft(ask, "shares", pruning_ratio, widths)


def group_shares(graph: Graph, by: By) -> dict[str, float]:
    """Every free group's share of a cost. A layer's cost is divided among the groups it makes by their channels."""
    total = dict.fromkeys(_names(graph), 0.0)
    for layer in graph.multiplying:
        amount = getattr(layer_cost(graph, layer.name), by)
        outputs = layer.outputs.at(graph.widths)
        for group, times in layer.outputs.terms:
            if group in total:
                total[group] += amount * times * graph.group_of[group].width / outputs
    whole = sum(total.values()) or 1.0
    return {name: value / whole for name, value in total.items()}


def _names(graph: Graph) -> list[str]:
    return [g.name for g in graph.free]


def _cut(graph: Graph, ratios: dict[str, float]) -> dict[str, int]:
    widths = {name: graph.group_of[name].legal(graph.group_of[name].width * (1 - r)) for name, r in ratios.items()}
    return {name: w for name, w in widths.items() if w < graph.group_of[name].width}


def _draft(ask: Ask, planner: str, pruning_ratio: float | None, widths: Widths) -> Draft:
    if pruning_ratio is None:
        pruning_ratio = _found(ask, planner, widths)
    if not 0 <= pruning_ratio < 1:
        raise LamellaError(f"pruning_ratio {pruning_ratio} is not in [0, 1): it is the fraction of channels removed.")
    choices = [Choice(group=g, width=w, score=score_at(ask.profile, g, w)) for g, w in widths(pruning_ratio).items()]
    unmeasured = [f"{c.group!r} at {c.width}" for c in choices if c.score is None]
    if unmeasured and ask.budget.max_drop is not None:
        raise LamellaError(
            f"{planner} at pruning_ratio {pruning_ratio:g}: what {unmeasured[0]} channels lose was not measured"
            f"{f', nor {len(unmeasured) - 1} more' if unmeasured[1:] else ''}, so that max_drop cannot be judged. Profile ratios up to "
            "that one, or leave max_drop out."
        )
    return Draft(choices=choices, notes=lossless(unmeasured, "at such widths"))


def _found(ask: Ask, planner: str, widths: Widths) -> float:
    """The smallest hundredth that keeps every cost limit; with a limit on the drop alone, the largest that keeps that."""
    limit_of = limits(ask)
    if not limit_of and ask.budget.max_drop is None:
        raise LamellaError(f"{planner} needs a pruning_ratio (--option pruning_ratio=0.5), or a budget to find one.")
    if limit_of:
        return next((r for r in (0.0, *GRID) if not over(ask, limit_of, widths(r), ask.bits)), GRID[-1])
    check_curves(ask.profile)
    settled = bits_drop(ask.profile, ask.bits)[0]
    return max((r for r in GRID if keeps(settled + _drop(ask, widths(r)), ask.budget.max_drop or 0.0)), default=0.0)


def _drop(ask: Ask, widths: dict[str, int]) -> float:
    """Points; without end where a width was not measured."""
    scores = [score_at(ask.profile, g, w) for g, w in widths.items()]
    return sum(math.inf if s is None else 100 * (ask.profile.baseline.value - s) for s in scores)
