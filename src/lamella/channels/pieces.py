"""Rules for operators that take an axis apart, pick from it, or pad it.

cut, cut_out   chunk, split and slices make parts: the same number must leave each; unequal pieces need a number that follows
select, index  what is picked by its position stays
pad            what is added to a channel axis cannot leave
"""

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from .flow import FIXED, compact, keep_whole, value_of, varying
from .movement import moved, movement
from .places import operator_name, place
from .walk import Walk, argument, shape_of


def cut(walk: Walk, node: Node) -> Any:
    """chunk, split: equal pieces are parts; of unequal ones each needs a size that follows, or its channels stay."""
    result = movement(walk, node)
    pieces = result if isinstance(result, tuple) else ()
    value = walk.value(node, 0)
    axis = int(argument(node, 2, "dim", 0)) % len(value.shape)
    planes = [p for p in value.planes if axis in varying(p)]
    if not planes or not pieces:
        return result
    extents = [piece.shape[axis] for piece in pieces]
    by_number = "chunk" in operator_name(node) or operator_name(node) == "tensor_split"
    for plane in planes:
        cuts = [np.take(compact(plane), range(s, s + n), axis) for s, n in zip(_starts(extents), extents, strict=True)]
        if by_number and len(set(extents)) > 1:
            walk.flow.fix(compact(plane), f"{extents[0]} and {extents[-1]} channels in the pieces of {place(node)}")
            continue
        for extent, times in Counter(extents).items():
            alike = [c for c, n in zip(cuts, extents, strict=True) if n == extent]
            followed = by_number or walk.literal(node, extent, alike[0], axis)
            if not followed and len(alike) == len(extents):  # a multiple of the piece may be written down
                followed = walk.literal(node, extent * times, compact(plane), axis)
            if times > 1:
                _split(walk, alike, node)
            elif not followed:
                walk.flow.suspect(
                    np.concatenate([c.ravel() for c in cuts]),
                    f"{operator_name(node)} into constant sizes ({place(node)})",
                )
    return result


def _starts(extents: list[int]) -> list[int]:
    return [sum(extents[:i]) for i in range(len(extents))]


def _split(walk: Walk, pieces: list[np.ndarray], node: Node) -> None:
    labels = np.repeat(np.arange(len(pieces)), [p.size for p in pieces])
    walk.flow.split(np.concatenate([p.ravel() for p in pieces]), labels, place(node))


def cut_out(walk: Walk, node: Node) -> Any:
    """A slice of a channel axis: one of n equal pieces makes parts; at other places the module's number must follow."""
    result = movement(walk, node)
    value = walk.value(node, 0)
    axis = int(argument(node, 1, "dim", 0)) % len(value.shape)
    extent, piece = value.shape[axis], shape_of(node)[axis]
    start = int(argument(node, 2, "start", 0) or 0) % extent
    if piece == extent:
        return result
    for plane in (p for p in value.planes if axis in varying(p)):
        array = compact(plane)
        if int(argument(node, 4, "step", 1)) != 1:
            walk.flow.fix(array, f"every n-th channel is picked ({place(node)})")
        elif extent % piece == 0 and start % piece == 0:
            _note_bounds(walk, node, array, axis, start, start + piece)
            _split(walk, np.split(array, extent // piece, axis), node)
        elif not _note_bounds(walk, node, array, axis, start, start + piece):
            walk.flow.suspect(array, f"sliced at constant positions ({place(node)})")
    return result


def _note_bounds(walk: Walk, node: Node, array: np.ndarray, axis: int, start: int, end: int) -> bool:
    """Whether the inner ends of a slice are numbers of the module."""
    inner = [b for b in (start, end) if 0 < b < array.shape[axis]]
    found = [walk.literal(node, b, np.take(array, range(b), axis), axis) for b in inner]
    return all(found)


def select(walk: Walk, node: Node) -> Any:
    """Taking one index of an axis: ids that vary along it alone stay."""
    value = walk.value(node, 0)
    axis = int(argument(node, 1, "dim", 0)) % max(1, len(value.shape))
    for plane in value.planes:
        if varying(plane) == (axis,):
            walk.flow.fix(compact(plane), f"one channel is picked by its position ({place(node)})")
    return movement(walk, node)


def index(walk: Walk, node: Node) -> Any:
    """Picking by a tensor of positions: channels along the picked axes stay, the other axes pass."""
    value = walk.value(node, 0)
    wanted: Any = node.args[1]
    if operator_name(node) == "index":
        picked = [d for d, positions in enumerate(wanted) if positions is not None]
    else:
        picked = [int(wanted) % len(value.shape)]
    keep_whole(value, picked, walk.flow, f"channels are picked by a tensor of positions ({place(node)})")
    planes = []
    for plane in value.planes:
        if not set(varying(plane)) & set(picked):
            planes.append(moved(walk, node, plane, torch.int64))
    return value_of(shape_of(node), planes)


def pad(walk: Walk, node: Node) -> Any:
    """Padding a spatial axis keeps the ids; padding a channel axis adds elements that cannot leave."""
    value, shape = walk.value(node, 0), shape_of(node)
    amounts = [int(n) for n in node.args[1]]  # type: ignore[union-attr, arg-type]
    mode = str(argument(node, 2, "mode", "constant")) if operator_name(node) == "pad" else "constant"
    planes = []
    for plane in value.planes:
        array = compact(plane)
        for i, d in enumerate(range(array.ndim - 1, array.ndim - 1 - len(amounts) // 2, -1)):
            before, after = amounts[2 * i], amounts[2 * i + 1]
            if d not in varying(plane) or (before, after) == (0, 0):
                continue
            if mode != "constant" or min(before, after) < 0:
                return walk.freeze(node, f"{mode} padding or cropping of channels")
            array = np.pad(
                array, [(before, after) if e == d else (0, 0) for e in range(array.ndim)], constant_values=FIXED
            )
        planes.append(torch.from_numpy(np.ascontiguousarray(array)).expand(shape))
    return value_of(shape, planes)
