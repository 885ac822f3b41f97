"""What the score loses along a measured curve: the one place where curves become numbers of a layer.

    losses(profile, "layer1.0.conv1")       ((0.25, 0.002), (0.5, 0.011), ...)  level, fraction of the score lost
    half_losses(profile)                    {"layer1.0.conv1": 0.011, ...}      with half of the channels gone
    mean_losses(profile)                    {"layer1.0.conv1": 0.082, ...}      over 0 to 90 % pruned
    shared_losses(profile)                  {"layer1.0.conv1": 0.025, ...}      as far as every group was asked

A loss is never below zero: what a cut happens to gain is noise or luck, and pictures of worth say nothing of either.
"""

from collections.abc import Sequence
from itertools import pairwise

from ..schema import Knob, Profile

Curve = Sequence[tuple[float, float]]

REACH = 0.9  # curves are compared from nothing pruned up to here


def losses(profile: Profile, target: str, knob: Knob = "pruning_ratio") -> tuple[tuple[float, float], ...]:
    """(level, fraction of the score lost) of one target, by rising ratio (for bits: falling). Empty where it was not measured."""
    base = profile.baseline.value
    return tuple((p.level, max(0.0, base - p.score.value)) for p in profile.curve(target, knob))


def half_losses(profile: Profile) -> dict[str, float]:
    """Per group the loss with half of its channels gone, between measured levels on a straight line."""
    found = {g.name: loss_at(losses(profile, g.name), 0.5) for g in profile.graph.free}
    return {name: loss for name, loss in found.items() if loss is not None}


def mean_losses(profile: Profile, knob: Knob = "pruning_ratio") -> dict[str, float]:
    """Per target the mean height of its curve of losses up to REACH; beyond the last measured level its last loss holds."""
    found = {}
    for target in dict.fromkeys(p.target for p in profile.points if p.knob == knob):
        curve = losses(profile, target, knob)
        found[target] = _area([(0.0, 0.0), *curve, (max(REACH, curve[-1][0]), curve[-1][1])])
    return found


def shared_losses(profile: Profile) -> dict[str, float]:
    """Per group the mean height of its curve of losses to where the shortest curve ends: a race asks every group at levels of its own."""
    curves = {g.name: curve for g in profile.graph.free if (curve := losses(profile, g.name))}
    reach = min((curve[-1][0] for curve in curves.values()), default=0.0)
    return {name: _area([(0.0, 0.0), *_up_to(curve, reach)]) for name, curve in curves.items()}


def _up_to(curve: Curve, reach: float) -> list[tuple[float, float]]:
    end = loss_at(curve, reach)
    return [*(point for point in curve if point[0] < reach), *([] if end is None else [(reach, end)])]


def loss_at(curve: Curve, level: float) -> float | None:
    """The loss at a ratio, on a straight line between neighbours; None beyond the last measured one."""
    before = (0.0, 0.0)
    for point in curve:
        if point[0] >= level - 1e-9:
            span = point[0] - before[0]
            share = (level - before[0]) / span if span > 0 else 1.0
            return before[1] + share * (point[1] - before[1])
        before = point
    return None


def _area(points: list[tuple[float, float]]) -> float:
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    return area / points[-1][0] if points[-1][0] else 0.0
