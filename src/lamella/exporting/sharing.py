"""Which weights of a family's levels follow from one shared set, and how: as slice x ratio along an axis.

    level = LevelFile("core", path, inputs)
    level.shares = shares_of(level.arrays, shared, places)      # of the float file
    turned(level.arrays, shared, places)                        # {"fc.weight"}: a layer on tokens reads its weight transposed
    with_common(levels.values(), shared)                        # and what all files hold alike: a recurrent layer's weights
    integers = in_integers(coarse, shared)                      # one int8 tensor for all levels; only their scales differ

Legend: O output channels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..timing import Array

Place = slice | Array  # of one axis: evenly spaced positions, or their indices

WORTH_SHARING = 512  # bytes; the nodes that cut a smaller tensor out would take more than it does
NEAR = 2e-6  # of a tensor's largest value: what folding a norm in float32 may change


@dataclass(frozen=True, slots=True)
class Share:
    """A weight of a level's file as `slice of the shared one x ratio along an axis`."""

    places: tuple[Place, ...]
    axis: int
    ratio: Array


class LevelFile:
    """A level's own file, loaded, and which of its weights follow from the shared ones."""

    def __init__(self, name: str, path: Path, inputs: Sequence[Any]) -> None:
        import onnx

        self.name, self.path, self.inputs = name, path, inputs
        self.proto = onnx.load(str(path))
        self.arrays = {i.name: onnx.numpy_helper.to_array(i) for i in self.proto.graph.initializer}
        self.shares: dict[str, Share] = {}
        self.candidates: dict[str, Share] = {}  # of an integer file: what the float one shares, on the grid of 8 bits


def shares_of(own: Mapping[str, Array], shared: Mapping[str, Array], places: Mapping[str, Any]) -> dict[str, Share]:
    """How a level's own tensors follow from the shared ones, by name; those that do not, or are too small to share, are left out."""
    found = {}
    for name, array in own.items():
        if name in shared and name in places and shared[name].nbytes >= WORTH_SHARING:
            share = _share(array, _taken(shared[name], places[name]), places[name])
            if share is not None:
                found[name] = share
    return found


def turned(own: Mapping[str, Array], shared: Mapping[str, Array], places: Mapping[str, tuple[Place, ...]]) -> set[str]:
    """The matrices that follow from the shared ones only once these are transposed."""
    found = set()
    for name in own.keys() & shared.keys() & places.keys():
        taken, turn = _taken(shared[name], places[name]), places[name][::-1]
        if taken.ndim == 2 and not _share(own[name], taken, places[name]) and _share(own[name], taken.T, turn):
            found.add(name)
    return found


def with_common(levels: Collection[LevelFile], shared: Mapping[str, Array]) -> dict[str, Array]:
    """The shared tensors and, before them, the floats that all files hold alike and that no level shares so far: now all do."""
    first, *others = levels
    known = {name for level in levels for name in level.shares}
    common = {
        name: array
        for name, array in first.arrays.items()
        if array.dtype.kind == "f" and array.nbytes >= WORTH_SHARING and name not in known
        if all(name in each.arrays and np.array_equal(each.arrays[name], array) for each in others)
    }
    for level in levels:
        for name, array in common.items():
            whole = tuple(slice(0, extent, 1) for extent in array.shape)
            level.shares[name] = Share(whole, 0, np.ones(array.shape[0]))
    return common | {name: array for name, array in shared.items() if name not in common}


def _taken(array: Array, places: tuple[Place, ...]) -> Array:
    for axis, place in enumerate(places):
        array = array[(slice(None),) * axis + (place,)]
    return array


def _share(own: Array, taken: Array, places: tuple[Place, ...]) -> Share | None:
    """How `own` follows from what the level takes of the shared tensor, or None where it does not."""
    if own.shape != taken.shape:
        return None
    for axis in range(min(2, own.ndim)):
        a, b = (np.moveaxis(x, axis, 0).reshape(own.shape[axis], -1).astype(np.float64) for x in (own, taken))
        norm_O = (b * b).sum(1)
        ratio = np.where(norm_O > 0, (a * b).sum(1) / np.where(norm_O > 0, norm_O, 1), 1.0)
        if np.abs(a - ratio[:, None] * b).max(initial=0) <= NEAR * np.abs(a).max(initial=0):
            return Share(places, axis, ratio)
    return None


def in_integers(coarse: Mapping[str, LevelFile], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The shared weights in int8, and the shares of the integer files, whose ratio is the scale of every channel.

    A channel's shared scale is the largest that any level needs, so no sum of two products overflows in any of them.
    """
    scales: dict[str, Array] = {}
    for level in coarse.values():
        for tensor, candidate in level.candidates.items():
            found = _scaled(level, tensor, candidate)
            if found is not None:
                share, scale_O = found
                wanted = scales.setdefault(tensor, np.zeros(arrays[tensor].shape[share.axis]))
                rows = np.arange(len(wanted))[share.places[share.axis]]
                wanted[rows] = np.maximum(wanted[rows], scale_O / share.ratio)
                level.shares[tensor] = share
    made = {}
    for tensor, scale_O in scales.items():
        axes = {level.shares[tensor].axis for level in coarse.values() if tensor in level.shares}
        axis = axes.pop()
        whole = np.where(scale_O > 0, scale_O, 1.0)
        along = whole.reshape([-1 if i == axis else 1 for i in range(arrays[tensor].ndim)])
        made[tensor] = np.clip(np.rint(arrays[tensor] / along), -127, 127).astype(np.int8)
        for level in coarse.values():
            if tensor in level.shares:
                share = level.shares[tensor]
                level.shares[tensor] = Share(share.places, axis, share.ratio * whole[share.places[axis]])
    return made


def _scaled(level: LevelFile, tensor: str, share: Share) -> tuple[Share, Array] | None:
    """The share along the axis on which the level's own integer file has a scale per channel, and these scales; None without one."""
    node = dequantizer(level.proto.graph, tensor)
    if node is None or (share.ratio <= 0).any():
        return None
    scale: Array = level.arrays[node.input[1]]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if scale.ndim == 1 and axis != share.axis and (share.ratio == 1).all():
        share = Share(share.places, axis, np.ones(len(scale)))
    fits = scale.ndim == 1 and axis == share.axis and scale.shape == share.ratio.shape
    return (share, scale.astype(np.float64)) if fits else None


def dequantizer(graph: Any, tensor: str) -> Any:
    """The node that turns an integer weight back into floats."""
    return next((n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == tensor), None)
