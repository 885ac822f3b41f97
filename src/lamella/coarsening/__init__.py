"""coarsen(): narrow's twin for bits. A copy of the model that computes as if layers held few-bit integers.

    ranges = observe_ranges(model, layers, loader)                   # {layer: (low, high)} of each layer's input
    coarse = coarsen(model, {"conv1": 8, "linear": 4}, ranges)          # inputs at 8 bits; input_bits={...} for others

    ranges = observe_ranges(model, layers, loader, joins=True)       # also where streams meet, and the output
    twin   = coarsen(folded(model, example_inputs), bits, ranges)       # computes what a file in integers computes

    coarse = coarsen_linear(twin, linear_layers, "blocks")           # and those in 4-bit blocks

Weights are rounded per output channel to a symmetric grid (`grids`), inputs per tensor to an unsigned grid over their range, as ONNX
Runtime computes them (u8 activations, s8 weights). Still ordinary floating point: integers are written by the exporter. Batch norms
have to be folded first because integers are added up after it: a bias is a whole number of steps, and a sum close to the middle
between two steps decides otherwise, which after twenty layers is another class for one image in two hundred.
"""

from .folding import folded
from .linear import LINEAR_BITS, coarsen_linear
from .observing import (
    BEHIND_LINEAR,
    CALIBRATION_BATCHES,
    OUTPUT,
    observe,
    observe_ranges,
    ranges_of,
    reached_in_integers,
)
from .rounding import InputGrid, coarsen, quantizable

__all__ = [
    "BEHIND_LINEAR",
    "CALIBRATION_BATCHES",
    "LINEAR_BITS",
    "OUTPUT",
    "InputGrid",
    "coarsen",
    "coarsen_linear",
    "folded",
    "observe",
    "observe_ranges",
    "quantizable",
    "ranges_of",
    "reached_in_integers",
]
