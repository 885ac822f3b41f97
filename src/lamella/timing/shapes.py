"""One layer alone as an ONNX file: what a latency table measures.

    shape = layer_shape(graph, graph.layer_of["conv1"], 3, 16, "int8")
    shape.key                              # "conv 3>16 k3x3 s1x1 g1 32x32 int8"
    write_layer(shape, "layer.onnx")       # int8: quantized as a whole file is, with uint8 in and out

The picture is taken to be square, padded so that stride 1 keeps its size: a Layer records how many positions there are, not how
they lie.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import needing
from ..records import check
from ..schema import Graph, Layer

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """All that decides how long a layer takes alone: `sides` is the extent of its output, () for a linear layer."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()
    blocks: int = 1
    rows: int = 1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check(min(self.inputs, self.outputs, self.blocks, self.rows) >= 1, "inputs", "channels are counted from 1")

    @property
    def key(self) -> str:
        """A name that is stable over runs."""
        if not self.kernel:
            return f"linear {self.inputs}>{self.outputs} r{self.rows} {self.precision}"
        parts = ("x".join(map(str, each)) for each in (self.kernel, self.stride, self.sides))
        k, s, sides = parts
        return f"conv {self.inputs}>{self.outputs} k{k} s{s} g{self.blocks} {sides} {self.precision}"


def layer_shape(graph: Graph, layer: Layer, inputs: int, outputs: int, precision: Precision) -> LayerShape:
    """The shape of one call of this layer when `inputs` and `outputs` channels are left; a depthwise one's outputs follow its inputs."""
    positions = max(1, layer.positions // max(1, layer.calls))
    if not layer.kernel:
        return LayerShape(inputs=inputs, outputs=outputs, rows=positions, precision=precision)
    blocks = max(axis.blocks for axis in graph.parameter_of[layer.weight or ""].axes)
    if is_depthwise(graph, layer):
        outputs = inputs * layer.outputs.at(graph.widths) // layer.inputs.at(graph.widths)
        blocks = inputs
    return LayerShape(
        inputs=inputs,
        outputs=outputs,
        kernel=layer.kernel,
        stride=_strides(layer),
        sides=_sides(positions, len(layer.kernel)),
        blocks=blocks,
        precision=precision,
    )


def is_depthwise(graph: Graph, layer: Layer) -> bool:
    """Whether every input channel has filters of its own. The columns of the weight then hold one input channel, or in a transposed
    convolution the outputs of one; in all other weights those of a whole block."""
    axes = graph.parameter_of[layer.weight or ""].axes if layer.kernel else ()
    if len(axes) != len(layer.kernel) + 2 or axes[1].role != "fixed":  # a weight may be a view of a parameter
        return False
    inputs, outputs = layer.inputs.at(graph.widths), layer.outputs.at(graph.widths)
    return inputs > 1 and axes[1].size.fixed * inputs == (outputs if "transpose" in layer.kind else inputs)


def _strides(layer: Layer) -> tuple[int, ...]:
    """One for each axis of the kernel. A Layer may hold one for all: torch.export leaves out what is 1."""
    strides = layer.stride or (1,)
    return strides * len(layer.kernel) if len(strides) == 1 else strides


def _sides(positions: int, axes: int) -> tuple[int, ...]:
    """As near to a square (or cube) as whole numbers come."""
    if axes == 1:
        return (positions,)
    side = round(positions ** (1 / axes))
    side = next(s for s in range(side, 0, -1) if positions % s == 0)
    return (side, *_sides(positions // side, axes - 1))


def write_layer(shape: LayerShape, path: str | Path) -> None:
    """The layer with constant weights, as one file. MissingExtra without onnx."""
    with needing("onnx", "onnx", "a latency table"):
        import onnx
        from onnx import TensorProto, helper
    number = TensorProto.UINT8 if shape.precision == "int8" else TensorProto.FLOAT
    nodes, constants = _in_integers(shape) if shape.precision == "int8" else _in_float(shape)
    ends = [
        helper.make_tensor_value_info(name, number, sizes)
        for name, sizes in (("x", input_sizes(shape)), ("y", _output_sizes(shape)))
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


def input_sizes(shape: LayerShape) -> list[int]:
    """The extent of the input, batch first."""
    if not shape.kernel:
        return [shape.rows, shape.inputs]
    return [1, shape.inputs, *(n * s for n, s in zip(shape.sides, shape.stride, strict=True))]


def _output_sizes(shape: LayerShape) -> list[int]:
    return [1, shape.outputs, *shape.sides] if shape.kernel else [shape.rows, shape.outputs]


def _in_float(shape: LayerShape) -> tuple[list[Any], dict[str, Any]]:
    from onnx import helper

    constants = {"w": _weight(shape), "b": np.zeros(shape.outputs, np.float32)}
    return [
        helper.make_node("Conv" if shape.kernel else "Gemm", ["x", *constants], ["y"], **_attributes(shape))
    ], constants


def _in_integers(shape: LayerShape) -> tuple[list[Any], dict[str, Any]]:
    """Between a DequantizeLinear and a QuantizeLinear: what ONNX Runtime makes a QLinearConv or QLinearMatMul of and OpenVINO a
    convolution or product of its own in integers.
    """
    from onnx import helper

    weight, scales = _weight(shape), np.full(shape.outputs, 0.01, np.float32)
    constants: dict[str, Any] = {"s": np.array(0.02, np.float32), "z": np.array(128, np.uint8), "ws": scales}
    constants["w"] = np.clip(np.rint(weight / np.abs(weight).max() * 60), -60, 60).astype(np.int8)
    read = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wf"], axis=0 if shape.kernel else 1),
    ]
    if shape.kernel:
        constants |= {"b": np.zeros(shape.outputs, np.int32), "bs": scales * constants["s"]}
        read.append(helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0))
    given = ["xf", "wf", "bf"] if shape.kernel else ["xf", "wf"]
    made = helper.make_node("Conv" if shape.kernel else "MatMul", given, ["yf"], **_attributes(shape))
    return [*read, made, helper.make_node("QuantizeLinear", ["yf", "s", "z"], ["y"])], constants


def _weight(shape: LayerShape) -> Any:
    sizes = (
        (shape.outputs, shape.inputs // shape.blocks, *shape.kernel) if shape.kernel else (shape.inputs, shape.outputs)
    )
    return np.random.default_rng(0).standard_normal(sizes).astype(np.float32) / math.sqrt(np.prod(sizes))


def _attributes(shape: LayerShape) -> dict[str, Any]:
    """A convolution's attributes."""
    if not shape.kernel:
        return {}
    padding = [k // 2 for k in shape.kernel]
    # an even input and stride 2 need one row less at the end
    after = [k - p - s for k, p, s in zip(shape.kernel, padding, shape.stride, strict=True)]
    pads = [*padding, *(max(0, a) for a in after)]
    return {"kernel_shape": shape.kernel, "strides": shape.stride, "group": shape.blocks, "pads": pads}
