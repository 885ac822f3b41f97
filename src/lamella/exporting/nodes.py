"""What the nodes of an ONNX graph say, and what they read: `attributes_of(node)`, `forget_unread(graph)`."""

from collections.abc import Iterator
from typing import Any


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


def _reads(node: Any) -> set[str]:
    """The names that a node reads, those that its branches take from outside included."""
    inside = (name for branch in _branches(node) for each in branch.node for name in _reads(each))
    through = (value.name for branch in _branches(node) for value in branch.output)
    return {*node.input, *inside, *through}


def _branches(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from (attribute.g,) if attribute.HasField("g") else attribute.graphs
