"""Where a run comes from: command, machine and versions, as `run.json` tells them."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ..processors import processor
from ..schema import RunInfo
from ..version import __version__
from .references import located


def describe(**named: Any) -> RunInfo:
    """A RunInfo with the provenance of this process filled in, and with names and paths that hold from any directory."""
    named |= {what: located(named[what]) for what in ("model", "task")}
    named |= {what: str(Path(named[what]).absolute()) for what in ("data", "weights") if named.get(what) is not None}
    return RunInfo(
        versions=versions(), machine=machine(), command=" ".join(["lamella", *sys.argv[1:]]), started=_now(), **named
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """The versions that a figure depends on."""
    found = {"lamella": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "onnx", "onnxruntime", "openvino", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The processor, and the number of its cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores, {platform.system()}"
