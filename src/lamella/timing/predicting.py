"""A whole network's latency from its layers': fitted on a few plans, checked on others.

    predictor = fit_predictor(table, graph, plans, measured_ms)  # plans: widths; measured_ms: what the exported files took
    predictor.predict(graph, widths, {})                         # milliseconds
    accuracy(predictor, graph, others, their_ms).text            # median error 3.1 %, rank correlation 0.97 on 20 plans

    ms = sum over layers of: scale x table + per_layer + per_element x elements in and out at widths of `block` or more

A layer alone pays for what a network does once or never: the call itself, and bringing its input and output into the runtime's
blocks of channels and back (ONNX Runtime: 16 channels with AVX-512, 8 without, and convolutions of fewer are not brought there). So
`per_layer` and `per_element` are mostly negative. Coefficients and block are those of least relative error over the plans that are
fitted. One predictor is of one precision: bits are not looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from ..errors import LamellaError
from ..progress import Progress, silent
from ..schema import Graph, Layer
from ..schema.plans import FLOAT
from .shapes import LayerShape, input_sizes, layer_shape
from .tables import LatencyTable

Widths = Mapping[str, int]

BLOCKS = (1, 8, 16)  # channels that runtimes keep together; 1: all widths alike


@dataclass(frozen=True, slots=True)
class LatencyPredictor:
    """A table, three coefficients and a block; what `plan(latency=...)` takes.

    `dense_ms`: the dense network in float, where this is of files in integers: shares are of that.
    """

    table: LatencyTable
    graph: Graph
    scale: float = 1.0
    per_layer: float = 0.0
    per_element: float = 0.0
    block: int = 1
    dense_ms: float | None = None

    def layer_ms(self, layer: Layer, inputs: int, outputs: int, bits: int) -> float:
        """What one layer adds at these channels; nothing where none are left on one side."""
        if not inputs or not outputs:
            return 0.0
        shape = layer_shape(self.graph, layer, inputs, outputs, self.table.precision)
        return layer.calls * max(0.0, float(_features(self.table, shape, self.block) @ self._coefficients))

    @property
    def precision(self) -> str:
        """Of the files whose milliseconds these are: fp32 or int8."""
        return self.table.precision

    @property
    def _coefficients(self) -> np.ndarray:
        return np.array([self.scale, self.per_layer, self.per_element])

    def predict(self, graph: Graph, widths: Widths, bits: Mapping[str, int]) -> float:
        """Milliseconds of the whole network at batch 1. `graph` may be a narrowed one of the same layers."""
        full = graph.completed(widths)
        return sum(self.layer_ms(x, x.inputs.at(full), x.outputs.at(full), FLOAT) for x in graph.multiplying)


def fit_predictor(
    table: LatencyTable,
    graph: Graph,
    plans: Sequence[Widths],
    measured_ms: Sequence[float],
    progress: Progress = silent,
) -> LatencyPredictor:
    """The predictor that is nearest to these measurements. LamellaError for fewer than three plans."""
    if len(plans) != len(measured_ms) or len(plans) < 3:
        raise LamellaError(
            f"{len(plans)} plans and {len(measured_ms)} measurements: at least three pairs are needed to fit three "
            "coefficients (ten make a steady fit)."
        )
    table.measure([s for widths in plans for s in shapes_of(table, graph, widths)], progress)
    best, least = LatencyPredictor(table, graph), np.inf
    for block in BLOCKS:
        rows = np.array([_sums(table, graph, widths, block) for widths in plans])
        relative = rows / np.array(measured_ms, dtype=float)[:, None]
        norm = np.maximum(np.abs(relative).max(axis=0), 1e-12)
        found = lsq_linear(relative / norm, np.ones(len(rows)), ([0, -np.inf, -np.inf], np.inf))
        if found.cost < least * (1 - 1e-9):
            scale, per_layer, per_element = map(float, found.x / norm)
            best, least = LatencyPredictor(table, graph, scale, per_layer, per_element, block), found.cost
    return best


def shapes_of(table: LatencyTable, graph: Graph, widths: Widths) -> list[LayerShape]:
    """The shape of every layer that multiplies at these widths, in order; without those that have no channels left."""
    return [shape for _, shape in _calls(table, graph, widths)]


def _calls(table: LatencyTable, graph: Graph, widths: Widths) -> Iterator[tuple[int, LayerShape]]:
    """How often each is called, and its shape."""
    full = graph.completed(widths)
    for layer in graph.multiplying:
        if not layer.is_emptied(full):
            shape = layer_shape(graph, layer, layer.inputs.at(full), layer.outputs.at(full), table.precision)
            yield layer.calls, shape


def _sums(table: LatencyTable, graph: Graph, widths: Widths, block: int) -> np.ndarray:
    """What the coefficients multiply, for the whole network."""
    return sum((n * _features(table, shape, block) for n, shape in _calls(table, graph, widths)), np.zeros(3))


def _features(table: LatencyTable, shape: LayerShape, block: int) -> np.ndarray:
    """What the coefficients multiply, for one call."""
    inside = np.prod(input_sizes(shape)) if shape.kernel and shape.inputs >= block else 0.0
    outside = shape.outputs * np.prod(shape.sides) if shape.kernel and shape.outputs >= block else 0.0
    return np.array([table.ms(shape), 1.0, float(inside + outside)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How far predictions were off, on plans that the fit did not see (shares: 0.03 is 3 %)."""

    median_error: float
    worst_error: float
    rank_correlation: float
    n: int

    @property
    def text(self) -> str:
        """One line for a person."""
        return (
            f"median error {100 * self.median_error:.1f} %, worst {100 * self.worst_error:.1f} %, "
            f"rank correlation {self.rank_correlation:.2f} on {self.n} plans"
        )


def accuracy(
    predictor: LatencyPredictor, graph: Graph, plans: Sequence[Widths], measured_ms: Sequence[float]
) -> Accuracy:
    """Predictions against measurements."""
    from scipy.stats import spearmanr

    predictor.table.measure([s for widths in plans for s in shapes_of(predictor.table, graph, widths)])
    predicted = np.array([predictor.predict(graph, widths, {}) for widths in plans])
    errors = np.abs(predicted / np.array(measured_ms) - 1)
    ordered = len(plans) > 2 and np.ptp(predicted) > 0 and np.ptp(measured_ms) > 0
    rank = float(spearmanr(predicted, measured_ms).statistic) if ordered else 1.0
    return Accuracy(
        median_error=float(np.median(errors)), worst_error=float(errors.max()), rank_correlation=rank, n=len(plans)
    )
