"""The published schedule (Anik, Kelso, Lee 2024, Algorithm 1): every group gives up as much as it can alone.

threshold = factor x baseline (or baseline - max_drop). Per group the largest pruning ratio whose measured score is at or above
the threshold; a group with no such ratio keeps all its channels.
"""

import math

from ..errors import LamellaError
from ..schema import Budget, Point, Profile, lowered
from .asking import Ask, Draft
from .curves import check_curves, width_of
from .order import Choice


def threshold(ask: Ask, *, factor: float | None = None) -> Draft:
    """One choice per group that holds at some ratio. `factor` in (0, 1]; default 0.985, or what `budget.max_drop` says.

    With both, a cut must hold by both.
    """
    floor = score_floor(ask.profile, ask.budget, factor)
    check_curves(ask.profile)
    choices = []
    for group in ask.graph.free:
        point = largest_that_holds(ask.profile.curve(group.name), floor)
        if point is not None and (width := width_of(point, group)) < group.width:
            choices.append(Choice(group=group.name, width=width, score=point.score.value))
    return Draft(choices=choices, threshold=floor)


def score_floor(profile: Profile, budget: Budget, factor: float | None) -> float:
    """The lowest score a cut may have."""
    within = -math.inf if budget.max_drop is None else profile.baseline.value - budget.max_drop / 100
    if factor is None and budget.max_drop is not None:
        return within
    factor = 0.985 if factor is None else factor
    if not 0 < factor <= 1:
        raise LamellaError(f"factor {factor} is not in (0, 1]: it is the share of the baseline score that must remain.")
    return max(within, lowered(profile.baseline.value, factor))


def largest_that_holds(curve: tuple[Point, ...], floor: float) -> Point | None:
    """The point of the largest pruning ratio at or above the floor, as published: not the last before the first dip."""
    holding = [p for p in curve if p.score.value >= floor - 1e-12]  # a drop of just `max_drop` is a hair off in floats
    return max(holding, key=lambda p: p.level, default=None)
