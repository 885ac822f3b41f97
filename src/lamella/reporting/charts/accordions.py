"""Charts of a width search for a dense network: widths along depth, what each pair was worth, the winner among its controls.

widths_spec(accordion); pairs_spec(accordion); controls_spec(accordion)
"""

import math
from collections.abc import Sequence

from ...schema import Accordion, Entry
from ..marks import elide
from ..words import scored, whole
from .sweeps import distinct
from .vega import ACCENT, FAINT, INK, LINE, MUTED, SECOND, Spec

SCATTER = (640, 250)  # pixels
ROLES = {
    "baseline": (FAINT, "square"),
    "winner": (ACCENT, "diamond"),
    "control": (LINE, "circle"),
    "published": (SECOND, "triangle-up"),
    "candidate": (MUTED, "cross"),
}


def widths_spec(found: Accordion) -> Spec:
    """Nodes of every layer along depth: the baseline's ladder and the accordion that was chosen."""
    shapes = (("baseline", found.baseline), ("winner", found.widths))
    rows = [
        {"layer": i, "width": w, "shape": name, "words": f"{name}, hidden layer {i}: {whole(w)} nodes"}
        for name, widths in shapes
        for i, w in enumerate(widths, 1)
    ]
    x = {"field": "layer", "type": "ordinal", "axis": {"title": "hidden layer", "labelAngle": 0}}
    y = {"field": "width", "type": "quantitative", "axis": {"title": "nodes", "tickMinStep": 1}}
    colour = {
        "field": "shape",
        "type": "nominal",
        "scale": {"domain": ["baseline", "winner"], "range": [FAINT, ACCENT]},
        "legend": {"title": None, "orient": "top"},
    }
    bar = {
        "mark": {"type": "bar"},
        "encoding": {"x": x, "y": y, "xOffset": {"field": "shape"}, "color": colour, "description": {"field": "words"}},
    }
    text = {
        "mark": {"type": "text", "dy": -6, "color": INK, "fontSize": 10},
        "encoding": {"x": x, "y": y, "xOffset": {"field": "shape"}, "text": {"field": "width"}},
    }
    return {"data": {"values": rows}, "width": {"step": 26}, "height": 170, "layer": [bar, text]}


def pairs_spec(found: Accordion) -> Spec:
    """The metric against the width of each pair of layers, a panel per sweep, in the order they were made."""
    names = [f"{i}. layers {' and '.join(str(n + 1) for n in s.layers)}" for i, s in enumerate(found.sweeps, 1)]
    rows = []
    for name, sweep in zip(names, found.sweeps, strict=True):
        for width, shape in zip(sweep.candidates, sweep.shapes, strict=True):
            score, picked = shape.validation, width == sweep.width
            more = f"{'; chosen' if picked else ''}{'; stopped early' if shape.dropped else ''}"
            words = f"{name}: {width} nodes, {found.metric} {scored(score)}{more}"
            rows.append(
                {
                    "pair": name,
                    "width": width,
                    "score": score.value,
                    "low": score.low,
                    "high": score.high,
                    "chosen": picked,
                    "words": words,
                }
            )
    x = {
        "field": "width",
        "type": "quantitative",
        "axis": {"title": "nodes", "grid": False, "tickCount": 5},
        "scale": {"type": "log", "base": 2},
    }
    y = {
        "field": "score",
        "type": "quantitative",
        "axis": {"title": found.metric, "format": ".2f", "tickCount": 4},
        "scale": {"zero": False},
    }
    return {
        "data": {"values": rows},
        "columns": 4,
        "facet": {"field": "pair", "type": "nominal", "title": None, "sort": names, "header": {"labelAnchor": "start"}},
        "spec": {
            "width": 190,
            "height": 110,
            "layer": [
                {"mark": {"type": "line", "color": LINE, "strokeWidth": 1.5}, "encoding": {"x": x, "y": y}},
                {
                    "mark": {"type": "rule", "color": LINE},
                    "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
                },
                {
                    "mark": {"type": "circle", "color": LINE, "size": 30, "opacity": 1},
                    "encoding": {"x": x, "y": y, "description": {"field": "words"}},
                },
                {
                    "transform": [{"filter": "datum.chosen"}],
                    "mark": {"type": "point", "filled": False, "color": INK, "size": 120, "strokeWidth": 1.6},
                    "encoding": {"x": x, "y": y},
                },
            ],
        },
    }


def controls_spec(found: Accordion) -> Spec:
    """Test metric against parameters: baseline, winner, controls and published shapes, with intervals over seeds."""
    metric = found.metric if all(found.metric in e.test for e in found.entries) else next(iter(found.entries[0].test))
    names = distinct([e.name for e in found.entries], 40)
    drawn = [e for e in found.entries if metric in e.test and e.params > 0]
    drops = _label_drops([(math.log10(e.params), e.test[metric].value, len(names[e.name])) for e in drawn])
    rows = [{**_entry_row(e, metric, names[e.name]), "drop": d} for e, d in zip(drawn, drops, strict=True)]
    used = [role for role in ROLES if any(r["role"] == role for r in rows)]
    x = {
        "field": "params",
        "type": "quantitative",
        "scale": {"type": "log"},
        "axis": {"title": "trainable parameters", "format": "~s"},
    }
    y = {
        "field": "score",
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": {"title": f"test {metric}", "format": ".2f"},
    }
    scales = [{"domain": used, "range": [ROLES[r][i] for r in used]} for i in (0, 1)]
    legend = {"title": None, "orient": "top"}
    colour = {"field": "role", "type": "nominal", "scale": scales[0], "legend": legend}
    shape = {"field": "role", "type": "nominal", "scale": scales[1], "legend": legend}
    return {
        "data": {"values": rows},
        "width": SCATTER[0],
        "height": SCATTER[1],
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 1.3},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "description": {"field": "words"}},
            },
            *(_label(x, y, drop) for drop in sorted(set(drops))),
        ],
    }


def _label(x: Spec, y: Spec, drop: int) -> Spec:
    return {
        "transform": [{"filter": f"datum.drop == {drop}"}],
        "mark": {"type": "text", "align": "left", "dx": 8, "dy": drop, "fontSize": 10.5, "color": INK},
        "encoding": {"x": x, "y": y, "text": {"field": "name"}},
    }


def _label_drops(places: Sequence[tuple[float, float, int]]) -> list[int]:
    """How far each name moves down so that no two cover each other: (log of parameters, score, letters) in, pixels out."""
    xs, ys = [p[0] for p in places], [p[1] for p in places]
    across = SCATTER[0] / max(1.0, max(xs, default=1.0) - min(xs, default=0.0) + 1)
    down = SCATTER[1] / max(1e-9, (max(ys, default=1.0) - min(ys, default=0.0)) * 1.3)
    taken: list[tuple[float, float, float]] = []
    drops = [0] * len(places)
    for i in sorted(range(len(places)), key=lambda i: -places[i][1]):
        left, height = across * xs[i], -down * ys[i]
        right = left + 6 * places[i][2] + 10
        while any(left < b and a < right and abs(height + drops[i] - at) < 12 for a, b, at in taken):
            drops[i] += 3
        taken.append((left, right, height + drops[i]))
    return drops


def _entry_row(entry: Entry, metric: str, name: str) -> Spec:
    score = entry.test[metric]
    words = f"{elide(entry.name, 60)}: {whole(entry.params)} parameters, {metric} {scored(score)}"
    return {
        "name": name,
        "role": entry.role,
        "params": entry.params,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "words": words,
    }
