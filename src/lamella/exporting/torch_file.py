"""A model as a torch.export archive (.pt2): for torch itself, AOTInductor, and whatever else reads ExportedPrograms.

export_torch(model, example_inputs, "model.pt2")
torch.export.load("model.pt2").module()(images)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runs import write_through
from .capturing import capture, compare, quiet


def export_torch(
    model: nn.Module, example_inputs: Tensor | Sequence[Any], path: str | Path, *, dynamic_batch: bool = True
) -> Path:
    """Write `model`, in evaluation mode, as a pt2 archive; it appears once torch has read it back and it says the same.

    Raises `TraceError` for a model that cannot be exported, `LamellaError` naming the first output that differs,
    `RunError` where the file cannot be written.
    """
    path = Path(path)
    seen = capture(model, example_inputs, dynamic_batch=dynamic_batch)
    for node in seen.program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine it was made on

    def write(temporary: Path) -> None:
        with quiet(), temporary.open("wb") as file:
            torch.export.save(seen.program, file)
        compare(seen, temporary, str(path), "torch")

    write_through(path, write)
    return path
