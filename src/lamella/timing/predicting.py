"""A whole network's latency from its layers': fitted on a few plans, checked on others.

    predictor = fit(table, graph, plans, measured_ms)       # plans: widths; measured_ms: what the exported files took
    predictor.predict(graph, widths, {})                    # milliseconds
    accuracy(predictor, graph, others, their_ms).text       # median error 3.1 %, rank correlation 0.97 on 20 plans

    ms = scale x sum of the table over layers + per_layer x layers + per_element x elements of all activations

The coefficients are not negative and minimize the relative error. One predictor is of one precision: bits are not looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from ..errors import LamellaError
from ..progress import Progress, silent
from ..schema import Graph, Layer
from .shapes import LayerShape, layer_shape
from .tables import LatencyTable

Widths = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LatencyPredictor:
    """A table and three coefficients; what `plan(latency=...)` takes."""

    table: LatencyTable
    graph: Graph
    scale: float = 1.0
    per_layer: float = 0.0
    per_element: float = 0.0

    @property
    def element_ms(self) -> float:
        return self.per_element

    def layer_ms(self, layer: Layer, inputs: int, outputs: int, bits: int) -> float:
        """What one layer adds at these channels."""
        shape = layer_shape(self.graph, layer, inputs, outputs, self.table.precision)
        return layer.calls * (self.scale * self.table.ms(shape) + self.per_layer)

    def constant_ms(self, graph: Graph) -> float:
        return 0.0

    def predict(self, graph: Graph, widths: Widths, bits: Mapping[str, int]) -> float:
        """Milliseconds of the whole network at batch 1. `graph` may be a narrowed one of the same layers."""
        features = _features(self.table, graph, widths)
        return float(features @ np.array([self.scale, self.per_layer, self.per_element]))


def fit(
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
    rows = np.array([_features(table, graph, widths) for widths in plans])
    ms = np.array(measured_ms, dtype=float)
    relative = rows / ms[:, None]
    norm = np.maximum(relative.max(axis=0), 1e-12)
    found = nnls(relative / norm, np.ones(len(ms)))[0] / norm
    scale, per_layer, per_element = map(float, found)
    return replace(LatencyPredictor(table, graph), scale=scale, per_layer=per_layer, per_element=per_element)


def shapes_of(table: LatencyTable, graph: Graph, widths: Widths) -> list[LayerShape]:
    """The shape of every layer that multiplies, in order, at these widths."""
    full = graph.completed(widths)
    return [
        layer_shape(graph, layer, layer.inputs.at(full), layer.outputs.at(full), table.precision)
        for layer in _timed(graph)
    ]


def _timed(graph: Graph) -> list[Layer]:
    return [layer for layer in graph.layers if layer.weight and layer.positions]


def _features(table: LatencyTable, graph: Graph, widths: Widths) -> np.ndarray:
    calls = [layer.calls for layer in _timed(graph)]
    ms = [table.ms(shape) for shape in shapes_of(table, graph, widths)]
    full = graph.completed(widths)
    elements = sum(t.size.at(full) for t in graph.tensors)
    return np.array([float(np.dot(calls, ms)), float(sum(calls)), float(elements)])


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
    rank = float(spearmanr(predicted, measured_ms).statistic) if len(plans) > 2 else 1.0
    return Accuracy(
        median_error=float(np.median(errors)), worst_error=float(errors.max()), rank_correlation=rank, n=len(plans)
    )
