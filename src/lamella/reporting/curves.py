"""Curves: what one target costs the network at each level of a knob.

    curve_marks(profile, "layer1.0.conv1", threshold=0.965, chosen=0.4)
    curve_marks(profile, "layer1.0.conv1", "bits")

All panels of a profile share one scale. Scores run upwards; to the right more is taken away. The band is the 95 %
interval, the dashed line the threshold, the ring the chosen level.
"""

from collections.abc import Iterator, Sequence

from ..schema import Knob, Point, Profile
from .marks import Box, Mark, disc_mark, elide, text_mark
from .panel import Panel, axis_marks, level_mark, line_marks, tick_mark
from .words import ratio, scored

PANEL = Box(x=38, y=22, width=152, height=84)


def curve_marks(
    profile: Profile,
    target: str,
    knob: Knob = "pruning_ratio",
    *,
    threshold: float | None = None,
    chosen: float | None = None,
) -> tuple[Mark, ...]:
    """One target's curve as data. The dense network is the point at which nothing is pruned."""
    points = profile.curve(target, knob)
    panel = _shared_panel(profile, knob)
    marks = [text_mark("panel", elide(target, 28), PANEL.x, 13, 11), *axis_marks(panel)]
    marks.append(level_mark("baseline", panel, profile.baseline.value))
    if threshold is not None and panel.low <= threshold <= panel.high:
        marks.append(level_mark("threshold", panel, threshold))
    at = [(panel.x(_reach(p)), p.score) for p in points]
    if knob == "pruning_ratio":
        at.insert(0, (panel.x(0.0), profile.baseline))
    upper, lower = [(x, panel.y(s.high)) for x, s in at], [(x, panel.y(s.low)) for x, s in at]
    marks += line_marks("interval", [*upper, *reversed(lower)], closed=True)
    marks += line_marks("curve", [(x, panel.y(s.value)) for x, s in at])
    marks += [m for p in points for m in _dot(panel, p, chosen)]
    return (*marks, *_ticks(panel, points))


def _shared_panel(profile: Profile, knob: Knob) -> Panel:
    points = [p for p in profile.points if p.knob == knob]
    scores = [profile.baseline, *(p.score for p in points)]
    low, high = min(s.low for s in scores), max(s.high for s in scores)
    reach = [_reach(p) for p in points] + ([0.0] if knob == "pruning_ratio" else [])
    first, last = min(reach, default=0.0), max(reach, default=1.0)
    return Panel(box=PANEL, low=low, high=high if high > low else low + 0.01, first=first, last=last)


def _reach(point: Point) -> float:
    """How much is taken away: a share of channels, or fewer bits."""
    return point.level if point.knob == "pruning_ratio" else -point.level


def _level(point: Point) -> str:
    return ratio(point.level) if point.knob == "pruning_ratio" else f"{point.level:g} bits"


def _dot(panel: Panel, point: Point, chosen: float | None) -> Iterator[Mark]:
    x, y = panel.x(_reach(point)), panel.y(point.score.value)
    level = f"{_level(point)} pruned" if point.knob == "pruning_ratio" else _level(point)
    width = f", {point.width} channels left" if point.width is not None else ""
    yield disc_mark("dot", x, y, 2.2, title=f"{point.target}, {level}{width}: {scored(point.score)}")
    if chosen is not None and abs(chosen - point.level) < 1e-6:
        yield disc_mark("chosen", x, y, 5)


def _ticks(panel: Panel, points: Sequence[Point]) -> Iterator[Mark]:
    """All levels where they are few, else the middle one and the last."""
    few = points if len(points) < 5 else [points[len(points) // 2], points[-1]]
    for point in few:
        yield tick_mark(panel, panel.x(_reach(point)), _level(point))
