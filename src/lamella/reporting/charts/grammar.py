"""The few words of Vega-Lite that all charts here speak, so that a specification reads as what it shows.

x = quantity("level", None, format=".0%");  y = quantity("score", "validation score", format=".1%")
layer("line", {"x": x, "y": y}, color=LINE);  whiskers(x, y, color=LINE);  dots(x, y, size=40)
"""

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]

INK, MUTED, FAINT, RULE = "var(--ink)", "var(--muted)", "var(--faint)", "var(--rule)"
LINE, SECOND, ACCENT, PAPER = "var(--line)", "var(--second)", "var(--accent)", "var(--paper)"
BITS = {32: "var(--full)", 16: "var(--half)", 8: "var(--eight)", 4: "var(--four)", 2: "var(--two)"}
LEVELS = (FAINT, SECOND, LINE, INK)  # of an elastic network, from the smallest to the largest

WORDS = {"description": {"field": "words"}}  # what a mark says when it is pointed at


def quantity(field: str, title: str | None, *, scale: Spec | None = None, **axis: Any) -> Spec:
    """A number along an axis, which need not start at zero."""
    return {
        "field": field,
        "type": "quantitative",
        "scale": scale or {"zero": False},
        "axis": {"title": title, **axis},
    }


def steps(field: str, title: str, last: int) -> Spec:
    """Whole numbers from 0 along an axis, ten of them at most with a tick: left to itself Vega ticks halves too, and rounds them."""
    stride = -(-max(1, last) // 10)
    return quantity(field, title, format="d", grid=False, values=list(range(0, last + 1, stride)))


def kinds(field: str, values: Sequence[str], look: Sequence[Any], legend: str | None = "") -> Spec:
    """A kind of thing, each value with its own look. `legend`: its title, empty for none; None: no legend at all."""
    shown = None if legend is None else {"title": legend or None, "orient": "top"}
    scale = {"domain": list(values), "range": list(look)}
    return {"field": field, "type": "nominal", "sort": list(values), "scale": scale, "legend": shown}


def layer(mark: str, encoding: Spec, *, only: str = "", data: list[Spec] | None = None, **look: Any) -> Spec:
    """One kind of mark. `only`: a test that its rows must pass."""
    found: Spec = {"mark": {"type": mark, **look}, "encoding": encoding}
    if only:
        found["transform"] = [{"filter": only}]
    if data is not None:
        found["data"] = {"values": data}
    return found


def dots(x: Spec, y: Spec, *, only: str = "", data: list[Spec] | None = None, size: float = 34, **more: Any) -> Spec:
    """A dot per row, which tells its words. What is a dict in `more` is encoded, the rest is its look."""
    encoded = {name: value for name, value in more.items() if isinstance(value, dict)}
    look = {name: value for name, value in more.items() if name not in encoded}
    encoding = {"x": x, "y": y, **encoded, **WORDS}
    return layer("point", encoding, only=only, data=data, **{"filled": True, "opacity": 1, "size": size, **look})


def ring(x: Spec, y: Spec, *, only: str, size: float = 110) -> Spec:
    """Around what was chosen."""
    return dots(x, y, only=only, size=size, filled=False, color=INK, strokeWidth=1.6)


def whiskers(x: Spec, y: Spec, **more: Any) -> Spec:
    """Upright intervals from `low` to `high`."""
    encoded = {name: value for name, value in more.items() if isinstance(value, dict)}
    look = {name: value for name, value in more.items() if name not in encoded}
    ends = {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, **encoded}
    return layer("rule", ends, only="isValid(datum.low)", **{"strokeWidth": 1.3, **look})


def facets(field: str, names: Sequence[str], columns: int, spec: Spec) -> Spec:
    """A panel per name, in this order, all on one scale."""
    head = {"labelAnchor": "start", "labelPadding": 4}
    facet = {"field": field, "type": "nominal", "title": None, "sort": list(names), "header": head}
    return {"columns": columns, "spacing": {"row": 14, "column": 18}, "facet": facet, "spec": spec}
