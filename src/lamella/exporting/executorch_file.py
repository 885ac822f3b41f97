"""A model as an ExecuTorch program (.pte) for phones and boards, its layers handed to XNNPACK.

export_executorch(model, example_inputs, "model.pte")      # float32, one batch size: that of the example inputs
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import LamellaError, MissingExtra, TraceError, first_line
from ..runs import write_through
from ..timing import require
from ..timing.calls import silenced
from .capturing import capture, compare, lacking, quiet


def export_executorch(
    model: nn.Module, example_inputs: Tensor | Sequence[Any], path: str | Path, *, dynamic_batch: bool = False
) -> Path:
    """Write `model`, in evaluation mode, for the batch size of `example_inputs`; it appears once ExecuTorch has read it back and
    says the same.

    Raises `TraceError` for a model that cannot be exported (operator and layer), `LamellaError` naming the first output
    that differs or where a free batch is asked, `MissingExtra` without executorch.
    """
    if dynamic_batch:
        raise LamellaError("a .pte file has one batch size, that of the example inputs: leave dynamic_batch=False.")
    require("executorch", "exporting to ExecuTorch")
    path = Path(path)
    seen = capture(model, example_inputs, dynamic_batch=False)
    data = _lowered(seen.program)

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)
        compare(seen, temporary, str(path), "executorch")

    write_through(path, write)
    return path


def _lowered(program: Any) -> bytes:
    with quiet(), silenced():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        except ImportError as error:
            raise MissingExtra(error.name or "executorch", "executorch", "exporting to ExecuTorch") from None
        try:
            lowered = to_edge_transform_and_lower(copy.deepcopy(program), partitioner=[XnnpackPartitioner()])
            return bytes(lowered.to_executorch().buffer)
        except Exception as error:  # its passes raise of many kinds
            operator = re.search(r"torch\._ops\.([\w.]+)|[Oo]perator:? <?(?:EdgeOpOverload: )?([\w.:]+)", str(error))
            if operator:
                raise lacking(program, (operator[1] or operator[2]).rstrip(".:"), "ExecuTorch") from error
            raise TraceError(f"ExecuTorch cannot lower the model: {first_line(error)}.") from error
