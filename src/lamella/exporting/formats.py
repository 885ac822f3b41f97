"""export(): a model as a file of any format, by the suffix of its name.

    export(model, example_inputs, "model.onnx")     # ONNX Runtime, and OpenVINO as it is
    export(model, example_inputs, "model.xml")      # OpenVINO's own pair of files
    export(model, example_inputs, "model.pt2")      # torch.export
    export(model, example_inputs, "model.pte")      # ExecuTorch

A row of `FORMATS` says what a format's files end in, who writes them, and whether an ONNX file in integers can become one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import LamellaError, unknown_name
from .executorch_file import export_executorch
from .onnx_file import export_onnx, onnx_bytes
from .openvino_file import convert_to_openvino, export_openvino
from .torch_file import export_torch

Convert = Callable[[str | Path, str | Path, Tensor | Sequence[Any]], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a format is written. `convert`: an ONNX file, float or in integers, into this format; None where there is no way.

    `dynamic_batch`: files take any batch size, and not that of the example inputs alone.
    """

    suffix: str
    write: Callable[..., Path]
    convert: Convert | None = None
    dynamic_batch: bool = True

    @property
    def from_onnx(self) -> bool:
        """Whether its files are ONNX files, or become it from them."""
        return self.suffix == ".onnx" or self.convert is not None


FORMATS: dict[str, Format] = {
    "onnx": Format(suffix=".onnx", write=export_onnx),
    "openvino": Format(suffix=".xml", write=export_openvino, convert=convert_to_openvino),
    "pt2": Format(suffix=".pt2", write=export_torch),
    "executorch": Format(suffix=".pte", write=export_executorch, dynamic_batch=False),
}


def export(
    model: nn.Module, example_inputs: Tensor | Sequence[Any], path: str | Path, *, dynamic_batch: bool | None = None
) -> Path:
    """Write `model`, in evaluation mode, in the format that the suffix of `path` names; the model is left as it was.

    The file appears only after its runtime has given the model's outputs on the example inputs. The first axis of every input
    that has the first input's batch size is free in the file, unless `dynamic_batch=False`; never in a .pte file.

    Raises `TraceError` for a model that cannot be exported (operator and layer), `LamellaError` naming the first output that
    differs, `RunError` where the file cannot be written, `MissingExtra` where the runtime is not installed.
    """
    made = format_of(path)
    free = made.dynamic_batch if dynamic_batch is None else dynamic_batch
    return made.write(model, example_inputs, path, dynamic_batch=free)


def format_of(path: str | Path) -> Format:
    """The format of a file by its suffix."""
    for made in FORMATS.values():
        if Path(path).suffix == made.suffix:
            return made
    known = ", ".join(f"{made.suffix} ({name})" for name, made in FORMATS.items())
    raise LamellaError(f"{path}: the suffix names the format, and {Path(path).suffix!r} names none. Known: {known}.")


def format_named(name: str) -> Format:
    """A format by its name. LamellaError with the nearest names."""
    if name not in FORMATS:
        raise LamellaError(unknown_name("format", name, FORMATS))
    return FORMATS[name]


def file_bytes(path: str | Path) -> int:
    """Bytes on disk of an exported file with the side files that hold its weights."""
    path = Path(path)
    if path.suffix == ".onnx":
        return onnx_bytes(path)
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    return sum(each.stat().st_size for each in (path, *beside))
