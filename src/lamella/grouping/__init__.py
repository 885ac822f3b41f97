"""From a Flow to the Graph: which ids are one channel, which channels form a group, and what every axis is made of.

    built = build_graph(name, flow, exported_graph, tensors)

Ids that were tied are one channel (connected components). Channels that touch the same axes the same number of times form a
group: any of them may leave without the others. `balance` joins groups that must shrink together. Whatever is fixed stays,
with its first reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..channels import Flow
from ..schema import Graph
from .bypasses import removable
from .facts import attributes_of, layers_of, parameter_of, tensors_of
from .groups import Groups
from .joining import axis_channels, join, roles_of
from .naming import Naming
from .products import products_of


@dataclass(frozen=True, slots=True)
class Built:
    """The Graph, and what the flow was unsure of: per group the sizes that may be constants, and the views that cut its channels.

    `pairs`: the groups of which two channels must stay.
    """

    graph: Graph
    suspects: dict[str, str]
    views: dict[str, frozenset[str]]
    pairs: frozenset[str]


def build_graph(name: str, flow: Flow, graph: torch.fx.Graph, tensors: Mapping[str, torch.Tensor]) -> Built:
    """The Graph record. `tensors`: every parameter and buffer of the model by its first name."""
    channels = join(flow)
    named = Naming(flow, tensors)
    axes = axis_channels(flow, channels, tensors, named)
    roles = roles_of(flow, channels, axes)
    groups = Groups(flow, channels, axes, roles)
    groups.name_all(named)
    layers = layers_of(flow, graph, channels, groups, named)
    parameters = tuple(parameter_of(n, t, axes, roles, groups) for n, t in tensors.items())
    record = Graph(
        model=name,
        layers=layers,
        parameters=parameters,
        tensors=tensors_of(flow, graph, channels, groups),
        groups=groups.records(named),
        attributes=attributes_of(flow, channels, groups),
        products=products_of(flow, channels, groups, named, layers, parameters),
    )
    suspects: dict[str, str] = {}
    views: dict[str, frozenset[str]] = {}
    for ids, text in [*((array, f"a size in {where}") for array, where, _ in flow.cuts), *flow.suspects]:
        for group in groups.names_of(channels[ids]):
            suspects.setdefault(group, text)
    for array, _, node in flow.cuts:
        for group in groups.names_of(channels[array]):
            views[group] = views.get(group, frozenset()) | {node}
    sizes = [groups.size(channels[ids]) for ids in flow.pairs]
    pairs = frozenset(s.terms[0][0] for s in sizes if s.fixed == 0 and not s.shares and [n for _, n in s.terms] == [1])
    return Built(record, suspects, views, pairs)


__all__ = ["Built", "build_graph", "removable"]
