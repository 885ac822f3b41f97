"""The run: one pass over an exported graph, a rule per operator.

Walk(names, shapes, rule_of, holders).run(graph, inputs) -> Flow
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from .flow import Flow, Literal, Value, along, axis_ids, compact, varying
from .places import inside, module_path, mutates_a_view, operator_name, place

Rule = Callable[["Walk", Node], Any]
Holders = Callable[[str, int], Iterable[tuple[str, int | None]]]

# Modules whose forward compares channel counts with numbers of its own: nothing inside can change by itself.
CLOSED = {
    "torch.nn.modules.activation.MultiheadAttention": "nn.MultiheadAttention checks its embedding and head sizes against fixed numbers",
    "torch.nn.modules.rnn.LSTM": "a recurrent layer keeps its sizes as numbers",
    "torch.nn.modules.rnn.GRU": "a recurrent layer keeps its sizes as numbers",
    "torch.nn.modules.rnn.RNN": "a recurrent layer keeps its sizes as numbers",
}


class Walk:
    """One pass over an exported graph. Rules read values from it, and tell its `flow` what they find."""

    def __init__(
        self,
        names: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        rule_of: Callable[[Node], Rule | None],
        holders: Holders | None = None,
        whole: frozenset[str] = frozenset(),
        flow: Flow | None = None,
    ) -> None:
        """`names`: placeholder -> parameter or buffer name (its first one, for tied ones); `shapes`: name -> shape.

        `holders(path, number)`: the integers of that module that equal the number. `whole`: views whose last piece stays whole.
        `flow`: what to write into, a new one if None.
        """
        self.flow, self.names, self.shapes = flow if flow is not None else Flow(), names, shapes
        self.rule_of, self.holders, self.whole = rule_of, holders, whole
        self.env: dict[Node, Any] = {}
        self.source: dict[Node, str] = {}
        self.weights: set[Node] = set()
        self.batch = 1

    def run(self, graph: torch.fx.Graph, inputs: Collection[str]) -> Flow:
        """The flow of this graph, whose placeholders of these names are the network's inputs. A walk runs once."""
        taken = [n for n in graph.nodes if n.op == "placeholder" and n.name in inputs]
        self.flow.inputs.update(taken)
        self.batch = _batch_of([shape_of(n) for n in taken if isinstance(n.meta.get("val"), Tensor)])
        for node in graph.nodes:
            if node.op == "placeholder":
                self.env[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.env[node] = self._call(node)
            elif node.op == "get_attr":
                self.env[node] = unknown_shape(node)
            elif node.op == "output":
                self._output(node)
            if node in self.source or (node.all_input_nodes and self.weights.issuperset(node.all_input_nodes)):
                self.weights.add(node)
            if isinstance(self.env.get(node), Value):
                self.flow.values[node] = self.env[node]
        return self.flow

    def _placeholder(self, node: Node) -> Any:
        name = self.names.get(node.name)
        if name is None:
            return unknown_shape(node)
        self.source[node] = name
        shape = self.shapes[name]
        if name not in self.flow.axis_start:
            self.flow.axis_start[name] = tuple(int(self.flow.fresh(n)[0]) if n else 0 for n in shape)
        planes = [along(self.parameter_ids(name, d), d, shape) for d in range(len(shape)) if shape[d] > 1]
        return Value(shape, tuple(planes))

    def _call(self, node: Node) -> Any:
        rule = self.rule_of(node)
        carries = any(v.planes for v in self.values((node.args, node.kwargs)))
        if carries and mutates_a_view(node):
            self.flow.unknown.append(node)
        if rule is not None:
            made = rule(self, node)
            self._close(node, made)
            return made
        if not carries:
            return unknown_shape(node)
        self.flow.unknown.append(node)
        return self.freeze(node, f"operator {operator_name(node)} is not one that Lamella can follow")

    def _close(self, node: Node, made: Any) -> None:
        """Inside a closed module everything that carries channels is fixed."""
        for kind, reason in CLOSED.items():
            if (path := inside(node, kind)) is not None:
                for value in [*self.values((node.args, node.kwargs)), *_leaves(made)]:
                    for plane in value.planes:
                        self.flow.fix(compact(plane), f"{reason} ({path!r})")

    def _output(self, node: Node) -> None:
        for source in node.all_input_nodes:
            for value in _leaves(self.env[source]):
                for plane in value.planes:
                    self.flow.fix(compact(plane), f"model output ({place(source)})")

    def freeze(self, node: Node, reason: str) -> Any:
        """Fix whatever arrives at this node; what it makes holds no channels."""
        for value in self.values((node.args, node.kwargs)):
            for plane in value.planes:
                self.flow.fix(compact(plane), f"{reason} ({place(node)})")
        return unknown_shape(node)

    def values(self, tree: Any) -> list[Value]:
        """The values among the arguments in a tree."""
        leaves = torch.utils._pytree.tree_leaves(tree)
        return [v for leaf in leaves if isinstance(leaf, Node) for v in _leaves(self.env[leaf])]

    def value(self, node: Node, index: int, name: str = "") -> Any:
        """The value of an argument by position or name; None where absent."""
        argument = node.args[index] if index < len(node.args) else node.kwargs.get(name)
        return self.env[argument] if isinstance(argument, Node) else None

    def parameter_ids(self, name: str, axis: int) -> np.ndarray:
        """The ids of a parameter's axis."""
        start = self.flow.axis_start[name][axis]
        return np.arange(start, start + self.shapes[name][axis], dtype=np.int32)

    def parameter_of(self, node: Node, index: int, name: str = "") -> str | None:
        """The name of the parameter that is this argument as it stands, None if it is computed."""
        argument = node.args[index] if index < len(node.args) else node.kwargs.get(name)
        return self.source.get(argument) if isinstance(argument, Node) else None

    def bind(self, node: Node, index: int, name: str, ids: np.ndarray) -> str | None:
        """Tie a per-channel parameter (C,) to ids; returns its name."""
        value = self.value(node, index, name)
        if value is None:
            return None
        if len(value.shape) == 1 and value.shape[0] == len(ids):
            self.flow.tie(axis_ids(value, 0, self.flow, place(node)), ids, place(node))
        return self.parameter_of(node, index, name)

    def literal(self, node: Node, number: int, ids: np.ndarray, axis: int) -> bool:
        """Note the integers of this operator's module that equal the extent of an axis; whether there are any."""
        if self.holders is None or number < 2:
            return False
        path = module_path(node)
        found = [Literal(path, name, index, ids, axis) for name, index in self.holders(path, number)]
        self.flow.literals.extend(found)
        return bool(found)

    def instances(self, leading: int) -> int:
        """How many samples of its own one sample of the network makes of this leading extent (windows, folded axes)."""
        return max(1, leading // self.samples(leading))

    def samples(self, leading: int) -> int:
        """How many samples of the network this leading extent holds: all of them, or one where it is no multiple of them."""
        return self.batch if leading % self.batch == 0 else 1

    def is_weight(self, argument: Any) -> bool:
        """Whether a value follows from parameters alone."""
        return isinstance(argument, Node) and argument in self.weights


def _batch_of(shapes: Sequence[tuple[int, ...]]) -> int:
    """The samples in inputs of these shapes: the first of several axes tells, and one of a single axis where none has more."""
    several = next((s for s in shapes if len(s) > 1), None) or next((s for s in shapes if s), (1,))
    return max(1, several[0])


def _leaves(tree: Any) -> list[Value]:
    flat = torch.utils._pytree.tree_leaves(tree, is_leaf=lambda v: isinstance(v, Value))
    return [v for v in flat if isinstance(v, Value)]


def unknown_shape(node: Node) -> Any:
    """What a node makes, without any channels."""
    return torch.utils._pytree.tree_map(
        lambda v: Value(tuple(int(n) for n in v.shape)) if isinstance(v, Tensor) else v, node.meta.get("val")
    )


def shape_of(node: Node) -> tuple[int, ...]:
    """The shape of a node's (first) result."""
    val = node.meta["val"]
    return tuple(int(n) for n in (val[0] if isinstance(val, tuple | list) else val).shape)


def argument(node: Node, index: int, name: str, default: Any) -> Any:
    """An operator's argument as it is written in the graph."""
    return node.args[index] if index < len(node.args) else node.kwargs.get(name, default)


def like(node: Node, result: Any, rest: Any = None) -> Any:
    """The result, or a tuple that starts with it where the operator returns several."""
    several = isinstance(node.meta["val"], tuple | list)
    return (result, *[rest] * (len(node.meta["val"]) - 1)) if several else result


def meet(walk: Walk, planes: list[Tensor], new: Tensor, node: Node) -> None:
    """Tie a plane to the one that varies along the same axes, or put it beside the others."""
    axes = set(varying(new))
    for plane in planes:
        if axes & set(varying(plane)):
            walk.flow.tie(compact(plane), compact(new), place(node))
            return
    planes.append(new)
