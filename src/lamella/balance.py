"""Which channels of a group may leave together when splits and grouped convolutions demand equal numbers from their parts.

    groups = balance(members, demands, reasons)      # members: arrays of channels; demands: channels and the part of each

A demand says: the same number must leave every part. A channel's place in all demands is its *cell*; channels of one cell are
interchangeable. Where all cells are of equal size, one leaves from each. Where they are not (a shuffle that crosses a split), the
numbers per cell solve linear equations in integers; the *ladder* holds one solution per width, each inside the next. Groups that
can only be balanced together are joined; what has no solution is frozen, with the demand that forbids it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

import numpy as np

RUNGS = 16  # widths that a ladder offers at most


@dataclass(frozen=True, slots=True)
class Demand:
    """Channels (N,) and the part of each (N,): as many must leave one part as another."""

    channels: np.ndarray
    parts: np.ndarray
    where: str


@dataclass(frozen=True, slots=True)
class Members:
    """One group: its channels, the cell of each (empty: all alike), and the numbers per cell of every possible width."""

    channels: np.ndarray
    cells: tuple[int, ...] = ()
    ladder: tuple[tuple[int, ...], ...] = ()


def balance(members: Sequence[np.ndarray], demands: Iterable[Demand], reasons: dict[int, str]) -> list[Members]:
    """The groups with their cells. Channels that cannot be balanced get an entry in `reasons`."""
    demands = list(demands)
    while True:
        known = len(reasons)
        tables = [t for d in demands if (t := _table(d, reasons)) is not None]
        groups = [_balanced(joined, tables, reasons) for joined in _joined(members, tables)]
        if len(reasons) == known:
            return groups


@dataclass(frozen=True, slots=True)
class _Table:
    """A demand over the channels that may leave: `excess` (channels, parts) counts beyond what every part has."""

    row: dict[int, int]
    excess: np.ndarray
    where: str


def _table(demand: Demand, reasons: dict[int, str]) -> _Table | None:
    live = np.array([int(c) not in reasons for c in demand.channels], dtype=bool)
    unique, index = np.unique(demand.channels[live], return_inverse=True)
    _, part = np.unique(demand.parts, return_inverse=True)
    counts = np.zeros((len(unique), int(part.max()) + 1), dtype=np.int64)
    np.add.at(counts, (index.ravel(), part.ravel()[live]), 1)
    excess = counts - counts.min(1, keepdims=True)
    uneven = excess.any(1)
    if not uneven.any():
        return None
    return _Table({int(c): i for i, c in enumerate(unique[uneven])}, excess[uneven], demand.where)


def _joined(members: Sequence[np.ndarray], tables: Sequence[_Table]) -> list[list[np.ndarray]]:
    """Groups whose own parts are unequal shrink together with the others of the same demand."""
    home = {int(c): i for i, group in enumerate(members) for c in group}
    root = list(range(len(members)))
    for table in tables:
        sums: dict[int, np.ndarray] = {}
        for channel, row in table.row.items():
            group = home.get(channel, -1)
            sums[group] = np.asarray(sums.get(group, 0) + table.excess[row])
        uneven = sorted(g for g, total in sums.items() if g >= 0 and total.min() != total.max())
        for a, b in pairwise(uneven):
            low, high = sorted((_root(root, a), _root(root, b)))
            root[high] = low
    united: dict[int, list[np.ndarray]] = {}
    for i, member in enumerate(members):
        united.setdefault(_root(root, i), []).append(member)
    return list(united.values())


def _root(root: list[int], i: int) -> int:
    while root[i] != i:
        i = root[i]
    return i


def _balanced(joined: Sequence[np.ndarray], tables: Sequence[_Table], reasons: dict[int, str]) -> Members:
    channels = np.concatenate(joined)
    present = {int(c) for c in channels}
    mine = [t for t in tables if not present.isdisjoint(t.row)]
    if not mine:
        return Members(channels)
    # Channels of one cell lie on the same axes.
    kinds = np.repeat(np.arange(len(joined)), [len(group) for group in joined])
    places = np.concatenate([*(_places(channels, table) for table in mine), kinds[:, None]], axis=1)
    vectors, cells = _numbered(places)
    vectors = vectors[:, :-1]
    sizes = np.bincount(cells)
    equations = np.concatenate([_equations(vectors[:, part]) for part in _spans(mine)])
    if len(set(sizes)) == 1 and not (equations @ sizes).any():
        return Members(channels, tuple(int(c) for c in cells))
    ladder = _ladder(equations, sizes, vectors.T)
    if not ladder:
        reason = f"no number of its channels can leave in equal parts ({mine[0].where})"
        reasons.update({int(c): reason for c in channels if int(c) not in reasons})
        return Members(channels)
    return Members(channels, tuple(int(c) for c in cells), ladder)


def _numbered(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows in the order of their first appearance, and the number of every row among them."""
    vectors, first, which = np.unique(places, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return vectors[order], np.argsort(order)[which.ravel()]


def _places(channels: np.ndarray, table: _Table) -> np.ndarray:
    """The excess of every channel in a demand, (channels, parts)."""
    empty = np.zeros(table.excess.shape[1], dtype=np.int64)
    return np.stack([table.excess[table.row[int(c)]] if int(c) in table.row else empty for c in channels])


def _spans(tables: Sequence[_Table]) -> list[slice]:
    ends = np.cumsum([0, *(t.excess.shape[1] for t in tables)])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def _equations(vectors: np.ndarray) -> np.ndarray:
    """One row per part but the first: as much leaves it as leaves the first one. (parts - 1, cells)."""
    return np.asarray(vectors[:, 1:] - vectors[:, :1]).T


def _ladder(equations: np.ndarray, sizes: np.ndarray, parts: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Numbers per cell for some ascending widths, the dense one last, each inside the next; empty if there are none but the dense."""
    if not (equations @ sizes).any() and (step := gcd(*(int(n) for n in sizes))) >= RUNGS // 2:
        return tuple(tuple(int(n) for n in sizes * i // step) for i in range(1, step + 1))
    rungs = [sizes]
    for share in np.arange(RUNGS - 1, 0, -1) / RUNGS:
        found = _nearest(equations, sizes, share * sizes, rungs[-1], parts)
        if found is not None and found.sum() < rungs[-1].sum():
            rungs.append(found)
    return tuple(tuple(int(n) for n in rung) for rung in rungs[::-1]) if len(rungs) > 1 else ()


def _nearest(
    equations: np.ndarray, sizes: np.ndarray, target: np.ndarray, upper: np.ndarray, parts: np.ndarray
) -> np.ndarray | None:
    """The integer solution nearest to the target (sum of absolute differences), at most `upper`, with something left in every part."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    n, eye = len(sizes), np.eye(len(sizes))
    wide = np.hstack([equations, np.zeros_like(equations)])
    left = np.hstack([parts, np.zeros_like(parts)])
    solution = milp(
        np.concatenate([np.zeros(n), np.ones(n)]),
        integrality=np.concatenate([np.ones(n), np.zeros(n)]),
        bounds=Bounds(np.zeros(2 * n), np.concatenate([upper, np.full(n, np.inf)])),
        constraints=[
            LinearConstraint(wide, equations @ sizes, equations @ sizes),
            LinearConstraint(left, np.minimum(1, parts @ sizes), np.inf),
            LinearConstraint(np.hstack([eye, -eye]), -np.inf, target),
            LinearConstraint(np.hstack([-eye, -eye]), -np.inf, -target),
        ],
        options={"time_limit": 0.5, "mip_rel_gap": 0.05},
    )
    return np.rint(solution.x[:n]).astype(np.int64) if solution.x is not None else None
