"""ONNX Runtime sessions on the CPU: opened quietly, with so many threads. No torch here."""

from pathlib import Path
from typing import Any

from .errors import LamellaError, MissingExtra


def open_session(path: str | Path, *, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, quiet, with `threads` threads. LamellaError if it cannot load."""
    ort = onnxruntime("running an ONNX file")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors; its warnings speak of its own rewriting
    if not Path(path).is_file():
        raise LamellaError(f"{path}: no such file. It is made by `lamella export`.")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        first = str(error).strip().splitlines()[0]
        raise LamellaError(
            f"{path}: ONNX Runtime {ort.__version__} cannot load it ({first}). If the file is damaged, export it again."
        ) from error


def onnxruntime(purpose: str) -> Any:
    """The module `onnxruntime`. MissingExtra("onnxruntime", "onnx", purpose) where it is not installed."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingExtra("onnxruntime", "onnx", purpose) from None
    return ort
