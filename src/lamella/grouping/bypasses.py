"""Which groups a network can do without: something leads around the layers that would be left without channels.

removable(graph)        # ("layer1.0.conv1", "layer1.1.conv1"): the inner channels of residual blocks, of gates
"""

from collections.abc import Collection

from ..schema import Graph, Group


def removable(graph: Graph) -> tuple[str, ...]:
    """The free groups that may lose all their channels, all of these groups together: what every last layer makes still follows from
    what the first ones read. Of branches beside each other one stays.
    """
    found: list[str] = []
    for group in graph.free:
        if _countable(group) and _leads_through(graph, {*found, group.name}):
            found.append(group.name)
    return tuple(found)


def _countable(group: Group) -> bool:
    """Whether its parts can all be empty, and nothing else changes."""
    return group.changes is None and not group.ladder


def _leads_through(graph: Graph, empty: Collection[str]) -> bool:
    """Whether every last layer is reached from a first one when these groups are empty."""
    widths, reached = {**graph.widths, **dict.fromkeys(empty, 0)}, set[str]()
    for layer in graph.layers:
        if not layer.is_emptied(widths) and (not layer.sources or reached.intersection(layer.sources)):
            reached.add(layer.name)
    last = _last(graph)
    return bool(last) and reached.issuperset(last)


def _last(graph: Graph) -> set[str]:
    """The layers that no other reads; none where layers are called in a circle."""
    return {layer.name for layer in graph.layers} - {name for layer in graph.layers for name in layer.sources}
