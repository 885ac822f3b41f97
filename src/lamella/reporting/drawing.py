"""draw(): the picture of a value, for a notebook.

draw(graph)             the dense ribbon            draw(plan, graph)       the ribbon, before and after
draw(profile)           the curves                  draw(result, graph)     the ribbon, and the walk through the plan
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import LamellaError
from ..schema import Graph, Plan, Profile, Result
from .curves import curve_marks
from .marks import svg
from .ribbon import ribbon_marks
from .walk import walk_marks

GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:8px"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture as HTML: a notebook shows it, `save` writes it."""

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.html, encoding="utf-8")


def draw(value: Graph | Profile | Plan | Result, graph: Graph | None = None) -> Drawing:
    """The picture of a value. A plan and a result name groups only, so they need the graph for their ribbon."""
    if isinstance(value, Graph):
        return Drawing(html=svg(ribbon_marks(value, None), label=f"Architecture ribbon of {value.model}"))
    if isinstance(value, Profile):
        return Drawing(html=_curves(value))
    if not isinstance(value, Plan | Result):
        raise LamellaError(f"a {type(value).__name__} has no picture. Draw a Graph, Profile, Plan or Result.")
    if graph is None:
        kind = type(value).__name__
        raise LamellaError(f"a {kind} names groups, and its layers are in the Graph. Call draw({kind.lower()}, graph).")
    parts = [svg(ribbon_marks(graph, value), label=f"Architecture ribbon of {graph.model}")]
    if isinstance(value, Result) and len(value.history) > 1:
        parts.append(svg(walk_marks(value.history), label="Score after each step"))
    return Drawing(html="".join(parts))


def _curves(profile: Profile) -> str:
    targets = dict.fromkeys((p.target, p.knob) for p in profile.points)
    panels = (svg(curve_marks(profile, target, knob), label=f"Score curve of {target}") for target, knob in targets)
    return f'<div style="{GRID}">{"".join(panels)}</div>'
