"""Ids to channels, and what is known of a channel: the axes it lies on, their roles, why it stays, what it must leave with.

channels = join(flow)                       # the channel of every id
axes = axis_channels(flow, channels, tensors, naming)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..balance import Demand
from ..channels import FIXED, Call, Flow, place
from .naming import Naming

Key = tuple[str, int]


def join(flow: Flow) -> np.ndarray:
    """The channel (component) of every id, shape (ids,)."""
    ties = np.concatenate([*flow.ties, np.zeros((0, 2), dtype=np.int32)])
    matrix = coo_array((np.ones(len(ties), dtype=np.int8), (ties[:, 0], ties[:, 1])), shape=(flow.count, flow.count))
    _, channels = connected_components(matrix, directed=False)
    return np.asarray(channels, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class AxisChannels:
    channels: np.ndarray
    ids: np.ndarray
    blocks: int = 1
    blocked_role: str = ""


def axis_channels(
    flow: Flow, channels: np.ndarray, tensors: Mapping[str, torch.Tensor], named: Naming
) -> dict[Key, AxisChannels]:
    axes = {}
    for name, starts in flow.axis_start.items():
        for d, start in enumerate(starts):
            ids = np.arange(start, start + tensors[name].shape[d])
            axes[name, d] = AxisChannels(channels[ids], ids)
    for call in (*flow.trained, *flow.calls):
        weight = named.weight(call)
        if call.use.block_ids is not None and weight is not None:
            if tensors[weight].shape[1:2] != (len(call.use.block_ids) // call.use.blocks,):
                flow.fix(call.use.block_ids, f"the weight of a grouped convolution is computed ({place(call.node)})")
                continue
            key = weight, 1  # a grouped convolution keeps its blocks on axis 1 of its weight
            role = "in" if np.array_equal(call.use.block_ids, call.in_ids) else "out"
            axes[key] = AxisChannels(channels[call.use.block_ids], axes[key].ids, call.use.blocks, role)
    return axes


def roles_of(flow: Flow, channels: np.ndarray, axes: Mapping[Key, AxisChannels]) -> dict[Key, str]:
    born, consumed = np.zeros(flow.count, dtype=bool), np.zeros(flow.count, dtype=bool)
    for ids in flow.born:
        born[ids] = True
    for call in (*flow.trained, *flow.calls):
        consumed[call.use.columns] = True
    alive = np.zeros(int(channels.max()) + 1, dtype=bool)
    alive[channels[born]] = True
    roles = {}
    for key, axis in axes.items():
        if axis.blocked_role:
            roles[key] = axis.blocked_role
        elif consumed[axis.ids].any():
            roles[key] = "in"
        elif born[axis.ids].any():
            roles[key] = "out"
        else:
            roles[key] = "each" if alive[axis.channels].any() else "fixed"
    return roles


def axes_of_change(ids: np.ndarray) -> list[int]:
    """The axes along which the channels differ."""
    return [d for d in range(ids.ndim) if ids.shape[d] > 1 and bool((np.diff(ids, axis=d) != 0).any())]


def demands_of(flow: Flow, channels: np.ndarray) -> list[Demand]:
    demands = [Demand(channels[split.ids], split.parts, split.where) for split in flow.splits]
    for array, where, _ in flow.cuts:
        ids = channels[array]
        axes = axes_of_change(ids)
        if len(axes) > 1:  # the last axis shrinks; the others are parts
            parts = np.broadcast_to(
                np.expand_dims(
                    np.arange(ids.size // ids.shape[axes[-1]]).reshape(np.delete(ids.shape, axes[-1])), axes[-1]
                ),
                ids.shape,
            )
            live = array.ravel() != FIXED
            demands.append(Demand(ids.ravel()[live], parts.ravel()[live], where))
    return demands


def first_reasons(found: Iterable[tuple[np.ndarray, str]], channels: np.ndarray) -> dict[int, str]:
    """The first text said of every channel."""
    reasons: dict[int, str] = {}
    for ids, reason in found:
        for c in np.unique(channels[ids]):
            reasons.setdefault(int(c), reason)
    return reasons


def first_ids(flow: Flow, channels: np.ndarray, count: int) -> np.ndarray:
    """The place of a channel in the order in which layers make channels."""
    first = np.full(count, np.iinfo(np.int64).max)
    position = 0
    for ids in flow.born:
        np.minimum.at(first, channels[ids], position + np.arange(len(ids)))
        position += len(ids)
    return first


def signatures_of(axes: Mapping[Key, AxisChannels], roles: Mapping[Key, str], count: int) -> np.ndarray:
    """A 64-bit sum per channel over the axes it touches: equal sums, equal axes (random terms, fixed seed)."""
    generator = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.uint64)
    for key in axes:
        term = generator.integers(1, 2**63, dtype=np.uint64)
        if roles[key] != "fixed":
            np.add.at(signature, axes[key].channels, term)
    return signature


def producers_of(flow: Flow, channels: np.ndarray, owner: np.ndarray, count: int) -> list[list[Call]]:
    producers: list[list[Call]] = [[] for _ in range(count)]
    for call in flow.calls:
        if call.kind.endswith("norm"):
            continue
        for index in np.unique(owner[channels[call.out_ids]]):
            if index >= 0:
                producers[index].append(call)
    return producers
