"""What the Graph records of parameters, layers, activations and module integers, once the groups are known."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.fx import Node

from ..channels import Flow, compact, operator_name
from ..schema import Attribute, Axis, Layer, Parameter, Run, Size, Tensor
from .groups import Groups
from .joining import AxisChannels, Key, axes_of_change
from .naming import Naming


def attributes_of(flow: Flow, channels: np.ndarray, groups: Groups) -> tuple[Attribute, ...]:
    """The integers of modules that repeat a size which follows the groups."""
    found: dict[tuple[str, str, int | None], Attribute] = {}
    for literal in flow.literals:
        ids = channels[literal.ids]
        axes = axes_of_change(ids)
        if not axes or axes[-1] != literal.axis:
            continue
        size = groups.size(ids.ravel())
        if size.groups:
            blocks = ids.size // ids.shape[literal.axis]
            key = (literal.module, literal.name, literal.index)
            found.setdefault(
                key, Attribute(module=literal.module, name=literal.name, index=literal.index, size=size, blocks=blocks)
            )
    return tuple(found.values())


def parameter_of(
    name: str, tensor: torch.Tensor, axes: Mapping[Key, AxisChannels], roles: Mapping[Key, str], groups: Groups
) -> Parameter:
    made = []
    for d, extent in enumerate(tensor.shape):
        known = axes.get((name, d))
        role = roles.get((name, d), "fixed")
        runs = groups.runs(known.channels) if known is not None and role != "fixed" and extent else _fixed(extent)
        shares = groups.size(known.channels).shares if known is not None and role != "fixed" else ()
        made.append(Axis(role=role, runs=runs, blocks=known.blocks if known is not None else 1, shares=shares))  # type: ignore[arg-type]
    trained = isinstance(tensor, torch.nn.Parameter)
    return Parameter(name=name, axes=tuple(made), itemsize=tensor.element_size(), trained=trained)


def _fixed(extent: int) -> tuple[Run, ...]:
    return (Run(group=None, count=extent),) if extent else ()


def layers_of(
    flow: Flow, graph: torch.fx.Graph, channels: np.ndarray, groups: Groups, named: Naming
) -> tuple[Layer, ...]:
    sources = _sources(flow, graph, named)
    layers: dict[str, Layer] = {}
    for call in flow.calls:
        name = named.of(call)
        before = layers.get(name)
        own = tuple(s for s in sources[call.node] if s != name)
        if before is not None:
            all_sources = tuple(dict.fromkeys((*before.sources, *own)))
            positions = before.positions + call.positions
            layers[name] = replace(before, calls=before.calls + 1, positions=positions, sources=all_sources)
            continue
        layers[name] = Layer(
            name=name,
            kind=call.kind,
            weight=named.weight(call),
            bias=call.bias,
            outputs=groups.size(channels[call.out_ids]),
            inputs=groups.size(channels[call.in_ids]),
            kernel=tuple(int(k) for k in call.kernel),
            stride=tuple(int(k) for k in call.stride),
            positions=call.positions,
            sources=own,
        )
    return tuple(layers.values())


def _sources(flow: Flow, graph: torch.fx.Graph, named: Naming) -> dict[Node, tuple[str, ...]]:
    """For every node the layers that reach it with none in between."""
    layer = {call.node: named.of(call) for call in flow.calls}
    reach: dict[Node, tuple[str, ...]] = {}
    arrives: dict[Node, tuple[str, ...]] = {}
    for node in graph.nodes:
        arrives[node] = tuple(dict.fromkeys(name for each in node.all_input_nodes for name in reach[each]))
        reach[node] = (layer[node],) if node in layer else arrives[node]
    return arrives


IN_PLACE = {"batch_norm", "_native_batch_norm_legit_no_training", "dropout", "getitem"}


def tensors_of(flow: Flow, graph: torch.fx.Graph, channels: np.ndarray, groups: Groups) -> tuple[Tensor, ...]:
    """Activations with their life spans. Views, batch norm and pointwise operators of one tensor are counted in place."""
    home: dict[Node, Node] = {}
    spans: dict[Node, list[int]] = {}
    for moment, node in enumerate(graph.nodes):
        inputs = [home[n] for n in node.all_input_nodes if n in home]
        for each in inputs:
            spans[each][1] = moment
        if node not in flow.values or (node.op == "placeholder" and node not in flow.inputs):
            continue
        shared = len(inputs) == 1 and _in_place(node)
        home[node] = inputs[0] if shared else node
        if not shared:
            spans[node] = [moment, moment]
    return tuple(
        Tensor(size=_tensor_size(flow, node, channels, groups), producer=a, last_reader=b)
        for node, (a, b) in spans.items()
    )


def _in_place(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
    return aliases or torch.Tag.pointwise in getattr(node.target, "tags", ()) or operator_name(node) in IN_PLACE


def _tensor_size(flow: Flow, node: Node, channels: np.ndarray, groups: Groups) -> Size:
    value = flow.values[node]
    batch = value.shape[0] if len(value.shape) > 1 else 1
    elements = int(np.prod(value.shape, dtype=np.int64)) // max(1, batch)
    if len(value.planes) != 1:
        return Size(fixed=elements)
    ids = compact(value.planes[0]).ravel()
    return groups.size(channels[ids], max(1, elements // len(ids)))
