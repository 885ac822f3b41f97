"""An ONNX file in integers: few-bit weights and 8-bit activations that ONNX Runtime really computes with.

    quantize_onnx("dense.onnx", "dense.int8.onnx", calibration)     # calibration: batches of inputs
    quantize_onnx("dense.onnx", "mixed.onnx", calibration, bits={"layer3.0.conv1": 4, "linear": 2})
    layers_in_float("dense.int8.onnx")                              # what ONNX Runtime would still compute in float

The form is QDQ (QuantizeLinear and DequantizeLinear around each operator): U8 activations with a zero point, weights
symmetric per output channel on the grids of `grids`, ranges those that leave the least error on calibration data (`ranges`).
Below 8 bits weights are stored packed and computed as S8 (`packing`).

Legend: O output channels, K products summed into one output, in the order in which a runtime sums them.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, LamellaError
from ..grids import levels, summed, weight_scale
from ..making import folder
from ..runs import write_through
from ..timing import Array, feeds_of, onnxruntime, open_session
from .blocks import bias_nodes, hold_in_blocks, linear_nodes
from .compaction import compact
from .convolving import as_convolutions
from .denominators import kept_from_zero
from .marks import clipped_marks, hide, marked_constants, take_out
from .nodes import own_constants
from .onnx_file import check_float32, onnx_library, read_onnx
from .packing import layer_of, pack
from .pooling import hanging_means, leave_padding_out
from .ranging import activation_ranges
from .repeating import hold_in_rows

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
IN_INTEGERS = {
    "MatMulNBits",
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
}


def quantize_onnx(
    path_fp32: str | Path,
    path_int8: str | Path,
    calibration: Iterable[Tensor | Sequence[Tensor]],
    *,
    bits: Mapping[str, int] | None = None,
    full_range: bool = False,
    linear_in_blocks: bool = False,
) -> Path:
    """Write `path_fp32` in integers to `path_int8`, with ranges from `calibration`. Returns `path_int8`.

    `calibration` gives batches of what the model takes: a tensor, or a tuple of tensors. `bits` of each layer's weights by
    the layer's name: 2 to 8, and 8 where it is silent. (No layer can stay in float: ONNX Runtime rounds a float layer between
    integer ones by itself, with one scale for all its channels.) `full_range` scales 8-bit weights by the
    largest alone, whatever its neighbours: a little closer on CPUs with VNNI and on ARM, wrong sums on x86 CPUs without.
    `linear_in_blocks` holds linear layers in 4-bit blocks (`blocks`), whatever `bits` says of them.

    Raises `DataError` for calibration data that are empty, of the wrong shape or not finite, `LamellaError` if no layer
    ends in integers or `bits` names what is no layer with a weight here, `RunError` where the file cannot be written,
    `MissingExtra` without onnx and onnxruntime.
    """
    onnx_library("quantizing")
    onnxruntime("quantizing")
    source, target, bits = Path(path_fp32), Path(path_int8), dict(bits or {})
    check_float32(source)
    feeds = _feeds(open_session(source), calibration)
    with folder() as scratch, root_logger_kept():
        ready, proto = _quantized(source, scratch, feeds, linear_in_blocks)

    arrays, floats = _arrays(proto.graph), _arrays(ready.graph)
    _check_bits(bits, ready.graph)
    _regrid(proto.graph, arrays, floats, bits, full_range)
    compact(proto, arrays)
    pack(proto, bits)
    if linear_in_blocks:
        hold_in_blocks(proto)

    def write(temporary: Path) -> None:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        _check_integers(temporary, str(target))

    write_through(target, write)
    return target


def _quantized(
    source: Path, scratch: Path, feeds: Iterator[dict[str, Array]], linear_in_float: bool
) -> tuple[Any, Any]:
    """The float model made ready (shapes known, constants folded, more of it convolutions) and its quantized form."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    ready, written = scratch / "ready.onnx", scratch / "written.onnx"
    model = _made_ready(source, scratch)
    as_convolutions(model)
    leave_padding_out(model.graph)
    hold_in_rows(model.graph)
    own_constants(model.graph, WEIGHTED)  # a weight has a scale per channel, and what a Gather takes of it one for all
    marked = marked_constants(model.graph)
    onnx.save(hide(model, marked), str(ready))
    first = next(feeds)
    ranges = activation_ranges(model, chain([first], feeds))
    denominators = kept_from_zero(model.graph)
    ranges = {name: ends for name, ends in ranges.items() if name not in denominators}
    in_float = [*_norms_of_several_axes(model.graph), *hanging_means(model.graph), *clipped_marks(model.graph, ranges)]
    if linear_in_float:
        in_float += [*linear_nodes(model.graph), *bias_nodes(model.graph)]
    quantize_static(
        str(ready),
        str(written),
        _Once(first),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=[node.name for node in in_float],
        extra_options={
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            "QuantizeBias": False,
            "TensorQuantOverrides": {name: [_override(*ends)] for name, ends in ranges.items()},
        },
    )
    quantized = onnx.load(str(written))
    take_out(quantized.graph, marked, ranges)
    return model, quantized


def _norms_of_several_axes(graph: Any) -> list[Any]:
    """Layer norms over more axes than one: onnxruntime's quantizer fails on these (1.31)."""
    several = {i.name for i in graph.initializer if len(i.dims) > 1}
    return [node for node in graph.node if node.op_type == "LayerNormalization" and node.input[1] in several]


def _made_ready(source: Path, scratch: Path) -> Any:
    """The float model with constants folded and shapes known, as far as onnxruntime finds them out."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    ready = scratch / "ready.onnx"
    try:
        quant_pre_process(str(source), str(ready), auto_merge=True)  # a free batch has another name after a Resize
    except Exception:  # it has no rule for some operators, such as a maximum over channels
        quant_pre_process(str(source), str(ready), auto_merge=True, skip_symbolic_shape=True)
    return onnx.load(str(ready))


def _override(low: float, high: float) -> dict[str, Any]:
    """A range as onnxruntime's quantizer is told it, zero included."""
    return {"rmin": np.float32(min(low, 0.0)), "rmax": np.float32(max(high, 0.0))}


class _Once:
    """One batch for onnxruntime's own calibration, whose ranges are overridden."""

    def __init__(self, feeds: dict[str, Array]) -> None:
        self.feeds: dict[str, Array] | None = feeds

    def get_next(self) -> dict[str, Array] | None:
        feeds, self.feeds = self.feeds, None
        return feeds


def _feeds(session: Any, batches: Iterable[Tensor | Sequence[Tensor]]) -> Iterator[dict[str, Array]]:
    """Calibration batches one by one, each checked, by the names of the inputs. DataError where there is none."""
    count = 0
    for count, batch in enumerate(batches, 1):
        yield _checked(session, batch, f"calibration batch {count - 1}")
    if not count:
        raise DataError(
            "the calibration data hold no batch; the ranges of the activations come from them, and at least one "
            "was expected. A generator can be walked only once: pass a list, or a fresh one."
        )


def _checked(session: Any, batch: Tensor | Sequence[Tensor], place: str) -> dict[str, Array]:
    try:
        feeds: dict[str, Array] = feeds_of(session, batch)
    except LamellaError as error:
        raise DataError(f"{place}: {error} Pass batches of inputs alone, shaped as at the export.") from None
    for name, array in feeds.items():
        if array.size == 0:
            raise DataError(f"{place}: input {name!r} has shape {array.shape}, no values. Leave out empty batches.")
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise DataError(
                f"{place}: {bad} of the {array.size} values of input {name!r} are not finite, and ranges would be "
                "lost. Clean the data."
            )
    return feeds


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """onnxruntime's quantizer speaks through the root logger, and thereby would set it up for the whole program."""
    root = logging.getLogger()
    silent = logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)


def _arrays(graph: Any) -> dict[str, Array]:
    from onnx import numpy_helper

    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def _check_bits(bits: Mapping[str, int], graph: Any) -> None:
    known = {layer_of(node.input[1]) for node in graph.node if node.op_type in WEIGHTED}
    unknown = sorted(set(bits) - known)
    if unknown:
        raise LamellaError(
            f"bits were given to {', '.join(map(repr, unknown[:3]))}, and the file has no convolution or linear layer of that "
            f"name; it has {', '.join(map(repr, sorted(known)[:5]))}{' ...' if len(known) > 5 else ''}."
        )
    for name, width in bits.items():
        if width not in range(2, 9):
            raise LamellaError(
                f"bits[{name!r}]: {width} bits were asked; a whole number from 2 to 8 was expected in a file of integers."
            )


def _regrid(
    graph: Any, arrays: dict[str, Array], floats: dict[str, Array], bits: Mapping[str, int], full: bool
) -> None:
    """Put every weight on the grid of its layer's bits; the quantizer knows one grid only."""
    readers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        weight = floats.get(_plain(node.input[0])) if node.op_type == "DequantizeLinear" else None
        if weight is None or arrays[node.input[0]].dtype != np.int8:
            continue
        width = bits.get(layer_of(_plain(node.input[0])), 8)
        written = arrays[node.input[1]]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        convolves = readers[node.output[0]].op_type == "Conv"
        weight_OK = summed(torch.from_numpy(weight.copy()), axis, convolves=convolves)
        if not written.ndim:  # one scale for all outputs: the runtime's choice for some operators
            weight_OK = weight_OK.reshape(1, -1)
        scale_O = weight_scale(weight_OK, width, full_range=full).numpy()
        scale_O = np.maximum(scale_O, written)  # the quantizer widens a scale where an int32 bias would overflow
        along = scale_O.reshape([-1 if written.ndim and i == axis else 1 for i in range(weight.ndim)])
        top = levels(width)
        arrays[node.input[0]] = np.clip(np.rint(weight / along), -top, top).astype(np.int8)
        arrays[node.input[1]] = np.asarray(scale_O.reshape(written.shape), dtype=written.dtype)


def _plain(name: str) -> str:
    return name.removesuffix("_quantized")


def _check_integers(path: Path, place: str) -> None:
    if not IN_INTEGERS & {node.op_type for node in _fused(path).node}:
        raise LamellaError(
            f"{place}: ONNX Runtime would compute no layer of it in integers, so nothing was written. Quantization needs "
            "convolutions or linear layers with constant weights, and onnxruntime 1.21 or later."
        )


def layers_of(path: str | Path) -> frozenset[str]:
    """The layers whose weights a float file holds, by name. RecordError for a file that cannot be read."""
    return frozenset(layer_of(constant.name) for constant in read_onnx(Path(path)).graph.initializer)


def layers_in_float(path: str | Path) -> tuple[str, ...]:
    """The layers that ONNX Runtime here computes in float, by name, in order: of a well quantized file, none.

    LamellaError if the file cannot be loaded.
    """
    graph = _fused(Path(path))
    makers = {name: node for node in graph.node for name in node.output}
    kinds = {*WEIGHTED, *(f"Fused{kind}" for kind in WEIGHTED)}
    return tuple(layer_of(_origin(node.input[1], makers)) for node in graph.node if node.op_type in kinds)


def _origin(name: str, makers: dict[str, Any]) -> str:
    while name in makers and makers[name].input:
        name = makers[name].input[0]
    return name


def _fused(path: Path) -> Any:
    """The graph as onnxruntime runs it, before it chooses memory layouts (which rename the weights)."""
    open_session(path)  # for its errors
    ort = onnxruntime("looking into an ONNX file")
    with folder() as scratch:
        fused = scratch / "fused.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(fused)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return read_onnx(fused).graph
