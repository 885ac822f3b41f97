"""Every cost of a network as a sum of small tables over the widths that it depends on.

    tables = CostTables(ask, widths, bits, factors)
    tables.terms      # conv2: over (conv1, conv2) and the layer's bits, arrays for params, macs, bytes, points ...
    tables.ties       # conv1 + layer2.0.conv2 = sum0: a size over several groups becomes a variable, tied to its parts
    tables.keep_memory(limit)      # ties that forbid what does not fit
    tables.keep_multiples(8)       # ties that forbid what is not aligned

Names of costs are those of a Budget; `max_drop` is what a planner minimizes (factors and doubt in it), `points` the drop.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..costs import byte_rule, cost, layer_bytes
from ..schema import Layer, Parameter, Size
from ..schema.plans import FLOAT
from .asking import Ask, settled_in_file
from .branches import Refund, refunds
from .curves import Rung
from .elimination import IMPOSSIBLE, LARGEST, Floats, Table, TooWideError
from .modelling import sizes_seen

SUMMED = ("max_drop", "points", "params", "macs", "bytes", "latency_ms")  # max_drop: points as they are weighed


@dataclass(slots=True)
class Term:
    """Several costs over a few variables and, along the last axis, over the bits of one layer (None: no choice of bits)."""

    names: tuple[str, ...]
    layer: str | None
    costs: dict[str, Floats] = field(default_factory=dict)

    def add(self, name: str, values: Floats) -> None:
        self.costs[name] = self.costs[name] + values if name in self.costs else values

    def stacked(self) -> Floats:
        """All of `SUMMED` in one array: cost, bits, widths."""
        zero = np.zeros_like(next(iter(self.costs.values())))
        return np.stack([np.moveaxis(self.costs.get(name, zero), -1, 0) for name in SUMMED])


class CostTables:
    """Variables (groups, and sums of groups), terms, ties, and what is constant."""

    def __init__(
        self,
        ask: Ask,
        widths: Mapping[str, Sequence[Rung]],
        bits: Mapping[str, Sequence[Rung]],
        factors: Mapping[str, float],
    ) -> None:
        self.ask, self.graph, self.bits, self.factors = ask, ask.graph, bits, factors
        self.rungs, self.settled = widths, settled_in_file(ask, bits)
        self.widths = {name: rungs for name, rungs in widths.items() if len(rungs) > 1}
        self.level = {name: np.array([r.level for r in rungs]) for name, rungs in widths.items()}
        self.sizes = {name: len(rungs) for name, rungs in self.widths.items()}
        self.constant: dict[str, float] = {}
        self.ties: list[Table] = []
        self._sums: dict[Any, tuple[str, Floats]] = {}
        self._by_names: dict[Any, Term] = {}
        self._build()

    @property
    def terms(self) -> list[Term]:
        return list(self._by_names.values())

    @cached_property
    def seen_by(self) -> dict[str, int]:
        """How many layers with a weight see each group, at either end."""
        ends = [{*x.inputs.groups, *x.outputs.groups} for x in self.graph.multiplying]
        return {name: sum(name in groups for groups in ends) for name in self.widths}

    def keep_memory(self, limit: float) -> None:
        """Forbid the widths at which live activations exceed the limit: a table per moment, over the few groups alive then.

        A price on memory would leave a gap, for a limit on the largest of many sums is far from any price; a table leaves none.
        """
        tensors = self.graph.tensors
        parts = [{g: self._values(t.size, g) for g in t.size.groups} for t in tensors]
        moments = {
            tuple(i for i, t in enumerate(tensors) if t.producer <= m <= t.last_reader)
            for m in {t.producer for t in tensors}
        }
        for live in moments:
            fixed = float(sum(tensors[i].size.fixed for i in live))
            groups = {
                g: sum((parts[i][g] for i in live if g in parts[i]), np.zeros(len(self.level[g])))
                for g in dict.fromkeys(g for i in live for g in parts[i])
            }
            if 4 * (fixed + sum(float(values.max()) for values in groups.values())) > limit:
                self._forbid(fixed, groups, limit / 4)

    def _forbid(self, fixed: float, groups: Mapping[str, Floats], most: float) -> None:
        """Forbid the levels at which `fixed` and what every group adds come to more than `most`."""
        names = tuple(g for g in groups if g in self.widths)
        if np.prod([float(self.sizes[n]) for n in names]) > LARGEST:
            raise TooWideError
        total = np.full([self.sizes[n] for n in names], fixed)
        for group, values in groups.items():
            total = total + values.reshape([-1 if n == group else 1 for n in names])
        self.ties.append(Table(names, np.where(total > most, IMPOSSIBLE, 0.0)))

    def keep_multiples(self, step: int) -> None:
        """Forbid what makes a size that layers see neither a multiple of the step nor dense."""
        dense = self.graph.widths
        for size in sizes_seen(self.graph):
            name, values = self._variable(size)
            if name is not None:
                odd = (values % step != 0) & (values != size.at(dense))
                self.ties.append(Table((name,), np.where(odd, IMPOSSIBLE, 0.0)))

    def _build(self) -> None:
        for name, rungs in self.rungs.items():
            drop = np.array([r.drop for r in rungs])[:, None]
            weighed = np.array([r.weighed(self.factors.get(name, 1.0)) for r in rungs])[:, None]
            names = (name,) if name in self.widths else ()
            self._put(names, None, "max_drop", weighed)
            self._put(names, None, "points", drop)
        for refund in refunds(self.graph, self.rungs, self.factors):
            self._refund(refund)
        weights = {x.weight: x for x in self.graph.multiplying}
        for parameter in self.graph.parameters:
            if parameter.trained and parameter.name not in weights:
                self._parameter(parameter)
        dense = self.graph.widths
        self.constant["bytes"] = float(cost(self.graph).bytes)
        for layer in self.graph.layers:
            self.constant["bytes"] -= layer_bytes(self.graph, layer, dense, {})
            self._layer(layer, first=layer.weight is not None and weights.get(layer.weight) is layer)
        for product in self.graph.products:
            self._product("macs", product.sizes, product.times, product.divisor)

    def _refund(self, refund: Refund) -> None:
        names = (refund.first, refund.second)
        for name, value in (("max_drop", refund.weighed), ("points", refund.drop)):
            values = np.zeros([*(self.sizes[n] for n in names), 1])
            values[-1, -1] = -value
            self._put(names, None, name, values)

    def _term(self, names: tuple[str, ...], layer: str | None = None) -> Term:
        return self._by_names.setdefault((names, layer), Term(names, layer))

    def _parameter(self, parameter: Parameter) -> None:
        blocks = math.prod(axis.blocks for axis in parameter.axes)
        self._product("params", [axis.size for axis in parameter.axes], 1, blocks)

    def _product(self, cost: str, sizes: Sequence[Size], times: int, divisor: int) -> None:
        """What times x sizes / divisor adds to a cost."""
        names, factors = self._grid(sizes)
        product = np.full([self.sizes[n] for n in names], float(times))
        for factor in factors:
            product = product * factor
        self._put(names, None, cost, product[..., None] / divisor)

    def _put(self, names: tuple[str, ...], layer: str | None, name: str, values: Floats) -> None:
        if names or layer:
            self._term(names, layer).add(name, values)
        else:
            self.constant[name] = self.constant.get(name, 0.0) + float(values.sum())

    def _layer(self, layer: Layer, first: bool) -> None:
        """`first`: this layer is the one that its weight's parameters are counted for."""
        rungs = self.bits.get(layer.name, ())
        levels = [r.level for r in rungs] or [self.ask.bits.get(layer.name, FLOAT)]
        weight = self.graph.parameter_of[layer.weight] if layer.weight else None
        axes = weight.axes if weight else ()
        timed = [layer.inputs] if self.ask.latency is not None and weight and layer.positions else []
        names, sizes = self._grid([*(axis.size for axis in axes), layer.outputs, *timed])
        shape = [self.sizes[n] for n in names]
        elements = np.ones(shape) if weight else np.zeros(shape)
        for axis, size in zip(axes, sizes, strict=False):
            elements = elements * size / axis.blocks
        outputs = np.broadcast_to(sizes[len(axes)], shape)
        name = layer.name if rungs else None
        held = [r.level for r in rungs] or [self.settled.get(layer.name, FLOAT)]
        rules = [byte_rule(self.graph, layer, b) for b in held]
        self._put(names, name, "bytes", np.stack([rule.bytes(elements, outputs) for rule in rules], -1))
        if weight:
            same = np.repeat(elements[..., None], len(levels), -1)
            if layer.name not in self.graph.products_of:
                self._put(names, name, "macs", same * layer.positions)
            if weight.trained and first:
                self._put(names, name, "params", same)
        if rungs:
            drop = np.broadcast_to(np.array([r.drop for r in rungs]), [*shape, len(levels)])
            weighed = np.broadcast_to(np.array([r.weighed() for r in rungs]), drop.shape)
            self._put(names, name, "max_drop", weighed)
            self._put(names, name, "points", drop)
        if timed:
            inputs = np.broadcast_to(sizes[-1], shape)
            self._put(names, name, "latency_ms", self._milliseconds(layer, inputs, outputs, levels))

    def _milliseconds(self, layer: Layer, inputs: Floats, outputs: Floats, levels: Sequence[int]) -> Floats:
        predictor = self.ask.latency
        assert predictor is not None
        flat = [
            [predictor.layer_ms(layer, int(i), int(o), b) for b in levels]
            for i, o in zip(inputs.ravel(), outputs.ravel(), strict=True)
        ]
        return np.array(flat).reshape([*inputs.shape, len(levels)])

    def _values(self, size: Size, group: str) -> Floats:
        """What a group adds to a size at each of its widths."""
        times = sum(t for g, t in size.terms if g == group)
        shares = [s for s in size.shares if s.group == group]
        return np.array([float(times * w + sum(s.at(int(w)) for s in shares)) for w in self.level[group]])

    def _grid(self, sizes: Sequence[Size]) -> tuple[tuple[str, ...], list[Floats]]:
        """The variables that these sizes follow, and each size as an array over them."""
        found = [self._variable(size) for size in sizes]
        names = tuple(dict.fromkeys(name for name, _ in found if name is not None))
        if np.prod([float(self.sizes[n]) for n in names]) > LARGEST:
            raise TooWideError
        return names, [v.reshape([len(v) if n == name else 1 for n in names]) for name, v in found]

    def _variable(self, size: Size) -> tuple[str | None, Floats]:
        """The variable that tells a size, and the size at each of its values."""
        groups = size.groups
        moving = [g for g in self.widths if g in groups]
        base = size.fixed + sum(float(self._values(size, g)[0]) for g in groups if g not in self.widths)
        if not moving:
            return None, np.array([base])
        name, values = moving[0], self._values(size, moving[0])
        for group in moving[1:]:
            name, values = self._sum(name, values, group, self._values(size, group))
        return name, values + base

    def _sum(self, first: str, values: Floats, group: str, added: Floats) -> tuple[str, Floats]:
        """The variable that is the sum of two."""
        key = (first, tuple(values), group, tuple(added))
        if key not in self._sums:
            sums = np.add.outer(values, added)
            distinct = np.unique(sums)
            if sums.size * len(distinct) > LARGEST:
                raise TooWideError
            name = f"sum {len(self._sums)}"
            self.sizes[name] = len(distinct)
            self.ties.append(Table((first, group, name), np.where(sums[..., None] == distinct, 0.0, IMPOSSIBLE)))
            self._sums[key] = (name, distinct)
        return self._sums[key]
