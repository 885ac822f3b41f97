"""Index maps: which positions of which parameter axis belong to which channels.

    owners(axis)                    -> per position the group's name index and its channel
    kept_positions(axis, kept)      -> the positions that stay when each group keeps these channels
    channel_positions(axis, group)  -> per position the channel of that group, -1 elsewhere

`kept` maps a group to the channels it keeps; a group not named keeps all. No torch here: surgery, masks, importance and costs
all read the same maps.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .schema import Axis, Graph, Run

Kept = Mapping[str, Sequence[int]]


def channel_positions(axis: Axis, group: str) -> np.ndarray:
    """For every position of the axis the channel of `group` that it belongs to, or -1. Shape (positions,)."""
    each = [_channels(run) if run.group == group else np.full(run.count * run.repeat, -1) for run in axis.runs]
    return np.concatenate([np.zeros(0, dtype=np.int64), *each])


def _channels(run: Run) -> np.ndarray:
    return np.repeat(np.arange(run.start, run.start + run.count), run.repeat)


def kept_mask(axis: Axis, kept: Kept) -> np.ndarray:
    """True where a position of the axis stays. Shape (positions,), all blocks of a grouped convolution in turn."""
    return np.concatenate([np.zeros(0, dtype=bool), *(_run_mask(run, kept) for run in axis.runs)])


def _run_mask(run: Run, kept: Kept) -> np.ndarray:
    if run.group is None or run.group not in kept:
        return np.ones(run.count * run.repeat, dtype=bool)
    return np.isin(_channels(run), np.asarray(kept[run.group]))


def groups_of(axis: Axis) -> tuple[str, ...]:
    """The groups that an axis touches, in order of first appearance."""
    return tuple(dict.fromkeys(run.group for run in axis.runs if run.group is not None))


def best_channels(
    graph: Graph, widths: Mapping[str, int], ranking: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """The best-ranked `widths[group]` channels of each group, in channel order; a balanced group keeps as many in every part."""
    kept = {}
    for name, width in widths.items():
        group = graph.group_of[name]
        group.check_width(width)
        kept[name] = tuple(best(ranking[name], group.counts(width), group.parts))
    return kept


def best(scores: np.ndarray, counts: Sequence[int], parts: Sequence[int] = ()) -> list[int]:
    """Indices of the highest scores, ascending: counts[p] of every part p (one part: counts[0]). Ties go to the lower index."""
    labels = np.asarray(parts) if len(parts) else np.zeros(len(scores), dtype=int)
    chosen: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.argsort(-scores[members], kind="stable")
        chosen.extend(int(i) for i in members[order[: counts[label]]])
    return sorted(chosen)


def touched(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """The parameters whose shape changes when these groups narrow."""
    names = set(names)
    return frozenset(p.name for p in graph.parameters if any(names & set(groups_of(a)) for a in p.axes))
