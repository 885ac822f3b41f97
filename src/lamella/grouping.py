"""From a Flow to the Graph: which ids are one channel, which channels form a group, and what every axis is made of.

    graph = build_graph(name, flow, exported_graph, tensors)

Ids that were tied are one channel (connected components). Channels that touch the same axes the same number of times form a
group: any of them may leave without the others. Parts join groups that must shrink together. Whatever is fixed stays, with
its first reason.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch.fx import Node

from .channels import FIXED, Call, Flow, compact, module_path, operator_name, place
from .schema import Axis, Graph, Group, Layer, Parameter, Run, Size, Tensor

Key = tuple[str, int]


def build_graph(name: str, flow: Flow, graph: torch.fx.Graph, tensors: Mapping[str, torch.Tensor]) -> Graph:
    """The Graph record. `tensors`: every parameter and buffer of the model by its first name."""
    channels = _join(flow)
    named = _Naming(flow, tensors)
    axes = _axis_channels(flow, channels, tensors, named)
    roles = _roles(flow, channels, axes)
    groups = _Groups(flow, channels, axes, roles)
    groups.name_all(named)
    parameters = tuple(_parameter(n, t, axes, roles, groups) for n, t in tensors.items())
    layers = _layers(flow, graph, channels, groups, named)
    return Graph(
        model=name,
        layers=layers,
        parameters=parameters,
        tensors=_tensors(flow, graph, channels, groups),
        groups=groups.records(named, layers),
    )


def _join(flow: Flow) -> np.ndarray:
    """The channel (component) of every id, shape (ids,)."""
    ties = np.concatenate([*flow.ties, np.zeros((0, 2), dtype=np.int32)])
    matrix = coo_array((np.ones(len(ties), dtype=np.int8), (ties[:, 0], ties[:, 1])), shape=(flow.count, flow.count))
    _, channels = connected_components(matrix, directed=False)
    return channels.astype(np.int64)


@dataclass(frozen=True, slots=True)
class _AxisChannels:
    channels: np.ndarray
    ids: np.ndarray
    blocks: int = 1
    blocked_role: str = ""


def _axis_channels(flow: Flow, channels: np.ndarray, tensors: Mapping[str, torch.Tensor], named: "_Naming") -> dict[Key, _AxisChannels]:
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

    def __init__(self, flow: Flow, channels: np.ndarray, axes: Mapping[Key, _AxisChannels], roles: Mapping[Key, str]) -> None:
        self.count = int(channels.max()) + 1
        self.reasons = _reasons(flow, channels)
        self.first_id = _first_ids(flow, channels, self.count)
        signature = _signatures(axes, roles, self.count)
        members = self._members(flow, channels, signature)
        parts, members = self._balance(flow, channels, members)
        self.members = sorted(members, key=lambda m: int(self.first_id[m].min()))
        self.parts = parts
        self.owner = np.full(self.count, -1)
        self.rank = np.zeros(self.count, dtype=np.int64)
        for index, group in enumerate(self.members):
            self.owner[group], self.rank[group] = index, np.arange(len(group))
        self.names: list[str] = [""] * len(self.members)
        self.producers = _producers(flow, channels, self.owner, len(self.members))

    def _members(self, flow: Flow, channels: np.ndarray, signature: np.ndarray) -> list[np.ndarray]:
        alive = np.unique(channels[np.concatenate([*flow.born, np.zeros(0, dtype=np.int32)])])
        alive = alive[alive != channels[FIXED]]
        frozen = np.array([int(c) in self.reasons for c in alive], dtype=bool)
        kinds = np.stack([signature[alive], frozen.astype(np.uint64)], 1)
        _, which = np.unique(kinds, axis=0, return_inverse=True)
        order = np.argsort(self.first_id[alive], kind="stable")
        groups: dict[int, list[int]] = {}
        for i in order:
            groups.setdefault(int(which.ravel()[i]), []).append(int(alive[i]))
        return [np.array(g) for g in groups.values()]

    def _balance(
        self, flow: Flow, channels: np.ndarray, members: list[np.ndarray]
    ) -> tuple[dict[int, tuple[int, ...]], list[np.ndarray]]:
        """Join groups that shrink together and label the parts; what cannot be balanced is frozen. Parts by channel."""
        of = np.full(self.count, -1)
        for i, group in enumerate(members):
            of[group] = i
        joined = list(range(len(members)))
        labels: dict[int, tuple[int, ...]] = {int(c): () for group in members for c in group}
        for ids, part, where in flow.parts:
            self._one_constraint(channels[ids], part, where, of, joined, labels)
        return self._cells(members, joined, labels)

    def _one_constraint(
        self, chans: np.ndarray, part: np.ndarray, where: str, of: np.ndarray, joined: list[int], labels: dict[int, tuple[int, ...]]
    ) -> None:
        live = np.array([of[c] >= 0 and int(c) not in self.reasons for c in chans], dtype=bool)
        if not live.any():
            return
        unique, index = np.unique(chans[live], return_inverse=True)
        _, label = np.unique(part, return_inverse=True)
        table = np.zeros((len(unique), int(label.max()) + 1), dtype=np.int64)
        np.add.at(table, (index.ravel(), label.ravel()[live]), 1)
        single = (table > 0).sum(1) == 1
        even = (table == table[:, :1]).all(1)
        for c in unique[~single & ~even]:
            self._freeze(int(c), f"its channels fall unevenly into the parts of {where}")
        home = table.argmax(1)
        uneven = set()
        for g in np.unique(of[unique[single]]):
            mine = home[single & (of[unique] == g)]
            if len(set(np.bincount(mine, minlength=table.shape[1]))) > 1:
                uneven.add(int(g))
        for a, b in pairwise(sorted(uneven)):
            _unite(joined, a, b)
        for c, h in zip(unique[single], home[single], strict=True):
            labels[int(c)] += (int(h),)

    def _freeze(self, channel: int, reason: str) -> None:
        self.reasons.setdefault(channel, reason)

    def _cells(
        self, members: list[np.ndarray], joined: list[int], labels: dict[int, tuple[int, ...]]
    ) -> tuple[dict[int, tuple[int, ...]], list[np.ndarray]]:
        sets: dict[int, list[int]] = {}
        for i, group in enumerate(members):
            sets.setdefault(_root(joined, i), []).extend(int(c) for c in group)
        parts, result = {}, []
        for group in sets.values():
            cells = sorted({labels[c] for c in group})
            counts = {sum(labels[c] == cell for c in group) for cell in cells} if len(cells) > 1 else {len(group)}
            frozen = any(c in self.reasons for c in group)
            if len(counts) > 1 or (frozen and len(cells) > 1):
                for c in group:
                    self._freeze(c, "its channels cannot be cut into equal parts for the splits and grouped convolutions they pass")
            elif len(cells) > 1:
                number = {cell: i for i, cell in enumerate(cells)}
                parts.update({c: number[labels[c]] for c in group})
            result.append(np.array(sorted(group, key=lambda c: int(self.first_id[c]))))
        return {c: (p,) for c, p in parts.items()}, result

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
        elif last is not None and last.group == self.names[owner] and last.repeat == repeat and last.start + last.count == rank:
            runs[-1] = replace(last, count=last.count + 1)
        else:
            runs.append(Run(group=self.names[owner], start=rank, repeat=repeat))

    def size(self, channels: np.ndarray, factor: int = 1) -> Size:
        """How many elements belong to which group; what does not divide evenly counts as fixed."""
        counts = np.bincount(self.owner[channels] + 1, minlength=len(self.members) + 1) * factor
        fixed, terms = int(counts[0]), []
        for index in np.flatnonzero(counts[1:]):
            times, rest = divmod(int(counts[index + 1]), len(self.members[index]))
            if rest:
                fixed += int(counts[index + 1])
            else:
                terms.append((self.names[index], times))
        return Size(fixed=fixed, terms=tuple(terms))

    def name_all(self, named: "_Naming") -> None:
        taken: dict[str, int] = {}
        for index, calls in enumerate(self.producers):
            base = named.of(calls[0]) if calls else f"group{index}"
            taken[base] = taken.get(base, 0) + 1
            self.names[index] = base if taken[base] == 1 else f"{base}#{taken[base]}"

    def records(self, named: "_Naming", layers: Iterable[Layer]) -> tuple[Group, ...]:
        records = []
        for index, group in enumerate(self.members):
            reason = next((self.reasons[int(c)] for c in group if int(c) in self.reasons), None)
            parts = tuple(self.parts[int(c)][0] for c in group) if reason is None and int(group[0]) in self.parts else ()
            made_by = tuple(dict.fromkeys(named.of(call) for call in self.producers[index]))
            records.append(Group(name=self.names[index], width=len(group), layers=made_by, parts=parts, frozen=reason))
        return tuple(records)


def _reasons(flow: Flow, channels: np.ndarray) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for ids, reason in flow.fixed:
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


def _root(joined: list[int], i: int) -> int:
    while joined[i] != i:
        i = joined[i]
    return i


def _unite(joined: list[int], a: int, b: int) -> None:
    a, b = _root(joined, a), _root(joined, b)
    joined[max(a, b)] = min(a, b)


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
        return self.locate(call.use.columns) or self.locate(call.use.rows)

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
        made.append(Axis(role=role, runs=runs, blocks=known.blocks if known is not None else 1))  # type: ignore[arg-type]
    trained = isinstance(tensor, torch.nn.Parameter)
    return Parameter(name=name, axes=tuple(made), itemsize=tensor.element_size(), trained=trained)


def _fixed(extent: int) -> tuple[Run, ...]:
    return (Run(group=None, count=extent),) if extent else ()


def _layers(flow: Flow, graph: torch.fx.Graph, channels: np.ndarray, groups: _Groups, named: _Naming) -> tuple[Layer, ...]:
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
        Tensor(size=_tensor_size(flow, node, channels, groups), producer=a, last_reader=b) for node, (a, b) in spans.items()
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


__all__ = ["build_graph", "place"]
