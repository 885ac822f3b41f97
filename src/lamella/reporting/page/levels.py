"""The slider of an elastic network: its ribbon at one level, and what changes in it from level to level.

made = slider(graph, family)
made.picture            # the ribbon of the largest level
made.data               # JSON: per level, per layer: body, text, bits, bars; the script moves what is there
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ...schema import Family, Graph, Level
from ..charts import score_of
from ..facts import facts_at
from ..marks import Mark, svg
from ..ribbon import marks_at
from ..words import score as told_score
from ..words import short, size


class Slider(NamedTuple):
    picture: Markup
    data: Markup
    names: tuple[str, ...]
    lines: tuple[str, ...]


def slider(graph: Graph, family: Family) -> Slider:
    """The largest level's ribbon, and every level's shapes."""
    drawn = [marks_at(graph, facts_at(graph, x.widths, x.bits)) for x in family.levels]
    picture = Markup(svg(drawn[-1], label="Architecture ribbon of the level chosen with the slider", style=""))
    shapes = [_shapes(marks) for marks in drawn]
    text = json.dumps(shapes, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    names = tuple(level.name for level in family.levels)
    return Slider(picture, Markup(text), names, tuple(_line(level) for level in family.levels))


def _shapes(marks: Sequence[Mark]) -> dict[str, Any]:
    """Per layer [body y, height, class, text, then y and height of every bar]; and the band inside the outline."""
    layers: dict[str, list[Any]] = {}
    for mark in marks:
        if mark.about.startswith("layer "):
            found = layers.setdefault(mark.about, [0, 0, "", "", []])
            first = mark.role.split()[0]
            if first == "body":
                found[:3] = [round(mark.y, 1), round(mark.height, 1), mark.role]
            elif first == "width":
                found[3] = mark.text
            elif first == "bar-kept":
                found[4] += [round(mark.y, 1), round(mark.height, 1)]
    return {"layers": list(layers.values()), "cores": [m.path for m in marks if m.role == "core"]}


def _line(level: Level) -> str:
    """One level in words."""
    score, parts = score_of(level), [f"{short(level.params)} parameters", f"{short(level.macs)} MACs"]
    parts += [f"{level.latency_ms:.3g} ms"] if level.latency_ms else []
    parts += [size(level.bytes)] if level.bytes else []
    parts += [f"score {told_score(score.value)}"] if score else []
    return f"{level.name}: {', '.join(parts)}"
