"""An ONNX file in integers: 8-bit weights and activations that ONNX Runtime really computes with.

    quantize_onnx("dense.onnx", "dense.int8.onnx", calibration)     # calibration: batches of inputs
    layers_in_float("dense.int8.onnx")                              # what ONNX Runtime would still compute in float

The form is QDQ (QuantizeLinear and DequantizeLinear around each operator): U8 activations with a zero point, S8 weights
symmetric per output channel, ranges from the smallest and largest value seen in calibration.

**Pairs.** Without VNNI, an x86 CPU adds the U8 x S8 products of two neighbouring inputs in 16 bits: 255 (v + w)
overflows, silently, once v + w > 128. So a channel's scale is its largest sum of two neighbours of one sign / 127,
not its largest weight / 127: no overflow, the same sums on every CPU, and about 7.7 of the 8 bits (halving the range,
the usual remedy, leaves 7).

Legend: O output channels, K products summed into one output, in the order in which a runtime sums them.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError, LamellaError
from ..runs import write_through
from ..timing import Array, feeds_of, onnxruntime, open_session
from .compaction import compact, float_biases
from .onnx_file import onnx_library, read_onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
IN_INTEGERS = {"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}


def quantize_onnx(
    path_fp32: str | Path,
    path_int8: str | Path,
    calibration: Iterable[Tensor | Sequence[Tensor]],
    *,
    full_range: bool = False,
) -> Path:
    """Write `path_fp32` in integers to `path_int8`, with ranges from `calibration`. Returns `path_int8`.

    `calibration` gives batches of what the model takes: a tensor, or a tuple of tensors. `full_range` scales by the
    largest weight alone, whatever its neighbours: a little closer on CPUs with VNNI and on ARM, wrong sums on x86 CPUs
    without.

    Raises `DataError` for calibration data that are empty, of the wrong shape or not finite, `LamellaError` if no layer
    ends in integers, `RunError` where the file cannot be written, `MissingExtra` without onnx and onnxruntime.
    """
    onnx_library("quantizing")
    onnxruntime("quantizing")
    source, target = Path(path_fp32), Path(path_int8)
    reader = _Reader(open_session(source), calibration)
    with tempfile.TemporaryDirectory(prefix="lamella.") as scratch, _root_logger_kept():
        ready, proto = _quantized(source, Path(scratch), reader)

    arrays, floats = _arrays(proto.graph), _arrays(ready.graph)
    if not full_range:
        _respect_pairs(proto.graph, arrays, floats)
    float_biases(proto.graph, arrays, floats)
    compact(proto, arrays)

    def write(temporary: Path) -> None:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        _check_integers(temporary, str(target))

    write_through(target, write)
    return target


def _quantized(source: Path, scratch: Path, reader: "_Reader") -> tuple[Any, Any]:
    """The float model made ready (shapes known, constants folded) and its quantized form."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    ready, written = scratch / "ready.onnx", scratch / "written.onnx"
    quant_pre_process(str(source), str(ready))
    model = onnx.load(str(ready))
    reader.check_start()
    quantize_static(
        str(ready),
        str(written),
        reader,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    return model, onnx.load(str(written))


class _Reader:
    """Calibration batches one by one, each checked, in the form onnxruntime asks for."""

    def __init__(self, session: Any, batches: Iterable[Tensor | Sequence[Tensor]]) -> None:
        self.session, self.batches, self.read = session, iter(batches), 0
        self.first: dict[str, Array] | None = None

    def check_start(self) -> None:
        """Read the first batch, so that an empty iterable is noticed before the quantizer is."""
        self.first = self._next()
        if self.first is None:
            raise DataError(
                "the calibration data hold no batch; the ranges of the activations come from them, and at least one "
                "was expected. A generator can be walked only once: pass a list, or a fresh one."
            )

    def get_next(self) -> dict[str, Array] | None:
        batch, self.first = self.first, None
        return self._next() if batch is None else batch

    def _next(self) -> dict[str, Array] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        feeds = _checked(self.session, batch, f"calibration batch {self.read}")
        self.read += 1
        return feeds


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
def _root_logger_kept() -> Iterator[None]:
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


def _respect_pairs(graph: Any, arrays: dict[str, Array], floats: dict[str, Array]) -> None:
    """Scale every weight so that no sum of two neighbouring products overflows 16 bits."""
    readers = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        weight = floats.get(node.input[0].removesuffix("_quantized")) if node.op_type == "DequantizeLinear" else None
        if weight is None or arrays[node.input[0]].dtype != np.int8:
            continue
        written = arrays[node.input[1]]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if written.ndim:
            scale = _pair_scale(_summed(weight, axis, convolves=readers[node.output[0]].op_type == "Conv"))
        else:
            scale = np.abs(weight).max() / 64
        scale = np.maximum(scale, written)  # the quantizer widens a scale where an int32 bias would overflow
        along = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)]) if written.ndim else scale
        arrays[node.input[0]] = np.clip(np.rint(weight / along), -127, 127).astype(np.int8)
        arrays[node.input[1]] = np.asarray(scale, dtype=written.dtype)


def _summed(weight: Array, axis: int, convolves: bool) -> Array:
    """The weight as (O, K), K even: a convolution sums over its kernel's positions, at each over the input channels."""
    front = np.moveaxis(weight, axis, 0)
    if not convolves:
        return _even(front.reshape(len(front), -1))
    front = np.moveaxis(front, 1, -1)
    flat = _even(front.reshape(len(front), -1))
    if front.shape[-1] % 2 == 0:
        return flat
    # Runtimes differ in what an odd last channel is paired with: the next position's first, or nothing.
    alone = _even(front).reshape(len(front), -1)
    return np.concatenate([flat, alone], axis=1)


def _even(array: Array) -> Array:
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, array.shape[-1] % 2)])


def _pair_scale(weight_OK: Array) -> Array:
    """The scale, shape (O,), at which two neighbours of one sign come to at most 128 together after rounding."""
    pairs_OP2 = weight_OK.astype(np.float64).reshape(len(weight_OK), -1, 2)
    up = np.clip(pairs_OP2, 0, None).sum(axis=2).max(axis=1)
    down = np.clip(-pairs_OP2, 0, None).sum(axis=2).max(axis=1)
    scale: Array = np.maximum(up, down) / 127  # rounding two numbers adds at most 1 to their sum
    return scale


def _check_integers(path: Path, place: str) -> None:
    if not IN_INTEGERS & {node.op_type for node in _fused(path).node}:
        raise LamellaError(
            f"{place}: ONNX Runtime would compute no layer of it in integers, so nothing was written. Quantization needs "
            "convolutions or linear layers with constant weights, and onnxruntime 1.21 or later."
        )


def layers_in_float(path: str | Path) -> tuple[str, ...]:
    """The layers that ONNX Runtime here computes in float, by name, in order: of a well quantized file, none.

    LamellaError if the file cannot be loaded.
    """
    graph = _fused(Path(path))
    makers = {name: node for node in graph.node for name in node.output}
    kinds = {*WEIGHTED, *(f"Fused{kind}" for kind in WEIGHTED)}
    return tuple(_layer(_origin(node.input[1], makers)) for node in graph.node if node.op_type in kinds)


def _origin(name: str, makers: dict[str, Any]) -> str:
    while name in makers and makers[name].input:
        name = makers[name].input[0]
    return name


def _layer(weight: str) -> str:
    return weight.removesuffix(".weight")


def _fused(path: Path) -> Any:
    """The graph as onnxruntime runs it, before it chooses memory layouts (which rename the weights)."""
    open_session(path)  # for its errors
    ort = onnxruntime("looking into an ONNX file")
    with tempfile.TemporaryDirectory(prefix="lamella.") as scratch:
        fused = Path(scratch) / "fused.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(fused)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return read_onnx(fused).graph
