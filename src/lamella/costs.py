"""What a network of given widths and bits costs, by arithmetic on the Graph: no torch, microseconds, exact.

    cost(graph)                                     the dense model
    cost(graph, {"layer1.0.conv1": 8}, bits)        narrowed, with bits per layer
    layer_cost(graph, "conv1", widths, bits)        one layer's share

params and MACs equal what counting the narrowed model gives (a law, tested). `bytes` predicts the exported ONNX file: batch norm
folded, integers packed, a calibrated overhead per layer; the file itself is the truth. `memory` is the peak of live activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .schema import Cost, Graph, Layer, Parameter, Size

Floats = npt.NDArray[np.float64]

FILE_OVERHEAD = 700  # bytes of an ONNX file outside any layer (benchmarks/bytes.py)
LAYER_OVERHEAD = 330  # bytes per layer beside its numbers, fp32
INTEGER_OVERHEAD = 1150  # bytes per quantized layer beside its numbers: QuantizeLinear and DequantizeLinear nodes


def cost(graph: Graph, widths: Mapping[str, int] | None = None, bits: Mapping[str, int] | None = None) -> Cost:
    """The cost at these widths (groups not named are dense) and bits per layer (32 where not named)."""
    full = graph.completed(widths or {})
    model = _compiled(graph)
    sizes = model.numel(full)
    return Cost(
        params=int(sizes[model.trained].sum()),
        macs=int((sizes[model.weight] * model.positions).sum()),
        bytes=sum(_layer_bytes(graph, layer, full, bits or {}) for layer in graph.layers) + FILE_OVERHEAD + model.loose_bytes,
        memory=int(4 * model.live(full).max(initial=0)),
    )


def layer_cost(graph: Graph, name: str, widths: Mapping[str, int] | None = None, bits: Mapping[str, int] | None = None) -> Cost:
    """One layer's params, MACs and bytes; `memory` is that of its output per sample."""
    full = graph.completed(widths or {})
    layer = graph.layer_of[name]
    params = sum(numel(graph.parameter_of[p], full) for p in (layer.weight, layer.bias) if p)
    macs = numel(graph.parameter_of[layer.weight], full) * layer.positions if layer.weight else 0
    positions = max(1, layer.positions // max(1, layer.calls))
    memory = 4 * layer.outputs.at(full) * positions
    return Cost(params=params, macs=macs, bytes=_layer_bytes(graph, layer, full, bits or {}), memory=memory)


def numel(parameter: Parameter, widths: Mapping[str, int]) -> int:
    """Elements of a parameter at these widths."""
    product = 1
    for axis in parameter.axes:
        product *= axis.size.at(widths) // axis.blocks
    return product


def _layer_bytes(graph: Graph, layer: Layer, widths: Mapping[str, int], bits: Mapping[str, int]) -> int:
    """A batch norm becomes the bias of the layer before it; a quantized layer has a scale per output channel and an int32 bias."""
    outputs = layer.outputs.at(widths)
    if layer.kind == "batch_norm":
        return 0 if _has_bias(graph, layer) else 4 * outputs
    weight = numel(graph.parameter_of[layer.weight], widths) if layer.weight else 0
    bias = 4 * outputs if layer.bias else 0
    width = bits.get(layer.name, 32)
    if width >= 32:
        return 4 * weight + bias + LAYER_OVERHEAD
    return -(-weight * width // 8) + bias + 8 * outputs + LAYER_OVERHEAD + INTEGER_OVERHEAD


def _has_bias(graph: Graph, norm: Layer) -> bool:
    return any(graph.layer_of[s].bias for s in norm.sources)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The graph as arrays: a parameter's extents are rows of one linear map of the widths."""

    order: tuple[str, ...]
    factors: Floats  # (parameters, axes, groups + 1), the last column is the fixed part
    trained: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.int64]
    positions: Floats
    memory: Floats  # (moments, groups + 1)
    loose_bytes: int

    def numel(self, widths: Mapping[str, int]) -> Floats:
        return np.asarray(np.rint((self.factors @ self._vector(widths)).prod(axis=1)))

    def live(self, widths: Mapping[str, int]) -> Floats:
        return np.asarray(self.memory @ self._vector(widths))

    def _vector(self, widths: Mapping[str, int]) -> Floats:
        return np.array([*(widths[name] for name in self.order), 1.0])


def _compiled(graph: Graph) -> _Compiled:
    """Compiled once per graph, and kept beside its fields."""
    kept: Any = graph.__dict__.get("_compiled")
    if kept is None:
        kept = graph.__dict__["_compiled"] = _compile(graph)
    return kept  # type: ignore[no-any-return]


def _compile(graph: Graph) -> _Compiled:
    order = tuple(g.name for g in graph.groups)
    column = {name: i for i, name in enumerate(order)}
    rank = max((len(p.axes) for p in graph.parameters), default=1) or 1
    factors = np.zeros((len(graph.parameters), rank, len(order) + 1))
    factors[:, :, -1] = 1.0
    for row, parameter in enumerate(graph.parameters):
        for d, axis in enumerate(parameter.axes):
            factors[row, d] = _row(axis.size, column) / axis.blocks
    index = {p.name: i for i, p in enumerate(graph.parameters)}
    weighted = [layer for layer in graph.layers if layer.weight and layer.positions]
    used = {name for layer in graph.layers for name in (layer.weight, layer.bias)}
    loose = [p for p in graph.parameters if p.trained and p.name not in used]
    return _Compiled(
        order=order,
        factors=factors,
        trained=np.array([p.trained for p in graph.parameters], dtype=bool),
        weight=np.array([index[layer.weight] for layer in weighted if layer.weight], dtype=np.int64),
        positions=np.array([layer.positions for layer in weighted], dtype=np.float64),
        memory=_moments(graph, column),
        loose_bytes=4 * sum(numel(p, graph.widths) for p in loose),
    )


def _row(size: Size, column: Mapping[str, int]) -> Floats:
    row = np.zeros(len(column) + 1)
    row[-1] = size.fixed
    for group, times in size.terms:
        row[column[group]] += times
    return row


def _moments(graph: Graph, column: Mapping[str, int]) -> Floats:
    """Live elements per operator, one row each: tensors made and not yet read for the last time."""
    rows = [(_row(t.size, column), t.producer, t.last_reader) for t in graph.tensors]
    moments = sorted({producer for _, producer, _ in rows})
    if not moments:
        return np.zeros((0, len(column) + 1))
    sums = [sum((r for r, a, b in rows if a <= m <= b), np.zeros(len(column) + 1)) for m in moments]
    return np.unique(np.stack(sums), axis=0)
