"""What a network of given widths and bits costs, by arithmetic on the Graph: no torch, microseconds, exact.

    cost(graph)                                     the dense model
    cost(graph, {"layer1.0.conv1": 8}, bits)        narrowed, with bits per layer
    cost(graph, widths, bits, "blocks")             linear layers that have bits in blocks: the `linear` of a row of schema.SCHEMES
    layer_cost(graph, "conv1", widths, bits)        one layer's share
    layer_costs(graph, widths, bits)                every layer's share, by name

params and MACs equal what counting the narrowed model gives (a law, tested). `bytes` predicts the exported ONNX file: batch norm
folded, integers packed, a calibrated overhead per layer; the file itself is the truth. `memory` is the peak of live activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RecordError
from .records import check
from .schema import Cost, Graph, Group, Layer, LinearForm, Parameter, Share, Size

Floats = npt.NDArray[np.float64]

FILE_OVERHEAD = 700  # bytes of an ONNX file outside any layer
LAYER_OVERHEAD = 330  # per layer beside its numbers, float or int8: right to 0.3 % on files of ResNet-14 and ResNet-20
BLOCK = 128  # weights of a linear layer that share a scale where it is held in blocks
STORED_BITS = {2: 2, 3: 4, 4: 4}  # bits of a layer's weights -> bits one takes in the file; 5 to 8 take 8
AXES = range(5)  # a parameter's axes; that of a 3d convolution has five


def cost(
    graph: Graph,
    widths: Mapping[str, int] | None = None,
    bits: Mapping[str, int] | None = None,
    linear: LinearForm = "",
) -> Cost:
    """The cost at these widths (groups not named are dense) and bits per layer (32 where not named)."""
    model = _compiled(graph)
    sizes, outputs, memory = model.at(model.vector(widths or {}))
    return Cost(
        params=int(sizes @ model.trained),
        macs=int(sizes @ model.positions),
        bytes=int(model.file.bytes(sizes, outputs, bits or {}, linear)),
        memory=4 * int(memory.max(initial=0)),
    )


def layer_cost(
    graph: Graph, name: str, widths: Mapping[str, int] | None = None, bits: Mapping[str, int] | None = None
) -> Cost:
    """One layer's params, MACs and bytes; `memory` is that of its output per sample."""
    return _layer_cost(graph, graph.layer_of[name], graph.completed(widths or {}), bits or {}, "")


def layer_costs(
    graph: Graph,
    widths: Mapping[str, int] | None = None,
    bits: Mapping[str, int] | None = None,
    linear: LinearForm = "",
) -> dict[str, Cost]:
    """Every layer's cost, as `layer_cost` gives it."""
    full = graph.completed(widths or {})
    return {layer.name: _layer_cost(graph, layer, full, bits or {}, linear) for layer in graph.layers}


def _layer_cost(
    graph: Graph, layer: Layer, full: Mapping[str, int], bits: Mapping[str, int], linear: LinearForm
) -> Cost:
    own = [graph.parameter_of[p] for p in (layer.weight, layer.bias) if p]
    params = sum(numel(p, full) for p in own if p.trained)
    macs = numel(graph.parameter_of[layer.weight], full) * layer.positions if layer.weight else 0
    positions = max(1, layer.positions // max(1, layer.calls))
    memory = 4 * layer.outputs.at(full) * positions
    return Cost(params=params, macs=macs, bytes=layer_bytes(graph, layer, full, bits, linear), memory=memory)


def stored_bits(bits: int) -> int:
    """How many bits a weight of so many takes in the exported file."""
    return 32 if bits >= 32 else STORED_BITS.get(bits, 8)


def numel(parameter: Parameter, widths: Mapping[str, int]) -> int:
    """Elements of a parameter at these widths."""
    product = 1
    for axis in parameter.axes:
        product *= axis.size.at(widths) // axis.blocks
    return product


def layer_bytes(
    graph: Graph, layer: Layer, widths: Mapping[str, int], bits: Mapping[str, int], linear: LinearForm = ""
) -> int:
    """A layer's bytes at these widths of all groups.

    A batch norm becomes the bias of the layer before it."""
    weight = numel(graph.parameter_of[layer.weight], widths) if layer.weight else 0
    outputs, width = layer.outputs.at(widths), bits.get(layer.name, 32)
    form = linear if layer.kind == "linear" else ""
    return int(byte_rule(graph, layer, width).bytes(weight, outputs) + _more(form, width, weight, outputs))


@dataclass(frozen=True, slots=True)
class ByteRule:
    """How the bytes of a layer follow from its weight's elements and its outputs."""

    stored: int  # bits that an element takes, 0 where it vanishes; whole bytes are filled up
    per_output: int
    constant: int

    def bytes(self, elements: Any, outputs: Any) -> Any:
        """Bytes; of numbers, or of arrays of whole numbers."""
        return -(-elements * self.stored // 8) + self.per_output * outputs + self.constant


def byte_rule(graph: Graph, layer: Layer, bits: int) -> ByteRule:
    """The rule of one layer at these bits."""
    if layer.kind == "batch_norm":
        return ByteRule(0, 0 if _has_bias(graph, layer) else 4, 0)
    rule = _rule(bits)
    return ByteRule(rule.stored, rule.per_output + (4 if layer.bias else 0), rule.constant)


@lru_cache
def _rule(bits: int) -> ByteRule:
    """That of a layer without a bias; a quantized layer has a scale per output channel and an int32 bias."""
    return ByteRule(stored_bits(bits), 0 if bits >= 32 else 8, LAYER_OVERHEAD)


def _more(form: LinearForm, bits: int, elements: float, outputs: float) -> float:
    """What a linear layer takes beyond the rule of its bits: in blocks, which are filled up, 4 bytes a block and none an output."""
    if form != "blocks" or bits >= 32 or not outputs:
        return 0.0
    products = int(elements // outputs)
    length = block_length(products)
    held = outputs * -(-products // length) * (length // 2 + 4) + LAYER_OVERHEAD
    return float(held - _rule(bits).bytes(elements, outputs))


def block_length(products: int) -> int:
    """How many neighbouring weights of a linear layer with so many inputs share a scale where it is held in blocks."""
    return min(BLOCK, max(32, 1 << (products - 1).bit_length()))


def _has_bias(graph: Graph, norm: Layer) -> bool:
    return any(graph.layer_of[s].bias for s in norm.sources)


@dataclass(frozen=True, slots=True)
class _File:
    """What every layer adds to the exported file, as arrays over layers."""

    index: dict[str, int]  # layer -> row; batch norms that vanish have none
    weight: npt.NDArray[np.int64]  # row of the weight's size, -1 for none
    biased: Floats  # 1.0 where a bias (or a folded batch norm) adds four bytes per output
    fixed: int  # what no width changes
    linear: frozenset[str]  # the linear layers

    def bytes(self, sizes: Floats, outputs: Floats, bits: Mapping[str, int], linear: LinearForm) -> float:
        """A batch norm becomes the bias of its layer."""
        weight = sizes[self.weight]
        total = 4 * (float(weight.sum()) + float(self.biased @ outputs)) + self.fixed
        for name, width in bits.items():
            row = self.index.get(name)
            if row is not None and width < 32:
                n, out = float(weight[row]), float(outputs[row])
                total += _rule(width).bytes(n, out) - _rule(32).bytes(n, out)
                total += _more(linear if name in self.linear else "", width, n, out)
        return total


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The graph as arrays. A vector holds the width of every group, the value of every share, and 1 for what is fixed."""

    column: dict[str, int]
    dense: Floats
    shares: tuple[tuple[str, int, Share], ...]  # group, column, share
    groups: Mapping[str, Group]
    checked: set[tuple[str, int]]
    rows: Floats  # what multiplies a vector: axes of parameters, outputs of layers, moments of memory
    parameters: int
    layers: int
    trained: Floats  # 1.0 for parameters, 0.0 for buffers
    positions: Floats  # MACs per element, 0.0 where it multiplies nothing
    file: _File

    def vector(self, widths: Mapping[str, int]) -> Floats:
        """The vector of these widths; RecordError for a group that does not exist or a width that it cannot have."""
        vector = self.dense.copy()
        for name, width in widths.items():
            if (name, width) not in self.checked:
                self._check(name, width)
            vector[self.column[name]] = width
        for name, column, share in self.shares:
            vector[column] = share.at(int(vector[self.column[name]]))
        return vector

    def _check(self, name: str, width: int) -> None:
        check(name in self.groups, f"[{name!r}]", "no such group in this model")
        try:
            self.groups[name].check_width(width)
        except RecordError as error:
            raise error.within(f"[{name!r}]") from None
        self.checked.add((name, width))

    def at(self, vector: Floats) -> tuple[Floats, Floats, Floats]:
        """Elements of every parameter (and a zero), outputs of every layer in the file, live elements at every moment."""
        values = self.rows @ vector
        axes = len(AXES) * self.parameters
        extents = values[:axes].reshape(len(AXES), self.parameters)
        sizes = np.rint(extents[0] * extents[1] * extents[2] * extents[3] * extents[4])
        return np.append(sizes, 0.0), values[axes : axes + self.layers], values[axes + self.layers :]


def _compiled(graph: Graph) -> _Compiled:
    """Compiled once per graph, and kept beside its fields."""
    kept: Any = graph.__dict__.get("_compiled")
    if kept is None:
        kept = graph.__dict__["_compiled"] = _compile(graph)
    return kept  # type: ignore[no-any-return]


def _compile(graph: Graph) -> _Compiled:
    columns = _Columns(graph)
    index = {p.name: i for i, p in enumerate(graph.parameters)}
    positions = np.zeros(len(index) + 1)
    for layer in graph.layers:
        if layer.weight:
            positions[index[layer.weight]] += layer.positions
    file, outputs = _file(graph, columns, index)
    return _Compiled(
        column=columns.of,
        dense=columns.dense(graph),
        shares=tuple((share.group, column, share) for share, column in columns.shares.items()),
        groups=graph.group_of,
        checked=set(),
        rows=np.concatenate([_extents(graph, columns), outputs, _moments(graph, columns)]),
        parameters=len(index),
        layers=len(outputs),
        trained=np.array([*(float(p.trained) for p in graph.parameters), 0.0]),
        positions=positions,
        file=file,
    )


def _extents(graph: Graph, columns: "_Columns") -> Floats:
    """The axes of all parameters as rows, first axes first; an axis that a parameter does not have is one long."""
    rows = np.zeros((len(AXES), len(graph.parameters), columns.count))
    rows[:, :, -1] = 1.0
    for i, parameter in enumerate(graph.parameters):
        for d, axis in enumerate(parameter.axes):
            row = columns.row(axis.size) / axis.blocks
            if d < len(AXES):
                rows[d, i] = row
            else:  # kernels of many axes have constant extents
                rows[-1, i] *= row[-1]
    return rows.reshape(-1, columns.count)


class _Columns:
    """Which column of a vector holds what: groups, then shares, then the one."""

    def __init__(self, graph: Graph) -> None:
        self.of = {g.name: i for i, g in enumerate(graph.groups)}
        sizes = [
            *(axis.size for p in graph.parameters for axis in p.axes),
            *(t.size for t in graph.tensors),
            *(layer.outputs for layer in graph.layers),
        ]
        found = dict.fromkeys(share for size in sizes for share in size.shares)
        self.shares = {share: len(self.of) + i for i, share in enumerate(found)}
        self.count = len(self.of) + len(self.shares) + 1

    def row(self, size: Size) -> Floats:
        """A size as a row that multiplies a vector."""
        row = np.zeros(self.count)
        row[-1] = size.fixed
        for group, times in size.terms:
            row[self.of[group]] += times
        for share in size.shares:
            row[self.shares[share]] += 1
        return row

    def dense(self, graph: Graph) -> Floats:
        """The vector of the dense widths."""
        shares = [share.at(graph.group_of[share.group].width) for share in self.shares]
        return np.array([*(g.width for g in graph.groups), *shares, 1.0])


def _file(graph: Graph, columns: _Columns, index: Mapping[str, int]) -> tuple[_File, Floats]:
    """What the layers add to the file, and the outputs of each as rows."""
    biased = {layer.name: bool(layer.bias) for layer in graph.layers}
    rows = [x for x in graph.layers if not (x.kind == "batch_norm" and any(biased.get(s) for s in x.sources))]
    norm = [layer.kind == "batch_norm" for layer in rows]
    used = {name for layer in graph.layers for name in (layer.weight, layer.bias)}
    loose = [p for p in graph.parameters if p.trained and p.name not in used]
    weights = [len(index) if n or not x.weight else index[x.weight] for x, n in zip(rows, norm, strict=True)]
    file = _File(
        index={layer.name: i for i, layer in enumerate(rows) if layer.kind != "batch_norm"},
        weight=np.array(weights, dtype=np.int64),
        biased=np.array([float(n or bool(layer.bias)) for layer, n in zip(rows, norm, strict=True)]),
        fixed=FILE_OVERHEAD + LAYER_OVERHEAD * (len(rows) - sum(norm)) + 4 * sum(numel(p, graph.widths) for p in loose),
        linear=frozenset(layer.name for layer in rows if layer.kind == "linear"),
    )
    outputs = [columns.row(layer.outputs) for layer in rows]
    return file, np.stack(outputs) if outputs else np.zeros((0, columns.count))


def _moments(graph: Graph, columns: _Columns) -> Floats:
    """Live elements per operator, one row each: tensors made and not yet read for the last time."""
    rows = [(columns.row(t.size), t.producer, t.last_reader) for t in graph.tensors]
    moments = sorted({producer for _, producer, _ in rows})
    if not moments:
        return np.zeros((0, columns.count))
    sums = [sum((r for r, a, b in rows if a <= m <= b), np.zeros(columns.count)) for m in moments]
    return np.unique(np.stack(sums), axis=0)
