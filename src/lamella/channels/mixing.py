"""Rules for operators that mix positions, or take statistics.

pooling, resampling    positions mix, channels stay
mean, sum, softmax     channels along the reduced axis are fixed
batch, instance norm   per-channel statistics: exact
layer, group, RMS norm statistics over channels: a channel may leave, and the statistics are then taken over the rest; the group says so
"""

from typing import Any

import numpy as np
from torch.fx import Node

from .flow import Call, Use, Value, along, axis_ids, compact, keep_whole, value_of, varying, without
from .places import operator_name, place
from .walk import Walk, argument, like, shape_of


def spatial(walk: Walk, node: Node) -> Any:
    """Pooling and resampling: positions mix, channels stay. The channel axis is the one before the spatial ones."""
    value, shape = walk.value(node, 0), shape_of(node)
    axes = range(len(value.shape) - _rank(operator_name(node), value), len(value.shape))
    keep_whole(value, axes, walk.flow, f"positions are mixed ({place(node)})")
    return like(node, without(value, axes, shape), Value(shape))


def _rank(name: str, value: Value) -> int:
    digits = [int(c) for c in name if c in "123"]
    return digits[0] if digits else len(value.shape) - 2


def reduce(walk: Walk, node: Node) -> Any:
    """mean, sum, amax ...: positions along the reduced axes mix; channels along them are fixed."""
    value, shape = walk.value(node, 0), shape_of(node)
    axes = argument(node, 2 if "norm" in operator_name(node) else 1, "dim", None)
    rank = len(value.shape)
    axes = (
        list(range(rank))
        if axes is None or axes == [] or isinstance(axes, bool)
        else [axes]
        if isinstance(axes, int)
        else list(axes)
    )
    axes = [a % rank for a in axes] if value.shape else []
    what = f"{operator_name(node)} over channels"
    if walk.is_weight(node.args[0]):
        norm = (
            "weight norm" if "norm" in operator_name(node) else "spectral norm, or another computation of the weight,"
        )
        what = f"{norm} takes a statistic over these columns"
    keep_whole(value, axes, walk.flow, f"{what} ({place(node)})")
    ones = tuple(1 if d in axes else n for d, n in enumerate(value.shape))
    reduced = value_of(shape, [p.reshape(shape) for p in without(value, axes, ones).planes])
    return tuple(reduced for _ in node.meta["val"]) if isinstance(node.meta["val"], tuple | list) else reduced


def along_axis(walk: Walk, node: Node) -> Any:
    """softmax, cumsum, sort ...: the axis stays whole, ids pass."""
    value = walk.value(node, 0)
    axis = int(argument(node, 2 if operator_name(node) == "topk" else 1, "dim", -1))
    keep_whole(value, [axis], walk.flow, f"{operator_name(node)} over channels ({place(node)})")
    result = without(value, [axis], shape_of(node)) if value.planes else Value(shape_of(node))
    return tuple(result for _ in node.meta["val"]) if isinstance(node.meta["val"], tuple | list) else result


def batch_norm(walk: Walk, node: Node) -> Any:
    """batch_norm and instance_norm: per-channel statistics, scale and shift bind to axis 1."""
    x, name = walk.value(node, 0), operator_name(node)
    flag = {"batch_norm": 5, "instance_norm": 5, "native_batch_norm": 5, "cudnn_batch_norm": 5}.get(name)
    if flag is not None and node.args[flag]:
        _over_others(walk, node, x)
    return _normalize(walk, node, "batch_norm" if "batch" in name else "instance_norm", 1, (1, 2, 3, 4))


def _over_others(walk: Walk, node: Node, x: Value) -> None:
    """Statistics of the batch itself. Of a weight's columns (weight standardization) they are those of the columns that are left."""
    if not walk.is_weight(node.args[0]):
        others = [d for d in range(len(x.shape)) if d != 1]
        keep_whole(x, others, walk.flow, f"statistics are taken over these channels ({place(node)})")
        return
    for plane in x.planes:
        if 1 not in varying(plane):
            text = f"weight standardization takes its statistics over the columns that are left ({place(node)})"
            walk.flow.change(compact(plane), text)


def _normalize(walk: Walk, node: Node, kind: str, axis: int, parameters: tuple[int, ...]) -> Any:
    x = walk.value(node, 0)
    ids = axis_ids(x, axis, walk.flow, place(node))
    names = [walk.bind(node, i, "", ids) for i in parameters]
    weight = walk.value(node, parameters[0])
    rows = axis_ids(weight, 0, walk.flow, place(node)) if weight is not None and len(weight.shape) == 1 else ids[:0]
    bias = names[1] if len(names) > 1 else None
    if weight is None:  # nothing is cut here from which the module's own number could be read
        walk.literal(node, len(ids), ids, 0)
    if not walk.is_weight(node.args[0]):
        walk.flow.calls.append(Call(node, kind, Use(rows, ids[:0]), bias, ids, ids, 0, weight=names[0]))
    axis %= len(x.shape)
    others = [p for p in x.planes if axis not in varying(p)]
    return like(node, value_of(x.shape, [along(ids, axis, x.shape), *others]))


def layer_norm(walk: Walk, node: Node) -> Any:
    """Statistics over the last axis: those of the channels that are left. Over several axes, or without a scale, they stay."""
    x, name = walk.value(node, 0), operator_name(node)
    axes = range(len(x.shape) - len(node.args[1]), len(x.shape))  # type: ignore[arg-type]
    what = "RMS norm" if "rms" in name else "layer norm"
    if len(axes) > 1 or walk.parameter_of(node, 2) is None:
        keep_whole(x, axes, walk.flow, f"{what} takes its statistics over these channels ({place(node)})")
    else:
        ids = axis_ids(x, -1, walk.flow, place(node))
        walk.flow.change(ids, f"{what} takes its statistics over the channels that are left ({place(node)})")
        walk.literal(node, len(ids), ids, 0)
    kind = "rms_norm" if "rms" in name else "layer_norm"
    return _normalize(walk, node, kind, len(x.shape) - 1, (2,) if "rms" in name else (2, 3))


def group_norm(walk: Walk, node: Node) -> Any:
    """One channel per norm group is an instance norm; of larger ones the same number leaves each, and the statistics follow."""
    x = walk.value(node, 0)
    native = operator_name(node) == "native_group_norm"
    groups = int(node.args[6] if native else node.args[1])  # type: ignore[arg-type]
    if groups != x.shape[1] and walk.parameter_of(node, 1 if native else 2) is None:
        keep_whole(x, [1], walk.flow, f"group norm takes its statistics over these channels ({place(node)})")
    elif groups != x.shape[1]:
        ids = axis_ids(x, 1, walk.flow, place(node))
        walk.flow.change(ids, f"group norm takes its statistics over the channels that are left ({place(node)})")
        walk.flow.split(ids, np.repeat(np.arange(groups), len(ids) // groups), place(node))
    return _normalize(walk, node, "group_norm", 1, (1, 2) if native else (2, 3))


def prelu(walk: Walk, node: Node) -> Any:
    """One slope per channel binds to axis 1."""
    x = walk.value(node, 0)
    axis = 1 if len(x.shape) > 1 else 0
    walk.bind(node, 1, "weight", axis_ids(x, axis, walk.flow, place(node)))
    return x
