"""trace(): a model and its example inputs to a Graph that has been proven on that very model.

    graph = trace(model, (torch.randn(1, 3, 32, 32),))
    graph = trace(model, inputs, ignored_layers=("head.*",), round_to=8, floor=4)

The model is exported, channel ids flow through it (`channels`), groups are formed (`grouping`), and then the proof: the model is
narrowed in all groups at once and must equal the dense model whose consumers of the removed channels are zero, in float64. On
disagreement the groups are halved until the culprit is found; it is frozen, with the reason. Nothing left to narrow is an error.
"""

import copy
import fnmatch
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .channels import Flow, Walk, mutates_a_view, operator_name, place, source_line
from .costs import cost
from .errors import TraceError
from .grouping import build_graph
from .schema import Graph, Group
from .surgery import masked, narrow

RoundTo = int | Mapping[str, int] | Callable[[int], int]

TOLERANCE = 1e-9  # relative, in float64; float32 models that refuse float64 get 1e-5
SINGLE_TOLERANCE = 1e-5


def aligned(width: int) -> int:
    """The step that CPU runtimes like for a group this wide: 16 from 64 channels on, 8 from 32, else 4 (decision 0002)."""
    return 16 if width >= 64 else 8 if width >= 32 else 4


def trace(
    model: nn.Module,
    example_inputs: Sequence[Any],
    *,
    ignored_layers: Iterable[str] = (),
    round_to: RoundTo = aligned,
    floor: int = 1,
    prove: bool = True,
) -> Graph:
    """The model's Graph. The model itself is left as it is; it is traced in evaluation mode.

    `ignored_layers`: names or globs of layers whose output channels stay. `round_to`: a step for all groups, per group, or a
    function of the dense width. Raises TraceError where the model cannot be exported (operator and line), fails on the
    inputs, or has nothing to narrow.
    """
    subject = _subject(model)
    inputs = tuple(example_inputs)
    graph = _flow_graph(subject, inputs)
    groups = tuple(_with_limits(g, round_to, floor, tuple(ignored_layers)) for g in graph.groups)
    graph = replace(graph, groups=groups)
    if prove:
        graph = proven(subject, inputs, graph)
    if not graph.free:
        reasons = "\n".join(f"  {g.name}: {g.frozen}" for g in graph.groups[:8]) or "  no layer makes channels"
        raise TraceError(f"nothing in {graph.model} can be narrowed:\n{reasons}")
    return graph


def _subject(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without torch.compile around it."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError("the model is a ScriptModule, which cannot be narrowed. Pass the nn.Module it was scripted from.")
    if not isinstance(model, nn.Module):
        raise TraceError(f"{type(model).__name__} is not an nn.Module.")
    model = getattr(model, "_orig_mod", model)
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        raise TraceError(f"the model cannot be copied: {error}") from error


def _flow_graph(model: nn.Module, inputs: tuple[Any, ...]) -> Graph:
    tensors = _first_names(model)
    program = _export(model, inputs)
    flow, graph = _walk(program, tensors)
    if flow.unknown or any(mutates_a_view(n) for n in graph.nodes if n.op == "call_function"):
        with _quiet():
            other, functional = _walk(program.run_decompositions(), tensors)
        flow, graph = other, functional
    return build_graph(type(model).__name__, flow, graph, tensors)


def _first_names(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, by its first name."""
    found: dict[int, str] = {}
    tensors = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if found.setdefault(id(tensor), name) == name:
            tensors[name] = tensor
    return tensors


def _walk(program: torch.export.ExportedProgram, tensors: Mapping[str, Tensor]) -> tuple[Flow, torch.fx.Graph]:
    signature = program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    first = {id(t): name for name, t in tensors.items()}
    held = {**program.state_dict, **program.constants}
    names = {}
    for placeholder, target in targets.items():
        tensor = held.get(target)
        name = target if target in tensors else first.get(id(tensor))
        if name is not None:
            names[placeholder] = name
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    return Walk(names, shapes).run(program.graph), program.graph


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # exporting warns about its own internals
        warnings.simplefilter("ignore")
        yield


def _export(model: nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(model, inputs, strict=False)
    except Exception as error:
        raise TraceError(_refusal(model, inputs, error)) from error


def _refusal(model: nn.Module, inputs: tuple[Any, ...], error: Exception) -> str:
    """Whether the model itself fails on the inputs, or only its export; where, and what usually helps."""
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as own:
        shapes = ", ".join(str(tuple(t.shape)) for t in tree_leaves(inputs) if isinstance(t, Tensor))
        return (
            f"{type(model).__name__} fails on the example inputs (shapes {shapes}): {_line(own)}. "
            "Pass a tuple of inputs as its forward takes them, on the model's device and in its dtype."
        )
    return (
        f"{type(model).__name__} cannot be exported: {_line(error)}. torch.export follows one path through the model: a branch on "
        "tensor values, `.item()` or a loop of data-dependent length stops it. Write it with torch.where, or move it out of forward."
    )


def _line(error: BaseException) -> str:
    """An exception's first line, and the line of the model's source it came from."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    text = "".join(f'File "{f.filename}", line {f.lineno}\n' for f in frames if "lamella" not in f.filename)
    where = source_line(text) or source_line(str(error))
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{first[:300]} ({where})" if where else first[:300]


def _with_limits(group: Group, round_to: RoundTo, floor: int, ignored: Sequence[str]) -> Group:
    hit = next((layer for layer in group.layers for p in ignored if fnmatch.fnmatchcase(layer, p)), None)
    frozen = group.frozen or (f"{hit} is among the ignored layers" if hit else None)
    if isinstance(round_to, Mapping):
        step = round_to.get(group.name, 1)
    else:
        step = round_to(group.width) if callable(round_to) else round_to
    return replace(group, frozen=frozen, round_to=step, floor=min(floor, group.width))


# ---- the proof


def proven(model: nn.Module, inputs: tuple[Any, ...], graph: Graph) -> Graph:
    """The graph with every group frozen that does not narrow to the masked dense model's outputs."""
    proof = _Proof(model, inputs)
    names = [g.name for g in graph.free if g.width > g.part_count]
    for name, reason in proof.culprits(graph, names):
        graph = _frozen(graph, name, reason)
    return graph


def _frozen(graph: Graph, name: str, reason: str) -> Graph:
    groups = tuple(replace(g, frozen=reason) if g.name == name else g for g in graph.groups)
    return replace(graph, groups=groups)


class _Proof:
    """Narrowed against masked, on the same inputs, in float64 where the model can."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.model, self.inputs, self.tolerance = _double(model, inputs)

    def culprits(self, graph: Graph, names: Sequence[str]) -> list[tuple[str, str]]:
        """The groups that cannot be narrowed, with reasons: halve until single, then check what is left together."""
        found = self._halve(graph, list(names))
        left = [n for n in names if n not in {f for f, _ in found}]
        while found and left and (reason := self.failure(graph, left)) is not None:
            found.append((left[-1], f"only together with others: {reason}"))
            left.pop()
        return found

    def _halve(self, graph: Graph, names: list[str]) -> list[tuple[str, str]]:
        if not names:
            return []
        reason = self.failure(graph, names)
        if reason is None:
            return []
        if len(names) == 1:
            return [(names[0], reason)]
        middle = len(names) // 2
        halves = self._halve(graph, names[:middle]) + self._halve(graph, names[middle:])
        return halves or [(names[-1], f"only together with others: {reason}")]

    def failure(self, graph: Graph, names: Sequence[str]) -> str | None:
        """Why narrowing these groups to about half is wrong; None when it is right."""
        kept = {name: _half(graph.group_of[name], index) for index, name in enumerate(names)}
        try:
            small = narrow(self.model, graph, kept)
            _check_counts(small, graph, kept)
            with torch.no_grad():
                outputs = _tensors(small(*self.inputs))
        except Exception as error:
            return f"the narrowed model fails, usually because a size is written as a constant: {_line(error)}"
        with torch.no_grad():
            expected = _tensors(masked(self.model, graph, kept)(*self.inputs))
        return _disagreement(outputs, expected, self.tolerance)


def _check_counts(small: nn.Module, graph: Graph, kept: Mapping[str, Sequence[int]]) -> None:
    """A no-op must not pass for a success: the parameters that are left are those that arithmetic predicts."""
    predicted = cost(graph, {name: len(channels) for name, channels in kept.items()}).params
    counted = sum(p.numel() for p in small.parameters())
    if counted != predicted:
        raise TraceError(f"{counted} parameters are left where {predicted} were predicted")


def _half(group: Group, seed: int) -> tuple[int, ...]:
    """About half of a group's channels, drawn at random, equally many from every part."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(group.parts) if group.parts else np.zeros(group.width, dtype=int)
    kept: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        kept.extend(generator.choice(members, max(1, len(members) // 2), replace=False).tolist())
    return tuple(sorted(kept))


def _double(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...], float]:
    twin = copy.deepcopy(model).double()
    wide = tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, inputs)
    try:
        with torch.no_grad():
            twin(*wide)
    except Exception:
        return model, inputs, SINGLE_TOLERANCE
    return twin, wide, TOLERANCE


def _tensors(outputs: Any) -> list[Tensor]:
    return [t for t in tree_leaves(outputs) if isinstance(t, Tensor)]


def _disagreement(outputs: list[Tensor], expected: list[Tensor], tolerance: float) -> str | None:
    for a, b in zip(outputs, expected, strict=True):
        if a.shape != b.shape:
            return f"an output of shape {tuple(a.shape)} where the dense model has {tuple(b.shape)}"
        if not a.is_floating_point():
            continue
        if not bool(torch.isfinite(b).all()):
            return "the model's outputs on the example inputs are not finite, so nothing can be proven on them"
        error = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-12)
        if error > tolerance:
            return f"the narrowed outputs differ from the masked dense ones by {error:.1e} of their range"
    return None


__all__ = ["aligned", "operator_name", "place", "proven", "trace"]
