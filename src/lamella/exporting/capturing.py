"""What all exporters share: the model captured by torch.export, and the file compared with the model before it appears.

seen = capture(model, example_inputs, dynamic_batch=True)   # cases with the model's own answers, and the ExportedProgram
seen.program, place_of(seen.program, "bessel_j0")           # ", called by 'head.special' (line ...)": which layer wants an operator
compare(seen, temporary, "model.pt2", runtime="torch")      # LamellaError unless the file answers alike
"""

import copy
import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..errors import LamellaError, TraceError, first_line
from ..simulations import check_real
from ..surgery import hold_weight
from ..timing import prepared
from ..timing.calls import as_array
from ..training import carry_batch, cut_batch

TOLERANCE = 1e-4  # of an output's largest absolute value: how far a runtime may be from torch


@dataclass(frozen=True, slots=True)
class Capture:
    """A model's `program`, and what it must say: its outputs, flat, for every case of inputs."""

    program: torch.export.ExportedProgram
    cases: tuple[tuple[Any, ...], ...]
    expected: tuple[list[Tensor], ...]


def capture(model: nn.Module, example_inputs: Tensor | Sequence[Any], *, dynamic_batch: bool) -> Capture:
    """The model in evaluation mode on the CPU; it is left as it was. The cases are the inputs and, with a free
    batch, one sample of them.

    Raises TraceError for a model that fails on the inputs or cannot be exported, LamellaError for one that simulates integers.
    """
    check_real(model, "export")
    subject, inputs = on_cpu(model, example_inputs)
    cases = (inputs, one_sample(inputs)) if dynamic_batch else (inputs,)
    expected = tuple(outputs_of(subject, case) for case in cases)
    return Capture(captured(subject, inputs, dynamic_batch), cases, expected)


def on_cpu(model: nn.Module, example_inputs: Tensor | Sequence[Any]) -> tuple[nn.Module, tuple[Any, ...]]:
    """A copy of the model in evaluation mode, and its inputs, both on the CPU. Weights that parametrizations compute are held, so that
    files name them after their layers.
    """
    inputs = tree_map_only(Tensor, lambda t: t.detach().cpu(), as_tuple(example_inputs))
    subject = copy.deepcopy(model).cpu().eval()
    for module in subject.modules():
        hold_weight(module)
    return subject, inputs


def as_tuple(inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of a network's forward. TraceError where there is no tensor among them."""
    if isinstance(inputs, Tensor):
        return (inputs,)
    if not isinstance(inputs, Sequence) or not any(isinstance(leaf, Tensor) for leaf in tree_leaves(inputs)):
        raise TraceError(
            f"the example inputs are a {type(inputs).__name__} without a tensor; a tensor, or a tuple of what forward takes, was "
            "expected. Pass task.example_inputs, or torch.from_numpy(array)."
        )
    return tuple(inputs)


def outputs_of(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among the outputs, in order. TraceError where the model fails on these inputs."""
    try:
        with torch.no_grad():
            return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tree_leaves(inputs) if isinstance(t, Tensor))
        raise TraceError(
            f"{type(model).__name__} fails on inputs of shapes {shapes}: {first_line(error)}. Pass a tuple of "
            "inputs as its forward takes them; for a model that takes one batch size only, dynamic_batch=False."
        ) from error


def one_sample(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs with the first sample of their batch alone."""
    one: tuple[Any, ...] = cut_batch(inputs, lambda t: t[:1])
    return one


def captured(model: nn.Module, inputs: tuple[Any, ...], dynamic_batch: bool) -> torch.export.ExportedProgram:
    """The model as torch.export has it, for any batch size or for that of the inputs. TraceError where it cannot be exported."""
    shapes = None
    if dynamic_batch:
        # torch.export takes 1 for a constant.
        inputs = cut_batch(inputs, lambda t: torch.cat([t, t]) if len(t) == 1 else t)
        carries = iter(carry_batch(inputs))
        free = {0: torch.export.Dim.DYNAMIC}
        shapes = tree_map(lambda leaf: free if isinstance(leaf, Tensor) and next(carries) else None, inputs)
        shapes = _as_taken(model, shapes)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        name = type(model).__name__
        if dynamic_batch and _exports(model, inputs):
            raise TraceError(
                f"{name} cannot be exported with a free batch size: {first_line(error)}. A batch size is written into "
                "its forward: write -1 or x.shape[0] there, or export with dynamic_batch=False."
            ) from error
        raise TraceError(f"{name} cannot be exported: {first_line(error)}.") from error


def _as_taken(model: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shapes as torch.export wants them: what `forward(x, *rest)` takes as its rest is one tuple."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    before = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:before], shapes[before:]) if len(shapes) > before else shapes


def _exports(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    try:
        captured(model, inputs, dynamic_batch=False)
    except TraceError:
        return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks about internals: a deprecated name in torch, torchvision's absence, torch's recurrent layers."""
    remarks = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*treespec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=r".*_flat_weights", category=UserWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        remarks.setLevel(level)


def compare(seen: Capture, file: Path, place: str, runtime: str) -> None:
    """LamellaError where the file, loaded in its runtime, is not the model. `place`: the name the file is going to have."""
    for case, expected in zip(seen.cases, seen.expected, strict=True):
        tensors = [leaf for leaf in tree_leaves(case) if isinstance(leaf, Tensor)]
        check_outputs(prepared(file, tensors, runtime=runtime)(), expected, place)


def check_outputs(seen: Sequence[np.ndarray], expected: Sequence[Tensor], place: str) -> None:
    """LamellaError naming the first output that differs by more than `TOLERANCE`, or than its type's last digits."""
    if len(seen) != len(expected):
        raise LamellaError(
            f"{place}: the file gives {len(seen)} outputs, the model {len(expected)}. Nothing was written."
        )
    for index, (array, tensor) in enumerate(zip(seen, expected, strict=True)):
        name = "output" if len(expected) == 1 else f"output_{index}"
        problem = difference(array, as_array(tensor), max(TOLERANCE, last_digits(tensor.dtype)))
        if problem:
            raise LamellaError(
                f"{place}: output {name!r} of the file is not the model's: {problem}. Nothing was written. A model "
                "whose forward branches on values, draws random numbers or counts its calls cannot be a file; if "
                "yours does not, please report it."
            )


def last_digits(dtype: torch.dtype) -> float:
    """How far apart numbers of this type may be, of their size, where they are sums that were taken in another order."""
    return 8 * torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def difference(seen: np.ndarray, expected: np.ndarray, tolerance: float) -> str | None:
    """What sets `seen` apart by more than `tolerance` x the largest absolute expected value, or None."""
    if seen.shape != expected.shape:
        return f"shape {seen.shape} where {expected.shape} was expected"
    finite = np.isfinite(expected)
    if not np.array_equal(seen[~finite], expected[~finite], equal_nan=True) or not np.isfinite(seen[finite]).all():
        return "other values are not finite"
    seen, expected = (np.where(finite, array, 0) for array in (seen, expected))
    error = np.abs(seen.astype(np.float64) - expected)
    real = np.issubdtype(expected.dtype, np.inexact)  # numbers of classes and tokens are right, or they are not
    allowed = real * tolerance * float(np.abs(expected).max(initial=0.0))
    if error.size == 0 or error.max() <= allowed:
        return None
    index = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    return f"off by {error.max():.2e} at {index}; at most {allowed:.2e} was expected"


def error_share(seen: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the error as a share of that of what was expected, where both are finite; 0 of masks and of classes, which
    follow from numbers.
    """
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0
    both = np.isfinite(seen) & np.isfinite(expected)
    if not np.array_equal(both, np.isfinite(expected)):
        return math.inf
    seen, expected = (array[both].astype(np.float64) for array in (seen, expected))
    return math.sqrt(float(np.square(seen - expected).sum()) / max(float(np.square(expected).sum()), 1e-30))


def lacking(program: torch.export.ExportedProgram, operator: str, runtime: str) -> TraceError:
    """The paragraph for an operator that a format does not have."""
    operator = operator.removeprefix("torch._ops.").removesuffix(".default")
    return TraceError(
        f"{runtime} has no counterpart for the operator {operator}{place_of(program, operator)}. Replace that layer by one made "
        "of operators it has, or export to another format."
    )


def place_of(program: torch.export.ExportedProgram, operator: str) -> str:
    """Which layers call an operator, as a clause; nothing where that cannot be told."""
    base = operator.split("::")[-1].split(".")[-1]
    modules = [
        list(stack.values())[-1][0] or "the model itself"
        for node in program.graph.nodes
        if node.op == "call_function" and base in str(node.target) and (stack := node.meta.get("nn_module_stack"))
    ]
    named = ", ".join(repr(name) for name in dict.fromkeys(modules))
    return f", which {named} calls" if named else ""
