"""Layer fingerprints: one small glyph per layer from what was measured of it, on one scale for all.

marks = print_marks(graph, profile)             # the sheet of all layers, with its legend
prints = layer_prints(graph, profile); glyph_marks(prints[0], scale_of(prints)); likeness(prints).order
"""

from .facts import LayerPrint, layer_prints
from .glyph import Scale, glyph_marks, scale_of
from .likeness import Likeness, likeness
from .sheet import legend_marks, print_marks

__all__ = [
    "LayerPrint",
    "Likeness",
    "Scale",
    "glyph_marks",
    "layer_prints",
    "legend_marks",
    "likeness",
    "print_marks",
    "scale_of",
]
