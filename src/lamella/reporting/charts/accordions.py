"""Charts of a width search for a dense network: widths along depth, what each pair was worth, the winner among its controls.

widths_spec(accordion); pairs_spec(accordion); controls_spec(accordion)
"""

import math
from collections.abc import Sequence

from ...schema import Accordion, Entry, Score
from ..marks import elide
from ..words import whole
from .grammar import (
    ACCENT,
    FAINT,
    INK,
    LINE,
    MUTED,
    SECOND,
    WORDS,
    Spec,
    dots,
    facets,
    kinds,
    layer,
    quantity,
    ring,
    whiskers,
)
from .sweeps import distinct

SCATTER = (640, 250)  # pixels
LINE_HEIGHT, LETTER = 12, 6
ROLES = {
    "baseline": (FAINT, "square"),
    "winner": (ACCENT, "diamond"),
    "control": (LINE, "circle"),
    "published": (SECOND, "triangle-up"),
    "candidate": (MUTED, "cross"),
}


def widths_spec(found: Accordion) -> Spec:
    """Nodes of every layer along depth: the baseline's ladder and the accordion that was chosen."""
    rows = [
        {"layer": i, "width": w, "shape": name, "words": f"{name}, hidden layer {i}: {whole(w)} nodes"}
        for name, widths in (("baseline", found.baseline), ("winner", found.widths))
        for i, w in enumerate(widths, 1)
    ]
    x = {"field": "layer", "type": "ordinal", "axis": {"title": "hidden layer", "labelAngle": 0}}
    at = {"x": x, "y": quantity("width", "nodes", scale={"zero": True}, tickMinStep=1), "xOffset": {"field": "shape"}}
    colour = kinds("shape", ("baseline", "winner"), (FAINT, ACCENT))
    return {
        "data": {"values": rows},
        "width": {"step": 26},
        "height": 170,
        "layer": [
            layer("bar", {**at, "color": colour, **WORDS}),
            layer("text", {**at, "text": {"field": "width"}}, dy=-6, color=INK, fontSize=10),
        ],
    }


def pairs_spec(found: Accordion) -> Spec:
    """The metric against the width of each pair of layers, a panel per sweep, in the order they were made."""
    names = [f"{i}. {_layers(sweep.layers)}" for i, sweep in enumerate(found.sweeps, 1)]
    rows = []
    for name, sweep in zip(names, found.sweeps, strict=True):
        for width, shape in zip(sweep.candidates, sweep.shapes, strict=True):
            score, picked = shape.validation, width == sweep.width
            more = f"{'; chosen' if picked else ''}{'; stopped early' if shape.dropped else ''}"
            at = {"pair": name, "width": width, "score": score.value, "low": score.low, "high": score.high}
            interval = f" ({_between(score)})" if score.has_width else ""
            words = f"{name}: {width} nodes, {found.metric} {_plain(score.value)}{interval}{more}"
            rows.append({**at, "chosen": picked, "words": words})
    x = quantity("width", "nodes", scale={"type": "log", "base": 2}, grid=False, tickCount=5)
    y = quantity("score", found.metric, format=".2f", tickCount=4)
    marks = [
        layer("line", {"x": x, "y": y}, color=LINE, strokeWidth=1.5),
        whiskers(x, y, color=LINE),
        dots(x, y, color=LINE, size=30),
        ring(x, y, only="datum.chosen"),
    ]
    return {"data": {"values": rows}, **facets("pair", names, 4, {"width": 190, "height": 110, "layer": marks})}


def _layers(places: Sequence[int]) -> str:
    """Layers by their number, from 1."""
    return f"layer{'' if len(places) == 1 else 's'} {' and '.join(str(n + 1) for n in places)}"


def controls_spec(found: Accordion) -> Spec:
    """Test metric against parameters: baseline, winner, controls and published shapes, with intervals over seeds."""
    metric = found.metric if all(found.metric in e.test for e in found.entries) else next(iter(found.entries[0].test))
    names = distinct([e.name for e in found.entries], 40)
    drawn = [e for e in found.entries if metric in e.test and e.params > 0]
    drops = label_drops([(math.log10(e.params), e.test[metric].value, len(names[e.name])) for e in drawn])
    rows = [{**_entry_row(e, metric, names[e.name]), "drop": d} for e, d in zip(drawn, drops, strict=True)]
    used = [role for role in ROLES if any(r["role"] == role for r in rows)]
    x = quantity("params", "trainable parameters", scale={"type": "log"}, format="~s")
    y = quantity("score", f"test {metric}", format=".2f")
    colour, shape = (kinds("role", used, [ROLES[role][i] for role in used]) for i in (0, 1))
    name = {"x": x, "y": y, "text": {"field": "name"}}
    return {
        "data": {"values": rows},
        "width": SCATTER[0],
        "height": SCATTER[1],
        "layer": [
            whiskers(x, y, color=colour),
            dots(x, y, color=colour, shape=shape, size=80),
            *(
                layer("text", name, only=f"datum.drop == {d}", align="left", dx=8, dy=d, fontSize=10.5, color=INK)
                for d in sorted(set(drops))
            ),
        ],
    }


def label_drops(places: Sequence[tuple[float, float, int]]) -> list[int]:
    """How far each name moves down so that no two cover each other: (log of parameters, score, letters) in, pixels out.

    >>> label_drops([(3.0, 0.72, 9), (3.0, 0.72, 9), (1.0, 0.5, 9)])
    [0, 12, 0]
    """
    xs, ys = [p[0] for p in places], [p[1] for p in places]
    across = SCATTER[0] / (max(xs, default=1.0) - min(xs, default=0.0) + 1)
    down = SCATTER[1] / max(1e-9, (max(ys, default=1.0) - min(ys, default=0.0)) * 1.3)
    taken: list[tuple[float, float, float]] = []
    drops = [0] * len(places)
    for i in sorted(range(len(places)), key=lambda i: -places[i][1]):
        left, height = across * xs[i], -down * ys[i]
        right = left + LETTER * places[i][2] + 10
        while any(left < b and a < right and abs(height + drops[i] - at) < LINE_HEIGHT for a, b, at in taken):
            drops[i] += 3
        taken.append((left, right, height + drops[i]))
    return drops


def _entry_row(entry: Entry, metric: str, name: str) -> Spec:
    score = entry.test[metric]
    between = f"{_between(score)}, " if score.has_width else ""
    interval = f"{_plain(score.value)} ({between}{score.n} seeds)"
    words = f"{elide(entry.name, 60)}: {whole(entry.params)} parameters, {metric} {interval}"
    at = {"name": name, "role": entry.role, "params": entry.params}
    return {**at, "score": score.value, "low": score.low, "high": score.high, "words": words}


def _between(score: Score) -> str:
    return f"{_plain(score.low)} to {_plain(score.high)}"


def _plain(value: float) -> str:
    """A metric such as F1, which is no percentage."""
    return f"{value:.3f}"
