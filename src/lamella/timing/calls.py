"""Exported files opened in the runtime they are for, as calls that are ready to be made.

    call = prepared("model.onnx", inputs)                      # ONNX Runtime
    call()                                                     # the outputs, as arrays
    prepared("model.onnx", inputs, runtime="openvino")         # the same file, elsewhere
    prepared("model.pt2", inputs), prepared("model.pte", inputs), prepared("model.xml", inputs)

One thread computes unless told otherwise, and it is the caller's: its CPU time is the call's. OpenVINO computes in float32 (its
default is bfloat16 where the CPU has it). A row of `RUNTIMES` is a function `(path, inputs, threads) -> call`.
"""

import io
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import LamellaError, first_line, needing, unknown_name
from ..runtimes import REMEDY, lacks, onnxruntime, open_session

Array = NDArray[Any]
Run = Callable[[], list[Array]]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}


def prepared(
    path: str | Path, inputs: Tensor | Sequence[Tensor], *, runtime: str | None = None, threads: int = 1
) -> Run:
    """The file loaded, and one batch ready to run. `runtime` defaults to the one the file's suffix names.

    LamellaError for a file that is absent, damaged or not the runtime's, for operators it lacks, and for inputs the file does
    not take; MissingExtra where the runtime is not installed.
    """
    path = Path(path)
    if runtime is None:
        if path.suffix not in RUNTIME_OF:
            raise LamellaError(f"{path}: no runtime is known for such a file; {', '.join(RUNTIME_OF)} were expected.")
        runtime = RUNTIME_OF[path.suffix]
    if runtime not in RUNTIMES:
        raise LamellaError(unknown_name("runtime", runtime, RUNTIMES))
    if not path.is_file():
        raise LamellaError(f"{path}: no such file. It is made by `lamella export`.")
    return RUNTIMES[runtime](path, [inputs] if isinstance(inputs, Tensor) else list(inputs), threads)


def require(runtime: str, purpose: str) -> Any:
    """The runtime's module. MissingExtra, naming the extra, where it is not installed."""
    return _IMPORTS[runtime](purpose)


# ---- ONNX Runtime


def feeds_of(session: Any, inputs: Tensor | Sequence[Tensor]) -> dict[str, Array]:
    """The session's inputs by name, as arrays of the types it takes. LamellaError where number or shape differ, and for fractions
    where it takes whole numbers."""
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    wanted = session.get_inputs()
    _check_count(len(given), [w.name for w in wanted])
    feeds = {}
    for w, tensor in zip(wanted, given, strict=True):
        _check_shape(w.name, tensor, w.shape)
        array = as_array(tensor)
        feeds[w.name] = _of_kind(w.name, array, np.dtype(_DTYPES.get(w.type, array.dtype)))
    return feeds


def _of_kind(name: str, array: Array, kind: Any) -> Array:
    """The array in rows, of the type that this input takes."""
    if kind.kind in "iu" and array.dtype.kind == "f":
        raise LamellaError(f"input {name!r} holds {array.dtype} numbers; the file takes {kind}.")
    return np.asarray(array, dtype=kind, order="C")


def as_array(tensor: Tensor) -> Array:
    """The tensor's numbers on the CPU; float32 for those of bfloat16."""
    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy knows no bfloat16
    return array


def _check_count(given: int, names: Sequence[str]) -> None:
    if given != len(names):
        listed = ", ".join(map(repr, names))
        raise LamellaError(f"{given} inputs were given; the file takes {len(names)} ({listed}).")


def _check_shape(name: str, tensor: Tensor, expected: Sequence[Any]) -> None:
    """`expected`: a number per axis, or a name where any extent will do."""
    seen = tuple(tensor.shape)
    fits = len(seen) == len(expected) and all(s == e for s, e in zip(seen, expected, strict=True) if isinstance(e, int))
    if not fits:
        shape = ", ".join(str(e) for e in expected)
        raise LamellaError(f"input {name!r} has shape {seen}; the file takes ({shape}).")


def _onnxruntime_call(path: Path, inputs: Sequence[Tensor], threads: int) -> Run:
    session = open_session(path, threads=threads)
    feeds, names = feeds_of(session, inputs), [o.name for o in session.get_outputs()]
    return lambda: session.run(names, feeds)


# ---- OpenVINO


def openvino(purpose: str) -> Any:
    """The module `openvino`. MissingExtra where it is not installed."""
    with needing("openvino", "openvino", purpose):
        import openvino as ov
    return ov


def compiled(path: Path, threads: int = 1) -> Any:
    """The file (.onnx or .xml) as an OpenVINO CompiledModel on the CPU."""
    ov = openvino("running a file in OpenVINO")
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    try:
        return ov.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:
        raise openvino_refusal(path, error) from error


def openvino_refusal(path: Path, error: Exception) -> LamellaError:
    """What OpenVINO's report of many lines comes to."""
    text = str(error)
    name = f"OpenVINO {openvino('running a file in OpenVINO').__version__.split('-')[0]}"
    lacking = re.search(r"No conversion rule found for operations: (.+)", text)
    if lacking:
        return lacks(path, name, [re.sub(r"-\d+$", "", each.strip()) for each in lacking[1].split(",")])
    if "Unsupported type" in text:
        return LamellaError(
            f"{path}: {name} cannot hold one of its number types. INT4 weights it takes, INT2 it does not: give those layers "
            "4 bits, or run the file in ONNX Runtime."
        )
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Exception from")]
    return LamellaError(
        f"{path}: {name} cannot load it ({lines[-1][:200] if lines else type(error).__name__}). {REMEDY}"
    )


def openvino_feeds(model: Any, inputs: Sequence[Tensor]) -> list[Array]:
    """The compiled model's inputs in order, as arrays of the types it takes. LamellaError where number or shape differ."""
    names = [port.any_name for port in model.inputs]
    _check_count(len(inputs), names)
    feeds = []
    for name, port, tensor in zip(names, model.inputs, inputs, strict=True):
        extents = [d.get_length() if d.is_static else "any" for d in port.get_partial_shape()]
        _check_shape(name, tensor, extents)
        feeds.append(_of_kind(name, as_array(tensor), np.dtype(port.get_element_type().to_dtype())))
    return feeds


def _openvino_call(path: Path, inputs: Sequence[Tensor], threads: int) -> Run:
    model = compiled(path, threads)
    request = InputsOnce(model, openvino_feeds(model, inputs))
    _tried(request, path, inputs)
    return request


class InputsOnce:
    """A call of OpenVINO whose inputs were set once, as by a program that is short of time: arrays that are handed over with each call
    cost 0.12 ms of it in Python. The request does not keep them alive: `held` does.
    """

    def __init__(self, model: Any, feeds: Sequence[Array]) -> None:
        ov = openvino("running a file in OpenVINO")
        self.request, self.count = model.create_infer_request(), len(model.outputs)
        self.held = [ov.Tensor(array, shared_memory=True) for array in feeds]
        for index, tensor in enumerate(self.held):
            self.request.set_input_tensor(index, tensor)

    def __call__(self) -> list[Array]:
        self.request.infer()
        return [np.array(self.request.get_output_tensor(index).data) for index in range(self.count)]


# ---- torch.export


def _torch_call(path: Path, inputs: Sequence[Tensor], threads: int) -> Run:
    from torch.utils._pytree import tree_leaves

    if not zipfile.is_zipfile(path):  # torch would log a page before it says so
        raise LamellaError(f"{path}: torch {torch.__version__} cannot load it (not a pt2 archive). {REMEDY}")
    try:
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()
    except Exception as error:
        problem = first_line(error)
        raise LamellaError(f"{path}: torch {torch.__version__} cannot load it ({problem}). {REMEDY}") from error

    def run() -> list[Array]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                return [as_array(leaf) for leaf in tree_leaves(module(*inputs)) if isinstance(leaf, Tensor)]
        finally:
            torch.set_num_threads(before)

    _tried(run, path, inputs)
    return run


def _tried(run: Run, path: Path, inputs: Sequence[Tensor]) -> None:
    """Runtimes that check shapes only when they run are run once."""
    try:
        run()
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
        raise LamellaError(f"{path}: does not take inputs of shapes {shapes} ({first_line(error)}).") from error


# ---- ExecuTorch


def executorch(purpose: str) -> Any:
    """ExecuTorch's runtime module. MissingExtra where it is not installed."""
    with needing("executorch", "executorch", purpose), silenced():
        import executorch.runtime as runtime
        from executorch.extension.pybindings import portable_lib  # noqa: F401 - imported here for what it says
    return runtime


@contextmanager
def silenced() -> Iterator[None]:
    """Without what ExecuTorch's imports and passes log and warn of their own libraries."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _executorch_call(path: Path, inputs: Sequence[Tensor], threads: int) -> Run:
    runtime = executorch("running a .pte file")
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)  # unsafe while a call runs; none does
    try:
        # From bytes it keeps no hold of them: the process would crash.
        program = runtime.Runtime.get().load_program(path)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise LamellaError(f"{path}: ExecuTorch cannot load it ({error}). {REMEDY}") from error
    given = [t.detach().contiguous() for t in inputs]
    metas = [method.metadata.input_tensor_meta(i) for i in range(method.metadata.num_inputs())]
    _check_count(len(given), [f"input {i}" for i in range(len(metas))])
    for index, (tensor, meta) in enumerate(zip(given, metas, strict=True)):
        _check_shape(f"input {index}", tensor, list(meta.sizes()))

    def run() -> list[Array]:
        assert program is not None  # a method does not keep its program alive
        return [as_array(t).copy() for t in method.execute(given) if isinstance(t, Tensor)]

    return run


RUNTIMES: dict[str, Callable[[Path, Sequence[Tensor], int], Run]] = {
    "onnxruntime": _onnxruntime_call,
    "openvino": _openvino_call,
    "torch": _torch_call,
    "executorch": _executorch_call,
}
RUNTIME_OF = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch", ".pte": "executorch"}
# As people write them.
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "torch", "executorch": "ExecuTorch"}
_IMPORTS: dict[str, Callable[[str], Any]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": lambda purpose: torch,
    "executorch": executorch,
}
