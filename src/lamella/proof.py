"""The proof that a Graph is right: the user's own model narrowed, against the dense one with the removed channels masked.

    graph = proven(model, inputs, graph, suspects)       # groups that fail are frozen, with the reason

All free groups are narrowed at once, each to another share (sizes that only fit each other while all groups shrink alike must not
pass), in float64, and must give the outputs of `masked`. On disagreement the groups are halved until the culprits are found.
The integers of modules that equal a size follow it where the proof fails otherwise.
Parameters that are still constant (a fresh norm's scale, a layer scale of 1e-6) get other values for the proof: behind a scale of
zero every mistake looks right.
"""

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .axes import Kept
from .channels import source_line
from .costs import cost
from .errors import TraceError, first_line
from .grouping import removable
from .schema import Attribute, Graph, Group
from .surgery import copied, cut, is_of_torch, masked
from .training import tensors_of

TOLERANCE = 1e-9  # relative, in float64; models that refuse float64 get 1e-5
SINGLE_TOLERANCE = 1e-5
SHARES = 0.2, 0.8  # of its channels that a group keeps: a share between these, drawn at random

Culprit = tuple[str, str]  # a group, and why it cannot be narrowed
Kind = tuple[type[nn.Module], str, int | None]  # the class of a module, the name of its attribute, the place in it


def proven(
    model: nn.Module,
    inputs: tuple[Any, ...],
    graph: Graph,
    suspects: Mapping[str, str],
    training_inputs: tuple[Any, ...] | None = None,
) -> Graph:
    """The graph with every group frozen that does not narrow to the masked dense model's outputs.

    `training_inputs`: where the network reads more in training than in evaluation, inputs on which it trains; it is proven there too.
    """
    proof = _Proof(model, inputs, suspects)
    if training_inputs is not None:
        proof.in_training_too(training_inputs)
    names = [g.name for g in graph.free]
    if names:
        proof.check_tells(graph)
    graph, culprits = _followed(proof, graph, names)
    if culprits:
        proof.check_repeatable(graph)
    for name, reason in culprits:
        graph = frozen(graph, name, f"{suspects[name]}: {reason}" if name in suspects else reason)
    return _with_removable(proof, graph)


def _with_removable(proof: "_Proof", graph: Graph) -> Graph:
    """The graph in which those groups are removable that something leads around, and without which the model is the masked one."""
    names = removable(graph)
    whole = _removable(graph, names)

    def fails(empty: Sequence[str]) -> bool:
        return bool(empty) and proof.difference(whole, dict.fromkeys(empty, ())) is not None

    if fails(names):
        names = tuple(name for name in names if not fails([name]))
        names = () if fails(names) else names
    return _removable(graph, names)


def _removable(graph: Graph, names: Sequence[str]) -> Graph:
    return replace(graph, groups=tuple(replace(g, removable=g.name in names) for g in graph.groups))


def _followed(proof: "_Proof", graph: Graph, names: Sequence[str]) -> tuple[Graph, list[Culprit]]:
    """The graph with those attributes alone that must follow for its groups to be right, and the groups that fail even so.

    An integer may equal a size by chance: what no proof asks for stays as it is.
    """
    kinds = _kinds(proof.model, graph.attributes)
    if kinds and proof.failure(lean := _without(proof.model, graph, kinds), names) is None:
        return lean, []
    graph, culprits = _least_culprits(proof, graph, names)
    failed = {name for name, _ in culprits}
    right = [name for name in names if name not in failed]
    for kind in _kinds(proof.model, graph.attributes):
        if proof.failure(lean := _without(proof.model, graph, [kind]), right) is None:
            graph = lean
    return graph, culprits


def _least_culprits(proof: "_Proof", graph: Graph, names: Sequence[str]) -> tuple[Graph, list[Culprit]]:
    """The groups that fail, and the graph without the attributes for which they or more would fail."""
    culprits = proof.culprits(graph, names)
    failed = {name for name, _ in culprits}
    kinds = _kinds(proof.model, [a for a in graph.attributes if failed & set(a.size.groups)])
    bare = _without(proof.model, graph, kinds)
    for kind in kinds:
        lean = _without(proof.model, graph, [kind])
        if culprits and len(fewer := proof.culprits(lean, names)) < len(culprits):
            graph, culprits = lean, fewer
    if culprits and kinds and len(fewer := proof.culprits(bare, names)) <= len(culprits):
        return bare, fewer
    return graph, culprits


def _kinds(model: nn.Module, attributes: Sequence[Attribute]) -> list[Kind]:
    """What these are in the user's source, each once. (The numbers of torch's own modules are the sizes they are named for.)"""
    own = (a for a in attributes if not is_of_torch(model.get_submodule(a.module)))
    return list(dict.fromkeys(_kind(model, a) for a in own))


def _kind(model: nn.Module, attribute: Attribute) -> Kind:
    return type(model.get_submodule(attribute.module)), attribute.name, attribute.index


def _without(model: nn.Module, graph: Graph, kinds: Sequence[Kind]) -> Graph:
    """The graph without the attributes of these kinds."""
    rest = tuple(a for a in graph.attributes if _kind(model, a) not in kinds)
    return graph if len(rest) == len(graph.attributes) else replace(graph, attributes=rest)


def frozen(graph: Graph, name: str, reason: str) -> Graph:
    """The graph with one group frozen."""
    groups = tuple(replace(g, frozen=reason, parts=(), ladder=()) if g.name == name else g for g in graph.groups)
    return replace(graph, groups=groups)


class _Proof:
    """Narrowed against masked, on the same inputs, in float64 where the model can."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], suspects: Mapping[str, str]) -> None:
        self.suspects = suspects
        self.training_inputs: tuple[Any, ...] | None = None
        self.steady = True  # whether training gives the same outputs again
        self.model, self.inputs, self.tolerance = _rough(model, torch.float64), widened(inputs), TOLERANCE
        if not runs(self.model, self.inputs):
            self.model, self.inputs, self.tolerance = _rough(model), inputs, SINGLE_TOLERANCE
            self.model = self.model if runs(self.model, inputs) else model

    def in_training_too(self, inputs: tuple[Any, ...]) -> None:
        """From now on the narrowed model must also train on these inputs, to the same outputs unless they are drawn by chance."""
        self.training_inputs = widened(inputs) if self.tolerance == TOLERANCE else inputs
        first, second = (self._trained(copied(self.model, {}, share=True), seed) for seed in (0, 1))
        self.steady = all(map(torch.equal, first, second))

    def culprits(self, graph: Graph, names: Sequence[str]) -> list[Culprit]:
        """The groups that cannot be narrowed, with reasons.

        The suspects go by line of source: what fails at one place fails at the others. The rest is halved until single. What
        is left must pass together.
        """
        if self.failure(graph, names) is None:
            return []
        lines: dict[str, list[str]] = {}
        for name in names:
            lines.setdefault(re.sub(r"\d+(?=[.'])", "*", self.suspects.get(name, "")), []).append(name)
        found = self._halve(graph, lines.pop("", []))
        for alike in lines.values():
            found += self._alike(graph, alike)
        left = [n for n in names if n not in {f for f, _ in found}]
        while found and left and (reason := self.failure(graph, left)) is not None:
            found.append((left[-1], f"only together with others: {reason}"))
            left.pop()
        return found

    def _alike(self, graph: Graph, names: list[str]) -> list[Culprit]:
        if self.failure(graph, names) is None:
            return []
        several = len({self.suspects.get(name) for name in names}) > 1  # modules of one class, at one line of source
        reason = self.failure(graph, names[:1]) if several else None
        return self._halve(graph, names) if reason is None else [(name, reason) for name in names]

    def _halve(self, graph: Graph, names: list[str]) -> list[Culprit]:
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
        """Why narrowing these groups is wrong; None when it is right."""
        return self.difference(graph, {name: portion(graph.group_of[name], i) for i, name in enumerate(names)})

    def difference(self, graph: Graph, kept: Kept) -> str | None:
        """Why keeping these channels is wrong; None when it is right."""
        try:
            small = cut(self.model, graph, kept, share=True)
            _check_counts(small, graph, kept)
            outputs = self._outputs(small)
        except Exception as error:
            return f"the narrowed model fails, usually because a size is written as a constant: {line_of(error)}"
        try:
            expected = self._outputs(masked(self.model, graph, kept, share=True))
        except Exception as error:
            return f"the masked dense model fails, so nothing can be compared: {line_of(error)}"
        return _disagreement(outputs, expected, self.tolerance) or self._failure_in_training(small, graph, kept)

    def _failure_in_training(self, small: nn.Module, graph: Graph, kept: Kept) -> str | None:
        if self.training_inputs is None:
            return None
        try:
            outputs = self._trained(small)
        except Exception as error:
            return f"in training, the narrowed model fails: {line_of(error)}"
        if not self.steady:
            return None
        found = _disagreement(outputs, self._trained(masked(self.model, graph, kept, share=True)), self.tolerance)
        return f"in training, {found}" if found else None

    def _trained(self, model: nn.Module, seed: int = 0) -> list[Tensor]:
        """The outputs in training mode; the model's statistics move."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return tensors_of(model.train()(*(self.training_inputs or ())))

    def check_tells(self, graph: Graph) -> None:
        """Nothing can be proven of a model that says nothing in real numbers: classes hardly ever change."""
        if not any(t.is_floating_point() and t.numel() for t in self._outputs(self.model)):
            raise TraceError(
                f"{graph.model} returns no floating-point tensor on the example inputs, so nothing can be proven. Return the logits "
                "and take their argmax outside."
            )

    def check_repeatable(self, graph: Graph) -> None:
        """A model that draws random numbers in evaluation mode cannot be proven."""
        first, second = self._outputs(self.model), self._outputs(self.model)
        if any(not torch.equal(a, b) and bool((a == a).all()) for a, b in zip(first, second, strict=True)):
            raise TraceError(
                f"{graph.model} gives other outputs each time it runs on the same inputs, although it is in evaluation mode, so "
                "nothing can be proven. Look for F.dropout without training=self.training, or random numbers in forward."
            )

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return tensors_of(model(*self.inputs))


def _check_counts(small: nn.Module, graph: Graph, kept: Mapping[str, Sequence[int]]) -> None:
    """A no-op must not pass for a success: the parameters that are left are those that arithmetic predicts."""
    predicted = cost(graph, {name: len(channels) for name, channels in kept.items()}).params
    counted = sum(p.numel() for p in small.parameters())
    if counted != predicted:
        raise TraceError(f"{counted} parameters are left where {predicted} were predicted")


def portion(group: Group, index: int) -> tuple[int, ...]:
    """Some of a group's channels, how many and which drawn at random, from every part its number; one alone only where there are two."""
    generator = np.random.default_rng(index)
    free = replace(group, round_to=1, floor=1)
    widths = [free.legal(max(2, share * group.width)) for share in (generator.uniform(*SHARES), 0.5)]
    width = next((w for w in widths if w < group.width), free.legal(0))
    labels = np.asarray(group.parts) if group.parts else np.zeros(group.width, dtype=int)
    kept: list[int] = []
    for label, count in enumerate(group.counts(width)):
        kept.extend(generator.choice(np.flatnonzero(labels == label), count, replace=False).tolist())
    return tuple(sorted(kept))


def _rough(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A twin, in this dtype if one is given, whose constant parameters are not constant."""
    generator = torch.Generator().manual_seed(0)
    held = [*model.named_parameters(), *model.named_buffers()]
    tensors = [(name, t.detach()) for name, t in held if t.is_floating_point()]
    made = {name: _roughened(name, t.double(), generator).to(dtype or t.dtype) for name, t in tensors}
    return copied(model, made, share=True)


def _roughened(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor, or where all its elements are equal, others of its kind."""
    is_state = not name.endswith(("weight", "bias", "running_mean", "running_var")) and tensor.dim() == 0
    if tensor.numel() < 2 or is_state or bool((tensor != tensor.flatten()[0]).any()):
        return tensor
    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
    value = float(tensor.flatten()[0])
    return value * (0.5 + noise) if abs(value) > 0.1 else noise - 0.5


def widened(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs, those in floats in float64."""
    wide: tuple[Any, ...] = tree_map(
        lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, inputs
    )
    return wide


def runs(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether the model takes these inputs: one whose forward says float32 takes none in float64."""
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception:
        return False
    return True


def _disagreement(outputs: list[Tensor], expected: list[Tensor], tolerance: float) -> str | None:
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs where the dense model has {len(expected)}"
    for a, b in zip(outputs, expected, strict=True):
        if a.shape != b.shape:
            return f"an output of shape {tuple(a.shape)} where the dense model has {tuple(b.shape)}"
        if not a.is_floating_point():
            continue
        if not bool(torch.isfinite(b).all()):
            return "the model's outputs on the example inputs are not finite, so nothing can be proven on them"
        error = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-12) if a.numel() else 0.0
        if not error <= tolerance:
            return f"the narrowed outputs differ from the masked dense ones by {error:.1e} of their range"
    return None


def line_of(error: BaseException) -> str:
    """An exception's first line, and the line of the model's source it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    text = "".join(
        f'File "{f.filename}", line {f.lineno}\n' for f in frames if "/lamella/" not in f.filename.replace("\\", "/")
    )
    where = source_line(text) or source_line(str(error))
    return f"{first_line(error)} ({where})" if where else first_line(error)
