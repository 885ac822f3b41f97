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
from functools import lru_cache
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
    total: Floats
    message: Table
    parent: "Bucket | None" = None
    best: Floats | None = None  # per combination, the least sum of everything


@dataclass(frozen=True, slots=True)
class Result:
    value: float
    choice: dict[str, int]
    buckets: list[Bucket]

    def within(self, names: Sequence[str]) -> Floats:
        """The least sum of everything per combination of these variables, which must share a table."""
        bucket = next(b for b in self.buckets if set(names) <= set(b.names))
        return least(Table(bucket.names, _belief(bucket)), names)


def eliminate(sizes: Mapping[str, int], tables: Sequence[Table]) -> Result:
    """The least sum of the tables over all variables. TooWideError where a bucket would be too large."""
    left, buckets = [t for t in tables if t.names], list[Bucket]()
    loose = sum(float(t.values) for t in tables if not t.names)
    for name in _ordered(tuple(sizes.items()), tuple(dict.fromkeys(t.names for t in tables))):
        used = [t for t in left if name in t.names]
        names = tuple(dict.fromkeys([name, *(n for t in used for n in t.names)]))
        total = sum((aligned(t, names) for t in used), np.zeros([sizes[n] for n in names]))
        message = Table(names[1:], total.min(axis=0))
        bucket = Bucket(name, names, total, message)
        for child in buckets:
            if child.parent is None and any(child.message is t for t in used):
                child.parent = bucket
        buckets.append(bucket)
        left = [t for t in left if name not in t.names]
        if names[1:]:
            left.append(message)
        else:
            loose += float(message.values)
    for root in (b for b in buckets if b.parent is None):
        root.best = root.total + (loose - root.total.min())
    return Result(loose, _choice(buckets), buckets[::-1])


@lru_cache(maxsize=32)  # prices change, what meets what does not
def _ordered(sizes: tuple[tuple[str, int], ...], scopes: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Smallest bucket first, greedily."""
    size_of = dict(sizes)
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


def _belief(bucket: Bucket) -> Floats:
    """The bucket's own sum and the best that everything else can add."""
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
    """The table with its axes in the order of `names`, of extent 1 where it lacks one."""
    order = sorted(range(len(table.names)), key=lambda i: names.index(table.names[i]))
    values = table.values.transpose(order)
    shape = iter(values.shape)
    return values.reshape([next(shape) if n in table.names else 1 for n in names])


def least(table: Table, names: Sequence[str]) -> Floats:
    """The minimum over every variable not named, axes in the order of `names`."""
    others = tuple(i for i, n in enumerate(table.names) if n not in names)
    kept = [n for n in table.names if n in names]
    return np.asarray(table.values.min(axis=others).transpose([kept.index(n) for n in names]))
