"""What the nodes of an ONNX graph say, and what they read.

attributes_of(node)                        # {"transB": 1, "alpha": 1.0}
forget_unread(graph)                       # in place
own_constants(graph, ("Conv", "Gemm"))     # in place: an embedding tied to a Gemm's weight becomes a copy of it
"""

from collections.abc import Collection, Iterator
from typing import Any

COPY = "_copy"  # ends the name of a constant's copy


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes by name, as numbers, lists, bytes and tensors."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def forget_unread(graph: Any) -> None:
    """Leave out, in place, nodes and constants that lead to no output."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            read |= _reads(node)
            kept.append(node)
    constants = [i for i in graph.initializer if i.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept[::-1])
    graph.initializer.extend(constants)


def own_constants(graph: Any, kinds: Collection[str]) -> None:
    """Give, in place, nodes of other kinds a copy of every weight that one of these kinds reads as its second input."""
    weights = {node.input[1] for node in graph.node if node.op_type in kinds}
    constants = {i.name: i for i in graph.initializer if i.name in weights}
    copies: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in kinds:
            shared = constants.keys() & set(node.input)
            copies |= {name: f"{name}{COPY}" for name in shared}
            node.input[:] = [f"{name}{COPY}" if name in shared else name for name in node.input]
    for name, copy in sorted(copies.items()):
        graph.initializer.add().CopyFrom(constants[name])
        graph.initializer[-1].name = copy


def _reads(node: Any) -> set[str]:
    """The names that a node reads, those that its branches take from outside included."""
    inside = (name for branch in _branches(node) for each in branch.node for name in _reads(each))
    through = (value.name for branch in _branches(node) for value in branch.output)
    return {*node.input, *inside, *through}


def _branches(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from (attribute.g,) if attribute.HasField("g") else attribute.graphs
