"""coarsen(): narrow's twin for bits. A copy of the model that computes as if layers held few-bit integers.

    ranges = observe_ranges(model, layers, loader)                   # {layer: (low, high)} of each layer's input
    coarse = coarsen(model, {"conv1": 8, "linear": 4}, ranges)          # inputs at 8 bits; input_bits={...} for others

    plain = folded(model, example_inputs)
    seen = observe_places(plain, layers, loader)                        # of all that a file in integers rounds
    twin = coarsen(plain, bits, seen.ranges())                          # computes what that file computes

    coarse = coarsen_linear(twin, linear_layers, "blocks")           # and those in 4-bit blocks

Weights are rounded per output channel to a symmetric grid (`grids`), inputs per tensor to an unsigned grid over their range, as ONNX
Runtime computes them (u8 activations, s8 weights). Still ordinary floating point: integers are written by the exporter. Batch norms
have to be folded first because integers are added up after it: a bias is a whole number of steps, and a sum close to the middle
between two steps decides otherwise, which after twenty layers is another class for one image in two hundred.
"""

from .folding import folded
from .linear import LINEAR_BITS, coarsen_linear
from .observing import CALIBRATION_BATCHES, Seen, observe, observe_places, observe_ranges, observe_reaches
from .rounding import InputGrid, coarsen, quantizable
from .watching import OUTPUT

__all__ = [
    "CALIBRATION_BATCHES",
    "LINEAR_BITS",
    "OUTPUT",
    "InputGrid",
    "Seen",
    "coarsen",
    "coarsen_linear",
    "folded",
    "observe",
    "observe_places",
    "observe_ranges",
    "observe_reaches",
    "quantizable",
]
