"""One pruning ratio for every free group: the baseline that every other planner must beat."""

from ..costs import cost
from ..errors import LamellaError
from ..schema import Budget, Profile
from .order import Choice

GRID = tuple(i / 100 for i in range(1, 100))


def uniform(profile: Profile, budget: Budget, pruning_ratio: float | None = None) -> list[Choice]:
    """Every free group at `pruning_ratio`, or at the smallest hundredth that keeps the budget (the largest, if none does)."""
    if pruning_ratio is None:
        pruning_ratio = _smallest(profile, budget)
    if not 0 <= pruning_ratio < 1:
        raise LamellaError(f"pruning_ratio {pruning_ratio} is not in [0, 1): it is the fraction of channels removed.")
    widths = _widths(profile, pruning_ratio)
    return [Choice(group=name, width=width, score=_measured(profile, name, width)) for name, width in widths.items()]


def _widths(profile: Profile, ratio: float) -> dict[str, int]:
    widths = {g.name: g.legal(g.width * (1 - ratio)) for g in profile.graph.free}
    return {name: w for name, w in widths.items() if w < profile.graph.group_of[name].width}


def _smallest(profile: Profile, budget: Budget) -> float:
    dense = cost(profile.graph)
    limits = {n: budget.limit(n, getattr(dense, n)) for n in ("params", "macs", "bytes", "memory")}
    if all(limit is None for limit in limits.values()):
        raise LamellaError("uniform needs a pruning_ratio, or a budget in params, macs, bytes or memory to find one.")
    for ratio in GRID:
        reached = cost(profile.graph, _widths(profile, ratio))
        if all(limit is None or getattr(reached, name) <= limit for name, limit in limits.items()):
            return ratio
    return GRID[-1]


def _measured(profile: Profile, group: str, width: int) -> float | None:
    """The score at the nearest measured width, None without a curve."""
    curve = [p for p in profile.curve(group) if p.width is not None]
    nearest = min(curve, key=lambda p: abs((p.width or 0) - width), default=None)
    return nearest.score.value if nearest else None
