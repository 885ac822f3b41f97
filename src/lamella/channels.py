"""Channel ids through the exported graph: which elements of which tensors are the same channel.

Every axis of every parameter is born with an id per index. A value carries *planes*: integer tensors of its own shape that hold
the id each element belongs to, stretched (stride 0) over the axes that hold no channels. The graph is run once on planes:

    movement     view, permute, cat, chunk, pad ... run as they stand on the planes
    pointwise    ties the ids that meet
    contraction  a conv or linear ties the ids that arrive to its weight's input axis, and makes the ids of its output axis
    mixing       pooling keeps the channel axis; statistics over channels fix them
    anything unknown fixes the ids it touches, with the reason

What comes out is a `Flow`: ties (pairs of ids), fixed ids with reasons, parts (ids that must leave in equal numbers), and what
every operator read and made. `tracing` turns it into groups. Id 0 is "fixed": an element that cannot leave.

Shapes: B batch, C channels, O and I the output and input axes of a weight, G the blocks of a grouped convolution.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

FIXED = 0


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor: its shape, its planes, and whether all its elements are one constant."""

    shape: tuple[int, ...]
    planes: tuple[Tensor, ...] = ()
    uniform: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """How a layer uses its weight: the weight's own ids of the axis that makes channels and of the one that consumes them.

    Grouped convolutions keep their columns block by block: `block_ids` (G * columns,) are the channels behind them.
    """

    rows: np.ndarray
    columns: np.ndarray
    blocks: int = 1
    block_ids: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One operator that multiplies by a parameter or normalizes: node, kind, its weight, ids in and out, and its geometry."""

    node: Node
    kind: str
    use: Use
    bias: str | None
    out_ids: np.ndarray
    in_ids: np.ndarray
    positions: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


@dataclass(slots=True)
class Flow:
    """Everything the run found out. `axis_start[name][axis]` is the first id of a parameter's axis; ids run on from there."""

    count: int = 1
    axis_start: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ties: list[np.ndarray] = field(default_factory=list)
    fixed: list[tuple[np.ndarray, str]] = field(default_factory=list)
    parts: list[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)
    born: list[np.ndarray] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    values: dict[Node, Value] = field(default_factory=dict)
    unknown: list[Node] = field(default_factory=list)

    def fresh(self, n: int) -> np.ndarray:
        """n new ids."""
        start, self.count = self.count, self.count + n
        return np.arange(start, start + n, dtype=np.int32)

    def tie(self, a: np.ndarray, b: np.ndarray, where: str) -> None:
        """The ids of a and b, element by element, are the same channel; an id that meets FIXED is fixed."""
        a, b = np.broadcast_arrays(a, b)
        a, b = a.ravel(), b.ravel()
        differ = a != b
        if not differ.any():
            return
        pairs = np.unique(np.stack([a[differ], b[differ]], 1), axis=0)
        meets_fixed = (pairs == FIXED).any(1)
        if meets_fixed.any():
            self.fix(pairs[meets_fixed].max(1), f"{where}: it meets channels that cannot leave")
        self.ties.append(pairs[~meets_fixed])

    def fix(self, ids: np.ndarray, reason: str) -> None:
        """These channels cannot leave."""
        ids = np.unique(ids)
        ids = ids[ids != FIXED]
        if len(ids):
            self.fixed.append((ids, reason))

    def split(self, ids: np.ndarray, parts: np.ndarray, where: str) -> None:
        """The same number of channels must leave every part. ids and parts (N,)."""
        live = ids != FIXED
        if live.any():
            self.parts.append((ids[live], parts[live], where))


# ---- planes


def varying(plane: Tensor) -> tuple[int, ...]:
    """The axes along which the plane holds different ids."""
    return tuple(d for d in range(plane.dim()) if plane.shape[d] > 1 and plane.stride(d) != 0)


def tidy(plane: Tensor) -> Tensor | None:
    """The plane with every axis along which it is constant stretched; None if it holds no channel at all."""
    shape = plane.shape
    for d in varying(plane):
        first = plane.narrow(d, 0, 1)
        if bool((plane == first).all()):
            plane = first.expand(shape)
    if plane.numel() == 0 or (not varying(plane) and int(plane.reshape(-1)[:1]) == FIXED):
        return None
    return plane


def compact(plane: Tensor) -> np.ndarray:
    """The plane as an array with length 1 along stretched axes."""
    for d in range(plane.dim()):
        if plane.stride(d) == 0 and plane.shape[d] > 1:
            plane = plane.narrow(d, 0, 1)
    return np.asarray(plane.numpy())


def value_of(shape: Iterable[int], planes: Iterable[Tensor | None]) -> Value:
    kept = tuple(p for p in (tidy(p) for p in planes if p is not None) if p is not None)
    return Value(tuple(shape), kept)


def along(ids: np.ndarray, axis: int, shape: Sequence[int]) -> Tensor:
    """A plane of this shape that holds ids (C,) along one axis."""
    view = [1] * len(shape)
    view[axis] = len(ids)
    return torch.from_numpy(np.ascontiguousarray(ids)).view(view).expand(tuple(shape))


def axis_ids(value: Value, axis: int, flow: Flow, where: str) -> np.ndarray:
    """The ids along one axis (C,), after tying whatever differs along the others; FIXED where no plane speaks of it."""
    axis %= len(value.shape)
    for plane in value.planes:
        if axis in varying(plane):
            array = np.moveaxis(compact(plane), axis, 0).reshape(value.shape[axis], -1)
            flow.tie(array, array[:, :1], where)
            return array[:, 0].copy()
    return np.zeros(value.shape[axis], dtype=np.int32)


def keep_whole(value: Value, axes: Iterable[int], flow: Flow, reason: str) -> None:
    """Nothing may leave along these axes by itself: ids that vary along them alone are fixed, ids that also vary elsewhere are tied."""
    axes = {a % len(value.shape) for a in axes} if value.shape else set()
    for plane in value.planes:
        inside = [d for d in varying(plane) if d in axes]
        if not inside:
            continue
        array = compact(plane)
        if set(varying(plane)) <= axes:
            flow.fix(array, reason)
        else:
            first = array[tuple(slice(0, 1) if d in inside else slice(None) for d in range(array.ndim))]
            flow.tie(array, first, reason)


def without(value: Value, axes: Iterable[int], shape: Sequence[int]) -> Value:
    """The planes constant along `axes`, stretched to a new shape of the same rank."""
    drop = {a % len(value.shape) for a in axes}
    planes = []
    for plane in value.planes:
        for d in drop:
            plane = plane.narrow(d, 0, 1)
        planes.append(plane.expand(tuple(shape)))
    return value_of(shape, planes)


# ---- the run


class Walk:
    """One pass over an exported graph; `rules` below hold what each operator does to planes."""

    def __init__(self, names: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
        """`names`: placeholder -> parameter or buffer name (its first one, for tied ones); `shapes`: name -> shape."""
        self.flow, self.names, self.shapes = Flow(), names, shapes
        self.env: dict[Node, Any] = {}
        self.source: dict[Node, str] = {}

    def run(self, graph: torch.fx.Graph) -> Flow:
        for node in graph.nodes:
            if node.op == "placeholder":
                self.env[node] = self._placeholder(node)
            elif node.op in ("call_function", "get_attr"):
                self.env[node] = self._call(node) if node.op == "call_function" else _unknown_shape(node)
            elif node.op == "output":
                for value in self.values(node.args):
                    self.flow.fix(np.concatenate([p.ravel() for p in map(compact, value.planes)] or [[0]]), "model output")
            if isinstance(self.env.get(node), Value):
                self.flow.values[node] = self.env[node]
        return self.flow

    def _placeholder(self, node: Node) -> Any:
        name = self.names.get(node.name)
        if name is None:
            return _unknown_shape(node)
        self.source[node] = name
        shape = self.shapes[name]
        if name not in self.flow.axis_start:
            self.flow.axis_start[name] = tuple(int(self.flow.fresh(n)[0]) if n else 0 for n in shape)
        planes = [along(self.parameter_ids(name, d), d, shape) for d in range(len(shape)) if shape[d] > 1]
        return Value(shape, tuple(planes))

    def _call(self, node: Node) -> Any:
        name = operator_name(node)
        rule = RULES.get(name) or (_pointwise if _is_pointwise(node) else None)
        if rule is not None:
            return rule(self, node)
        if not self.touches(node):
            return _unknown_shape(node)
        self.flow.unknown.append(node)
        return self.freeze(node, f"operator {name} is not one that Lamella can follow")

    def freeze(self, node: Node, reason: str) -> Any:
        """Fix whatever arrives at this node; what it makes holds no channels."""
        for value in self.values((node.args, node.kwargs)):
            for plane in value.planes:
                self.flow.fix(compact(plane), f"{reason} ({place(node)})")
        return _unknown_shape(node)

    def touches(self, node: Node) -> bool:
        return any(v.planes for v in self.values((node.args, node.kwargs)))

    def values(self, tree: Any) -> list[Value]:
        leaves = torch.utils._pytree.tree_leaves(tree)
        found = [self.env[leaf] for leaf in leaves if isinstance(leaf, Node)]
        flat = torch.utils._pytree.tree_leaves(found, is_leaf=lambda v: isinstance(v, Value))
        return [v for v in flat if isinstance(v, Value)]

    def value(self, node: Node, index: int, name: str = "") -> Any:
        """The value of an argument by position or name; None where absent."""
        argument = node.args[index] if index < len(node.args) else node.kwargs.get(name)
        return self.env[argument] if isinstance(argument, Node) else None

    def parameter_ids(self, name: str, axis: int) -> np.ndarray:
        start = self.flow.axis_start[name][axis]
        return np.arange(start, start + self.shapes[name][axis], dtype=np.int32)

    def parameter_of(self, node: Node, index: int, name: str = "") -> str | None:
        """The name of the parameter that is this argument as it stands, None if it is computed."""
        argument = node.args[index] if index < len(node.args) else node.kwargs.get(name)
        return self.source.get(argument) if isinstance(argument, Node) else None

    def bind(self, node: Node, index: int, name: str, ids: np.ndarray) -> str | None:
        """Tie a per-channel parameter (C,) to ids; returns its name."""
        value = self.value(node, index, name)
        if value is None:
            return None
        if len(value.shape) == 1 and value.shape[0] == len(ids):
            self.flow.tie(axis_ids(value, 0, self.flow, place(node)), ids, place(node))
        return self.parameter_of(node, index, name)


def _unknown_shape(node: Node) -> Any:
    return torch.utils._pytree.tree_map(
        lambda v: Value(tuple(int(n) for n in v.shape)) if isinstance(v, Tensor) else v, node.meta.get("val")
    )


def operator_name(node: Node) -> str:
    """'conv2d' for aten.conv2d.default, 'relu' for aten.relu_.default."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    return name.removeprefix("aten::").rstrip("_") if name.startswith("aten::") else name


def mutates_a_view(node: Node) -> bool:
    """Whether the operator writes into a tensor in a way the ids of other values would have to follow."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and not _is_pointwise(node)


def place(node: Node) -> str:
    """Where an operator stands: its name, module path, and the line of the model's source."""
    path = module_path(node)
    where = f"{operator_name(node)} in {path!r}" if path else operator_name(node)
    line = source_line(node.meta.get("stack_trace") or "")
    return f"{where}, {line}" if line else where


def module_path(node: Node) -> str:
    """The path of the innermost module an operator belongs to; '' at the top."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return path.split("@")[0]  # a module called twice is written 'conv@1' the second time


def source_line(trace: str) -> str:
    """The innermost line of a stack trace that is not torch's own: 'net.py:14'."""
    import re

    frames = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [(f, n) for f, n in frames if "/torch/" not in f.replace("\\", "/")]
    return f"{own[-1][0].replace(chr(92), '/').rsplit('/', 1)[-1]}:{own[-1][1]}" if own else ""


def _is_pointwise(node: Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or operator_name(node) in POINTWISE


def _shape_of(node: Node) -> tuple[int, ...]:
    val = node.meta["val"]
    return tuple(int(n) for n in (val[0] if isinstance(val, tuple | list) else val).shape)


# ---- rules: (walk, node) -> Value, or a tuple of them

Rule = Callable[[Walk, Node], Any]

POINTWISE = {"dropout", "feature_dropout", "alpha_dropout", "native_dropout", "clone", "contiguous", "detach", "alias", "to",
             "_to_copy", "lift_fresh_copy", "type_as", "hardtanh", "relu6", "selu", "celu", "elu", "leaky_relu", "gelu", "silu",
             "mish", "hardswish", "hardsigmoid", "softplus", "softsign", "logsigmoid", "log_sigmoid", "rsub", "rrelu", "threshold",
             "clamp", "where", "square", "tanh", "sigmoid", "masked_fill", "addcmul", "addcdiv", "lerp", "float_power"}  # fmt: skip


def _pointwise(walk: Walk, node: Node) -> Any:
    shape = _shape_of(node)
    values = walk.values((node.args, node.kwargs))
    planes: list[Tensor] = []
    for value in values:
        for plane in value.planes:
            _meet(walk, planes, plane.expand(shape), node)
    for value in values:
        if not value.uniform:
            _hold_against(walk, value, planes, shape, node)
    if not planes and values and all(v.uniform for v in values):
        return Value(shape, (), True)
    return value_of(shape, planes)


def _meet(walk: Walk, planes: list[Tensor], new: Tensor, node: Node) -> None:
    """Tie a plane to the one that varies along the same axes, or put it beside the others."""
    axes = set(varying(new))
    for plane in planes:
        if axes & set(varying(plane)):
            walk.flow.tie(compact(plane), compact(new), place(node))
            return
    planes.append(new)


def _hold_against(walk: Walk, value: Value, planes: list[Tensor], shape: tuple[int, ...], node: Node) -> None:
    """An operand with a full axis and no channels on it keeps that axis whole for the others."""
    offset = len(shape) - len(value.shape)
    own = {d + offset for plane in value.planes for d in varying(plane)}
    whole = [d + offset for d, n in enumerate(value.shape) if n > 1 and d + offset not in own]
    if whole:
        keep_whole(Value(shape, tuple(planes)), whole, walk.flow, f"it meets a tensor of constant size ({place(node)})")


def _movement(walk: Walk, node: Node) -> Any:
    """Run the operator itself on the planes; several inputs (cat, stack) are aligned plane by plane."""
    values = walk.values(node.args)
    slots = max((len(v.planes) for v in values), default=0)
    if slots > 1 and len(values) > 1:
        return walk.freeze(node, f"{operator_name(node)} of tensors with several channel axes")
    if not slots:
        return _unknown_shape(node)
    moved = [_run_on_planes(walk, node, slot) for slot in range(slots)]
    if isinstance(moved[0], tuple | list):
        return tuple(value_of(parts[0].shape, parts) for parts in zip(*moved, strict=True))
    return value_of(moved[0].shape, moved)


def _run_on_planes(walk: Walk, node: Node, slot: int) -> Any:
    def plane(argument: Any) -> Any:
        value = walk.env.get(argument) if isinstance(argument, Node) else argument
        if not isinstance(value, Value):
            return value
        if slot < len(value.planes):
            return value.planes[slot]
        return torch.zeros(1, dtype=torch.int32).expand(value.shape)

    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), plane)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _reshape(walk: Walk, node: Node) -> Any:
    """A view that cuts a channel axis into several: the last piece may shrink, the others are parts."""
    result = _movement(walk, node)
    before = walk.value(node, 0)
    for old, new in zip(before.planes, result.planes, strict=False):
        axes = varying(new)
        if len(axes) > len(varying(old)):
            array = compact(new)
            labels = np.arange(array.size // array.shape[axes[-1]]).reshape(array.shape[: axes[-1]] + (1,) + array.shape[axes[-1] + 1 :])
            walk.flow.split(array.ravel(), np.broadcast_to(labels, array.shape).ravel(), place(node))
    return result


def _cut(walk: Walk, node: Node) -> Any:
    """chunk, split: pieces of equal size are parts; unequal ones hold their channels."""
    result = _movement(walk, node)
    pieces = result if isinstance(result, tuple) else ()
    value = walk.value(node, 0)
    axis = int(_argument(node, 2, "dim", 0)) % len(value.shape)
    if not any(axis in varying(p) for p in value.planes) or not pieces:
        return result
    if len({piece.shape[axis] for piece in pieces}) > 1:
        keep_whole(value, [axis], walk.flow, f"cut into pieces of unequal constant size ({place(node)})")
        return result
    _split_evenly(walk, value, axis, len(pieces), node)
    return result


def _split_evenly(walk: Walk, value: Value, axis: int, count: int, node: Node) -> None:
    for plane in value.planes:
        if axis in varying(plane):
            array = np.moveaxis(compact(plane), axis, 0)
            labels = np.repeat(np.arange(count), array.shape[0] // count).reshape((-1,) + (1,) * (array.ndim - 1))
            walk.flow.split(array.ravel(), np.broadcast_to(labels, array.shape).ravel(), place(node))


def _slice(walk: Walk, node: Node) -> Any:
    """A slice of a channel axis that is one of n equal pieces makes parts; any other holds the channels."""
    result = _movement(walk, node)
    value = walk.value(node, 0)
    axis = int(_argument(node, 1, "dim", 0)) % len(value.shape)
    whole, piece = value.shape[axis], _shape_of(node)[axis]
    if piece == whole or not any(axis in varying(p) for p in value.planes):
        return result
    start = int(_argument(node, 2, "start", 0) or 0) % whole
    step = int(_argument(node, 4, "step", 1))
    if step == 1 and whole % piece == 0 and start % piece == 0:
        _split_evenly(walk, value, axis, whole // piece, node)
    else:
        keep_whole(value, [axis], walk.flow, f"sliced at constant positions ({place(node)})")
    return result


def _select(walk: Walk, node: Node) -> Any:
    """Taking one index of an axis: the axis stays whole."""
    value = walk.value(node, 0)
    if value.planes:
        axis = int(_argument(node, 1, "dim", 0))
        keep_alone(value, axis, walk, f"one channel is picked by its position ({place(node)})")
    return _movement(walk, node)


def keep_alone(value: Value, axis: int, walk: Walk, reason: str) -> None:
    """Fix ids that vary along this axis and no other."""
    for plane in value.planes:
        if varying(plane) == (axis % len(value.shape),):
            walk.flow.fix(compact(plane), reason)


def _pad(walk: Walk, node: Node) -> Any:
    """Padding a spatial axis keeps the ids; padding a channel axis adds elements that cannot leave."""
    value, shape = walk.value(node, 0), _shape_of(node)
    amounts = [int(n) for n in node.args[1]]  # type: ignore[union-attr, arg-type]
    mode = str(_argument(node, 2, "mode", "constant")) if operator_name(node) == "pad" else "constant"
    planes = []
    for plane in value.planes:
        array = compact(plane)
        for i, d in enumerate(range(array.ndim - 1, array.ndim - 1 - len(amounts) // 2, -1)):
            before, after = amounts[2 * i], amounts[2 * i + 1]
            if d not in varying(plane) or (before, after) == (0, 0):
                continue
            if mode != "constant" or min(before, after) < 0:
                return walk.freeze(node, f"{mode} padding or cropping of channels")
            array = np.pad(array, [(before, after) if e == d else (0, 0) for e in range(array.ndim)])
        planes.append(torch.from_numpy(np.ascontiguousarray(array)).expand(shape))
    return value_of(shape, planes)


def _spatial(walk: Walk, node: Node) -> Any:
    """Pooling and resampling: positions mix, channels stay. The channel axis is the one before the spatial ones."""
    value, shape = walk.value(node, 0), _shape_of(node)
    rank = _spatial_rank(operator_name(node), value)
    axes = range(len(value.shape) - rank, len(value.shape))
    keep_whole(value, axes, walk.flow, place(node))
    result = without(value, axes, shape)
    return (result, *[Value(shape)] * (len(node.meta["val"]) - 1)) if isinstance(node.meta["val"], tuple | list) else result


def _spatial_rank(name: str, value: Value) -> int:
    digits = [int(c) for c in name if c in "123"]
    return digits[0] if digits else len(value.shape) - 2


def _reduce(walk: Walk, node: Node) -> Any:
    """mean, sum, amax ...: positions along the reduced axes mix; channels along them are fixed."""
    value, shape = walk.value(node, 0), _shape_of(node)
    axes = _argument(node, 1, "dim", None)
    axes = list(range(len(value.shape))) if axes is None or axes == [] else [axes] if isinstance(axes, int) else list(axes)
    axes = [a % len(value.shape) for a in axes] if value.shape else []
    keep_whole(value, axes, walk.flow, f"a sum over channels ({place(node)})")
    ones = tuple(1 if d in axes else n for d, n in enumerate(value.shape))
    result = without(value, axes, ones)
    planes = [p.reshape(shape) for p in result.planes]
    reduced = value_of(shape, planes)
    return tuple(reduced for _ in node.meta["val"]) if isinstance(node.meta["val"], tuple | list) else reduced


def _along_axis(walk: Walk, node: Node) -> Any:
    """softmax, cumsum, sort ...: the axis stays whole, ids pass."""
    value = walk.value(node, 0)
    keep_whole(value, [int(_argument(node, 1, "dim", -1))], walk.flow, f"normalized over channels ({place(node)})")
    return tuple(value for _ in node.meta["val"]) if isinstance(node.meta["val"], tuple | list) else value


def _constant(walk: Walk, node: Node) -> Any:
    return Value(_shape_of(node), (), True)


def _getitem(walk: Walk, node: Node) -> Any:
    whole = walk.env[node.args[0]]  # type: ignore[index]
    return whole[node.args[1]] if whole is not None else _unknown_shape(node)


def _convolution(walk: Walk, node: Node) -> Any:
    """conv{1,2,3}d, conv_transpose{1,2,3}d and convolution: input ids meet the weight's input axis; its output axis makes ids."""
    x, weight = walk.value(node, 0), walk.value(node, 1)
    geometry = _geometry(node)
    rank = len(weight.shape) - 2
    channel = len(x.shape) - rank - 1
    arriving = axis_ids(x, channel, walk.flow, place(node))
    make = _transposed_weight if geometry["transposed"] else _conv_weight
    use, out_ids = make(walk, node, weight, arriving, geometry["groups"])
    bias = walk.bind(node, 2, "bias", out_ids)
    shape = _shape_of(node)
    spatial = x.shape if geometry["transposed"] else shape
    positions = int(np.prod(spatial[channel + 1 :], dtype=np.int64))
    walk.flow.born.append(out_ids)
    kind = ("conv_transpose" if geometry["transposed"] else "conv") + f"{rank}d"
    walk.flow.calls.append(Call(node, kind, use, bias, out_ids, arriving, positions, weight.shape[2:], geometry["stride"]))
    return value_of(shape, [along(out_ids, channel, shape)])


def _geometry(node: Node) -> dict[str, Any]:
    name = operator_name(node)
    if name in ("convolution", "_convolution"):
        return {"transposed": bool(node.args[6]), "groups": int(node.args[8]), "stride": tuple(node.args[3])}  # type: ignore[arg-type]
    transposed = "transpose" in name
    stride = _argument(node, 3, "stride", (1,))
    groups = _argument(node, 6, "groups", 1)
    return {"transposed": transposed, "groups": int(groups), "stride": tuple(stride) if not isinstance(stride, int) else (stride,)}


def _conv_weight(walk: Walk, node: Node, weight: Value, arriving: np.ndarray, groups: int) -> tuple[Use, np.ndarray]:
    """weight_OI: columns are the channels of one block."""
    where = place(node)
    rows, columns = axis_ids(weight, 0, walk.flow, where), axis_ids(weight, 1, walk.flow, where)
    if groups == 1:
        walk.flow.tie(columns, arriving, where)
        return Use(rows, columns), rows
    if groups == len(arriving):  # depthwise: every channel keeps its own filters
        walk.flow.tie(rows, np.repeat(arriving, len(rows) // groups), where)
        return Use(rows, columns[:0]), rows
    _in_blocks(walk, arriving, groups, where)
    _in_blocks(walk, rows, groups, where)
    return Use(rows, columns, groups, arriving), rows


def _transposed_weight(walk: Walk, node: Node, weight: Value, arriving: np.ndarray, groups: int) -> tuple[Use, np.ndarray]:
    """weight_IO: rows are the input channels, columns the output channels of one block."""
    where = place(node)
    inputs, outputs = axis_ids(weight, 0, walk.flow, where), axis_ids(weight, 1, walk.flow, where)
    walk.flow.tie(inputs, arriving, where)
    if groups == 1:
        return Use(outputs, inputs), outputs
    if groups == len(arriving):
        return Use(inputs, inputs[:0]), np.repeat(arriving, len(outputs))
    made = walk.flow.fresh(groups * len(outputs))
    _in_blocks(walk, arriving, groups, where)
    _in_blocks(walk, made, groups, where)
    return Use(outputs, inputs, groups, made), made


def _in_blocks(walk: Walk, ids: np.ndarray, groups: int, where: str) -> None:
    walk.flow.split(ids, np.repeat(np.arange(groups), len(ids) // groups), where)


def _linear(walk: Walk, node: Node) -> Any:
    x, weight = walk.value(node, 0), walk.value(node, 1)
    where = place(node)
    arriving = axis_ids(x, -1, walk.flow, where)
    rows, columns = axis_ids(weight, 0, walk.flow, where), axis_ids(weight, 1, walk.flow, where)
    walk.flow.tie(columns, arriving, where)
    bias = walk.bind(node, 2, "bias", rows)
    return _product(walk, node, Use(rows, columns), bias, arriving, x)


def _product(walk: Walk, node: Node, use: Use, bias: str | None, arriving: np.ndarray, x: Value) -> Value:
    """What a linear layer makes: its own ids on the last axis, and whatever channels x carried on the others."""
    shape = _shape_of(node)
    positions = int(np.prod(x.shape[:-1], dtype=np.int64)) // max(1, _batch(x))
    walk.flow.born.append(use.rows)
    walk.flow.calls.append(Call(node, "linear", use, bias, use.rows, arriving, max(1, positions)))
    last = len(x.shape) - 1
    others = [p.narrow(last, 0, 1).expand(shape) for p in x.planes if varying(p) and last not in varying(p)]
    return value_of(shape, [along(use.rows, last, shape), *others])


def _batch(x: Value) -> int:
    return x.shape[0] if len(x.shape) > 1 else 1


def _matmul(walk: Walk, node: Node) -> Any:
    """mm, bmm, matmul, addmm: a parameter on the right is a linear layer; of two activations the summed axis stays whole."""
    shift = 1 if operator_name(node) in ("addmm", "baddbmm") else 0
    a, b = walk.value(node, shift), walk.value(node, shift + 1)
    where = place(node)
    if _is_weight(walk, node.args[shift + 1]) and len(b.shape) == 2:
        arriving, columns = axis_ids(a, -1, walk.flow, where), axis_ids(b, 0, walk.flow, where)
        walk.flow.tie(columns, arriving, where)
        use = Use(axis_ids(b, 1, walk.flow, where), columns)
        bias = walk.bind(node, 0, "input", use.rows) if shift else None
        return _product(walk, node, use, bias, arriving, a)
    keep_whole(a, [-1], walk.flow, f"summed over by a product of two activations ({where})")
    keep_whole(b, [-2 if len(b.shape) > 1 else -1], walk.flow, f"summed over by a product of two activations ({where})")
    return _batched_product(walk, node, a, b)


def _is_weight(walk: Walk, node: Any) -> bool:
    """Whether a value follows from parameters alone."""
    if not isinstance(node, Node) or node in walk.source:
        return isinstance(node, Node)
    inputs = node.all_input_nodes
    return bool(inputs) and all(_is_weight(walk, each) for each in inputs)


def _batched_product(walk: Walk, node: Node, a: Value, b: Value) -> Value:
    shape = _shape_of(node)
    planes: list[Tensor] = []
    for value, axis in ((a, -1), (b, -2)):
        if len(value.shape) < 2:
            continue
        for plane in value.planes:
            rest = plane.narrow(axis % len(value.shape), 0, 1)
            if (kept := tidy(rest)) is not None:
                _meet(walk, planes, kept.expand(shape), node)
    return value_of(shape, planes)


def _attention(walk: Walk, node: Node) -> Any:
    """scaled_dot_product_attention: heads are tied over query, key and value; a head stays whole."""
    query, key, value = (walk.value(node, i) for i in range(3))
    where = f"summed over by attention ({place(node)})"
    shape = _shape_of(node)
    keep_whole(query, [-1, -2], walk.flow, where)
    keep_whole(key, [-1, -2], walk.flow, where)
    keep_whole(value, [-2], walk.flow, where)
    planes: list[Tensor] = []
    for each in (without(query, [-1, -2], shape), without(key, [-1, -2], shape), without(value, [-2], shape)):
        for plane in each.planes:
            _meet(walk, planes, plane, node)
    result = value_of(shape, planes)
    return (result, *[None] * (len(node.meta["val"]) - 1)) if isinstance(node.meta["val"], tuple | list) else result


def _batch_norm(walk: Walk, node: Node) -> Any:
    """batch_norm and instance_norm: per-channel statistics, scale and shift bind to axis 1."""
    return _normalize(walk, node, "batch_norm" if "batch" in operator_name(node) else "instance_norm", 1, (1, 2, 3, 4))


def _normalize(walk: Walk, node: Node, kind: str, axis: int, parameters: tuple[int, ...]) -> Any:
    x = walk.value(node, 0)
    ids = axis_ids(x, axis, walk.flow, place(node))
    names = [walk.bind(node, i, "", ids) for i in parameters]
    weight = walk.value(node, parameters[0])
    rows = axis_ids(weight, 0, walk.flow, place(node)) if weight is not None and len(weight.shape) == 1 else ids[:0]
    walk.flow.calls.append(Call(node, kind, Use(rows, ids[:0]), names[1], ids, ids, 0))
    result = value_of(x.shape, [along(ids, axis % len(x.shape), x.shape)])
    return (result, *[None] * (len(node.meta["val"]) - 1)) if isinstance(node.meta["val"], tuple | list) else result


def _layer_norm(walk: Walk, node: Node) -> Any:
    """Statistics over channels: removing one would change the others, so they stay."""
    x = walk.value(node, 0)
    axes = range(len(x.shape) - len(node.args[1]), len(x.shape))  # type: ignore[arg-type]
    keep_whole(x, axes, walk.flow, f"layer norm takes its statistics over these channels ({place(node)})")
    return _normalize(walk, node, "layer_norm", len(x.shape) - 1, (2, 3))


def _group_norm(walk: Walk, node: Node) -> Any:
    """One channel per norm group is an instance norm; larger norm groups take statistics over channels, which then stay."""
    x = walk.value(node, 0)
    native = operator_name(node) == "native_group_norm"
    groups = int(node.args[6] if native else node.args[1])  # type: ignore[arg-type]
    if groups != x.shape[1]:
        keep_whole(x, [1], walk.flow, f"group norm takes its statistics over these channels ({place(node)})")
    return _normalize(walk, node, "group_norm", 1, (1, 2) if native else (2, 3))


def _prelu(walk: Walk, node: Node) -> Any:
    x = walk.value(node, 0)
    axis = 1 if len(x.shape) > 1 else 0
    walk.bind(node, 1, "weight", axis_ids(x, axis, walk.flow, place(node)))
    return x


def _glu(walk: Walk, node: Node) -> Any:
    """The two halves of an axis are tied, channel by channel."""
    x, axis = walk.value(node, 0), int(_argument(node, 1, "dim", -1))
    halves = [p.chunk(2, axis) for p in x.planes]
    for a, b in halves:
        walk.flow.tie(a.numpy(), b.numpy(), place(node))
    return value_of(_shape_of(node), [a for a, _ in halves])


def _embedding(walk: Walk, node: Node) -> Any:
    weight = walk.value(node, 0)
    ids = axis_ids(weight, 1, walk.flow, place(node))
    shape = _shape_of(node)
    walk.flow.born.append(ids)
    walk.flow.calls.append(Call(node, "embedding", Use(ids, ids[:0]), None, ids, ids[:0], 0))
    return value_of(shape, [along(ids, len(shape) - 1, shape)])


def _ignore(walk: Walk, node: Node) -> Any:
    return None


def _argument(node: Node, index: int, name: str, default: Any) -> Any:
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def _table() -> dict[str, Rule]:
    groups: dict[Rule, str] = {
        _movement: "permute transpose t numpy_T movedim swapaxes squeeze unsqueeze expand expand_as cat concat concatenate stack "
        "repeat tile roll flip pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle adjoint",
        _reshape: "view reshape _unsafe_view flatten unflatten view_as reshape_as",
        _cut: "chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split split_copy",
        _slice: "slice narrow",
        _select: "select unbind",
        _pad: "pad constant_pad_nd",
        _spatial: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d "
        "_adaptive_avg_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_linear1d upsample_trilinear3d upsample_bicubic2d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_nearest_exact2d _upsample_nearest_exact1d grid_sampler "
        "grid_sampler_2d reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d",
        _reduce: "mean sum amax amin max min prod var std var_mean logsumexp norm linalg_vector_norm any all nansum",
        _along_axis: "softmax _softmax log_softmax _log_softmax cumsum sort argsort topk",
        _constant: "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty scalar_tensor",
        _convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution",
        _linear: "linear",
        _matmul: "mm bmm matmul addmm baddbmm",
        _attention: "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu",
        _batch_norm: "batch_norm instance_norm _native_batch_norm_legit_no_training cudnn_batch_norm native_batch_norm",
        _layer_norm: "layer_norm native_layer_norm rms_norm",
        _group_norm: "group_norm native_group_norm",
        _prelu: "prelu _prelu_kernel",
        _glu: "glu",
        _embedding: "embedding",
        _getitem: "getitem",
        _ignore: "_assert_tensor_metadata _assert_scalar sym_constrain_range_for_size sym_size",
    }  # fmt: skip
    return {name: rule for rule, names in groups.items() for name in names.split()}


RULES: dict[str, Rule] = _table()
