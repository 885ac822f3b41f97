"""Walking a listed program: values by number, made in order, dropped when nobody reads them any more.

A `State` is a batch somewhere on its way through the dense network. A `Branch` is what the variants of one change need of it: values
from before the change, and dense values from beside it. Running a variant never writes into either: an operator works in place only
on values that the same run has made and that nobody reads later.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .folding import CONVOLUTIONS
from .operators import Name, Operator, Ref, aten

Values = dict[int, Any]
Bound = Mapping[int, tuple[tuple[Any, ...], dict[str, Any]]]  # operator -> its arguments with the names filled in
Tweak = Callable[[Tensor], Tensor]

IN_PLACE: dict[Any, Callable[..., Any]] = {
    aten.relu.default: torch.relu_,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.relu6.default: aten.relu6_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
}
FRESH = {*CONVOLUTIONS, *IN_PLACE, aten.add.Tensor, aten.linear.default, aten.batch_norm.default, aten.cat.default}


@dataclass(slots=True)
class State:
    """The dense network on one batch: operators before `position` are done, `values` are those that are still needed."""

    position: int
    values: Values


@dataclass(slots=True)
class Branch:
    """What the variants of one change share: dense values by number."""

    values: Values


@dataclass(slots=True)
class Variant:
    """A change made ready: bound arguments, rows picked from dense outputs, functions applied to a layer's input."""

    order: tuple[int, ...]
    bound: Bound
    picked: dict[int, Tensor] = field(default_factory=dict)
    zeroed: dict[int, Tensor] = field(default_factory=dict)
    tweaks: dict[int, Tweak] = field(default_factory=dict)


class Runner:
    """Runs operators of one listing over values."""

    def __init__(self, listed: list[Operator], outputs: Any) -> None:
        self.listed = listed
        self.last: dict[int, int] = {}  # value -> position of its last reader
        for position, op in enumerate(listed):
            for index in op.reads:
                self.last[index] = position
        for leaf in tree_leaves(outputs, is_leaf=lambda x: isinstance(x, Ref)):
            if isinstance(leaf, Ref):
                self.last[leaf.index] = len(listed)
        self.reusable = {p: i for p, op in enumerate(listed) if (i := self._reusable(p, op)) is not None}

    def _reusable(self, position: int, op: Operator) -> int | None:
        """The number of the first argument, if this operator may write its output over it."""
        first = op.args[0] if op.args and isinstance(op.args[0], Ref) else None
        if first is None or (op.target not in IN_PLACE and op.target != aten.add.Tensor):
            return None
        maker = next((o for o in self.listed if o.index == first.index), None)
        readers = [o for o in self.listed if first.index in o.reads and o is not op]
        alone = self.last.get(first.index) == position and op.args.count(first) == 1
        fresh = maker is not None and maker.target in FRESH and all(o.target in FRESH for o in readers)
        return first.index if alone and fresh else None

    def run(
        self,
        positions: Iterable[int],
        values: Values,
        bound: Bound,
        own: set[int],
        variant: Variant | None = None,
        spared: Collection[int] = (),
    ) -> None:
        """Run these operators into `values`. `own`: the numbers of values that this run may overwrite and drop; `spared`: never."""
        for position in positions:
            op = self.listed[position]
            values[op.index] = self._made(position, op, values, bound, own, variant)
            if op.index not in spared:
                own.add(op.index)
            for index in op.reads:
                if self.last[index] == position and index in own:
                    del values[index]
                    own.discard(index)

    def _made(
        self, position: int, op: Operator, values: Values, bound: Bound, own: set[int], variant: Variant | None
    ) -> Any:
        if variant and position in variant.picked:
            return values[op.index].index_select(1, variant.picked[position])
        if variant and position in variant.zeroed:
            return values[op.index] * variant.zeroed[position]
        args, kwargs = bound[position]
        args = tuple(_filled(a, values) for a in args)
        kwargs = {k: _filled(v, values) for k, v in kwargs.items()} if kwargs else kwargs
        if variant and position in variant.tweaks:
            args = (variant.tweaks[position](args[0]), *args[1:])
        if op.target in CONVOLUTIONS:
            args = _with_groups(args)
        reused = self.reusable.get(position)
        if reused is not None and reused in own:
            if op.target in IN_PLACE:
                return IN_PLACE[op.target](*args, **kwargs)
            if _fits(*args[:2]):
                return args[0].add_(*args[1:], **kwargs)
        return op.target(*args, **kwargs)


def _filled(argument: Any, values: Values) -> Any:
    if isinstance(argument, Ref):
        return values[argument.index]
    if isinstance(argument, list | tuple):
        return [_filled(a, values) for a in argument]
    return argument


def named(argument: Any, tensors: Mapping[str, Any]) -> Any:
    """The argument with every name replaced by its tensor."""
    if isinstance(argument, Name):
        return tensors[argument.text]
    if isinstance(argument, list | tuple):
        return [named(a, tensors) for a in argument]
    return argument


def _with_groups(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A grouped convolution has as many groups as fit its tensors: a depthwise one loses a group with every channel."""
    if len(args) < 7 or args[6] == 1:
        return args
    return (*args[:6], args[0].shape[1] // args[1].shape[1], *args[7:])


def _fits(a: Any, b: Any) -> bool:
    return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
