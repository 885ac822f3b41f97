"""Chart of a day of changing load: how many requests came, which level the governor took, and how long the slowest waited.

spec = day_spec(found["day"]["plot"])       # what `lamella serve-levels` measured
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..marks import elide
from .grammar import ACCENT, LEVELS, RULE, Spec, kinds, layer, quantity

WIDTH = 860


def day_spec(plot: Mapping[str, Any]) -> Spec:
    """Three panels over the hours: requests per second; the governor's mean level; the 99th percentile of everyone."""
    hours = [{"hour": hour + 0.5, "rate": rate} for hour, rate in enumerate(plot["rate"])]
    places = [{"hour": h + 0.5, "place": p} for h, p in enumerate(plot["governor_level"]) if p is not None]
    governed, *fixed = names = list(plot["p99_ms"])
    colours = {
        governed: ACCENT,
        **{name: LEVELS[i * (len(LEVELS) - 1) // max(1, len(fixed) - 1)] for i, name in enumerate(fixed)},
    }
    x = quantity("hour", None, scale={"domain": [0, 24]}, grid=False, values=list(range(0, 25, 3)))
    y = quantity("p99", "99 % of requests within, ms", scale={"type": "log"}, format="~g", tickCount=4)
    colour = kinds("who", names, [colours[name] for name in names])
    colour["legend"] = {"title": None, "orient": "top", "symbolType": "stroke", "symbolStrokeWidth": 2}
    levels = [elide(name, 12) for name in plot["levels"]]
    place = quantity(
        "place",
        "governor's level",
        scale={"domain": [0, len(levels) - 1]},
        values=list(range(len(levels))),
        labelExpr=f"{levels!r}[datum.value]",
    )
    return {
        "vconcat": [
            {
                "width": WIDTH,
                "height": 70,
                **layer("area", {"x": x, "y": quantity("rate", "requests per second")}, data=hours, color=RULE),
            },
            {
                "width": WIDTH,
                "height": 70,
                **layer("line", {"x": x, "y": place}, data=places, color=ACCENT, interpolate="step", strokeWidth=1.8),
            },
            {
                "width": WIDTH,
                "height": 150,
                **layer(
                    "line",
                    {"x": {**x, "axis": {**x["axis"], "title": "hour of the day"}}, "y": y, "color": colour},
                    data=list(_waits(plot["p99_ms"])),
                    strokeWidth=1.6,
                ),
            },
        ]
    }


def _waits(p99_ms: Mapping[str, Iterable[float | None]]) -> Iterable[Spec]:
    for who, waits in p99_ms.items():
        yield from ({"hour": h + 0.5, "p99": p, "who": who} for h, p in enumerate(waits) if p is not None)
