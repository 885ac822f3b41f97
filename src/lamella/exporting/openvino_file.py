"""An ONNX file, float or in integers, as OpenVINO's own pair of files (.xml and .bin).

    convert_to_openvino("model.int8.onnx", "model.int8.xml", example_inputs)      # compared with ONNX Runtime before it appears
    export_openvino(model, example_inputs, "model.xml")                           # the same by way of an ONNX file

OpenVINO also reads the ONNX file itself, which is smaller: the pair is for runtimes that are built without that reader.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import LamellaError
from ..making import folder
from ..runs import told_as
from ..timing import Array, prepared, require
from ..timing.calls import openvino, openvino_refusal
from .capturing import as_tuple, check_outputs, error_share
from .onnx_file import export_onnx
from .together import write_together

# Root mean square, of that of the outputs. OpenVINO rewrites quantize/dequantize pairs and so rounds elsewhere: up to 1.3 % on a ResNet-14
# (docs/deploying.md), up to 1.1 % on eight small networks of 8 and 4 bits; a file that is read wrongly gives 100 %.
INTEGER_TOLERANCE = 0.1


def export_openvino(
    model: nn.Module, example_inputs: Tensor | Sequence[Any], path: str | Path, *, dynamic_batch: bool = True
) -> Path:
    """Write `model`, in evaluation mode, as `path` (.xml) with its weights beside it (.bin).

    Raises what `export_onnx` raises, `LamellaError` for operators that OpenVINO lacks, `MissingExtra` without openvino.
    """
    require("openvino", "exporting to OpenVINO")
    with folder() as scratch, told_as(scratch / "model.onnx", path):
        source = export_onnx(model, example_inputs, scratch / "model.onnx", dynamic_batch=dynamic_batch)
        return convert_to_openvino(source, path, example_inputs)


def convert_to_openvino(source: str | Path, path: str | Path, example_inputs: Tensor | Sequence[Any]) -> Path:
    """Write an ONNX file as `path` (.xml) with its weights beside it (.bin). It appears once OpenVINO has read it back and says what
    ONNX Runtime says of the same file: to `capturing.TOLERANCE` of the largest output; a file in integers to `INTEGER_TOLERANCE`.

    Raises `LamellaError` for what OpenVINO lacks (operators by name; INT2 weights) or computes otherwise, `MissingExtra`
    without openvino or onnxruntime.
    """
    ov = require("openvino", "exporting to OpenVINO")
    source, path = Path(source), Path(path)
    inputs = [leaf.detach().cpu() for leaf in tree_leaves(as_tuple(example_inputs)) if isinstance(leaf, Tensor)]
    expected = prepared(source, inputs)()

    def write(written: Path) -> None:
        try:
            model = _read(source)
            _count_anew(model)
            ov.save_model(model, str(written), compress_to_fp16=False)
            written.write_text(re.sub(r">\s+<", "><", written.read_text()))  # half of it is indentation
        except Exception as error:
            raise openvino_refusal(source, error) from error
        integers = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        seen = prepared(written, inputs)()
        if integers:
            _check_integers(seen, expected, str(path))
        else:
            check_outputs(seen, [torch.from_numpy(array) for array in expected], str(path))

    write_together(path, write)
    return path


def _read(source: Path) -> Any:
    """The model, simplified as OpenVINO's own converter does it (that one would also report its use): a third of the text."""
    from openvino._offline_transformations import apply_moc_transformations

    model = openvino("exporting to OpenVINO").Core().read_model(str(source))
    apply_moc_transformations(model, cf=True)
    return model


def _count_anew(model: Any) -> None:
    """OpenVINO names what it adds by a count that runs on through the process, and orders layers by name; here it starts with the file."""
    added = (op for op in model.get_ordered_ops() if re.fullmatch(r"[A-Z][A-Za-z]+_\d+", op.get_friendly_name()))
    for number, op in enumerate(list(added)):
        op.set_friendly_name(f"{op.get_type_name()}_{number}")


def _check_integers(seen: Sequence[Array], expected: Sequence[Array], place: str) -> None:
    for index, (array, wanted) in enumerate(zip(seen, expected, strict=True)):
        apart = error_share(array, wanted)
        if not apart <= INTEGER_TOLERANCE:
            raise LamellaError(
                f"{place}: output {index} in OpenVINO is {100 * apart:.0f} % (root mean square) from what ONNX Runtime gives of the "
                f"same file; at most {100 * INTEGER_TOLERANCE:.0f} % was expected. Nothing was written: deploy the float file there, "
                "or the integers in ONNX Runtime."
            )
