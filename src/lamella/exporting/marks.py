"""Tensors of a quantized ONNX graph that stay in float: those that take marks, such as the infinite ones of a mask before softmax.

    marked = marked_constants(graph)                # of the float model, by name
    hide(model, marked)                             # the model whose marked constants are zeros, which the quantizer can round
    take_out(quantized.graph, marked, ranges)       # in place: what has no range is neither quantized nor dequantized

`coarsening` leaves the same places out.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..ranges import is_marked
from ..timing import Array
from .nodes import forget_unread

QUANTIZED = "_quantized"  # ends the name of a constant that the quantizer has rounded
CLIPPING = ("Relu", "Clip")  # the quantizer leaves them to the grid of what they make


def hide(model: Any, marked: Mapping[str, Array]) -> Any:
    """The model with zeros for its marked constants: a copy, where it has some."""
    import onnx
    from onnx import numpy_helper

    if not marked:
        return model
    hidden = onnx.ModelProto()
    hidden.CopyFrom(model)
    for constant in hidden.graph.initializer:
        if constant.name in marked:
            zeros = np.zeros_like(marked[constant.name])
            constant.CopyFrom(numpy_helper.from_array(zeros, constant.name))
    return hidden


def marked_constants(graph: Any) -> dict[str, Array]:
    """The constants that hold marks, by name."""
    from onnx import TensorProto, numpy_helper

    floats = (i for i in graph.initializer if i.data_type == TensorProto.FLOAT)
    arrays = {i.name: numpy_helper.to_array(i) for i in floats}
    return {name: array for name, array in arrays.items() if array.size and is_marked(array.min(), array.max())}


def clipped_marks(graph: Any, ranges: Collection[str]) -> list[Any]:
    """The nodes that clip to a tensor without a range, and have no grid to be left to."""
    return [node for node in graph.node if node.op_type in CLIPPING and node.output[0] not in ranges]


def take_out(graph: Any, marked: Mapping[str, Array], ranges: Collection[str]) -> None:
    """Let whoever reads a tensor that has no range, or a marked constant, read it in float, as in the float model."""
    from onnx import numpy_helper

    instead = _float_names(graph, marked, ranges)
    if not (instead or marked):
        return
    kept_nodes = [node for node in graph.node if not _leaves(node, instead)]
    del graph.node[:]
    graph.node.extend(kept_nodes)
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
        node.output[:] = [instead.get(name, name) for name in node.output]
    kept = [i for i in graph.initializer if i.name not in marked]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *(numpy_helper.from_array(array, name) for name, array in marked.items())])
    forget_unread(graph)


def _leaves(node: Any, instead: Mapping[str, str]) -> bool:
    """Whether the node gives a tensor in integers that is not to be read so."""
    return node.op_type == "DequantizeLinear" and bool({node.output[0]} & {*instead, *instead.values()})


def _float_names(graph: Any, marked: Collection[str], ranges: Collection[str]) -> dict[str, str]:
    """What to read instead of what was quantized and dequantized."""
    outputs = {value.name for value in graph.output}
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    constants = {f"{name}{QUANTIZED}": name for name in marked}
    instead = {}
    for node in (node for node in graph.node if node.op_type == "DequantizeLinear"):
        whole, made = node.input[0], node.output[0]
        if whole in constants:
            instead[made] = constants[whole]
        elif whole in rounded and made in outputs and made not in ranges:
            instead[rounded[whole]] = made
        elif whole in rounded and made not in outputs and rounded[whole] not in ranges:
            instead[made] = rounded[whole]
    return instead
