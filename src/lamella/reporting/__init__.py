"""Pictures and the page: what a run did, drawn from its records alone, without torch.

    write_report("runs/r20")                        the whole run as one HTML file
    svg(ribbon_marks(graph, plan))                  the architecture ribbon as an SVG
    draw(profile); draw(plan, graph)                the picture of a value, in a notebook

Geometry is data (`Mark`): `ribbon_marks` and `curve_marks` decide, `svg` writes down.
"""

from .curves import curve_marks
from .drawing import Drawing, draw
from .marks import Mark, svg
from .page import write_report
from .ribbon import ribbon_marks
from .walk import walk_marks

__all__ = ["Drawing", "Mark", "curve_marks", "draw", "ribbon_marks", "svg", "walk_marks", "write_report"]
