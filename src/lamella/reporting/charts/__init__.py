"""Standard charts, drawn by Vega-Lite (extra `report`): specifications as plain data, and the one place that draws them.

spec = ratio_spec(profile, "pruning_ratio", targets, threshold=0.965)       walk_spec, front_spec, family_spec, ...
text = chart_svg(spec, label="Score curves")                                MissingExtra where vl-convert is absent
"""

from .accordions import controls_spec, pairs_spec, widths_spec
from .days import day_spec
from .grammar import Spec
from .outcomes import family_spec, front_spec, score_of, training_spec, walk_spec
from .sweeps import bits_spec, ratio_spec
from .vega import chart_svg, grounded, png_of

__all__ = [
    "Spec",
    "bits_spec",
    "chart_svg",
    "controls_spec",
    "day_spec",
    "family_spec",
    "front_spec",
    "grounded",
    "pairs_spec",
    "png_of",
    "ratio_spec",
    "score_of",
    "training_spec",
    "walk_spec",
    "widths_spec",
]
