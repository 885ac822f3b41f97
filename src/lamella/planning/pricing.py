"""Costs with a price on each: the least weighted sum over all choices, what it reaches, and what every choice costs at best.

    pricing = Pricing.of(tables)                    # arrays for fast evaluation, made once
    priced = pricing.at({"max_drop": 1.0, "bytes": 2.9e-5})
    priced.value                                    # no plan's weighted sum is below this
    priced.reached["bytes"], priced.widths, priced.bits          # at the plan that has it
    pricing.width_costs(), pricing.bit_costs()      # at best, per level; valid until the next `at`
    pricing.only({"conv1": [3]})                    # the same with fewer levels

All terms with equally many numbers of bits lie side by side in one array, so that an evaluation is one product of it with the
weights, one minimum over bits, and one run of the elimination, all in place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from .elimination import IMPOSSIBLE, Bucket, Elimination, Floats, Result, Table, belief, least
from .tabling import SUMMED, CostTables

FAR = 1e9  # a sum of costs to which IMPOSSIBLE is out of reach

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Costs:
    """Every cost of a term: `values[cost, bits, *widths]`. `layer`: whose bits these are, if they are a choice."""

    names: tuple[str, ...]
    layer: str | None
    values: Floats


@dataclass(frozen=True, slots=True)
class Priced:
    """The least weighted sum, and the choice (indices of levels) that has it."""

    value: float
    widths: dict[str, int]
    bits: dict[str, int]
    reached: dict[str, float]


class Pricing:
    """What is left of the levels, arrays of costs over them, and an elimination over the whole."""

    def __init__(
        self,
        levels: Mapping[str, Ints],
        ties: Sequence[Table],
        terms: Sequence[Costs],
        constant: Floats,
        impossible: float = IMPOSSIBLE,
        order: Sequence[str] = (),
    ) -> None:
        """`levels`: per variable, which of its original levels are left; `impossible`: the least value of what ties forbid."""
        self.impossible = impossible
        self.levels, self.ties, self.terms, self.constant = levels, ties, terms, constant
        self.place = {name: i for i, name in enumerate(levels)}
        deep = sorted(terms, key=lambda t: t.values.shape[1])
        self.blocks = [_Block(list(each), self.place) for _, each in groupby(deep, lambda t: t.values.shape[1])]
        tables = [*ties, *(t for block in self.blocks for t in block.tables)]
        self.elimination = Elimination({n: len(each) for n, each in levels.items()}, tables, order)
        self.result: Result | None = None

    @classmethod
    def of(cls, tables: CostTables) -> "Pricing":
        """TooWideError where the network of variables is too wide."""
        levels = {name: np.arange(size) for name, size in tables.sizes.items()}
        terms = [Costs(t.names, t.layer, t.stacked()) for t in tables.terms]
        constant = np.array([tables.constant.get(n, 0.0) for n in SUMMED])
        largest = np.abs(constant) + sum(np.abs(t.values).reshape(len(SUMMED), -1).max(1) for t in terms)
        times = max(1.0, float(largest.max()) / FAR)  # what is forbidden costs far more than any plan
        ties = [Table(t.names, times * t.values) for t in tables.ties]
        return cls(levels, ties, terms, constant, times * IMPOSSIBLE)

    def only(self, kept: Mapping[str, Ints]) -> "Pricing":
        """With these levels alone (indices into those left here; all where a variable is not named)."""
        whole = {name: np.arange(len(each)) for name, each in self.levels.items()} | dict(kept)
        levels = {name: self.levels[name][each] for name, each in whole.items()}

        def cut(names: Sequence[str], values: Floats) -> Floats:
            spare = [np.arange(n) for n in values.shape[: values.ndim - len(names)]]
            return np.asarray(values[np.ix_(*spare, *(whole[n] for n in names))])

        ties = [Table(t.names, cut(t.names, t.values)) for t in self.ties]
        terms = [Costs(t.names, t.layer, cut(t.names, t.values)) for t in self.terms]
        return Pricing(levels, ties, terms, self.constant, self.impossible, self.elimination.order)

    def at(self, weights: Mapping[str, float]) -> Priced:
        """The least sum with these weights on the costs."""
        vector = np.array([weights.get(name, 0.0) for name in SUMMED])
        for block in self.blocks:
            block.weigh(vector)
        self.result = self.elimination.run()
        choice = np.array([self.result.choice[name] for name in self.place], dtype=np.int64)
        reached, bits = self.constant.copy(), dict[str, int]()
        for block in self.blocks:
            reached += block.reached(choice, bits)
        widths = {name: int(self.levels[name][i]) for name, i in self.result.choice.items()}
        value = self.result.value + float(vector @ self.constant)
        return Priced(value, widths, bits, dict(zip(SUMMED, reached.tolist(), strict=True)))

    def width_costs(self) -> dict[str, Floats]:
        """Per variable and level that is left: the least sum of all terms with it."""
        return {bucket.name: least(Table(bucket.names, belief(bucket)), (bucket.name,)) for bucket in self._buckets()}

    def bit_costs(self, offset: float = 0.0) -> dict[str, Floats]:
        """The same per layer and number of bits, and `offset` more."""
        each = ((layer, costs) for layer, _, _, costs in self.term_costs() if layer)
        return {layer: costs.reshape(len(costs), -1).min(1) + offset for layer, costs in each}

    def term_costs(self) -> Iterator[tuple[str | None, tuple[str, ...], Floats, Floats]]:
        """Per term: its layer, its variables, its costs as they are, and the least sum of all terms per (bits, *widths)."""
        for block in self.blocks:
            for term, weighed, table in block.each():
                yield term.layer, term.names, term.values, weighed + (self._within(term.names) - table.values)

    @property
    def value(self) -> float:
        """The least sum, without constants."""
        assert self.result is not None
        return self.result.value

    def span(self, name: str) -> float:
        """How far a cost can range."""
        at = SUMMED.index(name)
        spread = sum(float(np.ptp(t.values[at])) for t in self.terms)
        return spread + abs(float(self.constant[at])) * 1e-3

    def _within(self, names: tuple[str, ...]) -> Floats:
        assert self.result is not None
        return self.result.within(names) if names else np.array(self.result.value)

    def _buckets(self) -> list[Bucket]:
        assert self.result is not None
        return self.result.buckets


class _Block:
    """Terms with equally many numbers of bits, side by side."""

    def __init__(self, terms: Sequence[Costs], place: Mapping[str, int]) -> None:
        self.terms = terms
        count, depth = terms[0].values.shape[:2]
        self.costs = np.concatenate([t.values.reshape(count, depth, -1) for t in terms], axis=2)
        self.weighed, self.least = np.zeros(self.costs.shape[1:]), np.zeros(self.costs.shape[2])
        self.starts = np.cumsum([0, *(t.values[0, 0].size for t in terms)])
        self.tables = [
            Table(t.names, self.least[a:b].reshape(t.values.shape[2:]))
            for t, a, b in zip(terms, self.starts[:-1], self.starts[1:], strict=True)
        ]
        self.strides = np.zeros((len(terms), len(place)), dtype=np.int64)
        for row, table in zip(self.strides, self.tables, strict=True):
            for name, stride in zip(table.names, table.values.strides, strict=True):
                row[place[name]] += stride // self.least.itemsize

    def weigh(self, weights: Floats) -> None:
        np.matmul(weights, self.costs.reshape(len(weights), -1), out=self.weighed.reshape(-1))
        self.weighed.min(axis=0, out=self.least)

    def reached(self, choice: Ints, bits: dict[str, int]) -> Floats:
        """The costs at this choice with the bits of least weight, which are put into `bits`."""
        at = self.starts[:-1] + self.strides @ choice
        best = self.weighed[:, at].argmin(axis=0)
        bits.update({t.layer: int(b) for t, b in zip(self.terms, best, strict=True) if t.layer is not None})
        return np.asarray(self.costs[:, best, at].sum(axis=1))

    def each(self) -> Iterator[tuple[Costs, Floats, Table]]:
        for term, table, a, b in zip(self.terms, self.tables, self.starts[:-1], self.starts[1:], strict=True):
            yield term, self.weighed[:, a:b].reshape(term.values.shape[1:]), table
