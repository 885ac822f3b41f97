"""Rules for operators that keep elements as they are, and move, meet, cut or pad them.

movement     view, permute, cat, pixel_shuffle ... run as they stand on the planes
pointwise    ties the ids that meet
cuts         chunk, split and slices make parts: the same number must leave each; unequal pieces need a number that follows
"""

from collections import Counter
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from .flow import FIXED, Value, axis_ids, compact, keep_whole, tidy, value_of, varying
from .places import operator_name, place
from .walk import Walk, argument, meet, shape_of, unknown_shape


def pointwise(walk: Walk, node: Node) -> Any:
    """Elements at one place are one channel."""
    shape = shape_of(node)
    values = walk.values((node.args, node.kwargs))
    planes: list[Tensor] = []
    for value in values:
        for plane in value.planes:
            meet(walk, planes, plane.expand(shape), node)
    for value in values:
        if not value.uniform:
            _hold_against(walk, value, planes, shape, node)
    if not planes and values and all(v.uniform for v in values):
        return Value(shape, (), True)
    result = value_of(shape, planes)
    return tuple(result for _ in node.meta["val"]) if isinstance(node.meta["val"], tuple | list) else result


def _hold_against(walk: Walk, value: Value, planes: list[Tensor], shape: tuple[int, ...], node: Node) -> None:
    """An operand with a full axis and no channels on it keeps that axis whole for the others."""
    offset = len(shape) - len(value.shape)
    own = {d + offset for plane in value.planes for d in varying(plane)}
    whole = [d + offset for d, n in enumerate(value.shape) if n > 1 and d + offset not in own]
    if whole:
        keep_whole(Value(shape, tuple(planes)), whole, walk.flow, f"it meets a tensor of constant size ({place(node)})")


def movement(walk: Walk, node: Node) -> Any:
    """Run the operator itself on each plane of its first argument."""
    value = walk.value(node, 0)
    if not isinstance(value, Value) or not value.planes:
        return unknown_shape(node)
    moved = [_moved(walk, node, plane) for plane in value.planes]
    if isinstance(moved[0], tuple | list):
        return tuple(value_of(parts[0].shape, parts) for parts in zip(*moved, strict=True))
    return value_of(moved[0].shape, moved)


def _moved(walk: Walk, node: Node, plane: Tensor) -> Any:
    def stand_in(each: Any) -> Any:
        if each is node.args[0]:
            return plane
        value = walk.env.get(each) if isinstance(each, Node) else each
        return _blank(value.shape) if isinstance(value, Value) else value

    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), stand_in)
    if operator_name(node) in ("view", "_unsafe_view"):  # planes are stretched, and a view of them may need a copy
        return plane.reshape(_shape(args[1]))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _shape(sizes: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in sizes)


def _blank(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(1, dtype=torch.int32).expand(shape)


def squeeze(walk: Walk, node: Node) -> Any:
    """Without an axis named, every axis of length one goes: of channels two must stay."""
    value = walk.value(node, 0)
    if len(node.args) == 1 and isinstance(value, Value):
        walk.flow.pairs += [axis_ids(value, d, walk.flow, place(node)) for p in value.planes for d in varying(p)]
    return movement(walk, node)


def roll(walk: Walk, node: Node) -> Any:
    """Channels that come around stand beside others once one has left: along the rolled axes none may."""
    value = walk.value(node, 0)
    if isinstance(value, Value):
        dims = argument(node, 2, "dims", None) or range(len(value.shape))
        keep_whole(value, dims, walk.flow, f"channels are rolled ({place(node)})")
    return movement(walk, node)


def restrided(walk: Walk, node: Node) -> Any:
    """as_strided, as decompositions write it: the same elements in another shape."""
    value, shape = walk.value(node, 0), shape_of(node)
    if prod(shape) != prod(value.shape) or argument(node, 3, "storage_offset", None):
        walk.flow.unknown.append(node)
        return walk.freeze(node, "operator as_strided is not one that Lamella can follow")
    return value_of(shape, [plane.reshape(shape) for plane in value.planes])


def expand(walk: Walk, node: Node) -> Any:
    """Sizes written out along a channel axis must follow it."""
    result = movement(walk, node)
    for plane in result.planes:
        _note_sizes(walk, node, plane)
    return result


def _note_sizes(walk: Walk, node: Node, plane: Tensor) -> None:
    array = compact(plane)
    for d in varying(plane):
        walk.literal(node, plane.shape[d], array, d)


def join(walk: Walk, node: Node) -> Any:
    """cat and stack: channels along the joined axis stand side by side, those along the others are tied."""
    values, shape = walk.values(node.args[0]), shape_of(node)
    stacked = "stack" in operator_name(node)
    axis = int(argument(node, 1, "dim", 0)) % len(shape)
    values = [v for v in values if v.shape != (0,)]
    slots = _slots(values)
    if slots is None:
        return walk.freeze(node, f"{operator_name(node)} of tensors with several channel axes")
    planes = []
    for slot in slots:
        filled = [_blank(v.shape) if p is None else p for v, p in zip(values, slot, strict=True)]
        if not stacked and any(axis in varying(p) for p in filled):
            planes.append(torch.cat(filled, axis))
            continue
        for other in filled[1:]:
            walk.flow.tie(compact(filled[0]), compact(other), place(node))
        first = next(p for p in slot if p is not None)
        planes.append((first.unsqueeze(axis) if stacked else first.narrow(axis, 0, 1)).expand(shape))
    return value_of(shape, planes)


def _slots(values: list[Value]) -> list[list[Tensor | None]] | None:
    """Planes of several values by the axes they vary along: one list per slot, one entry per value."""
    slots: list[tuple[set[int], list[Tensor | None]]] = []
    for i, value in enumerate(values):
        for plane in value.planes:
            axes = set(varying(plane))
            hits = [s for s in slots if s[0] & axes]
            if len(hits) > 1 or (hits and hits[0][1][i] is not None):
                return None
            if not hits:
                hits = [(set(), [None] * len(values))]
                slots.append(hits[0])
            hits[0][0].update(axes)
            hits[0][1][i] = plane
    return [planes for _, planes in slots]


def reshape(walk: Walk, node: Node) -> Any:
    """A view that cuts a channel axis into several leaves a box: `grouping` finds the side that shrinks."""
    result = movement(walk, node)
    before = walk.value(node, 0)
    if not isinstance(before, Value):
        return result
    for old in before.planes:
        new = tidy(_moved(walk, node, old))
        if new is None:
            continue
        axes = varying(new)
        if len(axes) > len(varying(old)):
            array = compact(new)
            if node.name in walk.whole:
                walk.flow.tie(array, _first(array, axes[-1]), place(node))
            walk.flow.cut(array, place(node), node.name)
        elif len(axes) < len(varying(old)):
            walk.flow.merge(compact(old), place(node))
        if axes and new.shape[axes[-1]] in _written(node):
            walk.flow.suspect(compact(new), f"a size in {place(node)}")
        _note_sizes(walk, node, new)
    return result


def _written(node: Node) -> tuple[int, ...]:
    """The extents that a view is given as numbers."""
    sizes = node.args[1] if len(node.args) > 1 else ()
    return tuple(n for n in sizes if isinstance(n, int)) if isinstance(sizes, list | tuple) else ()


def _first(array: np.ndarray, axis: int) -> np.ndarray:
    return array[tuple(slice(0, 1) if d == axis else slice(None) for d in range(array.ndim))]


def shuffle(walk: Walk, node: Node) -> Any:
    """channel_shuffle: the n-th channels of all pieces stand together afterwards, and leave together."""
    value, groups = walk.value(node, 0), int(argument(node, 1, "groups", 1))
    ids = axis_ids(value, 1, walk.flow, place(node)).reshape(groups, -1)
    walk.flow.tie(ids, ids[:1], place(node))
    return movement(walk, node)


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
            planes.append(_picked(walk, node, plane))
    return value_of(shape_of(node), planes)


def _picked(walk: Walk, node: Node, plane: Tensor) -> Any:
    def stand_in(each: Any) -> Any:
        if each is node.args[0]:
            return plane
        value = walk.env.get(each) if isinstance(each, Node) else each
        return torch.zeros(1, dtype=torch.int64).expand(value.shape) if isinstance(value, Value) else value

    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), stand_in)
    return node.target(*args, **kwargs)  # type: ignore[operator]


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


def glu(walk: Walk, node: Node) -> Any:
    """The two halves of an axis are tied, channel by channel."""
    x, axis = walk.value(node, 0), int(argument(node, 1, "dim", -1))
    halves = [p.chunk(2, axis) for p in x.planes]
    for a, b in halves:
        walk.flow.tie(a.numpy(), b.numpy(), place(node))
    return value_of(shape_of(node), [a for a, _ in halves])


def constant(walk: Walk, node: Node) -> Any:
    """zeros, ones, full: every element is the same, so any number of them will do."""
    return Value(shape_of(node), (), True)


def item(walk: Walk, node: Node) -> Any:
    """One of several results."""
    whole, place_in_it = walk.value(node, 0), argument(node, 1, "index", 0)
    return whole[place_in_it] if isinstance(whole, tuple | list) else unknown_shape(node)
