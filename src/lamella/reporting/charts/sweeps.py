"""Charts of measured curves: small multiples over pruning ratios, and dots with intervals over bits.

ratio_spec(profile, "pruning_ratio", targets, threshold=0.965, chosen={"conv1": 0.4})
bits_spec(profile, "bits", threshold=0.965, chosen={"conv1": 8})

All panels share one scale. The band is the 95 % interval, the dashed line the threshold, the ring the chosen level.
"""

from collections.abc import Mapping, Sequence

from ...schema import Knob, Point, Profile
from ..marks import elide
from ..words import ratio, scored
from .vega import ACCENT, BITS, FAINT, INK, LINE, MUTED, Spec

TAKEN = {"pruning_ratio": "pruned", "masked_ratio": "masked"}
COLUMNS = 5
PANEL = {"width": 190, "height": 92}


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
    lines = [("baseline", profile.baseline.value), *([] if threshold is None else [("threshold", threshold)])]
    x = {"field": "level", "type": "quantitative", "axis": _axis(None, format=".0%", tickCount=4, grid=False)}
    y = {
        "field": "score",
        "type": "quantitative",
        "axis": _axis(None, format=".0%", tickCount=3),
        "scale": {"zero": False},
    }
    return {
        "data": {"values": rows},
        "columns": COLUMNS,
        "spacing": {"row": 14, "column": 18},
        "facet": {
            "field": "panel",
            "type": "nominal",
            "title": None,
            "sort": [names[t] for t in targets],
            "header": {"labelAnchor": "start", "labelPadding": 4},
        },
        "spec": {
            **PANEL,
            "layer": [
                *(_rule(value, kind) for kind, value in lines),
                {
                    "mark": {"type": "area", "color": LINE, "opacity": 0.2},
                    "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
                },
                {"mark": {"type": "line", "color": LINE, "strokeWidth": 1.6}, "encoding": {"x": x, "y": y}},
                {
                    "transform": [{"filter": "datum.level > 0"}],
                    "mark": {"type": "circle", "color": LINE, "size": 22, "opacity": 1},
                    "encoding": {"x": x, "y": y, "description": {"field": "words"}},
                },
                {
                    "transform": [{"filter": "datum.chosen"}],
                    "mark": {"type": "point", "color": INK, "size": 100, "strokeWidth": 1.6, "filled": False},
                    "encoding": {"x": x, "y": y, "description": {"field": "words"}},
                },
            ],
        },
    }


def _rule(height: float, kind: str) -> Spec:
    dashed = {"color": ACCENT, "strokeDash": [4, 3]} if kind == "threshold" else {"color": FAINT}
    return {
        "mark": {"type": "rule", "strokeWidth": 1, **dashed},
        "encoding": {"y": {"datum": height}, "description": {"value": f"{kind} {100 * height:.2f} %"}},
    }


def _axis(title: str | None, **more: object) -> Spec:
    return {"title": title, **more}


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


def bits_spec(
    profile: Profile, knob: Knob, *, threshold: float | None = None, chosen: Mapping[str, float] | None = None
) -> Spec:
    """One line per layer: the score at every bit width, with its interval."""
    found = [p for p in profile.points if p.knob == knob]
    targets = list(dict.fromkeys(p.target for p in found))
    names, base = distinct(targets, 34), profile.baseline.value
    rows = [
        {
            "layer": names[p.target],
            **_in_points(_point_row(p, (chosen or {}).get(p.target)), base),
            "bits": f"{p.level:g}",
        }
        for p in found
    ]
    widths = [f"{b:g}" for b in sorted({p.level for p in found}, reverse=True)]
    colours = [BITS[next((step for step in BITS if step <= float(b)), 2)] for b in widths]
    y = {
        "field": "layer",
        "type": "nominal",
        "sort": [names[t] for t in targets],
        "axis": _axis(None, grid=True, ticks=False, domain=False),
    }
    ticks = [-1, 0, 1, 2, 5, 10, 20, 50, 100]
    scale = {"type": "symlog", "constant": 1}
    x = {
        "field": "lost",
        "type": "quantitative",
        "axis": _axis("points lost", values=ticks, orient="top"),
        "scale": scale,
    }
    colour = {
        "field": "bits",
        "type": "nominal",
        "sort": widths,
        "scale": {"domain": widths, "range": colours},
        "legend": {"title": "bits", "orient": "top"},
    }
    shape = {
        "field": "bits",
        "type": "nominal",
        "sort": widths,
        "scale": {"domain": widths, "range": SHAPES[: len(widths)]},
        "legend": {"title": "bits", "orient": "top"},
    }
    lines = [("baseline", 0.0), *([] if threshold is None else [("threshold", 100 * (base - threshold))])]
    return {
        "data": {"values": rows},
        "width": 820,
        "height": {"step": 17},
        "layer": [
            *({"mark": _rule(v, kind)["mark"], "encoding": {"x": {"datum": v}}} for kind, v in lines),
            {
                "mark": {"type": "rule", "strokeWidth": 1.4, "color": MUTED},
                "encoding": {"y": y, "x": {**x, "field": "least"}, "x2": {"field": "most"}},
            },
            {
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 62, "stroke": INK, "strokeWidth": 0.5},
                "encoding": {"y": y, "x": x, "fill": colour, "shape": shape, "description": {"field": "words"}},
            },
            {
                "transform": [{"filter": "datum.chosen"}],
                "mark": {"type": "point", "filled": False, "color": INK, "size": 170, "strokeWidth": 1.5},
                "encoding": {"y": y, "x": x, "description": {"field": "words"}},
            },
        ],
    }


def _in_points(row: Spec, base: float) -> Spec:
    """The same row as points lost: 0 is the dense network."""
    lost = {name: 100 * (base - row[field]) for name, field in (("lost", "score"), ("least", "high"), ("most", "low"))}
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


SHAPES = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "triangle-right", "triangle-left"]
