"""Charts of measured curves: small multiples over pruning ratios, and dots with intervals over bits.

ratio_spec(profile, "pruning_ratio", targets, threshold=0.965, chosen={"conv1": 0.4})
bits_spec(profile, "bits", threshold=0.965, chosen={"conv1": 8})

All panels share one scale. The band is the 95 % interval, the dashed line the threshold, the ring the chosen level.
"""

from collections.abc import Mapping, Sequence

from ...schema import Knob, Point, Profile
from ..marks import elide
from ..words import loss_axis, ratio, score_axis, scored
from .grammar import ACCENT, BITS, FAINT, INK, LINE, MUTED, Spec, dots, facets, kinds, layer, quantity, ring

TAKEN = {"pruning_ratio": "pruned", "masked_ratio": "masked"}
COLUMNS = 5
PANEL = {"width": 190, "height": 92}
SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "triangle-right", "triangle-left")
TICKS = (-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)  # points lost


def ratio_spec(
    profile: Profile,
    knob: Knob,
    targets: Sequence[str],
    *,
    threshold: float | None = None,
    chosen: Mapping[str, float] | None = None,
) -> Spec:
    """Score against the share of channels taken away, a panel per target."""
    names = distinct(targets, 30)
    rows = [
        {"panel": names[target], **row}
        for target in targets
        for row in _curve_rows(profile, target, knob, (chosen or {}).get(target))
    ]
    x = quantity("level", None, format=".0%", tickCount=4, grid=False)
    y = quantity("score", None, format=score_axis(0), tickCount=3)
    band = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}
    panel = {
        **PANEL,
        "layer": [
            *(_rule("y", value, kind) for kind, value in _lines(profile.baseline.value, threshold)),
            layer("area", band, color=LINE, opacity=0.2),
            layer("line", {"x": x, "y": y}, color=LINE, strokeWidth=1.6),
            dots(x, y, only="datum.level > 0", size=22, color=LINE),
            ring(x, y, only="datum.chosen"),
        ],
    }
    return {"data": {"values": rows}, **facets("panel", [names[t] for t in targets], COLUMNS, panel)}


def bits_spec(
    profile: Profile, knob: Knob, *, threshold: float | None = None, chosen: Mapping[str, float] | None = None
) -> Spec:
    """One line per layer: the points lost at every bit width, with their intervals."""
    found = [p for p in profile.points if p.knob == knob]
    names, base = distinct(list(dict.fromkeys(p.target for p in found)), 34), profile.baseline.value
    rows = [
        {"layer": names[p.target], "bits": f"{p.level:g}", **_in_points(p, (chosen or {}).get(p.target), base)}
        for p in found
    ]
    widths = [f"{b:g}" for b in sorted({p.level for p in found}, reverse=True)]
    colours = [BITS[next((step for step in BITS if step <= float(b)), 2)] for b in widths]
    axis = {"title": None, "grid": True, "ticks": False, "domain": False}
    y = {"field": "layer", "type": "nominal", "sort": list(names.values()), "axis": axis}
    title, times = loss_axis()
    scale, ticks = {"type": "symlog", "constant": times / 100}, [tick * times / 100 for tick in TICKS]
    x = quantity("lost", title, scale=scale, values=ticks, orient="top")
    ends = {"y": y, "x": {**x, "field": "least"}, "x2": {"field": "most"}}
    fill, shape = (kinds("bits", widths, look, "bits") for look in (colours, SHAPES))
    limits = _lines(0.0, None if threshold is None else times * (base - threshold))
    return {
        "data": {"values": rows},
        "width": 820,
        "height": {"step": 17},
        "layer": [
            *(_rule("x", value, kind) for kind, value in limits),
            layer("rule", ends, strokeWidth=1.4, color=MUTED),
            dots(x, y, size=62, stroke=INK, strokeWidth=0.5, fill=fill, shape=shape),
            ring(x, y, only="datum.chosen", size=170),
        ],
    }


def _lines(baseline: float, threshold: float | None) -> list[tuple[str, float]]:
    return [("baseline", baseline), *([] if threshold is None else [("threshold", threshold)])]


def _rule(channel: str, at: float, kind: str) -> Spec:
    look = {"color": ACCENT, "strokeDash": [4, 3]} if kind == "threshold" else {"color": FAINT}
    return layer("rule", {channel: {"datum": at}, "description": {"value": kind}}, strokeWidth=1, **look)


def _curve_rows(profile: Profile, target: str, knob: Knob, chosen: float | None) -> list[Spec]:
    base = profile.baseline
    start = {"level": 0.0, "score": base.value, "low": base.low, "high": base.high, "words": "", "chosen": False}
    return [start, *(_point_row(p, chosen) for p in profile.curve(target, knob))]


def _point_row(point: Point, chosen: float | None) -> Spec:
    score, picked = point.score, chosen is not None and abs(chosen - point.level) < 1e-6
    level = f"{point.level:g} bits" if point.knob.startswith("bits") else f"{ratio(point.level)} {TAKEN[point.knob]}"
    width = f", {point.width} channels left" if point.width is not None else ""
    words = f"{elide(point.target, 60)}, {level}{width}: {scored(score)}{'; chosen' if picked else ''}"
    row = {"level": point.level, "score": score.value, "low": score.low, "high": score.high}
    return {**row, "words": words, "chosen": picked}


def _in_points(point: Point, chosen: float | None, base: float) -> Spec:
    """A row with the points lost: 0 is the dense network."""
    row = _point_row(point, chosen)
    times = loss_axis()[1]
    lost = {
        name: times * (base - row[field]) for name, field in (("lost", "score"), ("least", "high"), ("most", "low"))
    }
    return {**row, **lost}


def distinct(names: Sequence[str], room: int) -> dict[str, str]:
    """A short form of every name, no two the same: what a chart sorts and groups by."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        short, number = elide(name, room), 1
        while short in taken:
            number += 1
            short = f"{elide(name, room - 4)} ({number})"
        taken.add(short)
        found[name] = short
    return found
