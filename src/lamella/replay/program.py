"""A model as a program that can be run from any operator on, at other values of some parameters."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only, tree_unflatten

from .folding import CONVOLUTIONS, LAYERS, absorbed, fold
from .operators import Listing, Name, Operator, Ref, aten, operators
from .running import Bound, Branch, Runner, State, Tweak, Variant, named

NORMS_OVER_CHANNELS = (aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default)


@dataclass(frozen=True, slots=True)
class Change:
    """Other tensors for some parameters (and buffers), by name.

    Two facts, by the weight of a layer, spare running that layer: `rows`, where all that changes about it (and the batch norm after it) is
    that it keeps these rows; `kept`, where its outputs (after that norm) are zero in all other rows. `tweaks`: by weight, what is done to
    the layer's input first.
    """

    tensors: Mapping[str, Tensor]
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    tweaks: Mapping[str, Tweak] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """What this change touches."""
        return frozenset({*self.tensors, *self.tweaks})


class Program:
    """A model in evaluation mode, exported at these inputs, batch norms folded, weights in channels-last order.

    Raises whatever torch.export raises for a model it cannot follow. `dtype`: what floating-point values are computed in, all but
    those of the operators in `wide`; None: as they are. `rewrite`: what is done to the listing.
    """

    dtype: torch.dtype | None = None
    wide: frozenset[int] = frozenset()

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...], rewrite: Callable[[Listing], Listing] = fold) -> None:
        self.listing = rewrite(operators(model, inputs))
        self.size = next(len(x) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim())
        self._sides = tuple(int(x.shape[-1]) for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim() > 2)
        self.structure = _output_structure(model, inputs)
        self._make_ready()

    def _make_ready(self) -> None:
        self.listed = self.listing.operators
        self.runner = Runner(self.listed, self.listing.outputs)
        self._plans: dict[frozenset[str], tuple[tuple[int, ...], list[int]]] = {}
        self.dense = {p: self._bind(op, self.listing.tensors) for p, op in enumerate(self.listed)}

    def lowered(self, dtype: torch.dtype) -> "Program":
        """The same program computing in another dtype; layers that no other layer follows, and all behind them, in float32."""
        twin = copy.copy(self)
        twin.listing, twin.wide = _with_wide_ends(self.listing)
        twin.dtype = dtype
        twin._make_ready()
        return twin

    @property
    def elements(self) -> int:
        """Elements per sample of all values together: an upper bound of what a walk ever holds."""
        return sum(op.elements for op in self.listed)

    @property
    def sides(self) -> tuple[int, ...]:
        """The last extent of every input that is a picture or a sequence."""
        return self._sides

    def window(self, op: Operator) -> tuple[int, int]:
        """Kernel and stride along the last axis of a convolution or a pool; (1, 1) for anything else."""
        name = getattr(getattr(op.target, "overloadpacket", None), "__name__", "")
        if self.kernel_name(op):
            return _last_of(self.listing.tensors[op.args[1].text].shape, 1), _last_of(
                op.args[3] if len(op.args) > 3 else 1, 1
            )
        if "pool" in name and "adaptive" not in name:
            kernel = _last_of(op.args[1], 1)
            return kernel, _last_of(op.args[2] if len(op.args) > 2 else kernel, kernel)
        return 1, 1

    @staticmethod
    def kernel_name(op: Operator) -> str | None:
        """The name of a convolution's weight."""
        return op.args[1].text if op.target in CONVOLUTIONS and isinstance(op.args[1], Name) else None

    def accepts(self, size: int) -> bool:
        """Whether a batch of this many samples can be run."""
        return size == self.size or (self.listing.any_size and size > 1)

    def start(self, inputs: tuple[Any, ...]) -> State:
        """A batch before the first operator."""
        leaves = [_laid_out(self._cast(x)) for x in tree_leaves(inputs)]
        return State(0, dict(enumerate(leaves)))

    def affected(self, names: Iterable[str]) -> tuple[int, ...]:
        """Positions of the operators that give other values when these parameters change."""
        names, touched, found = frozenset(names), set[int](), []
        for position, op in enumerate(self.listed):
            if op.names & names or not touched.isdisjoint(op.reads):
                touched.add(op.index)
                found.append(position)
        return tuple(found)

    def advance(self, state: State, position: int) -> None:
        """Run the dense network up to this position."""
        if position > state.position:
            own = set(state.values)
            self.runner.run(range(state.position, position), state.values, self.dense, own)
            state.position = position

    def branch(self, state: State, names: frozenset[str]) -> Branch:
        """What the variants that change these parameters share; the state is taken to the first operator that changes."""
        affected, beside = self._plan(names)
        self.advance(state, affected[0])
        values = dict(state.values)
        wanted = {index for position in affected for index in self.listed[position].reads}  # by every variant anew
        self.runner.run(beside, values, self.dense, set(), spared=wanted)
        return Branch(values)

    def step(self, state: State, branch: Branch) -> None:
        """Take a walk past the operator at which this branch begins, if the branch holds its dense value: it is not run again."""
        op = self.listed[state.position]
        if op.index not in branch.values:
            return
        state.values[op.index] = branch.values[op.index]
        for index in op.reads:
            if self.runner.last[index] == state.position:
                state.values.pop(index, None)
        state.position += 1

    def first(self, names: frozenset[str]) -> int:
        """The position of the first operator that a change of these parameters reaches. KeyError if no operator reads any."""
        return self._plan(names)[0][0]

    def _plan(self, names: frozenset[str]) -> tuple[tuple[int, ...], list[int]]:
        if names not in self._plans:
            affected = self.affected(names)
            if not affected:
                raise KeyError(f"no operator reads any of {sorted(names)[:3]}")
            self._plans[names] = affected, self._beside(affected)
        return self._plans[names]

    def _beside(self, affected: tuple[int, ...]) -> list[int]:
        """Dense operators whose values the variants read: those that the change does not reach, and the changed layers themselves."""
        reached = set(affected)
        wanted = {p for p in affected if self._is_entry(p, reached)}
        need = {index for p in affected for index in self.listed[p].reads}
        need |= {leaf.index for leaf in tree_leaves(self.listing.outputs, is_leaf=_is_ref) if _is_ref(leaf)}
        for position in range(len(self.listed) - 1, affected[0] - 1, -1):
            op = self.listed[position]
            if position in wanted or (position not in reached and op.index in need):
                wanted.add(position)
                need |= set(op.reads)
        return sorted(wanted)

    def _is_entry(self, position: int, reached: set[int]) -> bool:
        """Whether the operator is a layer with changed parameters and an unchanged input."""
        op = self.listed[position]
        made = {self.listed[p].index for p in reached}
        return op.target in LAYERS and made.isdisjoint(op.reads)

    def prepared(self, change: Change) -> Variant:
        """The change with its tensors bound: made once, run on every batch."""
        affected = self.affected(change.names)
        reached = set(affected)
        tensors = {**self.listing.tensors, **change.tensors}
        bound: Bound = {
            p: self._bind(o, tensors) for p in affected if (o := self.listed[p]).names & set(change.tensors)
        }
        variant = Variant(affected, {**self.dense, **bound})
        for position in affected:
            op = self.listed[position]
            weight = op.args[1].text if op.target in LAYERS and isinstance(op.args[1], Name) else ""
            if weight in change.tweaks:
                variant.tweaks[position] = change.tweaks[weight]
            elif op.target in CONVOLUTIONS and self._is_entry(position, reached):
                self._shorten(variant, position, weight, change)
        return variant

    def _shorten(self, variant: Variant, position: int, weight: str, change: Change) -> None:
        """Where the change only drops or zeroes rows of this layer, its output follows from the dense one."""
        if weight in change.rows:
            variant.picked[position] = change.rows[weight]
        elif weight in change.kept and self.listed[position].names >= change.tensors.keys():
            dense = self.listing.tensors[weight]
            mask = torch.zeros(len(dense), dtype=self.dtype or dense.dtype, device=dense.device)
            mask[change.kept[weight]] = 1
            variant.zeroed[position] = mask.view(1, -1, *[1] * (dense.dim() - 2))

    def outputs(self, branch: Branch, variant: Variant) -> Any:
        """The network's outputs under this variant."""
        values = dict(branch.values)
        self.runner.run(variant.order, values, variant.bound, set(), variant)
        return self._result(values)

    def finished(self, state: State) -> Any:
        """The dense network's outputs."""
        self.advance(state, len(self.listed))
        return self._result(state.values)

    def _result(self, values: dict[int, Any]) -> Any:
        leaves = tree_leaves(tree_map_only(Ref, lambda ref: values[ref.index], self.listing.outputs))
        return tree_unflatten(leaves, self.structure)

    def _bind(self, op: Operator, tensors: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        cast: Callable[[Any], Any] = (lambda x: x) if op.index in self.wide else self._cast
        args, kwargs = self._resized(op, tensors), {k: tree_map(cast, named(v, tensors)) for k, v in op.kwargs.items()}
        if op.target in CONVOLUTIONS and all(isinstance(a, Name | None) for a in op.args[1:3]):
            weight, bias = absorbed(op, tensors)
            return (args[0], _laid_out(cast(weight)), cast(bias), *args[3:]), kwargs
        return tuple(tree_map(cast, named(a, tensors)) for a in args), kwargs

    def _resized(self, op: Operator, tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """The arguments of an operator; of a norm over channels with the number that repeats its scale's length made to agree."""
        if op.target not in NORMS_OVER_CHANNELS or len(op.args) < 3 or not isinstance(op.args[2], Name):
            return op.args
        x, number, scale, *rest = op.args
        before, now = self.listing.tensors[scale.text], tensors[scale.text]
        if op.target != aten.group_norm.default:
            number = list(now.shape)
        elif number == len(before):  # one channel per group
            number = len(now)
        return x, number, scale, *rest

    def _cast(self, value: Any) -> Any:
        """A floating-point tensor in the program's dtype; anything else as it is."""
        if self.dtype is None or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.to(self.dtype)


def _with_wide_ends(listing: Listing) -> tuple[Listing, frozenset[int]]:
    """The listing with the inputs of its last layers cast to float32, and the operators from there on."""
    readers: dict[int, list[Operator]] = {}
    for op in listing.operators:
        for index in op.reads:
            readers.setdefault(index, []).append(op)
    leads: dict[int, bool] = {}  # whether another layer follows
    for op in reversed(listing.operators):
        leads[op.index] = any(o.target in LAYERS or leads[o.index] for o in readers.get(op.index, []))
    ends = {op.index for op in listing.operators if op.target in LAYERS and not leads[op.index]}
    wide, made = set(ends), []
    free = max(op.index for op in listing.operators) + 1
    for op in listing.operators:
        if op.index in ends and isinstance(op.args[0], Ref):
            widened = Operator(free, aten.to.dtype, (op.args[0], torch.float32), {})
            widened.note_reads()
            op = replace(op, args=(Ref(free), *op.args[1:]))
            op.note_reads()
            made.append(widened)
            free += 1
        if not wide.isdisjoint(op.reads):
            wide.add(op.index)
        made.append(op)
    return replace(listing, operators=made), frozenset(wide)


def _last_of(value: Any, otherwise: int) -> int:
    items = list(value) if isinstance(value, list | tuple) else [value]
    return int(items[-1]) if items else otherwise


def _is_ref(leaf: Any) -> bool:
    return isinstance(leaf, Ref)


def _laid_out(tensor: Any) -> Any:
    """Pictures and 2-d kernels in channels-last order, the faster one on every machine we measured."""
    if isinstance(tensor, Tensor) and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _output_structure(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    from torch.utils._pytree import tree_structure

    with torch.no_grad():
        return tree_structure(tree_map(lambda leaf: leaf, model(*inputs)))


__all__ = ["Change", "Program"]
