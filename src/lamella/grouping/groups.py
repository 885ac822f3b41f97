"""Channels to groups: which may leave without the others, in which order they are counted, and how an axis reads in them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..balance import Members, balance
from ..channels import FIXED, Flow
from ..schema import Group, Run, Share, Size
from .joining import AxisChannels, Key, demands_of, first_ids, first_reasons, producers_of, signatures_of
from .naming import Naming


class Groups:
    """Channels to groups. `owner[channel]` is the group's index, -1 for elements that belong to none; `rank[channel]` its place in it."""

    def __init__(
        self, flow: Flow, channels: np.ndarray, axes: Mapping[Key, AxisChannels], roles: Mapping[Key, str]
    ) -> None:
        self.count = int(channels.max()) + 1
        self.reasons = first_reasons(flow.fixed, channels)
        self.changes = first_reasons(flow.changes, channels)
        first = first_ids(flow, channels, self.count)
        alike = self._alike(flow, channels, signatures_of(axes, roles, self.count), first)
        balanced = balance(alike, demands_of(flow, channels), self.reasons)
        self.members = sorted((_in_order(m, first) for m in balanced), key=lambda m: int(first[m.channels[0]]))
        self.owner = np.full(self.count, -1)
        self.rank = np.zeros(self.count, dtype=np.int64)
        for index, group in enumerate(self.members):
            self.owner[group.channels], self.rank[group.channels] = index, np.arange(len(group.channels))
        self.names: list[str] = [""] * len(self.members)
        self.producers = producers_of(flow, channels, self.owner, len(self.members))

    def _alike(self, flow: Flow, channels: np.ndarray, signature: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
        """Channels of equal signature, free and frozen ones apart."""
        alive = np.unique(channels[np.concatenate([*flow.born, np.zeros(0, dtype=np.int32)])])
        alive = alive[alive != channels[FIXED]]
        frozen = np.array([int(c) in self.reasons for c in alive], dtype=bool)
        kinds = np.stack([signature[alive], frozen.astype(np.uint64)], 1)
        _, which = np.unique(kinds, axis=0, return_inverse=True)
        groups: dict[int, list[int]] = {}
        for i in np.argsort(first[alive], kind="stable"):
            groups.setdefault(int(which.ravel()[i]), []).append(int(alive[i]))
        return [np.array(g) for g in groups.values()]

    def runs(self, channels: np.ndarray) -> tuple[Run, ...]:
        """An axis as stretches of groups."""
        owner, rank = self.owner[channels], self.rank[channels]
        rank = np.where(owner < 0, 0, rank)
        edges = np.flatnonzero((np.diff(owner) != 0) | (np.diff(rank) != 0)) + 1
        starts = np.concatenate([[0], edges])
        repeats = np.diff(np.concatenate([starts, [len(channels)]]))
        runs: list[Run] = []
        for s, repeat in zip(starts, repeats, strict=True):
            self._extend(runs, int(owner[s]), int(rank[s]), int(repeat))
        return tuple(runs)

    def _extend(self, runs: list[Run], owner: int, rank: int, repeat: int) -> None:
        last = runs[-1] if runs else None
        if owner < 0:
            runs.append(Run(group=None, count=repeat))
        elif (
            last is not None
            and last.group == self.names[owner]
            and last.repeat == repeat
            and last.start + last.count == rank
        ):
            runs[-1] = replace(last, count=last.count + 1)
        else:
            runs.append(Run(group=self.names[owner], start=rank, repeat=repeat))

    def size(self, channels: np.ndarray, factor: int = 1) -> Size:
        """How many elements belong to which group."""
        owner, rank = self.owner[channels], self.rank[channels]
        fixed, terms, shares = int((owner < 0).sum()) * factor, list[tuple[str, int]](), list[Share]()
        for index in np.unique(owner[owner >= 0]):
            counts = np.bincount(rank[owner == index], minlength=len(self.members[index].channels)) * factor
            if counts.min() == counts.max():
                terms.append((self.names[index], int(counts[0])))
            elif (found := self._shares(int(index), counts)) is not None:
                shares.extend(found)
            else:
                fixed += int(counts.sum())
        return Size(fixed=fixed, terms=tuple(terms), shares=tuple(shares))

    def _shares(self, index: int, counts: np.ndarray) -> list[Share] | None:
        """Some parts of a balanced group, by how often each channel of theirs counts; None where that differs within a part."""
        group = self.members[index]
        if not group.cells:
            return None
        cells = np.asarray(group.cells)
        times = np.zeros(int(cells.max()) + 1, dtype=np.int64)
        times[cells] = counts
        if not np.array_equal(times[cells], counts):
            return None
        shares = []
        for often in np.unique(times[times > 0]):
            inside = np.flatnonzero(times == often)
            table = tuple((sum(rung), sum(rung[c] for c in inside)) for rung in group.ladder)
            share = Share(
                group=self.names[index], times=int(often), numerator=len(inside), denominator=len(times), table=table
            )
            shares.append(share)
        return shares

    def name_all(self, named: Naming) -> None:
        taken: dict[str, int] = {}
        for index, calls in enumerate(self.producers):
            base = named.of(calls[0]) if calls else f"group{index}"
            taken[base] = taken.get(base, 0) + 1
            self.names[index] = base if taken[base] == 1 else f"{base}#{taken[base]}"

    def records(self, named: Naming) -> tuple[Group, ...]:
        """The groups in the order in which their first channel is made."""
        return tuple(self._record(index, named) for index in range(len(self.members)))

    def _record(self, index: int, named: Naming) -> Group:
        group = self.members[index]
        reason = next((self.reasons[int(c)] for c in group.channels if int(c) in self.reasons), None)
        return Group(
            name=self.names[index],
            width=len(group.channels),
            layers=tuple(dict.fromkeys(named.of(call) for call in self.producers[index])),
            parts=group.cells if reason is None else (),
            ladder=group.ladder if reason is None else (),
            frozen=reason,
            changes=next((self.changes[int(c)] for c in group.channels if int(c) in self.changes), None),
        )

    def names_of(self, channels: np.ndarray) -> tuple[str, ...]:
        """The groups that own some of these channels."""
        return tuple(self.names[i] for i in np.unique(self.owner[channels]) if i >= 0)


def _in_order(group: Members, first: np.ndarray) -> Members:
    order = np.argsort(first[group.channels], kind="stable")
    cells = tuple(group.cells[i] for i in order) if group.cells else ()
    return replace(group, channels=group.channels[order], cells=cells)
