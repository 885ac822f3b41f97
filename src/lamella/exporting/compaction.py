"""The same quantized network in fewer bytes.

    compact(proto, arrays)     # arrays: the network's constants by name

onnxruntime's quantizer writes long names and a zero per channel, and unless told otherwise three arrays and a node for every bias:
5 kB per convolution of a ResNet-20. Here zeros are shared or implied, and only weights keep their names (and biases were left in
float: onnxruntime 1.21 and later derives the integers at load): 0.7 kB. A weight that several calls of a layer read, and that came in a
copy per call because a batch norm was folded into each, is one weight again. The graph that onnxruntime fuses from it, and its
outputs, stay the same. Figures: docs/decisions/0003.
"""

from itertools import count
from typing import Any

from ..timing import Array
from ..version import __version__
from .packing import layer_of


def compact(proto: Any, arrays: dict[str, Array]) -> None:
    """Rewrite the quantized model in place, its constants being `arrays`."""
    from onnx import numpy_helper

    graph = proto.graph
    _imply_zeros(graph, arrays)
    _share_weights(graph, arrays)
    names = _short_names(graph, arrays)
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, "") for name in field]
        for field_name in ("name", "doc_string", "metadata_props"):
            node.ClearField(field_name)

    used = {name for node in graph.node for name in node.input}
    tensors = {names[name]: array for name, array in arrays.items() if names.get(name) in used}
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    _strip(proto)


def _strip(proto: Any) -> None:
    domains = {node.domain for node in proto.graph.node}
    opsets = [entry for entry in proto.opset_import if entry.domain in domains]
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    proto.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    proto.graph.name = "lamella"
    proto.producer_name, proto.producer_version = "lamella", __version__


def _imply_zeros(graph: Any, arrays: dict[str, Array]) -> None:
    """Leave out the zero points of convolution weights, which are all zero; a Gemm is fused only with them."""
    readers = {name: node.op_type for node in graph.node for name in node.input}
    for node in graph.node:
        constant = node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[0] in arrays
        if constant and readers.get(node.output[0]) == "Conv" and not arrays[node.input[2]].any():
            del node.input[2]


def _share_weights(graph: Any, arrays: dict[str, Array]) -> None:
    """Have all that reads a copy of a layer's weight, on the same grid, read one of them."""
    alike: dict[tuple[Any, ...], list[Any]] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            held = [(arrays[name].dtype, arrays[name].shape, arrays[name].tobytes()) for name in node.input]
            along = tuple(attribute.SerializeToString() for attribute in node.attribute)
            alike.setdefault((layer_of(_plain(node.input[0])), *held, *along), []).append(node)
    instead: dict[str, str] = {}
    for first, *copies in alike.values():
        first.input[0] = min((node.input[0] for node in (first, *copies)), key=len)  # copies have longer names
        instead |= {node.output[0]: first.output[0] for node in copies}
    kept = [node for node in graph.node if node.output[0] not in instead]
    del graph.node[:]
    graph.node.extend(kept)
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]


def _short_names(graph: Any, arrays: dict[str, Array]) -> dict[str, str]:
    """A short name for each tensor but inputs, outputs and weights, which keep theirs. Equal arrays share one."""
    weights = {n.input[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in arrays}
    weights |= {name for name in arrays if name.endswith(".weight")}
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    names |= {weight: _plain(weight) for weight in weights}
    taken = set(names.values())
    fresh = (name for name in map(_base36, count(10)) if name not in taken)
    same: dict[tuple[Any, ...], str] = {}
    for name in (name for node in graph.node for name in (*node.input, *node.output)):
        if name and name not in names:
            array = arrays.get(name)
            key = (name,) if array is None else (array.dtype, array.shape, array.tobytes())
            names[name] = same[key] if key in same else same.setdefault(key, next(fresh))
    return names


def _plain(weight: str) -> str:
    return weight.removesuffix("_quantized")


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return (_base36(number // 36) if number >= 36 else "") + digits[number % 36]
