"""What integer kernels are slow at or lack, written as convolutions, which they are good at.

    as_convolutions(proto)     # in place, of a float model whose shapes are known; each gives the same numbers

ONNX Runtime computes integer convolutions channels last. What it has for other operators reads channels first, or floats: every one of
them costs two transpositions or two changes of type, and stands in the way of those around it. Here a batch norm that could not be
folded becomes a convolution of one pixel per channel, a mean over windows one of equal weights, and channels of zeros around others (a
shortcut of option A) one that picks channels, with the stride of the pixels that are left. Figures: docs/decisions/0021.

Legend: C channels, O output channels, H and W height and width of a kernel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..timing import Array
from .nodes import attributes_of, forget_unread

ENDINGS = ("_as_convolution", "_as_convolution_bias")  # of constants; `.weight` might be a layer's own
WIDEST_PICK = 128  # channels: picking among more takes longer than moving them does


def as_convolutions(proto: Any) -> None:
    """Rewrite the model in place, its branches aside; nodes that nothing reads any longer are left out."""
    seen = _Seen(proto.graph)
    for index, node in enumerate(proto.graph.node):
        convolution = WAYS[node.op_type](node, seen) if node.op_type in WAYS else None
        if convolution is not None:
            source, weight, attributes = convolution
            proto.graph.node[index].CopyFrom(seen.convolution(node, source, weight, attributes))
    forget_unread(proto.graph)


class _Seen:
    """A graph's constants, shapes and makers; new constants are added to it."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.arrays: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.dims = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input, *graph.output)
        }

    def channels(self, tensor: str, axes: tuple[int, ...] = (4,)) -> int:
        """Of pictures, or of tensors of so many axes; 0 where that is not known or the tensor is no such one."""
        dims = self.dims.get(tensor, [])
        return dims[1] if len(dims) in axes else 0

    def zero(self, tensor: str) -> bool:
        """Whether it holds zeros alone, whatever is fed."""
        if tensor in self.arrays:
            return not self.arrays[tensor].any()
        maker = self.makers.get(tensor)
        if maker is None or maker.op_type not in ("Expand", "Identity", "ConstantOfShape"):
            return False
        if maker.op_type != "ConstantOfShape":
            return self.zero(maker.input[0])
        from onnx import numpy_helper

        return all(not numpy_helper.to_array(a.t).any() for a in maker.attribute if a.name == "value")

    def convolution(self, node: Any, source: str, weights: tuple[Array, ...], attributes: Mapping[str, Any]) -> Any:
        """A node that makes what `node` makes."""
        from onnx import helper, numpy_helper

        names = [f"{node.output[0]}{ending}" for ending in ENDINGS[: len(weights)]]
        pairs = zip(weights, names, strict=True)
        self.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), name) for w, name in pairs)
        shape = list(weights[0].shape[2:])
        return helper.make_node("Conv", [source, *names], [node.output[0]], node.name, kernel_shape=shape, **attributes)


_Convolution = tuple[str, tuple[Array, ...], dict[str, Any]]  # what it reads, its weight and bias, its attributes


def _of_norm(node: Any, seen: _Seen) -> _Convolution | None:
    """A batch norm of pictures: one product per channel."""
    numbers = [seen.arrays.get(name) for name in node.input[1:5]]
    channels = seen.channels(node.input[0])
    if not channels or any(number is None for number in numbers):
        return None
    scale_C, bias_C, mean_C, var_C = (number.astype(np.float64) for number in numbers if number is not None)
    factor_C = scale_C / np.sqrt(var_C + attributes_of(node).get("epsilon", 1e-5))
    return node.input[0], (factor_C.reshape(-1, 1, 1, 1), bias_C - mean_C * factor_C), {"group": channels}


def _of_mean(node: Any, seen: _Seen) -> _Convolution | None:
    """A mean over windows in which every pixel weighs the same, those of a border included."""
    how, channels = attributes_of(node), seen.channels(node.input[0], (3, 4))
    pads = how.get("pads", [0] * 2 * len(how["kernel_shape"]))
    by_hand = how.get("auto_pad", b"NOTSET") == b"NOTSET" and not how.get("ceil_mode")
    if not channels or not by_hand or (any(pads) and not how.get("count_include_pad")):
        return None
    kernel = how["kernel_shape"]
    kept: dict[str, Any] = {name: how[name] for name in ("strides", "dilations") if name in how}
    weight = np.full((channels, 1, *kernel), 1 / np.prod(kernel))
    return node.input[0], (weight,), {"group": channels, "pads": pads, **kept}


def _of_joined(node: Any, seen: _Seen) -> _Convolution | None:
    """Channels beside channels of zeros."""
    filled = [place for place, name in enumerate(node.input) if not seen.zero(name)]
    widths = [seen.channels(name) for name in node.input]
    if attributes_of(node)["axis"] not in (1, -3) or len(filled) != 1 or not all(widths) or len(widths) == 1:
        return None
    return _picked(node.input[filled[0]], sum(widths[: filled[0]]), sum(widths[filled[0] + 1 :]), seen)


def _of_padded(node: Any, seen: _Seen) -> _Convolution | None:
    """Channels that are padded by zeros."""
    how, pads = attributes_of(node), seen.arrays.get(node.input[1]) if len(node.input) > 1 else None
    if pads is None or pads.shape != (8,) or how.get("mode", b"constant") != b"constant" or len(node.input) > 3:
        return None
    value = seen.arrays.get(node.input[2], np.ones(1)) if len(node.input) == 3 and node.input[2] else np.zeros(1)
    before, after = (int(number) for number in pads[[1, 5]])
    if value.any() or np.delete(pads, [1, 5]).any() or min(before, after) < 0:
        return None
    return _picked(node.input[0], before, after, seen)


def _picked(tensor: str, before: int, after: int, seen: _Seen) -> _Convolution | None:
    """The tensor's channels between channels of zeros; where it is every n-th pixel of another, it is taken from that."""
    strides = [1, 1]
    while (step := _step(tensor, seen)) is not None:
        tensor, along = step
        strides = [one * other for one, other in zip(strides, along, strict=True)]
    channels = seen.channels(tensor)
    if not 0 < channels <= WIDEST_PICK:
        return None
    weight_OC = np.zeros((before + channels + after, channels))
    weight_OC[before : before + channels] = np.eye(channels)
    return tensor, (weight_OC[:, :, None, None],), {"strides": strides}


def _step(tensor: str, seen: _Seen) -> tuple[str, list[int]] | None:
    """What every n-th pixel is taken of, from the first one, and the n of height and width; None of any other tensor."""
    maker = seen.makers.get(tensor)
    if maker is None or maker.op_type != "Slice" or not seen.channels(maker.input[0]):
        return None
    parts = [seen.arrays.get(name) for name in maker.input[1:]]
    if len(parts) < 4 or any(part is None for part in parts):
        return None
    dims, strides = seen.dims[maker.input[0]], [1, 1]
    for start, end, axis, step in zip(*(part.tolist() for part in parts if part is not None), strict=True):
        whole = start == 0 and step > 0 and (end >= dims[axis] > 0)
        if not whole or axis % 4 not in (2, 3):
            return None
        strides[axis % 4 - 2] = step
    return maker.input[0], strides


WAYS = {"BatchNormalization": _of_norm, "AveragePool": _of_mean, "Concat": _of_joined, "Pad": _of_padded}
