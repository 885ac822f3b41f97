"""Pictures and the page: what a run did, drawn from its records alone, without torch.

    write_report("runs/r20")                        the whole run as one HTML file
    svg(ribbon_marks(graph, plan, profile))         the architecture ribbon as an SVG
    svg(print_marks(graph, profile))                the layers' fingerprints
    chart_svg(ratio_spec(profile, ...), label=...)  a standard chart (extra `report`)
    draw(profile); draw(plan, graph)                the picture of a value, in a notebook
    save_pictures("runs/r20", svg="figures")        every picture of a run as files
    with serving("runs/r20") as served: ...         the page, live

Geometry is data (`Mark`): `ribbon_marks` and `print_marks` decide, `svg` writes down. Charts are Vega-Lite specifications.
"""

from .drawing import Drawing, draw, save_pictures
from .marks import Mark, svg
from .page import write_report
from .prints import print_marks
from .ribbon import ribbon_marks
from .watching import Served, serving

__all__ = [
    "Drawing",
    "Mark",
    "Served",
    "draw",
    "print_marks",
    "ribbon_marks",
    "save_pictures",
    "serving",
    "svg",
    "write_report",
]
