"""Where layers lie: depth becomes columns, parallel branches become lanes, and long networks wrap into lines like text.

    places = lay_out(graph)
    places["layer1.0.conv1"]                # Place(column=1, lane=0, line=0, ...)

The column of a layer is the longest way to it. Lane 0 is the main path: the longest way through the network, walked
back from its end. Layers beside it take the lane of the layer they follow, or the lowest one that is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...schema import Graph, Layer
from ..facts import drawn_layers

LINE = 40  # columns that still leave room for a number under each


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A column of the whole network, the line it lies on and its slot there, and a lane (0 is the main path)."""

    column: int
    line: int
    slot: int
    lane: int


def lay_out(graph: Graph) -> dict[str, Place]:
    """The place of every drawn layer, by name. No two share a column and a lane."""
    layers = drawn_layers(graph)
    parents = parents_of(graph, layers)
    columns = _columns(layers, parents)
    lanes = _lanes(layers, parents, columns)
    depth = max(columns.values(), default=0) + 1
    slots = -(-depth // -(-depth // LINE))
    return {
        x.name: Place(
            column=columns[x.name], line=columns[x.name] // slots, slot=columns[x.name] % slots, lane=lanes[x.name]
        )
        for x in layers
    }


def parents_of(graph: Graph, layers: tuple[Layer, ...]) -> dict[str, tuple[str, ...]]:
    """The drawn layers that feed each drawn layer, through layers that are not drawn."""
    drawn = {x.name for x in layers}
    seen: dict[str, tuple[str, ...]] = {}  # what a reader of this layer's output sees of drawn layers
    parents: dict[str, tuple[str, ...]] = {}
    for layer in graph.layers:
        above = tuple(dict.fromkeys(p for s in layer.sources for p in seen.get(s, ())))
        parents[layer.name] = above
        seen[layer.name] = (layer.name,) if layer.name in drawn else above
    return {name: parents[name] for name in parents if name in drawn}


def _columns(layers: tuple[Layer, ...], parents: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    if not any(parents.values()):  # nothing is known of the paths: call order
        return {x.name: number for number, x in enumerate(layers)}
    columns: dict[str, int] = {}
    for layer in layers:
        columns[layer.name] = 1 + max((columns[p] for p in parents[layer.name]), default=-1)
    return columns


def _lanes(
    layers: tuple[Layer, ...], parents: Mapping[str, tuple[str, ...]], columns: Mapping[str, int]
) -> dict[str, int]:
    lanes = dict.fromkeys(_main_path(layers, parents, columns), 0)
    taken = {(columns[name], 0) for name in lanes}
    for layer in (x for x in layers if x.name not in lanes):
        column = columns[layer.name]
        wanted = [lanes[p] for p in parents[layer.name] if lanes.get(p, 0) > 0 and columns[p] == column - 1]
        free = [lane for lane in range(1, len(layers) + 1) if (column, lane) not in taken]
        lanes[layer.name] = next((lane for lane in wanted if lane in free), free[0])
        taken.add((column, lanes[layer.name]))
    return lanes


def _main_path(
    layers: tuple[Layer, ...], parents: Mapping[str, tuple[str, ...]], columns: Mapping[str, int]
) -> list[str]:
    if not layers:
        return []
    if not any(parents.values()):
        return [x.name for x in layers]
    path = [max(layers, key=lambda x: columns[x.name]).name]
    while columns[path[-1]]:
        path.append(next(p for p in reversed(parents[path[-1]]) if columns[p] == columns[path[-1]] - 1))
    return path
