"""Linear layers alone in few bits, convolutions left in float: schemes that need no calibration.

    quantize_linear("model.onnx", "model.fc8.onnx", images, scheme="dynamic-fc")     # int8 weights, activations ranged at every call
    quantize_linear("model.onnx", "model.fc4.onnx", images, scheme="nbits-fc")       # 4-bit weights in blocks (`blocks`)

`dynamic-fc` is the recipe published with the AlexNet and VGG-16 schedules (`published`), with weights on the pair-safe grid: the
quantizer's own grid gives wrong sums on x86 CPUs without VNNI. Static integers for all layers, the default, are `integers`, which
can hold linear layers in blocks too.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import LamellaError, unknown_name
from ..grids import grid_scale, levels
from ..making import folder
from ..runs import write_through
from ..timing import Array, onnxruntime, prepared
from .blocks import LINEAR, hold_in_blocks, linear_nodes, linear_weights
from .capturing import error_share
from .integers import root_logger_kept
from .nodes import own_constants
from .onnx_file import check_float32, onnx_library

TOLERANCES = {"dynamic-fc": 0.1, "nbits-fc": 0.5}  # root mean square, of that of the outputs, on the inputs given


def quantize_linear(
    source: str | Path, target: str | Path, inputs: Tensor | Sequence[Tensor], *, scheme: str = "dynamic-fc"
) -> Path:
    """Write the float file `source` with its linear layers in few bits to `target`; returns it. The file appears once it has
    given the float file's outputs on `inputs`, a real batch, to within the scheme's tolerance.

    Raises `LamellaError` for an unknown scheme, a file without linear layers, and outputs too far off; `MissingExtra` without
    onnx and onnxruntime.
    """
    if scheme not in REWRITES:
        raise LamellaError(unknown_name("scheme", scheme, REWRITES))
    onnx = onnx_library("quantizing")
    onnxruntime("quantizing")
    source, target = Path(source), Path(target)
    expected = prepared(source, inputs)()
    check_float32(source)
    proto = onnx.load(str(source))
    if not linear_nodes(proto.graph):
        raise LamellaError(f"{source}: has no linear layer, and {scheme} rounds nothing else. Use the static scheme.")
    made = REWRITES[scheme](proto)

    def write(temporary: Path) -> None:
        temporary.write_bytes(made.SerializeToString(deterministic=True))
        seen = prepared(temporary, inputs, runtime="onnxruntime")()
        for index, (array, wanted) in enumerate(zip(seen, expected, strict=True)):
            apart = error_share(array, wanted)
            if not apart <= TOLERANCES[scheme]:
                raise LamellaError(
                    f"{target}: output {index} is {100 * apart:.0f} % (root mean square) from the float file's; at most "
                    f"{100 * TOLERANCES[scheme]:.0f} % was expected. Nothing was written: give the linear layers more bits."
                )

    write_through(target, write)
    return target


def _dynamic(proto: Any) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    own_constants(proto.graph, LINEAR)  # the quantizer takes the weight away from an embedding that is tied to it
    weights = linear_weights(proto.graph)
    with folder() as scratch, root_logger_kept():
        path = scratch / "dynamic.onnx"
        kinds: dict[str, Any] = {"op_types_to_quantize": ["Gemm", "MatMul"], "weight_type": QuantType.QInt8}
        quantize_dynamic(proto, str(path), per_channel=True, **kinds)
        made = onnx.load(str(path))
    _make_pair_safe(made.graph, weights)
    return made


def _make_pair_safe(graph: Any, weights: Mapping[str, Array]) -> None:
    """Put every weight and its scales on the grid whose sums no CPU overflows."""
    from onnx import numpy_helper

    constants = {i.name: i for i in graph.initializer}
    for name, weight in weights.items():
        weight_OK = torch.from_numpy(weight.copy())
        scale_O1 = grid_scale(weight_OK, 8)
        whole_KO = (weight_OK.double() / scale_O1).round().clamp(-levels(8), levels(8)).T.contiguous()
        for held, values in ((f"{name}_quantized", whole_KO.char()), (f"{name}_scale", scale_O1.flatten().float())):
            constants[held].CopyFrom(numpy_helper.from_array(values.numpy(), held))


def _nbits(proto: Any) -> Any:
    hold_in_blocks(proto)
    return proto


REWRITES: dict[str, Callable[[Any], Any]] = {"dynamic-fc": _dynamic, "nbits-fc": _nbits}
