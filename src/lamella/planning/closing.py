"""The integer program of what a bound leaves open: a column per combination of levels that could still be in a better plan.

    program = OpenProgram(pricing, "max_drop", offset, ceiling)
    program.at_most({"bytes": 109034})
    solution, candidate = program.minimize(cutoff, seconds=10, gap=1e-3)

The combinations are those of the elimination's buckets (widths around a layer) and, under each, the bits of a layer; those that cost
at best more than the ceiling are left out. Neighbouring buckets agree on the widths they share. Such a program is as tight as the
bound itself: its relaxation is never below it, and the fewer combinations are open, the nearer it is to the best plan.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .elimination import Bucket, Floats, belief
from .pricing import Pricing
from .programs import Linear, Program, Solution
from .relaxing import Candidate
from .tabling import SUMMED

Levels = tuple[int, ...]


class OpenProgram:
    """The combinations that at best cost no more than `ceiling`; the pricing must stand at the bound's prices."""

    def __init__(self, pricing: Pricing, goal: str, offset: float, ceiling: float) -> None:
        """`offset`: what the bound adds to the least weighted sum."""
        assert pricing.result is not None
        self.pricing, self.goal = pricing, goal
        self.program = Program()
        self.sums = [Linear(constant=float(value)) for value in pricing.constant]
        self.buckets = pricing.result.buckets
        ceiling += 1e-9 * (1 + abs(ceiling))  # sums added up in another order differ
        self.of_bucket = {b.name: self._columns(belief(b) + offset <= ceiling) for b in self.buckets}
        self.of_layer: dict[str, dict[Levels, Linear]] = {}
        for bucket in self.buckets:
            self._agree(bucket)
        for layer, names, costs, at_best in pricing.term_costs():
            self._put(layer, names, costs, at_best + offset <= ceiling)

    def _columns(self, open_: np.ndarray) -> dict[Levels, Linear]:
        """Per open combination, 1 where it is taken; one that stands alone is."""
        each = [tuple(at) for at in np.argwhere(open_).tolist()]
        if len(each) == 1:
            return {each[0]: Linear(constant=1.0)}
        return {at: Linear({self.program.column(integer=True): 1.0}) for at in each}

    def _agree(self, bucket: Bucket) -> None:
        """One combination of the bucket: that of its parent on what they share."""
        sums: dict[Levels, Linear] = defaultdict(Linear)
        for at, taken in self.of_bucket[bucket.name].items():
            sums[at[1:]].add(taken)
        if bucket.parent is None:
            sums[()].add(Linear(constant=-1.0))
        else:
            for at, taken in self.of_bucket[bucket.parent.name].items():
                sums[_part(at, bucket.parent.names, bucket.names[1:])].add(taken, -1.0)
        self._nothing(sums)

    def _nothing(self, sums: Mapping[Levels, Linear]) -> None:
        for sum_ in sums.values():
            if sum_.terms or sum_.constant:
                self.program.row(sum_, 0.0, 0.0)

    def _put(self, layer: str | None, names: tuple[str, ...], costs: Floats, open_: np.ndarray) -> None:
        """A term's costs: on the columns of its bucket, or on columns of its own, one per number of bits."""
        whole = self._taken(names)
        if layer is None:
            for at, taken in whole.items():
                self._add(_column(costs, (0, *at)), taken)
            return
        own = {at: taken for at, taken in self._columns(open_).items() if at[1:] in whole}
        sums = {at: -1.0 * taken for at, taken in whole.items()}
        for at, taken in own.items():
            sums[at[1:]].add(taken)
            self._add(_column(costs, at), taken)
        self._nothing(sums)
        self.of_layer[layer] = own

    def _taken(self, names: tuple[str, ...]) -> dict[Levels, Linear]:
        """Per open combination of these variables, 1 where it is taken."""
        if not names:
            return {(): Linear(constant=1.0)}
        bucket = next(b for b in self.buckets if set(names) <= set(b.names))
        found: dict[Levels, Linear] = defaultdict(Linear)
        for at, taken in self.of_bucket[bucket.name].items():
            found[_part(at, bucket.names, names)].add(taken)
        return found

    def _add(self, values: Floats, taken: Linear) -> None:
        for sum_, value in zip(self.sums, values.tolist(), strict=True):
            if value:
                sum_.add(taken, value)

    def at_most(self, limits: Mapping[str, float]) -> None:
        """Limits on costs; `max_drop` is one on the points."""
        for name, limit in limits.items():
            self.program.at_most(self.sums[SUMMED.index("points" if name == "max_drop" else name)], limit)

    def minimize(self, cutoff: float, *, seconds: float, gap: float) -> tuple[Solution, Candidate | None]:
        """The best plan in it of value `cutoff` or less."""
        objective = self.sums[SUMMED.index(self.goal)]
        if np.isfinite(cutoff):
            self.program.at_most(objective, cutoff)
        solution = self.program.minimize(objective, seconds=seconds, gap=gap)
        return solution, None if solution.values is None else self._read(solution)

    def _read(self, solution: Solution) -> Candidate:
        widths = {b.name: solution.one_of(self.of_bucket[b.name])[0] for b in self.buckets}
        levels = {name: int(self.pricing.levels[name][at]) for name, at in widths.items()}
        bits = {layer: solution.one_of(own)[0] for layer, own in self.of_layer.items()}
        return Candidate(solution.value, levels, bits)


def _part(at: Levels, names: Sequence[str], wanted: Sequence[str]) -> Levels:
    return tuple(at[names.index(name)] for name in wanted)


def _column(costs: Floats, at: Levels) -> Floats:
    """Every cost at these levels."""
    index: tuple[Any, ...] = (slice(None), *at)
    return np.asarray(costs[index])
