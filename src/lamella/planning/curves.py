"""Measured curves made ready for arithmetic: what a target may become, and what that costs in points of the score.

    for rung in group_rungs(profile, group): rung.level, rung.drop     # 16, 0.0   12, 0.3   8, 1.1 ...
    score_at(profile, "conv1", 10)                                     # between two measured widths: on the line between them

Planning works on copies made monotone (giving up more never costs less) by isotonic regression; the profile keeps what was
measured. Drops are in points: 1.0 is one percentage point of the score.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import LamellaError
from ..schema import Group, Point, Profile
from ..schema.plans import FLOAT

DOUBT = 0.1  # of a sample
NORMAL = 1.96  # standard errors from a mean to the end of its 95 % interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A level that a target may take (a width, or bits), the smoothed drop in points, and the raw score if it was measured.

    `doubt`: points by which an exact planner prefers less, where drops are equal: a tenth of a sample at the most that could be
    given up. Curves of n samples show many drops of nothing, and not all of them are nothing.
    """

    level: int
    drop: float
    score: float | None = None
    doubt: float = 0.0

    def weighed(self, factor: float = 1.0) -> float:
        """What an exact planner adds up where it minimizes the drop."""
        return factor * self.drop + self.doubt


def group_rungs(profile: Profile, group: Group) -> tuple[Rung, ...]:
    """The dense width, then every measured width downwards. A frozen or unmeasured group has the first alone."""
    dense = Rung(level=group.width, drop=0.0, score=profile.baseline.value)
    if group.frozen is not None:
        return (dense,)
    scores = {w: s for w, s in measured_widths(profile, group).items() if w < group.width}
    doubt = tenth_of_a_sample(profile)
    doubts = {w: doubt * (1 - w / group.width) for w in scores}
    return (dense, *_rungs(profile, scores, doubts))


def bit_rungs(profile: Profile, layer: str, assumed: dict[int, float]) -> tuple[Rung, ...]:
    """Float, then every measured number of bits downwards; for a layer without a curve, the `assumed` {bits: drop}."""
    scores: dict[int, list[float]] = defaultdict(list)
    for point in profile.curve(layer, "bits"):
        if point.level < FLOAT:
            scores[int(point.level)].append(point.score.value)
    dense = Rung(level=FLOAT, drop=0.0, score=profile.baseline.value)
    if scores:
        return (
            dense,
            *_rungs(profile, {b: sum(s) / len(s) for b, s in scores.items()}, {b: _doubt(profile, b) for b in scores}),
        )
    levels = sorted((b for b in assumed if b < FLOAT), reverse=True)
    drops = monotone([assumed[b] for b in levels])
    return (dense, *(Rung(level=b, drop=d, doubt=_doubt(profile, b)) for b, d in zip(levels, drops, strict=True)))


def bits_drop(profile: Profile, bits: Mapping[str, int]) -> tuple[float, tuple[str, ...]]:
    """The points that these bits alone lose, added up over layers; and the layers of fewer than 8 bits that were not measured so."""
    lost, unknown = 0.0, []
    for name, width in bits.items():
        rung = next((r for r in bit_rungs(profile, name, {}) if r.level == width), None)
        if rung is not None:
            lost += rung.drop
        elif width < 8:
            unknown.append(name)
    return lost, tuple(unknown)


def without_bits(profile: Profile) -> tuple[str, ...]:
    """The layers that take bits and have no curve of them."""
    known = {p.target for p in profile.points if p.knob == "bits" and p.level < FLOAT}
    return tuple(x.name for x in profile.graph.layers if x.takes_bits and x.name not in known)


def _doubt(profile: Profile, bits: int) -> float:
    """In proportion to the noise power of rounding, 4^-bits."""
    return tenth_of_a_sample(profile) * 4.0 ** (2 - bits)


def tenth_of_a_sample(profile: Profile) -> float:
    """What a tenth of a sample moves the mean by, in points: a right or wrong one counts 1, any other as far as samples spread.

    So plans do not depend on the unit of a score.
    """
    base = profile.baseline
    one = 1.0 if profile.metric == "accuracy" else (base.high - base.low) / 2 / NORMAL * math.sqrt(base.n)
    return 100 * DOUBT * one / base.n


def _rungs(profile: Profile, scores: dict[int, float], doubts: dict[int, float]) -> list[Rung]:
    levels = sorted(scores, reverse=True)
    drops = monotone([100 * (profile.baseline.value - scores[level]) for level in levels])
    return [Rung(level=n, drop=d, score=scores[n], doubt=doubts[n]) for n, d in zip(levels, drops, strict=True)]


def monotone(drops: Sequence[float]) -> list[float]:
    """The nearest sequence (least squares) that never falls, and nothing below 0: pool adjacent violators.

    >>> monotone([-0.2, 0.4, 0.2, 3.0])
    [0.0, 0.30000000000000004, 0.30000000000000004, 3.0]
    """
    pools: list[tuple[float, int]] = []  # mean, count
    for drop in drops:
        pools.append((drop, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return [max(0.0, mean) for mean, count in pools for _ in range(count)]


def measured_widths(profile: Profile, group: Group) -> dict[int, float]:
    """Raw score by width; where a width was measured more than once, the mean."""
    scores: dict[int, list[float]] = defaultdict(list)
    for point in profile.curve(group.name):
        scores[width_of(point, group)].append(point.score.value)
    return {width: sum(s) / len(s) for width, s in scores.items()}


def width_of(point: Point, group: Group) -> int:
    """The width a point was measured at: its own, or the legal one nearest to its pruning ratio."""
    width = group.legal(group.width * (1 - point.level)) if point.width is None else point.width
    group.check_width(width)
    return width


def score_at(profile: Profile, name: str, width: int) -> float | None:
    """The raw score with this group alone at this width: measured, or on the line between its measured neighbours.

    None outside the measured widths (dense counts as measured) and for a group without a curve.
    """
    group = profile.graph.group_of[name]
    scores = measured_widths(profile, group)
    if not scores:
        return None
    scores.setdefault(group.width, profile.baseline.value)
    below = max((w for w in scores if w <= width), default=None)
    above = min((w for w in scores if w >= width), default=None)
    if below is None or above is None:
        return None
    share = (width - below) / (above - below) if above > below else 0.0
    return scores[below] + share * (scores[above] - scores[below])


def check_curves(profile: Profile, *instead: str) -> tuple[str, ...]:
    """The free groups that have no curve of pruning ratios. LamellaError for a profile without any, nor of the knobs `instead`."""
    measured = {p.target for p in profile.points if p.knob == "pruning_ratio"}
    knobs = sorted({p.knob for p in profile.points})
    if not measured and not {*knobs} & {*instead}:
        holds = f"the profile holds no pruning_ratio curve (it holds: {', '.join(knobs) or 'no points'})"
        why = "" if profile.graph.free else ", for nothing can be narrowed"
        first = "Measure some first: `lamella profile`, or profile(model, task)"
        alone = "Bits alone are planned by planner 'knapsack' and a budget, such as bytes=25%"
        advice = [said for said, fits in ((first, profile.graph.free), (alone, "bits" in knobs)) if fits]
        raise LamellaError(f"{holds}{why}. {'. '.join(advice)}.")
    return tuple(g.name for g in profile.graph.free if g.name not in measured)
