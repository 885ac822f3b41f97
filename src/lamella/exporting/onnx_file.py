"""A model as one ONNX file that says what torch says, or no file at all.

    export_onnx(model, example_inputs, "dense.onnx")     # batch norm folded, any batch size, checked against the model
    onnx_bytes("dense.onnx")                             # the file with its side files

Weights keep their parameters' names (`layer1.0.conv1.weight`) and their nodes the layers' names. The same model gives
the same bytes: what the exporter adds of its own (source lines, paths, counters) is left out. Why this exporter:
docs/decisions/0003.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LamellaError, MissingExtra, RecordError, TraceError, first_line
from ..lineage import weights_beside
from ..timing import onnxruntime
from ..version import __version__
from .capturing import capture, compare, lacking, quiet
from .nodes import forget_unread
from .operators import built_once
from .repeating import hold_once
from .together import write_together

OPSET = 20
INLINE_LIMIT = 2_000_000_000  # bytes of weights; a protobuf file ends at 2 GiB

# Operators of files in integers.
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits"}
BATCH = "batch"  # the name of the free dimension in the file


def export_onnx(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
) -> Path:
    """Write `model`, in evaluation mode, as one ONNX file; the model is left as it was. Returns the path.

    The first axis of every input that has the first input's batch size is free in the file, unless
    `dynamic_batch=False`. Weights lie in the file; above 2 GB in `<path>.data` beside it. The file appears only after
    ONNX Runtime has given the model's outputs on the example inputs (and on one sample of them, where the batch is
    free) to within `TOLERANCE` of each output's largest value.

    Raises `TraceError` for a model that cannot be exported, `LamellaError` naming the first output that differs,
    `RunError` where the file cannot be written, `MissingExtra` without onnx, onnxscript and onnxruntime.
    """
    path = Path(path)
    onnx_library("exporting to ONNX")
    onnxruntime("exporting to ONNX")
    seen = capture(model, example_inputs, dynamic_batch=dynamic_batch)
    proto = _converted(seen.program, len(seen.expected[0]))
    _name_shared(proto.graph, model)
    _name_transposed(proto.graph, model)
    _clean(proto)

    def write(temporary: Path) -> None:
        save_onnx(proto, temporary)
        with _numbers_told(model, temporary):
            compare(seen, temporary, str(path), "onnxruntime")

    write_together(path, write)
    return path


@contextmanager
def _numbers_told(model: nn.Module, path: Path) -> Iterator[None]:
    """What ONNX Runtime says of a network that does not compute in float32, and what to do instead of what it advises."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    try:
        yield
    except LamellaError as error:
        if kinds:
            told = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
            fact = str(error).rpartition(f"{path.name}: ")[2].partition(". ")[0]
            raise LamellaError(
                f"{path}: the network holds {told} numbers, with which ONNX Runtime, where files are checked, fails ({fact}). "
                "Export a float32 copy: copy.deepcopy(model).float()."
            ) from error
        raise


def _converted(program: torch.export.ExportedProgram, outputs: int) -> Any:
    names = ["output"] if outputs == 1 else [f"output_{i}" for i in range(outputs)]
    try:
        with quiet(), built_once():
            made = torch.onnx.export(
                program, (), None, dynamo=True, opset_version=OPSET, output_names=names, verbose=False, optimize=True
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error
        while cause.__cause__ is not None:  # the report is pages long, its root is a line
            cause = cause.__cause__  # type: ignore[assignment]
        operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(cause))
        if operator:
            raise lacking(program, operator[1], "ONNX") from error
        raise TraceError(f"an operator of the model has no counterpart in ONNX: {first_line(cause)}.") from error
    assert made is not None
    return made.model_proto


def _clean(proto: Any) -> None:
    """Leave what a runtime reads; name weighted nodes after their layers, the free dimension `batch`."""
    graph = proto.graph
    hold_once(graph)
    _pool_globally(graph)
    forget_unread(graph)
    for holder in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")
    graph.ClearField("value_info")
    _name_nodes(graph)
    _name_batch(graph)
    proto.producer_name, proto.producer_version = "lamella", __version__


def _name_shared(graph: Any, model: nn.Module) -> None:
    """Parameters that layers share get the model's first name for them; the exporter takes its last."""
    firsts = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {n: firsts[id(p)] for n, p in model.named_parameters(remove_duplicate=False) if firsts[id(p)] != n}
    held = {i.name for i in graph.initializer}
    names = {old: new for old, new in names.items() if old in held and new not in held}
    _rename(graph, names)


def _name_transposed(graph: Any, model: nn.Module) -> None:
    """A linear layer's weight that the exporter has transposed, for inputs of more than two axes, gets its name back."""
    from onnx import numpy_helper

    arrays = {i.name: i for i in graph.initializer}
    weights = {
        f"{name}.weight": module.weight.detach().cpu().numpy()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32 and f"{name}.weight" not in arrays
    }
    names: dict[str, str] = {}
    for node in (n for n in graph.node if n.op_type == "MatMul" and n.input[1] in arrays and n.input[1] not in names):
        held_IO = numpy_helper.to_array(arrays[node.input[1]])
        found = next((name for name, weight_OI in weights.items() if np.array_equal(weight_OI.T, held_IO)), None)
        if found is not None:
            names[node.input[1]] = found
            del weights[found]
    _rename(graph, names)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Give initializers other names."""
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _pool_globally(graph: Any) -> None:
    """Write a mean over height and width as GlobalAveragePool: runtimes have it in their layouts and in integers."""
    from onnx import helper, numpy_helper

    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input)}
    constants = {i.name: i for i in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        axes = constants.get(node.input[1]) if node.op_type == "ReduceMean" and len(node.input) == 2 else None
        images = ranks.get(node.input[0]) == 4
        if axes is None or not images or sorted(int(a) % 4 for a in numpy_helper.to_array(axes)) != [2, 3]:
            graph.node.append(node)
            continue
        flat = any(a.name == "keepdims" and a.i == 0 for a in node.attribute)
        pooled = f"{node.output[0]}_pooled" if flat else node.output[0]
        graph.node.append(helper.make_node("GlobalAveragePool", node.input[:1], [pooled], name=node.name))
        if flat:
            graph.node.append(helper.make_node("Flatten", [pooled], node.output, name=f"{node.name}_flat", axis=1))


def _name_nodes(graph: Any) -> None:
    weights = {i.name for i in graph.initializer if i.name.endswith(".weight")}
    taken = {node.name for node in graph.node}
    for node in graph.node:
        layer = next((name.removesuffix(".weight") for name in node.input if name in weights), None)
        if layer is not None and layer not in taken:  # a layer that is called twice names its first call
            node.name = layer
            taken.add(layer)


def _name_batch(graph: Any) -> None:
    symbol = next((d.dim_param for v in graph.input for d in v.type.tensor_type.shape.dim[:1] if d.dim_param), None)
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol is not None and dim.dim_param == symbol:
                dim.dim_param = BATCH


def save_onnx(proto: Any, path: Path) -> None:
    """The proto's bytes, always the same for the same proto; weights of more than 2 GB beside it."""
    weights = [i for i in proto.graph.initializer if len(i.raw_data) > 1024]
    if sum(len(i.raw_data) for i in weights) > INLINE_LIMIT:
        _save_beside(weights, weights_beside(path))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _save_beside(weights: Sequence[Any], side: Path) -> None:
    from onnx.external_data_helper import set_external_data

    with side.open("wb") as file:
        for tensor in weights:
            set_external_data(tensor, side.name, offset=file.tell(), length=len(tensor.raw_data))
            file.write(tensor.raw_data)
            tensor.ClearField("raw_data")


def onnx_bytes(path: str | Path) -> int:
    """Bytes on disk of an ONNX file and the side files that hold its weights. RecordError if it cannot be read."""
    path = Path(path)
    proto = read_onnx(path)
    sides = {e.value for i in proto.graph.initializer for e in i.external_data if e.key == "location"}
    return sum(file.stat().st_size for file in (path, *(path.parent / side for side in sorted(sides))))


def read_onnx(path: str | Path) -> Any:
    """The `ModelProto` in a file, without the weights that lie beside it. RecordError if it cannot be read."""
    onnx = onnx_library("reading an ONNX file")
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no public base
        raise RecordError(
            str(path), f"cannot be read as ONNX ({first_line(error)}); it is damaged or absent: export it again"
        ) from None


def check_float32(path: str | Path) -> None:
    """LamellaError for a file whose weights are of another floating type, or integers: these are made from float32."""
    from onnx import TensorProto

    proto = read_onnx(path)
    made = sorted({node.op_type for node in proto.graph.node} & QUANTIZED)
    if made:
        raise LamellaError(
            f"{path}: holds integers already ({', '.join(made)}), and these are made from float32. Give the float file that they were "
            "made from, or export the float network again."
        )
    others = {TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    kinds = sorted({TensorProto.DataType.Name(i.data_type) for i in proto.graph.initializer if i.data_type in others})
    if kinds:
        raise LamellaError(
            f"{path}: holds {', '.join(kinds)} numbers, and integers are made from float32. Export copy.deepcopy(model).float() and "
            "quantize that."
        )


def onnx_library(purpose: str) -> Any:
    """The module `onnx`; MissingExtra where it or onnxscript is not installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - the exporter's own need
    except ImportError as error:
        raise MissingExtra(error.name or "onnx", "onnx", purpose) from None
    return onnx
