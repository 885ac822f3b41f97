"""sort(): the same network with the channels of every group in order of importance, so that a level keeps the first of them.

    net, order, ranks = sort(model, graph, scores, ["conv1"], example_inputs)

The numbers stay what they were; they only change places, in all tensors that hold a channel at once. Sums are taken in another
order, so outputs agree to rounding. That is checked here, in float64 where the network can, on the example inputs: a group whose
channels cannot change places (a network that mixes two orders of them) stays as it is, and its levels are gathered.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..axes import channel_positions, groups_of
from ..equivalence import harmless, twin_of
from ..schema import Axis, Graph, Group
from ..surgery import copied
from .cutting import part_labels

M = TypeVar("M", bound=nn.Module)
Order = Mapping[str, np.ndarray]


def sort(
    model: M, graph: Graph, scores: Mapping[str, np.ndarray], groups: Iterable[str], inputs: Sequence[Any]
) -> tuple[M, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A sorted copy; the dense channel in every slot of each group; and the rank of every slot among its part.

    `groups` are those to sort. A group that cannot be sorted keeps its channels where they are, and has their ranks.
    """
    wanted = {name: _best_first(graph.group_of[name], scores[name]) for name in groups}
    movable = _movable(model, graph, wanted, inputs)
    net = permuted(model, graph, movable)
    order = {g.name: movable.get(g.name, np.arange(g.width)) for g in graph.groups}
    ranks = {
        g.name: _ranks(g, scores[g.name] if g.name in wanted and g.name not in movable else -np.arange(float(g.width)))
        for g in graph.groups
    }
    return net, order, ranks


def _best_first(group: Group, scores_C: np.ndarray) -> np.ndarray:
    """The channel that each slot shall hold: within every part the best first. Shape (C,)."""
    order_C = np.arange(group.width)
    for slots in _parts(group):
        order_C[slots] = slots[np.argsort(-scores_C[slots], kind="stable")]
    return order_C


def _ranks(group: Group, scores_C: np.ndarray) -> np.ndarray:
    """The place of every slot among its part by falling score, shape (C,)."""
    ranks_C = np.empty(group.width, dtype=int)
    for slots in _parts(group):
        ranks_C[slots[np.argsort(-scores_C[slots], kind="stable")]] = np.arange(len(slots))
    return ranks_C


def _parts(group: Group) -> list[np.ndarray]:
    labels = part_labels(group)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _movable(model: nn.Module, graph: Graph, order: Order, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
    """The groups whose channels can change places without changing what the network says."""
    twin = twin_of(model, tuple(inputs))

    def moved(some: Order) -> nn.Module | None:
        fits = all(_alike(axis, some) for p in graph.parameters for axis in p.axes)
        return permuted(twin.model, graph, some) if fits else None

    return harmless(twin, order, moved)


def _alike(axis: Axis, order: Order) -> bool:
    """Whether every channel lies on the axis as often as the one it changes places with, and in the same block."""
    for name in set(groups_of(axis)) & order.keys():
        channels = channel_positions(axis, name)
        width = channels.size // axis.blocks
        counts = np.zeros((axis.blocks, len(order[name])), dtype=int)
        at = np.flatnonzero(channels >= 0)
        np.add.at(counts, (at // width, channels[at]), 1)
        if (counts != counts[:, order[name]]).any():
            return False
    return True


def permuted(model: M, graph: Graph, order: Order) -> M:
    """A copy in which slot s of each group holds the channel order[group][s]."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    changed = {}
    for parameter in graph.parameters:
        if any(order.keys() & set(groups_of(axis)) for axis in parameter.axes):
            changed[parameter.name] = _permuted(tensors[parameter.name].detach(), parameter.axes, order)
    return copied(model, changed)


def _permuted(tensor: Tensor, axes: Sequence[Axis], order: Order) -> Tensor:
    for dim, axis in enumerate(axes):
        index = _sources(axis, order).reshape(axis.blocks, -1)
        if axis.blocks == 1:
            tensor = tensor.index_select(dim, torch.from_numpy(index[0]).to(tensor.device))
    for dim, axis in enumerate(axes):
        if axis.blocks > 1:
            index = _sources(axis, order).reshape(axis.blocks, -1)
            local = index - np.arange(axis.blocks)[:, None] * index.shape[1]
            rows = zip(tensor.chunk(axis.blocks, 0), local, strict=True)
            tensor = torch.cat([block.index_select(dim, torch.from_numpy(i).to(tensor.device)) for block, i in rows])
    return tensor


def _sources(axis: Axis, order: Order) -> np.ndarray:
    """For every position of the axis the one whose numbers it gets: a channel's n-th position from that channel's n-th."""
    channels_P = {name: channel_positions(axis, name) for name in set(groups_of(axis)) & order.keys()}
    sources_P = np.arange(sum(run.count * run.repeat for run in axis.runs))
    for name, channel_P in channels_P.items():
        for block in np.array_split(np.arange(len(sources_P)), axis.blocks):
            at = block[channel_P[block] >= 0]
            by_channel = at[np.argsort(channel_P[at], kind="stable")]
            present, first, count = np.unique(channel_P[by_channel], return_index=True, return_counts=True)
            start = dict(zip(present.tolist(), first.tolist(), strict=True))
            for slot, n in zip(present.tolist(), count.tolist(), strict=True):
                source = start[int(order[name][slot])]
                sources_P[by_channel[start[slot] : start[slot] + n]] = by_channel[source : source + n]
    return sources_P
