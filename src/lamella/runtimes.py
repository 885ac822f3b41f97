"""ONNX Runtime sessions on the CPU: opened quietly, with so many threads. No torch here."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import LamellaError, first_line, needing

REMEDY = "If the file is damaged, export it again."


def open_session(path: str | Path, *, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, quiet, with `threads` threads. LamellaError if it cannot load."""
    ort = onnxruntime("running an ONNX file")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # What is fatal: its errors are raised as well, its warnings speak of its own rewriting.
    options.log_severity_level = 4
    if not Path(path).is_file():
        raise LamellaError(f"{path}: no such file. It is made by `lamella export`.")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        problem = first_line(error)
        lacking = re.search(r"Fatal error: ([\w.:]+)\(|Could not find an implementation for (\w+)", problem)
        if lacking:
            raise lacks(path, f"ONNX Runtime {ort.__version__}", (lacking[1] or lacking[2],)) from error
        raise LamellaError(f"{path}: ONNX Runtime {ort.__version__} cannot load it ({problem}). {REMEDY}") from error


def onnxruntime(purpose: str) -> Any:
    """The module `onnxruntime`. MissingExtra("onnxruntime", "onnx", purpose) where it is not installed."""
    with needing("onnxruntime", "onnx", purpose):
        import onnxruntime as ort
    return ort


def lacks(path: str | Path, runtime: str, operators: Sequence[str]) -> LamellaError:
    """The paragraph for operators that a runtime does not have, with the nodes that ask for them."""
    places = [f"{kind} ({', '.join(nodes[:3]) or 'unnamed'})" for kind, nodes in _nodes(path, operators).items()]
    return LamellaError(
        f"{path}: {runtime} lacks {', '.join(places)}. Replace that layer by one it has, run the file in another runtime, or "
        "use another version of this one."
    )


def _nodes(path: str | Path, operators: Sequence[str]) -> dict[str, list[str]]:
    """The names of the nodes that use these operators, where the file is ONNX and can be read."""
    found: dict[str, list[str]] = {kind: [] for kind in operators}
    try:
        import onnx

        nodes = onnx.load(str(path), load_external_data=False).graph.node
    except Exception:  # what cannot be read names no layer
        return found
    for kind in operators:
        last = re.split(r"[.:]", kind)[-1]
        found[kind] = [repr(node.name) for node in nodes if node.op_type == last and node.name]
    return found
