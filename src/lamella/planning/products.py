"""A network's costs as linear sums over the columns of a program.

    network = Network(program, ask, rungs, bit_rungs)       # a pick of a width per group, of bits per layer
    network.cost("macs")                                    # Linear; exact at every integer solution
    network.moments()                                       # live activations, one Linear per moment
    network.latency()                                       # the sum over layers that a predictor gives

The size of a weight is a product of sums over groups, and its bytes that product times the layer's bits; the MACs of a layer may
have a factor more, where its positions are channels too (`schema.Product`). The factor with most groups stays a sum; the others are
written out group by group, joined with the bits, and multiply it: with a column for every combination while these are few (a tight
relaxation), else by `Program.times` (a short one). Both are exact in integers, for any number of factors.
How bytes follow from elements, outputs and bits is the rule of `costs`: packed integers fill whole bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..costs import byte_rule, cost, layer_bytes
from ..schema import Graph, Layer, Parameter, Size
from ..schema.plans import FLOAT
from .asking import Ask, settled_in_file
from .branches import Refund, refunds
from .curves import Rung
from .programs import Linear, Pick, Program, weighted

WRITTEN_OUT = 400  # columns that one product may take in the tight form; above, the short one


class Network:
    """The picks, and every cost in terms of them."""

    def __init__(
        self, program: Program, ask: Ask, widths: Mapping[str, tuple[Rung, ...]], bits: Mapping[str, tuple[Rung, ...]]
    ) -> None:
        self.program, self.ask = program, ask
        self.graph: Graph = ask.graph
        self.width_rungs, self.bit_rungs = widths, bits
        self.settled = settled_in_file(ask, bits)
        self.width = {name: program.pick([r.level for r in rungs]) for name, rungs in widths.items()}
        self.bits = {name: program.pick([r.level for r in rungs]) for name, rungs in bits.items()}
        self._totals: dict[Any, Pick] = {}
        self._products: dict[Any, list[Linear]] = {}

    def drop(self) -> Linear:
        """Points of the score lost, as the sum of what every cut costs alone."""
        return self._points(lambda rung, _: rung.drop, lambda refund: refund.drop, {})

    def goal(self, factors: Mapping[str, float]) -> Linear:
        """What is minimized: the drop, groups weighed by `factors` (1 where absent), and the doubt."""
        return self._points(
            lambda rung, name: rung.weighed(factors.get(name, 1.0)), lambda refund: refund.weighed, factors
        )

    def _points(
        self,
        value: Callable[[Rung, str], float],
        back: Callable[[Refund], float],
        factors: Mapping[str, float],
    ) -> Linear:
        total = Linear()
        for refund in refunds(self.graph, self.width_rungs, factors):
            both = self.program.joined(self.width[refund.first], self.width[refund.second])
            total.add(both.linear([0.0] * (len(both.options) - 1) + [-back(refund)]))
        for name, rungs in self.width_rungs.items():
            total.add(self.width[name].linear([value(r, name) for r in rungs]))
        for name, rungs in self.bit_rungs.items():
            total.add(self.bits[name].linear([value(r, "") for r in rungs]))
        return total

    def cost(self, name: str) -> Linear:
        """params, macs or bytes."""
        if name == "params":
            return weighted([self.elements(p) for p in self.graph.parameters if p.trained], self._ones())
        if name == "macs":
            layers = [x for x in self.graph.layers if x.weight and x.name not in self.graph.products_of]
            sizes = [self.elements(self.graph.parameter_of[x.weight or ""]) for x in layers]
            rest = [self._product(p.sizes, p.times / p.divisor, Pick((), (None,)))[0] for p in self.graph.products]
            return weighted([*sizes, *rest], [*(x.positions for x in layers), *(1.0 for _ in rest)])
        return self._bytes()

    def _ones(self) -> list[float]:
        return [1.0] * sum(p.trained for p in self.graph.parameters)

    def _bytes(self) -> Linear:
        total = Linear()
        rest = float(cost(self.graph).bytes)
        for layer in self.graph.layers:
            rest -= layer_bytes(self.graph, layer, self.graph.widths, {})
            choice = self._bits_of(layer)
            by_bits = self._elements_by_bits(layer, choice)
            outputs = self.program.times(choice, self.size(layer.outputs), *self._range(layer.outputs))
            for i, (taken, bits) in enumerate(zip(choice.each(), choice.options, strict=True)):
                rule = byte_rule(self.graph, layer, bits)
                total.add(self._whole(layer, by_bits[i], rule.stored)).add(outputs[i], rule.per_output)
                total.add(taken, rule.constant)
        return total.add(Linear(constant=rest))

    def _whole(self, layer: Layer, elements: Linear, stored: int) -> Linear:
        """Bytes of so many elements: packed integers fill whole ones, so that a whole number is to be at least what they take."""
        packed = (stored / 8) * elements
        if layer.weight is None or not packed.terms or stored * self._divisor(layer.weight) % 8 == 0:
            return packed
        sizes = [(self._range(axis.size)[1], axis.blocks) for axis in self.graph.parameter_of[layer.weight].axes]
        most = math.prod(top / blocks for top, blocks in sizes)
        whole = Linear({self.program.column(upper=math.ceil(most * stored / 8), integer=True): 1.0})
        self.program.row(whole + (-1.0) * packed, 0.0, np.inf)
        return whole

    def _divisor(self, parameter: str) -> int:
        """A number that divides the elements of the parameter at all widths."""
        found = 1
        for axis in self.graph.parameter_of[parameter].axes:
            each = [int(value) for group in dict.fromkeys(axis.size.groups) for value in self._values(axis.size, group)]
            found *= math.gcd(axis.size.fixed, *each) // axis.blocks
        return found

    def _bits_of(self, layer: Layer) -> Pick:
        return self.bits.get(layer.name) or Pick((), (self.settled.get(layer.name, FLOAT),))

    def _elements_by_bits(self, layer: Layer, choice: Pick) -> list[Linear]:
        if layer.weight is None:
            return [Linear() for _ in choice.options]
        return self.elements_by(self.graph.parameter_of[layer.weight], choice)

    def elements(self, parameter: Parameter) -> Linear:
        """How many elements it has."""
        return self.elements_by(parameter, Pick((), (None,)))[0]

    def elements_by(self, parameter: Parameter, choice: Pick) -> list[Linear]:
        """Per option of `choice`, the elements of the parameter where that option is taken, else 0."""
        scale = 1 / math.prod(axis.blocks for axis in parameter.axes)
        return self._product([axis.size for axis in parameter.axes], scale, choice)

    def _product(self, sizes: Sequence[Size], scale: float, choice: Pick) -> list[Linear]:
        """Per option of `choice`, scale x the sizes where that option is taken, else 0."""
        scale *= math.prod(self._range(size)[0] for size in sizes if not self._varies(size))
        varying = sorted((s for s in sizes if self._varies(s)), key=lambda s: len(s.groups))
        if not varying:
            return [scale * taken for taken in choice.each()]
        *written_out, summed = varying
        total = [Linear() for _ in choice.options]
        for factors in product(*(self._parts(size) for size in written_out)):
            for i, part in enumerate(self._term(choice, factors, summed)):
                total[i].add(part, scale)
        return total

    def _term(self, choice: Pick, factors: Sequence[tuple[Pick, list[float]]], summed: Size) -> list[Linear]:
        """Per option of `choice`: the product of the factors and of the sum, where it is taken."""
        joint, values = choice, np.ones((len(choice.options), 1))
        for pick, each in factors:
            joint = self.program.joined(joint, pick)
            values = (values[..., None] * np.array(each)).reshape(len(choice.options), -1)
        columns = len(joint.options) * sum(len(self.width[g].options) for g in summed.groups)
        if columns <= WRITTEN_OUT:
            parts = self._exactly(joint, summed)
        else:
            parts = self.program.times(joint, self.size(summed), *self._range(summed))
        count = values.shape[1]
        return [weighted(parts[i * count : (i + 1) * count], values[i].tolist()) for i in range(len(choice.options))]

    def _exactly(self, pick: Pick, size: Size) -> list[Linear]:
        """Per option of the pick, the size where it is taken: a column per option and width. Tighter than `times`."""
        if not pick.columns:
            return [self.size(size)]
        key = (pick.columns, size.fixed, size.terms, size.shares)
        if key not in self._products:
            total = [size.fixed * taken for taken in pick.each()]
            for group in dict.fromkeys(size.groups):
                values = self._values(size, group)
                pair = self.program.joined(pick, self.width[group])
                for i, part in enumerate(total):
                    one = not self.width[group].columns
                    columns = (pick.columns[i],) if one else pair.columns[i * len(values) : (i + 1) * len(values)]
                    part.add(Linear(dict(zip(columns, values, strict=True))))
            self._products[key] = total
        return self._products[key]

    def _parts(self, size: Size) -> list[tuple[Pick, list[float]]]:
        """A size as a list of factors: what is fixed, then every group with the value of each of its widths."""
        found = [(self.width[g], self._values(size, g)) for g in dict.fromkeys(size.groups)]
        return [(Pick((), (None,)), [float(size.fixed)]), *found] if size.fixed else found

    def _values(self, size: Size, group: str) -> list[float]:
        times = sum(t for g, t in size.terms if g == group)
        shares = [s for s in size.shares if s.group == group]
        return [float(times * w + sum(s.at(w) for s in shares)) for w in self.width[group].options]

    def size(self, size: Size) -> Linear:
        """A size as a sum."""
        total = Linear(constant=float(size.fixed))
        for group in dict.fromkeys(size.groups):
            total.add(self.width[group].linear(self._values(size, group)))
        return total

    def _varies(self, size: Size) -> bool:
        return any(self.width[g].columns for g in dict.fromkeys(size.groups))

    def _range(self, size: Size) -> tuple[float, float]:
        values = [self._values(size, g) for g in dict.fromkeys(size.groups)]
        return size.fixed + sum(map(min, values)), size.fixed + sum(map(max, values))

    def moments(self) -> list[Linear]:
        """Bytes of live activations after every operator: tensors made and not yet read for the last time."""
        tensors = self.graph.tensors
        live = {
            tuple(i for i, t in enumerate(tensors) if t.producer <= m <= t.last_reader)
            for m in {t.producer for t in tensors}
        }
        sizes = [self.size(t.size) for t in tensors]
        return [weighted([sizes[i] for i in each], [4.0] * len(each)) for each in sorted(live)]

    def latency(self) -> Linear:
        """Milliseconds, as the ask's predictor adds them up."""
        predictor = self.ask.latency
        assert predictor is not None
        total = Linear()
        for layer in self.graph.multiplying:
            pick = self.program.joined(self.total(layer.inputs), self.total(layer.outputs))
            pick = self.program.joined(pick, self._bits_of(layer))
            total.add(pick.linear([predictor.layer_ms(layer, i, o, b) for (i, o), b in pick.options]))
        return total

    def total(self, size: Size) -> Pick:
        """A pick of the value a size has: its group's own where it follows one, else a new one tied to the sum."""
        key = (size.fixed, size.terms, size.shares)
        if key not in self._totals:
            self._totals[key] = self._new_total(size)
        return self._totals[key]

    def _new_total(self, size: Size) -> Pick:
        varying = [g for g in size.groups if self.width[g].columns]
        values = [self._values(size, g) for g in dict.fromkeys(size.groups)]
        if not varying:
            return Pick((), (int(self._range(size)[0]),))
        if len(varying) == 1:
            rest = size.fixed + sum(
                v[0] for g, v in zip(dict.fromkeys(size.groups), values, strict=True) if g not in varying
            )
            return Pick(self.width[varying[0]].columns, tuple(int(rest + v) for v in self._values(size, varying[0])))
        sums = {size.fixed}
        for each in values:
            sums = {int(a + b) for a in sums for b in each}
        pick = self.program.pick(sorted(sums))
        self.program.row(pick.linear(pick.options).add(self.size(size), -1.0), 0, 0)
        return pick
