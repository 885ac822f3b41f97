"""Integer programs in three ideas: a pick takes one of several options, picks are joined, and a pick multiplies a sum.

    program = Program()
    width = program.pick([16, 12, 8])                           # exactly one of them
    bits = program.pick([32, 8])
    both = program.joined(width, bits)                          # one variable per (width, bits), no new integers
    size = Linear.of(width) + Linear.of(other)                  # a sum that follows picks
    parts = program.times(both, size)                           # parts[i] = size if both takes option i, else 0
    program.at_most(weighted(parts, both.options), 1000)
    solution = program.minimize(objective, seconds=10, gap=1e-3)

`joined` and `times` are exact wherever the picks are integers: the first is a transport between the two picks, the second
the convex hull of "option i, and size anywhere in its range". Both stay small: a product of a sum over many groups with a
width and bits takes two columns per (width, bits), however many groups the sum has.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Key = TypeVar("Key")


@dataclass(slots=True)
class Linear:
    """constant + sum(coefficient x column)."""

    terms: dict[int, float] = field(default_factory=dict)
    constant: float = 0.0

    def __add__(self, other: "Linear") -> "Linear":
        return Linear(dict(self.terms), self.constant).add(other)

    def add(self, other: "Linear", times: float = 1.0) -> "Linear":
        """Add in place."""
        for column, value in other.terms.items():
            self.terms[column] = self.terms.get(column, 0.0) + times * value
        self.constant += times * other.constant
        return self

    def at(self, values: Floats) -> float:
        """The value where the columns have these."""
        return self.constant + sum(times * float(values[column]) for column, times in self.terms.items())

    def __rmul__(self, times: float) -> "Linear":
        return Linear({c: times * v for c, v in self.terms.items()}, times * self.constant)


@dataclass(frozen=True, slots=True)
class Pick:
    """Columns of which one is 1 and the others 0, and what each stands for. One option alone has no column."""

    columns: tuple[int, ...]
    options: tuple[Any, ...]

    def linear(self, values: Sequence[float]) -> Linear:
        """The value of the option that is taken."""
        if not self.columns:
            return Linear(constant=float(values[0]))
        return Linear({c: float(v) for c, v in zip(self.columns, values, strict=True) if v})

    def each(self) -> list[Linear]:
        """Per option, 1 where it is taken."""
        if not self.columns:
            return [Linear(constant=1.0)]
        return [Linear({c: 1.0}) for c in self.columns]


@dataclass(frozen=True, slots=True)
class Solution:
    """`values` is None where no solution was found; `possible` False where it is proved that there is none."""

    values: Floats | None
    possible: bool
    value: float
    bound: float
    timed_out: bool

    def taken(self, pick: Pick) -> Any:
        """The option that was taken."""
        assert self.values is not None
        if not pick.columns:
            return pick.options[0]
        return pick.options[int(np.argmax(self.values[list(pick.columns)]))]

    def one_of(self, takens: Mapping[Key, Linear]) -> Key:
        """The key of which the sum is 1 (of those of all others 0)."""
        values = self.values
        assert values is not None
        return max(takens, key=lambda key: takens[key].at(values))


class Program:
    """Columns and rows as they are added."""

    def __init__(self) -> None:
        self.upper: list[float] = []
        self.integer: list[int] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self._joined: dict[tuple[tuple[int, ...], tuple[int, ...]], Pick] = {}
        self._times: dict[Any, list[Linear]] = {}

    def column(self, *, upper: float = 1.0, integer: bool = False) -> int:
        self.upper.append(upper)
        self.integer.append(int(integer))
        return len(self.upper) - 1

    def row(self, sum_: Linear, low: float, high: float) -> None:
        """low <= sum <= high."""
        self.rows.append((sum_.terms, low - sum_.constant, high - sum_.constant))

    def at_most(self, sum_: Linear, limit: float) -> None:
        """Sum <= limit, scaled so that the solver's tolerance is a share of the limit."""
        scale = 1 / max(abs(limit), 1e-12)
        self.row(scale * sum_, -np.inf, scale * limit)

    def pick(self, options: Sequence[Any]) -> Pick:
        """A new pick of one of these."""
        if len(options) == 1:
            return Pick((), tuple(options))
        columns = tuple(self.column(integer=True) for _ in options)
        self.row(Linear(dict.fromkeys(columns, 1.0)), 1, 1)
        return Pick(columns, tuple(options))

    def joined(self, a: Pick, b: Pick) -> Pick:
        """The pick of a pair; its options are pairs, those of `b` running fastest."""
        options = tuple((x, y) for x in a.options for y in b.options)
        if not a.columns or not b.columns:
            return Pick(a.columns or b.columns, options)
        key = (a.columns, b.columns)
        if key not in self._joined:
            self._joined[key] = Pick(tuple(self.column() for _ in options), options)
            grid = np.array(self._joined[key].columns).reshape(len(a.columns), len(b.columns))
            for column, line in [*zip(a.columns, grid, strict=True), *zip(b.columns, grid.T, strict=True)]:
                self.row(Linear({int(c): 1.0 for c in line} | {column: -1.0}), 0, 0)
        return Pick(self._joined[key].columns, options)

    def times(self, pick: Pick, size: Linear, low: float, high: float) -> list[Linear]:
        """Per option, `size` (which lies in [low, high]) where the option is taken and 0 elsewhere."""
        if not pick.columns:
            return [size]
        if not size.terms:
            return [Linear({c: size.constant}) for c in pick.columns]
        key = (pick.columns, tuple(sorted(size.terms.items())), size.constant)
        if key not in self._times:
            parts = [self.column(upper=high) for _ in pick.columns]
            self.row(Linear(dict.fromkeys(parts, 1.0)).add(size, -1.0), 0, 0)
            for part, column in zip(parts, pick.columns, strict=True):
                self.row(Linear({part: 1.0, column: -high}), -np.inf, 0)
                self.row(Linear({part: 1.0, column: -low}), 0, np.inf)
            self._times[key] = [Linear({part: 1.0}) for part in parts]
        return self._times[key]

    def minimize(self, objective: Linear, *, seconds: float, gap: float) -> Solution:
        """The best assignment within `seconds`, or within the relative `gap` of the best."""
        from scipy.optimize import Bounds, milp  # 0.5 s: pictures and commands that solve nothing do not wait for it

        n = len(self.upper)
        weights = np.zeros(n)
        for column, value in objective.terms.items():
            weights[column] = value
        if n == 0:
            good = all(low <= 1e-9 and high >= -1e-9 for _, low, high in self.rows)
            return Solution(np.zeros(0) if good else None, good, objective.constant, objective.constant, False)
        with nothing_printed():
            found = milp(
                weights,
                integrality=np.array(self.integer),
                bounds=Bounds(np.zeros(n), np.array(self.upper)),
                constraints=self._constraints(n),
                options={"time_limit": seconds, "mip_rel_gap": gap},
            )
        bound = found.mip_dual_bound
        known = bound is not None and np.isfinite(bound)
        bound = float(bound) + objective.constant if known else -np.inf
        value = float(weights @ found.x) + objective.constant if found.x is not None else np.inf
        # An error is no proof that there is none.
        return Solution(found.x, found.status != 2, value, bound, found.status == 1)

    def _constraints(self, n: int) -> Any:
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array

        data = [(i, c, v) for i, (terms, _, _) in enumerate(self.rows) for c, v in terms.items()]
        row, column, value = (np.array(x) for x in zip(*data, strict=True))
        matrix = csr_array((value, (row, column)), shape=(len(self.rows), n))
        low, high = np.array([r[1] for r in self.rows]), np.array([r[2] for r in self.rows])
        return LinearConstraint(matrix, low, high)


@contextmanager
def nothing_printed() -> Iterator[None]:
    """HiGHS prints a line of its own at times, whatever it is told, into what may be somebody's JSON."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def weighted(parts: Sequence[Linear], weights: Sequence[float]) -> Linear:
    """The sum of the parts, each times its weight."""
    total = Linear()
    for part, weight in zip(parts, weights, strict=True):
        if weight:
            total.add(part, weight)
    return total


__all__ = ["Linear", "Pick", "Program", "Solution", "weighted"]
