"""What a trace can reach, as plain data: layers, groups, what is free, what is frozen and why, and the share in reach.

    found = reach(graph)
    found.params, found.macs                 # shares between 0 and 1 that leave when every free group is at its floor
    for row in found.groups: print(row.name, row.width, row.frozen or "free")

No torch: it runs on a graph read from a file.
"""

from dataclasses import dataclass

from .costs import cost, layer_cost
from .schema import Graph, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer with its dense costs, and the groups that its outputs and inputs follow."""

    name: str
    kind: str
    outputs: int
    inputs: int
    params: int
    macs: int
    makes: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group: the layers that make its channels, how narrow it may become, and why not narrower.

    `params` and `macs` are the shares of the model that leave when this group alone goes to its lowest width. `frozen` is the
    reason why it cannot; `changes` what narrowing changes for the channels that stay; `removable`: none of them need stay.
    """

    name: str
    width: int
    lowest: int
    step: int
    parts: int
    layers: tuple[str, ...] = ()
    params: float = 0.0
    macs: float = 0.0
    frozen: str | None = None
    changes: str | None = None
    removable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """A model's layers and groups, and the shares of its parameters and MACs that free groups can remove together."""

    model: str
    params: float
    macs: float
    dense_params: int
    dense_macs: int
    layers: tuple[LayerRow, ...]
    groups: tuple[GroupRow, ...]
    notes: tuple[str, ...] = ()


def reach(graph: Graph) -> Reach:
    """What can be narrowed in this model, and how much that is of the whole."""
    dense, least = cost(graph), cost(graph, {g.name: g.legal(0) for g in graph.free})
    return Reach(
        model=graph.model,
        params=1 - least.params / max(1, dense.params),
        macs=1 - least.macs / max(1, dense.macs),
        dense_params=dense.params,
        dense_macs=dense.macs,
        layers=tuple(_layer_row(graph, layer.name) for layer in graph.layers),
        groups=tuple(_group_row(graph, group, dense.params, dense.macs) for group in graph.groups),
        notes=graph.notes,
    )


def _layer_row(graph: Graph, name: str) -> LayerRow:
    layer, own = graph.layer_of[name], layer_cost(graph, name)
    return LayerRow(
        name=name,
        kind=layer.kind,
        outputs=layer.outputs.at(graph.widths),
        inputs=layer.inputs.at(graph.widths),
        params=own.params,
        macs=own.macs,
        makes=layer.outputs.groups,
        takes=layer.inputs.groups,
    )


def _group_row(graph: Graph, group: Group, params: int, macs: int) -> GroupRow:
    lowest = group.legal(0)
    least = cost(graph, {group.name: lowest})
    return GroupRow(
        name=group.name,
        width=group.width,
        lowest=lowest,
        step=group.round_to,
        parts=group.part_count,
        layers=group.layers,
        params=1 - least.params / max(1, params),
        macs=1 - least.macs / max(1, macs),
        frozen=group.frozen,
        changes=group.changes,
        removable=group.removable,
    )
