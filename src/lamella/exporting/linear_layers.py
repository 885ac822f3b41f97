"""Linear layers alone in few bits, convolutions left in float: schemes that need no calibration.

    quantize_linear("model.onnx", "model.fc8.onnx", images, scheme="dynamic-fc")     # int8 weights, activations ranged at every call
    quantize_linear("model.onnx", "model.fc4.onnx", images, scheme="nbits-fc")       # 4-bit weights in blocks of 32 (MatMulNBits)

`dynamic-fc` is the recipe published with the AlexNet and VGG-16 schedules (`published`). `nbits-fc` multiplies in int8
(accuracy level 4). Both are ONNX Runtime's own operators. Static integers for all layers, the default, are `integers`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import LamellaError, unknown_name
from ..runs import write_through
from ..timing import onnxruntime, prepared
from .integers import root_logger_kept
from .onnx_file import onnx_library

BLOCK = 32  # weights that share a scale
TOLERANCES = {"dynamic-fc": 0.1, "nbits-fc": 0.5}  # root mean square, of that of the outputs, on the inputs given


def quantize_linear(
    source: str | Path, target: str | Path, inputs: Tensor | Sequence[Tensor], *, scheme: str = "dynamic-fc"
) -> Path:
    """Write the float file `source` with its linear layers in few bits to `target`; returns it. The file appears once it has
    given the float file's outputs on `inputs`, a real batch, to within the scheme's tolerance.

    Raises `LamellaError` for an unknown scheme, a file without linear layers, and outputs too far off; `MissingExtra` without
    onnx and onnxruntime.
    """
    if scheme not in SCHEMES:
        raise LamellaError(unknown_name("scheme", scheme, SCHEMES))
    onnx = onnx_library("quantizing")
    onnxruntime("quantizing")
    source, target = Path(source), Path(target)
    expected = prepared(source, inputs)()
    proto = onnx.load(str(source))
    if not any(node.op_type in ("Gemm", "MatMul") for node in proto.graph.node):
        raise LamellaError(f"{source}: has no linear layer, and {scheme} rounds nothing else. Use the static scheme.")

    def write(temporary: Path) -> None:
        with root_logger_kept():
            SCHEMES[scheme](proto, temporary)
        seen = prepared(temporary, inputs, runtime="onnxruntime")()
        for index, (array, wanted) in enumerate(zip(seen, expected, strict=True)):
            apart = float(np.sqrt(np.mean((array - wanted) ** 2) / max(float(np.mean(wanted**2)), 1e-30)))
            if not apart <= TOLERANCES[scheme]:
                raise LamellaError(
                    f"{target}: output {index} is {100 * apart:.0f} % (root mean square) from the float file's; at most "
                    f"{100 * TOLERANCES[scheme]:.0f} % was expected. Nothing was written: give the linear layers more bits."
                )

    write_through(target, write)
    return target


def _dynamic(proto: Any, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        proto, str(path), op_types_to_quantize=["Gemm", "MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )


def _nbits(proto: Any, path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    _as_products(proto.graph)
    quantizer = MatMulNBitsQuantizer(proto, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    path.write_bytes(quantizer.model.model.SerializeToString(deterministic=True))


def _as_products(graph: Any) -> None:
    """Every Gemm of a layer as MatMul and Add, which is all that the 4-bit operator replaces."""
    from onnx import helper, numpy_helper

    constants = {i.name: i for i in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        how = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = how.get("alpha", 1.0) == how.get("beta", 1.0) == 1.0 and not how.get("transA")
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
            graph.node.append(node)
            continue
        weight = constants[node.input[1]]
        if how.get("transB"):
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
        biased = len(node.input) > 2
        product = f"{node.output[0]}_product" if biased else node.output[0]
        graph.node.append(helper.make_node("MatMul", list(node.input[:2]), [product], name=node.name))
        if biased:
            graph.node.append(helper.make_node("Add", [product, node.input[2]], node.output, name=f"{node.name}_bias"))


SCHEMES: dict[str, Callable[[Any, Path], None]] = {"dynamic-fc": _dynamic, "nbits-fc": _nbits}
