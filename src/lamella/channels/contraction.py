"""Rules for operators that multiply and sum: convolutions, linear layers, products, attention, embeddings.

A layer ties the ids that arrive to its weight's input axis, and makes the ids of its output axis. Of a product of two
activations the summed axis stays whole.

Shapes: O and I the output and input axes of a weight.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.fx import Node

from .flow import Call, Use, Value, Work, along, axis_ids, flat, keep_whole, tidy, value_of, varying, without
from .places import operator_name, place
from .walk import Walk, argument, like, meet, shape_of


def convolution(walk: Walk, node: Node) -> Any:
    """conv{1,2,3}d, conv_transpose{1,2,3}d and convolution: input ids meet the weight's input axis; its output axis makes ids."""
    x, weight = walk.value(node, 0), walk.value(node, 1)
    geometry = _geometry(node)
    rank = len(weight.shape) - 2
    channel = len(x.shape) - rank - 1
    arriving = axis_ids(x, channel, walk.flow, place(node))
    make = _transposed_weight if geometry["transposed"] else _conv_weight
    use, out_ids = make(walk, node, weight, arriving, geometry["groups"])
    bias = walk.bind(node, 2, "bias", out_ids)
    shape = shape_of(node)
    spatial = x.shape if geometry["transposed"] else shape
    positions = prod(spatial[channel + 1 :]) * walk.instances(prod(shape[:channel]))
    walk.flow.born.append(out_ids)
    kind = ("conv_transpose" if geometry["transposed"] else "conv") + f"{rank}d"
    name = walk.parameter_of(node, 1, "weight")
    # a weight that is computed from activations may hold one for every sample, as rows
    several = 1 if walk.is_weight(argument(node, 1, "weight", None)) else len(use.rows)
    work = Work(
        multiplied=prod(weight.shape) * prod(spatial[channel + 1 :]) * prod(shape[:channel]),
        samples=walk.samples(several * prod(shape[:channel])),
        ids=_weight_ids(weight, use),
    )
    call = Call(node, kind, use, bias, out_ids, arriving, positions, work, weight.shape[2:], geometry["stride"], name)
    walk.flow.calls.append(call)
    return value_of(shape, [along(out_ids, channel, shape)])


def _weight_ids(weight: Value, use: Use) -> tuple[np.ndarray, ...]:
    """The ids along the axes of a convolution's weight; those of a grouped one's columns for all blocks in turn."""
    blocks = use.block_ids
    return tuple(flat(p) if blocks is None or 1 not in varying(p) else blocks for p in weight.planes)


def _geometry(node: Node) -> dict[str, Any]:
    name = operator_name(node)
    if name in ("convolution", "_convolution"):
        return {"transposed": bool(node.args[6]), "groups": int(node.args[8]), "stride": tuple(node.args[3])}  # type: ignore[arg-type]
    transposed = "transpose" in name
    stride = argument(node, 3, "stride", (1,))
    groups = argument(node, 6, "groups", 1)
    return {
        "transposed": transposed,
        "groups": int(groups),
        "stride": tuple(stride) if not isinstance(stride, int) else (stride,),
    }


def _conv_weight(walk: Walk, node: Node, weight: Value, arriving: np.ndarray, groups: int) -> tuple[Use, np.ndarray]:
    """weight_OI: columns are the channels of one block."""
    where = place(node)
    rows, columns = axis_ids(weight, 0, walk.flow, where), axis_ids(weight, 1, walk.flow, where)
    if groups == 1:
        walk.flow.tie(columns, arriving, where)
        return Use(rows, columns), rows
    if groups == len(arriving):  # depthwise: every channel keeps its own filters
        walk.literal(node, groups, arriving, 0)
        walk.flow.tie(rows, np.repeat(arriving, len(rows) // groups), where)
        return Use(rows, columns[:0]), rows
    _in_blocks(walk, arriving, groups, where)
    _in_blocks(walk, rows, groups, where)
    walk.flow.tie(arriving, walk.flow.blocks.setdefault(int(rows[0]), arriving), where)  # where it is called again
    return Use(rows, columns, groups, arriving), rows


def _transposed_weight(
    walk: Walk, node: Node, weight: Value, arriving: np.ndarray, groups: int
) -> tuple[Use, np.ndarray]:
    """weight_IO: rows are the input channels, columns the output channels of one block."""
    where = place(node)
    inputs, outputs = axis_ids(weight, 0, walk.flow, where), axis_ids(weight, 1, walk.flow, where)
    walk.flow.tie(inputs, arriving, where)
    if groups == 1:
        return Use(outputs, inputs), outputs
    if groups == len(arriving):
        walk.literal(node, groups, arriving, 0)
        return Use(inputs, inputs[:0]), np.repeat(arriving, len(outputs))
    made = walk.flow.blocks.setdefault(int(inputs[0]), walk.flow.fresh(groups * len(outputs)))
    _in_blocks(walk, arriving, groups, where)
    _in_blocks(walk, made, groups, where)
    return Use(outputs, inputs, groups, made), made


def _in_blocks(walk: Walk, ids: np.ndarray, groups: int, where: str) -> None:
    walk.flow.split(ids, np.repeat(np.arange(groups), len(ids) // groups), where)


def linear(walk: Walk, node: Node) -> Any:
    """weight_OI on the last axis."""
    x, weight = walk.value(node, 0), walk.value(node, 1)
    name = walk.parameter_of(node, 1, "weight")
    return _by_weight(walk, node, Summed(x, len(x.shape) - 1), Summed(weight, 1), bias=(2, "bias"), name=name)


class Summed(NamedTuple):
    """A factor of a product, and its axis that is summed over."""

    value: Value
    axis: int


def _by_weight(
    walk: Walk, node: Node, x: Summed, weight: Summed, *, bias: tuple[int, str] | None, name: str | None = None
) -> Value:
    """A product with a parameter, called `name` where it is one as it stands: its other axis makes the ids of the axis summed over.

    Whatever channels x carries on its other axes stays. `bias`: which argument it is.
    """
    where, shape, rank = place(node), shape_of(node), len(weight.value.shape)
    arriving = axis_ids(x.value, x.axis, walk.flow, where)
    columns = axis_ids(weight.value, weight.axis, walk.flow, where)
    rows = axis_ids(weight.value, rank - 2 if weight.axis == rank - 1 else rank - 1, walk.flow, where)
    walk.flow.tie(columns, arriving, where)
    bound = walk.bind(node, *bias, rows) if bias else None
    leading = prod(n for d, n in enumerate(x.value.shape) if d != x.axis)
    others = [p for p in x.value.planes if varying(p) and x.axis not in varying(p)]
    ids = tuple(flat(p) for p in (*weight.value.planes, *others))
    work = Work(multiplied=len(rows) * len(columns) * leading, samples=walk.samples(leading), ids=ids)
    walk.flow.born.append(rows)
    use, positions = Use(rows, columns), walk.instances(leading)
    walk.flow.calls.append(Call(node, "linear", use, bound, rows, arriving, positions, work, weight=name))
    return value_of(shape, [along(rows, x.axis, shape), *(p.narrow(x.axis, 0, 1).expand(shape) for p in others)])


def matmul(walk: Walk, node: Node) -> Any:
    """mm, bmm, matmul, addmm: with a parameter on one side a linear layer; of two activations the summed axis stays whole."""
    shift = 1 if operator_name(node) in ("addmm", "baddbmm") else 0
    a, b = walk.value(node, shift), walk.value(node, shift + 1)
    where = place(node)
    left, right = walk.is_weight(node.args[shift]), walk.is_weight(node.args[shift + 1])
    bias = (0, "input") if shift else None
    if right and not left and _is_matrix(b):
        return _by_weight(walk, node, Summed(a, len(a.shape) - 1), Summed(b, len(b.shape) - 2), bias=bias)
    if left and not right and _is_matrix(a) and len(b.shape) >= 2:
        return _by_weight(walk, node, Summed(b, len(b.shape) - 2), Summed(a, len(a.shape) - 1), bias=bias)
    reason = f"summed over by a product of two activations ({where})"
    keep_whole(a, [-1], walk.flow, reason)
    keep_whole(b, [-2 if len(b.shape) > 1 else -1], walk.flow, reason)
    if shift:
        return walk.freeze(node, "a product of two activations added to a third")
    return _batched_product(walk, node, a, b)


def _is_matrix(weight: Value) -> bool:
    """Two axes, or three of which the first is one long or was stretched to the batch."""
    return len(weight.shape) == 2 or (len(weight.shape) == 3 and not any(0 in varying(p) for p in weight.planes))


def _batched_product(walk: Walk, node: Node, a: Value, b: Value) -> Value:
    shape = shape_of(node)
    planes: list[Tensor] = []
    for value, axis in ((a, -1), (b, -2)):
        if len(value.shape) < 2:
            continue
        for plane in value.planes:
            rest = plane.narrow(axis % len(value.shape), 0, 1)
            if (kept := tidy(rest)) is not None:
                meet(walk, planes, kept.expand(shape), node)
    return value_of(shape, planes)


def attention(walk: Walk, node: Node) -> Any:
    """scaled_dot_product_attention: heads are tied over query, key and value; a head stays whole."""
    query, key, value = (walk.value(node, i) for i in range(3))
    where = f"summed over by attention ({place(node)})"
    shape = shape_of(node)
    keep_whole(query, [-1, -2], walk.flow, where)
    keep_whole(key, [-1, -2], walk.flow, where)
    keep_whole(value, [-2], walk.flow, where)
    planes: list[Tensor] = []
    for each in (without(query, [-1, -2], shape), without(key, [-1, -2], shape), without(value, [-2], shape)):
        for plane in each.planes:
            meet(walk, planes, plane, node)
    mask = walk.value(node, 3, "attn_mask")
    for plane in mask.planes if isinstance(mask, Value) else ():
        meet(walk, planes, plane.narrow(-1, 0, 1).narrow(-2, 0, 1).expand(shape), node)
    return like(node, value_of(shape, planes))


def embedding(walk: Walk, node: Node) -> Any:
    """A table of vectors: its second axis makes channels."""
    weight = walk.value(node, 0)
    ids = axis_ids(weight, 1, walk.flow, place(node))
    shape = shape_of(node)
    walk.flow.born.append(ids)
    name = walk.parameter_of(node, 0, "weight")
    walk.flow.calls.append(Call(node, "embedding", Use(ids, ids[:0]), None, ids, ids[:0], 0, weight=name))
    return value_of(shape, [along(ids, len(shape) - 1, shape)])
