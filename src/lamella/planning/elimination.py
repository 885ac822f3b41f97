"""The least sum of small tables, exactly, by eliminating one variable after another; and what every choice costs at best.

    tables = [Table(("a",), u), Table(("a", "b"), f), Table(("b", "c"), g)]
    result = eliminate({"a": 3, "b": 5, "c": 2}, tables)
    result.value                     # min over a, b, c of the sum
    result.choice                    # {"a": 1, "b": 0, "c": 1}, where it is reached
    result.within(("a", "b"))        # per (a, b), the least sum that has them: shape (3, 5)

Dynamic programming on a bucket tree (Dechter 1999), upwards for the value, downwards for what every choice costs at best. Exact for
any tables; quick where the network of variables is thin, which chains and residual networks are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

IMPOSSIBLE = 1e12  # the value of a forbidden combination; finite, so that differences stay numbers
LARGEST = 2_000_000  # entries of one bucket


class TooWideError(Exception):
    """A bucket would outgrow LARGEST."""


@dataclass(frozen=True, slots=True)
class Table:
    """A term of the sum: a value for every combination of these variables."""

    names: tuple[str, ...]
    values: Floats


@dataclass(slots=True)
class Bucket:
    """All terms that name a variable when it is eliminated, added up; `message` is their least sum over it."""

    name: str
    names: tuple[str, ...]
    terms: list[Floats]  # views of the terms' arrays, aligned with `names`
    total: Floats
    message: Table
    parent: "Bucket | None" = None
    best: Floats | None = None  # per combination, the least sum of everything

    def add_up(self) -> None:
        """Total and message from the terms as they are now."""
        self.best = None
        self.total[...] = 0.0
        for term in self.terms:
            np.add(self.total, term, out=self.total)
        self.total.min(axis=0, out=self.message.values)


@dataclass(frozen=True, slots=True)
class Result:
    """Valid until the elimination runs again, for its arrays are filled anew then."""

    value: float
    choice: dict[str, int]
    buckets: list[Bucket]

    def within(self, names: Sequence[str]) -> Floats:
        """The least sum of everything per combination of these variables, which must share a table."""
        bucket = next(b for b in self.buckets if set(names) <= set(b.names))
        return least(Table(bucket.names, belief(bucket)), names)


class Elimination:
    """The buckets of these tables, made once; the arrays of the tables may be filled anew before each run."""

    def __init__(self, sizes: Mapping[str, int], tables: Sequence[Table], order: Sequence[str] = ()) -> None:
        """`order`: of elimination, where it is known already. TooWideError where a bucket would be too large."""
        self.loose = [t for t in tables if not t.names]
        self.order = tuple(order) or _ordered(sizes, tuple(dict.fromkeys(t.names for t in tables)))
        self.buckets: list[Bucket] = []
        left = [t for t in tables if t.names]
        for name in self.order:
            used = [t for t in left if name in t.names]
            bucket = _bucket(name, used, sizes)
            for child in self.buckets:
                if child.parent is None and any(child.message is t for t in used):
                    child.parent = bucket
            self.buckets.append(bucket)
            left = [t for t in left if name not in t.names]
            if bucket.message.names:
                left.append(bucket.message)
        self.roots = [b for b in self.buckets if b.parent is None]

    def run(self) -> Result:
        """The least sum of the tables over all variables."""
        for bucket in self.buckets:
            bucket.add_up()
        value = sum(float(t.values) for t in self.loose) + sum(float(b.message.values) for b in self.roots)
        for root in self.roots:
            root.best = root.total + (value - root.total.min())
        return Result(value, _choice(self.buckets), self.buckets[::-1])


def eliminate(sizes: Mapping[str, int], tables: Sequence[Table]) -> Result:
    """The least sum of the tables over all variables. TooWideError where a bucket would be too large."""
    return Elimination(sizes, tables).run()


def _bucket(name: str, used: Sequence[Table], sizes: Mapping[str, int]) -> Bucket:
    names = tuple(dict.fromkeys([name, *(n for t in used for n in t.names)]))
    total = np.zeros([sizes[n] for n in names])
    return Bucket(name, names, [aligned(t, names) for t in used], total, Table(names[1:], np.zeros(total.shape[1:])))


def _ordered(size_of: Mapping[str, int], scopes: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Smallest bucket first, greedily."""
    near = {name: {n for s in scopes if name in s for n in s} | {name} for name in size_of}
    entries = {name: prod(size_of[n] for n in names) for name, names in near.items()}
    order = []
    while near:
        name = min(near, key=lambda n: entries[n])
        if entries[name] > LARGEST:
            raise TooWideError
        order.append(name)
        around = near.pop(name) - {name}
        for other in around:
            near[other] = (near[other] | around) - {name}
            entries[other] = prod(size_of[n] for n in near[other])
    return tuple(order)


def _choice(buckets: Sequence[Bucket]) -> dict[str, int]:
    choice: dict[str, int] = {}
    for bucket in reversed(buckets):
        index: tuple[Any, ...] = (slice(None), *(choice[n] for n in bucket.names[1:]))
        choice[bucket.name] = int(np.argmin(bucket.total[index]))
    return choice


def belief(bucket: Bucket) -> Floats:
    """Per combination of the bucket's variables, the least sum of everything: its own and the best that the rest can add."""
    chain = [bucket]
    while chain[-1].best is None:
        assert chain[-1].parent is not None
        chain.append(chain[-1].parent)
    for above, below in pairwise(reversed(chain)):
        assert above.best is not None
        rest = least(Table(above.names, above.best), below.message.names) - below.message.values
        below.best = below.total + aligned(Table(below.message.names, rest), below.names)
    assert bucket.best is not None
    return bucket.best


def aligned(table: Table, names: Sequence[str]) -> Floats:
    """A view of the table with its axes in the order of `names`, of extent 1 where it lacks one."""
    order = sorted(range(len(table.names)), key=lambda i: names.index(table.names[i]))
    return table.values.transpose(order)[tuple(slice(None) if n in table.names else None for n in names)]


def least(table: Table, names: Sequence[str]) -> Floats:
    """The minimum over every variable not named, axes in the order of `names`."""
    others = tuple(i for i, n in enumerate(table.names) if n not in names)
    kept = [n for n in table.names if n in names]
    return np.asarray(table.values.min(axis=others).transpose([kept.index(n) for n in names]))
