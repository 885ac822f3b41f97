"""Rules for operators that keep elements as they are, and move, meet or join them.

movement     view, permute, cat, pixel_shuffle ... run as they stand on the planes
pointwise    ties the ids that meet
join         cat and stack: side by side, or tied

What takes an axis apart is in `pieces`.
"""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from .flow import Value, axis_ids, compact, keep_whole, tidy, value_of, varying
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
    found = [moved(walk, node, plane) for plane in value.planes]
    if isinstance(found[0], tuple | list):
        return tuple(value_of(parts[0].shape, parts) for parts in zip(*found, strict=True))
    return value_of(found[0].shape, found)


def moved(walk: Walk, node: Node, plane: Tensor, dtype: torch.dtype = torch.int32) -> Any:
    """What the operator makes of a plane, other tensors being blank ones of this dtype."""

    def stand_in(each: Any) -> Any:
        if each is node.args[0]:
            return plane
        value = walk.env.get(each) if isinstance(each, Node) else each
        return _blank(value.shape, dtype) if isinstance(value, Value) else value

    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), stand_in)
    if operator_name(node) in ("view", "_unsafe_view"):  # planes are stretched, and a view of them may need a copy
        return plane.reshape(_shape(args[1]))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _shape(sizes: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in sizes)


def _blank(shape: tuple[int, ...], dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.zeros(1, dtype=dtype).expand(shape)


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
    array, written = compact(plane), _written(node)
    for d in varying(plane):
        if plane.shape[d] in written:
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
        new = tidy(moved(walk, node, old))
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
    """The extents that a view or an expansion is given as numbers."""
    sizes = argument(node, 2, "sizes", ()) if operator_name(node) == "unflatten" else argument(node, 1, "size", ())
    return tuple(n for n in sizes if isinstance(n, int)) if isinstance(sizes, list | tuple) else ()


def _first(array: np.ndarray, axis: int) -> np.ndarray:
    return array[tuple(slice(0, 1) if d == axis else slice(None) for d in range(array.ndim))]


def shuffle(walk: Walk, node: Node) -> Any:
    """channel_shuffle: the n-th channels of all pieces stand together afterwards, and leave together."""
    value, groups = walk.value(node, 0), int(argument(node, 1, "groups", 1))
    ids = axis_ids(value, 1, walk.flow, place(node)).reshape(groups, -1)
    walk.flow.tie(ids, ids[:1], place(node))
    return movement(walk, node)


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
