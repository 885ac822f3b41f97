"""From a Flow to the Graph: which ids are one channel, which channels form a group, and what every axis is made of.

    built = build_graph(name, flow, exported_graph, tensors)

Ids that were tied are one channel (connected components). Channels that touch the same axes the same number of times form a
group: any of them may leave without the others. `balance` joins groups that must shrink together. Whatever is fixed stays,
with its first reason.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.fx import Node

from .balance import Demand, Members, balance
from .channels import FIXED, Call, Flow, compact, module_path, operator_name
from .schema import Attribute, Axis, Graph, Group, Layer, Parameter, Run, Share, Size, Tensor

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Built:
    """The Graph, and what the flow was unsure of: per group the sizes that may be constants, and the views that cut its channels."""

    graph: Graph
    suspects: dict[str, str]
    views: dict[str, frozenset[str]]


def build_graph(name: str, flow: Flow, graph: torch.fx.Graph, tensors: Mapping[str, torch.Tensor]) -> Built:
    """The Graph record. `tensors`: every parameter and buffer of the model by its first name."""
    channels = _join(flow)
    named = _Naming(flow, tensors)
    axes = _axis_channels(flow, channels, tensors, named)
    roles = _roles(flow, channels, axes)
    groups = _Groups(flow, channels, axes, roles)
    groups.name_all(named)
    record = Graph(
        model=name,
        layers=_layers(flow, graph, channels, groups, named),
        parameters=tuple(_parameter(n, t, axes, roles, groups) for n, t in tensors.items()),
        tensors=_tensors(flow, graph, channels, groups),
        groups=groups.records(named),
        attributes=_attributes(flow, channels, groups),
    )
    suspects: dict[str, str] = {}
    views: dict[str, frozenset[str]] = {}
    for ids, text in [*((array, f"a size in {where}") for array, where, _ in flow.cuts), *flow.suspects]:
        for group in groups.names_of(channels[ids]):
            suspects.setdefault(group, text)
    for array, _, node in flow.cuts:
        for group in groups.names_of(channels[array]):
            views[group] = views.get(group, frozenset()) | {node}
    return Built(record, suspects, views)


def _join(flow: Flow) -> np.ndarray:
    """The channel (component) of every id, shape (ids,)."""
    ties = np.concatenate([*flow.ties, np.zeros((0, 2), dtype=np.int32)])
    matrix = coo_array((np.ones(len(ties), dtype=np.int8), (ties[:, 0], ties[:, 1])), shape=(flow.count, flow.count))
    _, channels = connected_components(matrix, directed=False)
    return np.asarray(channels, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _AxisChannels:
    channels: np.ndarray
    ids: np.ndarray
    blocks: int = 1
    blocked_role: str = ""


def _axis_channels(
    flow: Flow, channels: np.ndarray, tensors: Mapping[str, torch.Tensor], named: "_Naming"
) -> dict[Key, _AxisChannels]:
    axes = {}
    for name, starts in flow.axis_start.items():
        for d, start in enumerate(starts):
            ids = np.arange(start, start + tensors[name].shape[d])
            axes[name, d] = _AxisChannels(channels[ids], ids)
    for call in flow.calls:
        weight = named.weight(call)
        if call.use.block_ids is not None and weight is not None:
            key = weight, 1  # a grouped convolution keeps its blocks on axis 1 of its weight
            role = "in" if np.array_equal(call.use.block_ids, call.in_ids) else "out"
            axes[key] = _AxisChannels(channels[call.use.block_ids], axes[key].ids, call.use.blocks, role)
    return axes


def _roles(flow: Flow, channels: np.ndarray, axes: Mapping[Key, _AxisChannels]) -> dict[Key, str]:
    born, consumed = np.zeros(flow.count, dtype=bool), np.zeros(flow.count, dtype=bool)
    for ids in flow.born:
        born[ids] = True
    for call in flow.calls:
        consumed[call.use.columns] = True
    alive = np.zeros(int(channels.max()) + 1, dtype=bool)
    alive[channels[born]] = True
    roles = {}
    for key, axis in axes.items():
        if axis.blocked_role:
            roles[key] = axis.blocked_role
        elif consumed[axis.ids].any():
            roles[key] = "in"
        elif born[axis.ids].any():
            roles[key] = "out"
        else:
            roles[key] = "each" if alive[axis.channels].any() else "fixed"
    return roles


class _Groups:
    """Channels to groups. `owner[channel]` is the group's index, -1 for elements that belong to none; `rank[channel]` its place in it."""

    def __init__(
        self, flow: Flow, channels: np.ndarray, axes: Mapping[Key, _AxisChannels], roles: Mapping[Key, str]
    ) -> None:
        self.count = int(channels.max()) + 1
        self.reasons = _reasons(flow.fixed, channels)
        self.changes = _reasons(flow.changes, channels)
        first = _first_ids(flow, channels, self.count)
        alike = self._alike(flow, channels, _signatures(axes, roles, self.count), first)
        balanced = balance(alike, _demands(flow, channels), self.reasons)
        self.members = sorted((_in_order(m, first) for m in balanced), key=lambda m: int(first[m.channels[0]]))
        self.owner = np.full(self.count, -1)
        self.rank = np.zeros(self.count, dtype=np.int64)
        for index, group in enumerate(self.members):
            self.owner[group.channels], self.rank[group.channels] = index, np.arange(len(group.channels))
        self.names: list[str] = [""] * len(self.members)
        self.producers = _producers(flow, channels, self.owner, len(self.members))

    def _alike(self, flow: Flow, channels: np.ndarray, signature: np.ndarray, first: np.ndarray) -> list[np.ndarray]:
        """Channels of equal signature, free and frozen ones apart."""
        alive = np.unique(channels[np.concatenate([*flow.born, np.zeros(0, dtype=np.int32)])])
        alive = alive[alive != channels[FIXED]]
        frozen = np.array([int(c) in self.reasons for c in alive], dtype=bool)
        kinds = np.stack([signature[alive], frozen.astype(np.uint64)], 1)
        _, which = np.unique(kinds, axis=0, return_inverse=True)
        groups: dict[int, list[int]] = {}
        for i in np.argsort(first[alive], kind="stable"):
            groups.setdefault(int(which.ravel()[i]), []).append(int(alive[i]))
        return [np.array(g) for g in groups.values()]

    def runs(self, channels: np.ndarray) -> tuple[Run, ...]:
        """An axis as stretches of groups."""
        owner, rank = self.owner[channels], self.rank[channels]
        rank = np.where(owner < 0, 0, rank)
        edges = np.flatnonzero((np.diff(owner) != 0) | (np.diff(rank) != 0)) + 1
        starts = np.concatenate([[0], edges])
        repeats = np.diff(np.concatenate([starts, [len(channels)]]))
        runs: list[Run] = []
        for s, repeat in zip(starts, repeats, strict=True):
            self._extend(runs, int(owner[s]), int(rank[s]), int(repeat))
        return tuple(runs)

    def _extend(self, runs: list[Run], owner: int, rank: int, repeat: int) -> None:
        last = runs[-1] if runs else None
        if owner < 0:
            runs.append(Run(group=None, count=repeat))
        elif (
            last is not None
            and last.group == self.names[owner]
            and last.repeat == repeat
            and last.start + last.count == rank
        ):
            runs[-1] = replace(last, count=last.count + 1)
        else:
            runs.append(Run(group=self.names[owner], start=rank, repeat=repeat))

    def size(self, channels: np.ndarray, factor: int = 1) -> Size:
        """How many elements belong to which group."""
        owner, rank = self.owner[channels], self.rank[channels]
        fixed, terms, shares = int((owner < 0).sum()) * factor, list[tuple[str, int]](), list[Share]()
        for index in np.unique(owner[owner >= 0]):
            counts = np.bincount(rank[owner == index], minlength=len(self.members[index].channels)) * factor
            if counts.min() == counts.max():
                terms.append((self.names[index], int(counts[0])))
            elif (found := self._shares(int(index), counts)) is not None:
                shares.extend(found)
            else:
                fixed += int(counts.sum())
        return Size(fixed=fixed, terms=tuple(terms), shares=tuple(shares))

    def _shares(self, index: int, counts: np.ndarray) -> list[Share] | None:
        """Some parts of a balanced group, by how often each channel of theirs counts; None where that differs within a part."""
        group = self.members[index]
        if not group.cells:
            return None
        cells = np.asarray(group.cells)
        times = np.zeros(int(cells.max()) + 1, dtype=np.int64)
        times[cells] = counts
        if not np.array_equal(times[cells], counts):
            return None
        shares = []
        for often in np.unique(times[times > 0]):
            inside = np.flatnonzero(times == often)
            table = tuple((sum(rung), sum(rung[c] for c in inside)) for rung in group.ladder)
            share = Share(
                group=self.names[index], times=int(often), numerator=len(inside), denominator=len(times), table=table
            )
            shares.append(share)
        return shares

    def name_all(self, named: "_Naming") -> None:
        taken: dict[str, int] = {}
        for index, calls in enumerate(self.producers):
            base = named.of(calls[0]) if calls else f"group{index}"
            taken[base] = taken.get(base, 0) + 1
            self.names[index] = base if taken[base] == 1 else f"{base}#{taken[base]}"

    def records(self, named: "_Naming") -> tuple[Group, ...]:
        """The groups in the order in which their first channel is made."""
        return tuple(self._record(index, named) for index in range(len(self.members)))

    def _record(self, index: int, named: "_Naming") -> Group:
        group = self.members[index]
        reason = next((self.reasons[int(c)] for c in group.channels if int(c) in self.reasons), None)
        return Group(
            name=self.names[index],
            width=len(group.channels),
            layers=tuple(dict.fromkeys(named.of(call) for call in self.producers[index])),
            parts=group.cells if reason is None else (),
            ladder=group.ladder if reason is None else (),
            frozen=reason,
            changes=next((self.changes[int(c)] for c in group.channels if int(c) in self.changes), None),
        )

    def names_of(self, channels: np.ndarray) -> tuple[str, ...]:
        """The groups that own some of these channels."""
        return tuple(self.names[i] for i in np.unique(self.owner[channels]) if i >= 0)


def _in_order(group: Members, first: np.ndarray) -> Members:
    order = np.argsort(first[group.channels], kind="stable")
    cells = tuple(group.cells[i] for i in order) if group.cells else ()
    return replace(group, channels=group.channels[order], cells=cells)


def _demands(flow: Flow, channels: np.ndarray) -> list[Demand]:
    demands = [Demand(channels[split.ids], split.parts, split.where) for split in flow.splits]
    for array, where, _ in flow.cuts:
        ids = channels[array]
        axes = _axes_of_change(ids)
        if len(axes) > 1:  # the last axis shrinks; the others are parts
            parts = np.broadcast_to(
                np.expand_dims(
                    np.arange(ids.size // ids.shape[axes[-1]]).reshape(np.delete(ids.shape, axes[-1])), axes[-1]
                ),
                ids.shape,
            )
            live = array.ravel() != FIXED
            demands.append(Demand(ids.ravel()[live], parts.ravel()[live], where))
    return demands


def _axes_of_change(ids: np.ndarray) -> list[int]:
    """The axes along which the channels differ."""
    return [d for d in range(ids.ndim) if ids.shape[d] > 1 and bool((np.diff(ids, axis=d) != 0).any())]


def _attributes(flow: Flow, channels: np.ndarray, groups: _Groups) -> tuple[Attribute, ...]:
    """The integers of modules that repeat a size which follows the groups."""
    found: dict[tuple[str, str, int | None], Attribute] = {}
    for literal in flow.literals:
        ids = channels[literal.ids]
        axes = _axes_of_change(ids)
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


def _reasons(found: Iterable[tuple[np.ndarray, str]], channels: np.ndarray) -> dict[int, str]:
    """The first text said of every channel."""
    reasons: dict[int, str] = {}
    for ids, reason in found:
        for c in np.unique(channels[ids]):
            reasons.setdefault(int(c), reason)
    return reasons


def _first_ids(flow: Flow, channels: np.ndarray, count: int) -> np.ndarray:
    """The place of a channel in the order in which layers make channels."""
    first = np.full(count, np.iinfo(np.int64).max)
    position = 0
    for ids in flow.born:
        np.minimum.at(first, channels[ids], position + np.arange(len(ids)))
        position += len(ids)
    return first


def _signatures(axes: Mapping[Key, _AxisChannels], roles: Mapping[Key, str], count: int) -> np.ndarray:
    """A 64-bit sum per channel over the axes it touches: equal sums, equal axes (random terms, fixed seed)."""
    generator = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.uint64)
    for key in axes:
        term = generator.integers(1, 2**63, dtype=np.uint64)
        if roles[key] != "fixed":
            np.add.at(signature, axes[key].channels, term)
    return signature


def _producers(flow: Flow, channels: np.ndarray, owner: np.ndarray, count: int) -> list[list[Call]]:
    producers: list[list[Call]] = [[] for _ in range(count)]
    for call in flow.calls:
        if call.kind.endswith("norm"):
            continue
        for index in np.unique(owner[channels[call.out_ids]]):
            if index >= 0:
                producers[index].append(call)
    return producers


class _Naming:
    """Layer names: the module path where a module holds the weight, else the parameter's own name."""

    def __init__(self, flow: Flow, tensors: Mapping[str, torch.Tensor]) -> None:
        starts = [(start, name, d) for name, ss in flow.axis_start.items() for d, start in enumerate(ss)]
        self._starts = sorted((s for s in starts if tensors[s[1]].shape[s[2]]), key=lambda s: s[0])
        self._firsts = np.array([s[0] for s in self._starts])
        self._ends = np.array([s[0] + tensors[s[1]].shape[s[2]] for s in self._starts])

    def locate(self, ids: np.ndarray) -> str | None:
        if not len(ids) or ids[0] == FIXED or not len(self._firsts):
            return None
        i = int(np.searchsorted(self._firsts, ids[0], side="right")) - 1
        return self._starts[i][1] if i >= 0 and ids[0] < self._ends[i] else None

    def weight(self, call: Call) -> str | None:
        return call.weight or self.locate(call.use.columns) or self.locate(call.use.rows)

    def of(self, call: Call) -> str:
        weight = self.weight(call)
        if weight is None:
            return module_path(call.node) or call.node.name
        name = weight.split(".parametrizations.")[0]
        return name.removesuffix(".weight").removesuffix(".weight_v").removesuffix("_weight")


def _parameter(
    name: str, tensor: torch.Tensor, axes: Mapping[Key, _AxisChannels], roles: Mapping[Key, str], groups: _Groups
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


def _layers(
    flow: Flow, graph: torch.fx.Graph, channels: np.ndarray, groups: _Groups, named: _Naming
) -> tuple[Layer, ...]:
    sources = _sources(flow, graph, named)
    layers: dict[str, Layer] = {}
    for call in flow.calls:
        name = named.of(call)
        before = layers.get(name)
        if before is not None:
            layers[name] = replace(before, calls=before.calls + 1, positions=before.positions + call.positions)
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
            sources=tuple(s for s in sources[call.node] if s != name),
        )
    return tuple(layers.values())


def _sources(flow: Flow, graph: torch.fx.Graph, named: _Naming) -> dict[Node, tuple[str, ...]]:
    """For every node the layers that reach it with none in between."""
    layer = {call.node: named.of(call) for call in flow.calls}
    reach: dict[Node, tuple[str, ...]] = {}
    arrives: dict[Node, tuple[str, ...]] = {}
    for node in graph.nodes:
        arrives[node] = tuple(dict.fromkeys(name for each in node.all_input_nodes for name in reach[each]))
        reach[node] = (layer[node],) if node in layer else arrives[node]
    return arrives


IN_PLACE = {"batch_norm", "_native_batch_norm_legit_no_training", "dropout", "getitem"}


def _tensors(flow: Flow, graph: torch.fx.Graph, channels: np.ndarray, groups: _Groups) -> tuple[Tensor, ...]:
    """Activations with their life spans. Views, batch norm and pointwise operators of one tensor are counted in place."""
    home: dict[Node, Node] = {}
    spans: dict[Node, list[int]] = {}
    for moment, node in enumerate(graph.nodes):
        inputs = [home[n] for n in node.all_input_nodes if n in home]
        for each in inputs:
            spans[each][1] = moment
        if node not in flow.values or (node.op == "placeholder" and flow_parameter(flow, node)):
            continue
        shared = len(inputs) == 1 and _in_place(node)
        home[node] = inputs[0] if shared else node
        if not shared:
            spans[node] = [moment, moment]
    return tuple(
        Tensor(size=_tensor_size(flow, node, channels, groups), producer=a, last_reader=b)
        for node, (a, b) in spans.items()
    )


def flow_parameter(flow: Flow, node: Node) -> bool:
    """Whether a placeholder stands for a parameter, buffer or constant, not for an input of the model."""
    return node.name.startswith(("p_", "b_", "c_"))


def _in_place(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    aliases = schema is not None and any(r.alias_info is not None for r in schema.returns)
    return aliases or torch.Tag.pointwise in getattr(node.target, "tags", ()) or operator_name(node) in IN_PLACE


def _tensor_size(flow: Flow, node: Node, channels: np.ndarray, groups: _Groups) -> Size:
    value = flow.values[node]
    batch = value.shape[0] if len(value.shape) > 1 else 1
    elements = int(np.prod(value.shape, dtype=np.int64)) // max(1, batch)
    if len(value.planes) != 1:
        return Size(fixed=elements)
    ids = compact(value.planes[0]).ravel()
    return groups.size(channels[ids], max(1, elements // len(ids)))
