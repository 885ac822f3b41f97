"""trace(): a model and its example inputs to a Graph that has been proven on that very model.

    graph = trace(model, (torch.randn(1, 3, 32, 32),))
    graph = trace(model, inputs, ignored_layers=("head.*",), round_to=8, floor=4)

The model is exported, channel ids flow through it (`channels`), groups are formed (`grouping`), and the result is proven on the
model itself (`proof`): what does not narrow to the outputs of the masked dense model is frozen, with the reason. Nothing left to
narrow is an error. Layers that run in training only (auxiliary heads) are followed too (`trainingmode`).
"""

import fnmatch
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .channels import Flow, Walk, rule_of
from .costs import cost
from .errors import TraceError, unknown_name
from .grouping import Built, build_graph
from .proof import line_of, proven
from .schema import Graph, Group
from .surgery import check_sized, copied, uncompiled
from .trainingmode import Training, exported, quiet, training_of

RoundTo = int | Mapping[str, int] | Callable[[int], int]
Limits = tuple[RoundTo, int, tuple[str, ...]]
Programs = tuple[torch.export.ExportedProgram, Training | None]  # in evaluation; in training, if that reads more


def aligned(width: int) -> int:
    """The step that CPU runtimes like for a group this wide: 16 from 64 channels on, 8 from 32, else 4 (decision 0002)."""
    return 16 if width >= 64 else 8 if width >= 32 else 4


def trace(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    *,
    ignored_layers: Iterable[str] = (),
    round_to: RoundTo = aligned,
    floor: int = 1,
    prove: bool = True,
) -> Graph:
    """The model's Graph. The model itself is left as it is; it is traced in evaluation mode.

    `ignored_layers`: names or globs of layers whose output channels stay. `round_to`: a step for all groups, per group, or a
    function of the dense width. Raises TraceError where the model cannot be exported (operator and line), fails on the
    inputs, or has no layer that can be narrowed or takes bits.
    """
    subject = _subject(model)
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    limits = round_to, floor, (ignored_layers,) if isinstance(ignored_layers, str) else tuple(ignored_layers)
    called = _called(subject, inputs)
    program = _export(copied(called, {}, share=True), inputs)  # what an export computes may stay behind in the model
    training = training_of(called, inputs, program)
    graph, doubts = _attempt(subject, inputs, (program, training), limits, prove)
    if doubts:  # where a view cuts channels and its last piece cannot shrink, whole pieces may
        other, _ = _attempt(subject, inputs, (program, training), limits, prove, whole=doubts)
        graph = max(graph, other, key=_reach)
    if not graph.free and not any(layer.takes_bits for layer in graph.layers):
        reasons = "\n".join(f"  {g.name}: {g.frozen}" for g in graph.groups[:8]) or "  no layer makes channels"
        raise TraceError(f"nothing in {graph.model} can be narrowed, and no layer takes bits:\n{reasons}")
    return replace(graph, notes=(training.note,) if training and training.note else ())


def _attempt(
    model: nn.Module,
    inputs: tuple[Any, ...],
    programs: Programs,
    limits: Limits,
    prove: bool,
    whole: frozenset[str] = frozenset(),
) -> tuple[Graph, frozenset[str]]:
    """The graph, proven, and the views at which groups failed."""
    built = _build(model, programs, whole)
    least = dict.fromkeys(built.pairs, 2)
    groups = (_with_limits(g, *limits, least.get(g.name, 1)) for g in built.graph.groups)
    graph = replace(built.graph, groups=tuple(groups))
    for name in limits[0] if isinstance(limits[0], Mapping) else ():
        if name not in graph.group_of:
            raise TraceError(f"round_to: {unknown_name('group', name, graph.widths)}")
    for pattern in limits[2]:
        if not any(fnmatch.fnmatchcase(layer.name, pattern) for layer in graph.layers):
            known = [layer.name for layer in graph.layers]
            raise TraceError(f"ignored_layers: {unknown_name('layer', pattern, known)}")
    if not prove:
        return graph, frozenset()
    before, training = {g.name for g in graph.free}, programs[1]
    graph = proven(model, inputs, graph, built.suspects, training.inputs if training and training.program else None)
    failed = before - {g.name for g in graph.free}
    return graph, frozenset().union(*(built.views.get(name, frozenset()) for name in failed))


def _reach(graph: Graph) -> int:
    """The parameters that free groups can remove."""
    return cost(graph).params - cost(graph, {g.name: g.part_count for g in graph.free if not g.ladder}).params


def _subject(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the parameters, without torch.compile around it."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            "the model is a ScriptModule, which cannot be narrowed. Pass the nn.Module it was scripted from."
        )
    if not isinstance(model, nn.Module):
        raise TraceError(f"{type(model).__name__} is not an nn.Module.")
    bare: nn.Module = uncompiled(model)
    check_sized(bare, TraceError)
    return copied(bare, {}, share=True).eval()


def _build(model: nn.Module, programs: Programs, whole: frozenset[str]) -> Built:
    tensors = _first_names(model)
    program, training = programs
    flow, graph = _walk(model, program, tensors, whole)
    if flow.unknown:
        with quiet():
            other = _walk(model, program.run_decompositions(), tensors, whole)
        flow, graph = min((flow, graph), other, key=lambda found: len(found[0].unknown))
    if training is not None and training.program is not None:
        flow.take(_walk(model, training.program, tensors, frozenset(), flow.beside())[0])
    return build_graph(type(model).__name__, flow, graph, tensors)


def _first_names(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, by its first name."""
    first = _first_name_of(model)
    return {name: tensor for name, tensor in _held(model) if first[name] == name}


def _first_name_of(model: nn.Module) -> dict[str, str]:
    """The first name of what each name stands for: tied parameters and buffers have several."""
    found: dict[int, str] = {}
    return {name: found.setdefault(id(tensor), name) for name, tensor in _held(model)}


def _held(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _walk(
    model: nn.Module,
    program: torch.export.ExportedProgram,
    tensors: Mapping[str, Tensor],
    whole: frozenset[str],
    flow: Flow | None = None,
) -> tuple[Flow, torch.fx.Graph]:
    signature = program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    first, by_id = _first_name_of(model), {id(t): name for name, t in tensors.items()}
    held = {**program.state_dict, **program.constants}
    names = {}
    for placeholder, target in targets.items():
        value = held.get(target)
        name = first.get(target) or by_id.get(id(value))
        if name is not None and (value is None or value.shape == tensors[name].shape):  # a call may fill a buffer
            names[placeholder] = name
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    holders = _Holders(model)
    taken = [name for name in signature.user_inputs if isinstance(name, str)]
    return Walk(names, shapes, rule_of, holders, whole, flow).run(program.graph, taken), program.graph


class _Holders:
    """The integers of the user's modules, by module path and value."""

    def __init__(self, model: nn.Module) -> None:
        convolution = nn.modules.conv._ConvNd  # whose numbers `narrow` sets from the weight
        self.modules = {n: m for n, m in model.named_modules() if not isinstance(m, convolution)}

    def __call__(self, path: str, number: int) -> list[tuple[str, int | None]]:
        found: list[tuple[str, int | None]] = []
        for name, value in vars(self.modules[path]).items() if path in self.modules else ():
            if name.startswith("_"):
                continue
            if type(value) is int and value == number:
                found.append((name, None))
            elif isinstance(value, tuple | list) and all(type(v) is int for v in value):
                found.extend((name, i) for i, v in enumerate(value) if v == number)
        return found


def _export(model: nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    try:
        return exported(model, inputs)
    except Exception as error:
        raise TraceError(_refusal(model, error)) from error


def _called(model: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """A copy that has run on the inputs, as the model must: some keep what they compute on their first call, and differ in it."""
    called = copied(model, {}, share=True)
    try:
        with torch.no_grad(), quiet():
            called(*inputs)
    except Exception as own:
        shapes = ", ".join(str(tuple(t.shape)) for t in tree_leaves(inputs) if isinstance(t, Tensor))
        shapes = f"shapes {shapes}" if shapes else "no tensors"
        raise TraceError(
            f"{type(model).__name__} fails on the example inputs ({shapes}): {line_of(own)}. "
            "Pass a tuple of inputs as its forward takes them, on the model's device and in its dtype."
        ) from own
    return called


def _refusal(model: nn.Module, error: Exception) -> str:
    """Where the export stopped, and what usually helps."""
    stopped = f"{type(model).__name__} cannot be exported: {line_of(error)}."
    if any(f.name == "_detect_is_causal_mask" for f in traceback.extract_tb(error.__traceback__)):
        return (
            f"{stopped} torch's transformer looks at its mask's values to tell whether it is causal. Say so in the call: "
            "tgt_is_causal=True or False for nn.TransformerDecoder, is_causal= for nn.TransformerEncoder."
        )
    return (
        f"{stopped} torch.export follows one path through the model: a branch on "
        "tensor values, `.item()` or a loop of data-dependent length stops it. Write it with torch.where, or move it out of forward."
    )


def _with_limits(group: Group, round_to: RoundTo, floor: int, ignored: Sequence[str], least: int) -> Group:
    hit = next(((layer, p) for layer in group.layers for p in ignored if fnmatch.fnmatchcase(layer, p)), None)
    frozen = group.frozen or (f"{hit[0]} is among the ignored layers ({hit[1]!r})" if hit else None)
    step = round_to.get(group.name, 1) if isinstance(round_to, Mapping) else round_to
    step = step(group.width) if callable(step) else step
    if frozen is None and group.width == group.part_count:
        parts = f" in each of its {group.width} parts" if group.width > 1 else ""
        frozen = f"it has a single channel{parts}, and none can leave ('{group.name}')"
    return replace(group, frozen=frozen, round_to=step, floor=min(max(floor, least), group.width))
