"""A graph as arrays: the cost of any widths and bits is then a product and a few sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RecordError
from ..records import check
from ..schema import Graph, Group, Layer, LinearForm, Parameter, Product, Share, Size
from ..schema.plans import FLOAT
from .files import FILE_OVERHEAD, beyond, numel, plain_rule, rounded_unasked

Floats = npt.NDArray[np.float64]
Shape = tuple[tuple[Size, int], ...]  # the axes of a parameter or the sizes of a product, and what each is divided by


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
            if row is not None and width < FLOAT:
                n, out = float(weight[row]), float(outputs[row])
                own = name in self.linear
                total += plain_rule(width, own).bytes(n, out) - plain_rule(FLOAT, own).bytes(n, out)
                total += beyond(linear if name in self.linear else "", width, n, out)
        return total


@dataclass(frozen=True, slots=True)
class Compiled:
    """The graph as arrays. A vector holds the width of every group, the value of every share, and 1 for what is fixed."""

    column: dict[str, int]
    dense: Floats
    shares: tuple[tuple[str, int, Share], ...]  # group, column, share
    groups: Mapping[str, Group]
    checked: set[tuple[str, int]]
    rows: Floats  # what multiplies a vector: axes of parameters and products, outputs of layers, moments of memory
    axes: tuple[int, int]  # the first rows: as many axes as any has, of every parameter and product
    layers: int
    trained: Floats  # 1.0 for parameters, 0.0 for buffers and products
    times: Floats  # MACs per element, 0.0 where it multiplies nothing
    file: _File
    unasked: dict[str, int]  # the bits of what a file in integers rounds though no plan gives it any

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
        """Elements of every parameter and product (and a zero), outputs of every layer in the file, live elements at every moment."""
        values = self.rows @ vector
        axes = self.axes[0] * self.axes[1]
        sizes = np.rint(values[:axes].reshape(self.axes).prod(axis=0))
        return np.append(sizes, 0.0), values[axes : axes + self.layers], values[axes + self.layers :]


def compiled(graph: Graph) -> Compiled:
    """Compiled once per graph, and kept beside its fields."""
    kept: Any = graph.__dict__.get("_compiled")
    if kept is None:
        kept = graph.__dict__["_compiled"] = _compile(graph)
    return kept  # type: ignore[no-any-return]


def file_bits(graph: Graph, bits: Mapping[str, int]) -> Mapping[str, int]:
    """The bits of a file in integers, where some layer has some: those of `rounded_unasked` layers too."""
    unasked = compiled(graph).unasked
    return {**unasked, **bits} if unasked and any(width < FLOAT for width in bits.values()) else bits


def _compile(graph: Graph) -> Compiled:
    columns = _Columns(graph)
    index = {p.name: i for i, p in enumerate(graph.parameters)}
    shapes = [*(_shape_of(p) for p in graph.parameters), *(_shape_of_product(p) for p in graph.products)]
    depth = max(map(len, shapes), default=0)
    file, outputs = _file(graph, columns, index)
    return Compiled(
        column=columns.of,
        dense=columns.dense(graph),
        shares=tuple((share.group, column, share) for share, column in columns.shares.items()),
        groups=graph.group_of,
        checked=set(),
        rows=np.concatenate([_extents(shapes, depth, columns), outputs, _moments(graph, columns)]),
        axes=(depth, len(shapes)),
        layers=len(outputs),
        trained=np.array([*(float(p.trained) for p in graph.parameters), *(0.0 for _ in graph.products), 0.0]),
        times=_times(graph, index),
        file=file,
        unasked={layer.name: 8 for layer in graph.layers if rounded_unasked(layer)},
    )


def _shape_of(parameter: Parameter) -> Shape:
    return tuple((axis.size, axis.blocks) for axis in parameter.axes)


def _shape_of_product(product: Product) -> Shape:
    return (*((size, 1) for size in product.sizes), (Size(fixed=1), product.divisor))


def _times(graph: Graph, index: Mapping[str, int]) -> Floats:
    """MACs per element of every parameter, every product, and of the zero. The weight of a layer that has products has none."""
    times = np.array([*(0.0 for _ in index), *(float(p.times) for p in graph.products), 0.0])
    for layer in graph.layers:
        if layer.weight and layer.name not in graph.products_of:
            times[index[layer.weight]] += layer.positions
    return times


def _extents(shapes: Sequence[Shape], depth: int, columns: "_Columns") -> Floats:
    """The axes of all as rows, first axes first; an axis that one does not have is one long."""
    rows = np.zeros((depth, len(shapes), columns.count))
    rows[:, :, -1] = 1.0
    for i, shape in enumerate(shapes):
        for d, (size, blocks) in enumerate(shape):
            rows[d, i] = columns.row(size) / blocks
    return rows.reshape(-1, columns.count)


class _Columns:
    """Which column of a vector holds what: groups, then shares, then the one."""

    def __init__(self, graph: Graph) -> None:
        self.of = {g.name: i for i, g in enumerate(graph.groups)}
        sizes = [
            *(axis.size for p in graph.parameters for axis in p.axes),
            *(size for p in graph.products for size in p.sizes),
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


def _plain_overhead(rows: Sequence[Layer]) -> int:
    """Of the layers that are in the file, in float."""
    return sum(plain_rule(FLOAT, layer.kind == "linear").constant for layer in rows if layer.kind != "batch_norm")


def _file(graph: Graph, columns: _Columns, index: Mapping[str, int]) -> tuple[_File, Floats]:
    """What the layers add to the file, and the outputs of each as rows."""
    biased = {layer.name: bool(layer.bias) for layer in graph.layers}
    rows = [x for x in graph.layers if not (x.kind == "batch_norm" and any(biased.get(s) for s in x.sources))]
    norm = [layer.kind == "batch_norm" for layer in rows]
    used = {name for layer in graph.layers for name in (layer.weight, layer.bias)}
    loose = [p for p in graph.parameters if p.trained and p.name not in used]
    weights = [-1 if n or not x.weight else index[x.weight] for x, n in zip(rows, norm, strict=True)]
    file = _File(
        index={layer.name: i for i, layer in enumerate(rows) if layer.kind != "batch_norm"},
        weight=np.array(weights, dtype=np.int64),
        biased=np.array([float(n or bool(layer.bias)) for layer, n in zip(rows, norm, strict=True)]),
        fixed=FILE_OVERHEAD + _plain_overhead(rows) + 4 * sum(numel(p, graph.widths) for p in loose),
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
