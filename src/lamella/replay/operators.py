"""Operators of an exported program as plain values, and the list of them for a model.

    listed = operators(model, inputs)                     # Listing: operators in order, dense tensors, which values are the outputs

Values are numbered: inputs first, then one per operator. An argument that is a value is a `Ref`, one that is a parameter, buffer or
constant is a `Name`. The export is functional: nothing writes into a value, so what was kept stays as it was.
"""

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Ref:
    """The value with this number."""

    index: int


@dataclass(frozen=True, slots=True)
class Name:
    """The parameter, buffer or constant of this name."""

    text: str


@dataclass(frozen=True, slots=True)
class Norm:
    """A batch norm that was folded into the operator before it."""

    weight: Name | None
    bias: Name | None
    mean: Name
    var: Name
    eps: float


@dataclass(slots=True)
class Operator:
    """One call: `target(*args, **kwargs)` makes value `index`. `elements`: of its output, per sample."""

    index: int
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    elements: int = 0
    norm: Norm | None = None
    reads: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()

    def note_reads(self) -> None:
        """Fill in `reads` and `names` from the arguments."""
        leaves = [*tree_leaves((self.args, self.kwargs), is_leaf=_is_argument)]
        norm = [n for n in (self.norm.weight, self.norm.bias, self.norm.mean, self.norm.var) if n] if self.norm else []
        self.reads = tuple(dict.fromkeys(leaf.index for leaf in leaves if isinstance(leaf, Ref)))
        self.names = frozenset(leaf.text for leaf in [*leaves, *norm] if isinstance(leaf, Name))


@dataclass(slots=True)
class Listing:
    """What a model computes. `any_size`: the program runs at other batch sizes than that of its example."""

    operators: list[Operator]
    tensors: dict[str, Tensor]
    inputs: int
    outputs: Any
    any_size: bool


def _is_argument(leaf: Any) -> bool:
    return isinstance(leaf, Ref | Name)


def operators(model: nn.Module, inputs: tuple[Any, ...]) -> Listing:
    """Export the model (in evaluation mode) at these inputs and list its operators. Whatever torch.export raises comes through."""
    program = _exported(model, inputs)
    return _Lister(program, model).listing()


def _exported(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """Functional, and at any batch size if the model allows that."""
    size = _batch_size(inputs)
    batched = tree_map(lambda x: {0: Dim.AUTO} if _has_batch(x, size) else None, inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(model, inputs, dynamic_shapes=batched, strict=False)
        except Exception:
            program = torch.export.export(model, inputs, strict=False)
        if any(_mutates(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
    return program


def _batch_size(inputs: tuple[Any, ...]) -> int:
    return next(len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim())


def _has_batch(x: Any, size: int) -> bool:
    return isinstance(x, Tensor) and x.dim() > 0 and len(x) == size and size > 1


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


class _Lister:
    """Walks an exported graph once."""

    def __init__(self, program: ExportedProgram, model: nn.Module) -> None:
        self.program = program
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self.first = {id(tensor): name for name, tensor in reversed(tensors)}  # tied ones go by their first name
        self.held = {**program.state_dict, **program.constants}
        self.values: dict[Node, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.symbolic = False

    def listing(self) -> Listing:
        graph = self.program.graph
        kinds = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        users = [n for n in graph.nodes if n.op == "placeholder" and kinds[n.name].kind == InputKind.USER_INPUT]
        for node in graph.nodes:
            if node.op == "placeholder" and node not in users:
                self._hold(node, str(kinds[node.name].target))
        for index, node in enumerate(users):
            self.values[node] = Ref(index)
            shape = getattr(node.meta.get("val"), "shape", ())
            self.symbolic |= any(not isinstance(extent, int) for extent in shape)
        made = [n for n in graph.nodes if n.op == "call_function" and not _is_check(n)]
        listed = [self._operator(len(users) + i, node) for i, node in enumerate(made)]
        result = next(n for n in graph.nodes if n.op == "output").args[0]
        outputs = tree_map_only(Node, self.values.__getitem__, tuple(result))
        return Listing(listed, self.tensors, len(users), outputs, self.symbolic)

    def _hold(self, node: Node, target: str) -> None:
        tensor = self.held.get(target)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{target} is not a tensor")
        name = self.first.get(id(tensor), target)
        self.tensors[name] = tensor.detach()
        self.values[node] = Name(name)

    def _operator(self, index: int, node: Node) -> Operator:
        if not callable(node.target):
            raise TypeError(f"{node.target} cannot be called")
        args, kwargs = tree_map_only(Node, self.values.__getitem__, (node.args, dict(node.kwargs)))
        self.values[node] = Ref(index)
        # Channels last has no such view.
        target = aten.reshape.default if node.target == aten.view.default else node.target
        made = Operator(index, target, tuple(args), dict(kwargs), _elements(node))
        made.note_reads()
        return made


def _is_check(node: Node) -> bool:
    return not node.users and getattr(node.target, "__name__", "").startswith(("_assert", "sym_constrain"))


def _elements(node: Node) -> int:
    """Elements of the outputs per sample: all extents but the first, where they are plain numbers."""
    count = 0
    for value in tree_leaves(node.meta.get("val")):
        if isinstance(value, Tensor):
            product = 1
            for extent in value.shape[1:]:
                product *= extent if isinstance(extent, int) else 1
            count += product
    return count


def is_item(node: Operator) -> bool:
    """Whether the operator takes one of the outputs of another."""
    return node.target is operator.getitem
