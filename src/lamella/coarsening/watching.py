"""One forward pass, watched operator by operator: what each reads, and what it makes of that.

    watch = Watch(visit, linear=True, leave=print)
    inputs = watch.start(model, inputs)           # from here on, what operators read goes through `visit`
    ...
    watch.stop()

`places` opens one for each forward pass of a model, and says what a place is.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from threading import local
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from .denominators import Numbers, kept_from_zero, numbers
from .operators import (
    CLIPPING,
    COMPOSED,
    COPYING,
    HANDING,
    INTEGER,
    LINEAR,
    MOVING,
    POOLING,
    UPSAMPLING,
    computed_of,
    linear_in_parts,
    name_of,
    operands_of,
    writes_first,
)

OUTPUT = "(output)"  # the caller among the readers, a name that no layer has
CONSTANT = "constant"  # parameters, buffers, and what is computed of them alone
GIVEN = (f"{CONSTANT}.", "given.")  # how the places begin of what is made of no input


class Read(NamedTuple):
    """What an operator, a layer or the caller is about to read."""

    x: Tensor
    place: str
    wanted: bool  # whether it is rounded for this reader's or its maker's sake, and was not asked for before
    whole: Tensor  # all that is rounded on the same grid: x, or what x is a part of
    reader: str | None = None  # the layer that reads it, or `OUTPUT`


Visit = Callable[[Read], Tensor]


@dataclass
class Value:
    """What some memory holds between one write and the next."""

    place: str
    integer: bool = False  # whether an operator of integers made it
    counted: bool = False  # whether it was asked for
    parts: dict[Any, "Value"] = field(default_factory=dict)  # views of it that have grids of their own
    whole: "Value | None" = None  # what it is such a view of
    numbers: Numbers = ()  # that its operator was given
    sources: "tuple[Value, ...]" = ()  # that its operator read

    @property
    def operator(self) -> str:
        """What made it."""
        return self.place.partition(".")[0]


class _Sight(local):
    blind = False


SIGHT = _Sight()


@contextmanager
def unseen() -> Iterator[None]:
    """Inside, watches of this thread see no operator: what rounds is no part of the network, and would be counted as one."""
    before, SIGHT.blind = SIGHT.blind, True
    try:
        yield
    finally:
        SIGHT.blind = before


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is open, what operators read goes through `visit`. The values that operators of one name make are numbered from 0."""

    def __init__(self, visit: Visit, linear: bool, leave: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.visit, self.linear, self.leave = visit, linear, leave
        self.operands = INTEGER | (LINEAR if linear else {})
        self.numbers: Counter[str] = Counter()
        # By memory; a weak reference keeps its number from being used again.
        self.held: dict[int, tuple[StorageWeakRef, Value]] = {}
        self.context = ExitStack()
        self.apart = False  # whether a linear layer's bias is added by an operator of its own, as to inputs of more than two axes
        self.asleep = False

    def start(self, model: nn.Module, inputs: Any) -> Any:
        """Open it; the inputs to go on with. Out of inference_mode and of gradients, with which operators come in other parts: they must
        be the same ones wherever the model is called.
        """
        self.hold_all([*model.parameters(), *model.buffers()], CONSTANT)
        self.context.enter_context(torch.inference_mode(False))
        self.context.enter_context(torch.no_grad())
        inputs = tree_map_only(Tensor, lambda x: x.clone() if x.is_inference() or _is_part(x) else x, inputs)
        self.hold_all(inputs, "input")
        self.context.enter_context(self)
        return inputs

    def stop(self) -> None:
        self.context.close()

    # What reads

    def read_layer(self, x: Tensor, name: str, module: nn.Module) -> Tensor:
        """The first input of a layer, unless a file folds all that the layer computes; how its bias is added."""
        if not x.is_floating_point() or self._value(x).operator == CONSTANT:
            return x
        is_linear = isinstance(module, nn.Linear)
        self.apart = self.linear and is_linear and x.dim() > 2
        with unseen():
            value = self._value(x)
            read = self._read(x, value, (self.linear or not is_linear) or value.integer, name)
            if read is not x:
                self._hold(read, value)
        return read

    def read_float(self, x: Tensor) -> Tensor:
        """What is computed with in float."""
        with unseen():
            return self._read(x, self._value(x), self._value(x).integer) if x.is_floating_point() else x

    def read_outputs(self, outputs: Any) -> Any:
        """What the caller reads."""
        leaves, form = tree_flatten(outputs)
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                value = self._value(leaf)
                leaves[index] = self._read(leaf, value, value.integer, None if _is_part(leaf) else OUTPUT)
        return tree_unflatten(leaves, form)

    def _read(self, x: Tensor, value: Value, wanted: bool, reader: str | None = None) -> Tensor:
        if not x.numel():  # a shortcut padded by no channels
            return x
        if value.whole is not None:  # which others may have rounded
            x = self.visit(Read(x, value.whole.place, wanted=False, whole=x))
        fresh, value.counted = wanted and not value.counted, value.counted or wanted
        whole = _whole(x) if value.integer and _is_part(x) else x
        return self.visit(Read(x, value.place, fresh, whole, reader))

    # What is read

    def _value(self, x: Tensor) -> Value:
        """What x shows. What no operator is seen to make is at hand, or made where nobody looks."""
        key = x.untyped_storage()._cdata
        if key not in self.held:
            self._hold(x, self._new("given"))
        value, shown = self.held[key][1], _shown(x)
        if shown in value.parts:
            return value.parts[shown]
        if value.integer or not _is_part(x):
            return value
        part = self._new(CONSTANT if value.operator == CONSTANT else "part")
        value.parts[shown], part.whole = part, value
        return part

    def _hold(self, x: Tensor, value: Value) -> None:
        storage = StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]
        self.held[storage.cdata] = (storage, value)

    def hold_all(self, made: Any, name: str) -> None:
        """What is made elsewhere."""
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and x.layout is torch.strided:
                self._hold(x, self._new(name))

    def _new(self, name: str, integer: bool = False) -> Value:
        self.numbers[name] += 1
        return Value(f"{name}.{self.numbers[name] - 1}", integer)

    # Operators

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func, args)
        if SIGHT.blind or self.asleep or (func.is_view and name not in COPYING):
            return func(*args, **kwargs)
        parts = linear_in_parts if name == "addmm" and self.apart else COMPOSED.get(name)
        if parts is None:
            return self._done(func, name, args, kwargs)
        self.apart = False
        with self:
            made = parts(*args, **kwargs)
            return args[0].copy_(made) if writes_first(func) else made

    def _done(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The operator's result, its operands read as a file reads them."""
        target = args[0] if writes_first(func) and isinstance(args[0], Tensor) else None
        partly = target is not None and _is_part(target)
        if target is not None and partly:
            self._round_whole(target)
        elif all(self._value(x).operator == CONSTANT for x in computed_of(name, args)):
            return self._fold(func, args, kwargs, target)
        operands = operands_of(name, args, target, self.operands.get(name))
        values = [self._value(x) for x in operands]
        wants = [self._wants(name, x, value, partly) for x, value in zip(operands, values, strict=True)]
        read = [self._read(*one) for one in zip(operands, values, wants, strict=True)]
        args = _swapped(args, operands, read, target)
        if target is not None and partly:
            result = func(*args, **kwargs)
            self._written(name, target)
            return result
        rounded = any(new is not old for new, old in zip(read, operands, strict=True))
        made = self._made(name, values, rounded)
        if not any(made is value for value in values):
            made.numbers, made.sources = numbers(name, args), tuple(values)
            for value in kept_from_zero(name, made):
                self.leave(value.place)
        result = self._run(func, name, made, args, kwargs)
        self._hold_made(result if target is None else target, made)
        return result

    def _run(self, func: Any, name: str, made: Value, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The operator itself; one that only clips is left to the grid of what it makes, which ends where it would."""
        if name in CLIPPING and made.integer:
            read = self.visit(Read(args[0], made.place, wanted=False, whole=args[0]))
            if read is not args[0]:
                return args[0].copy_(read) if writes_first(func) else read
        return func(*args, **kwargs)

    def _fold(self, func: Any, args: tuple[Any, ...], kwargs: Any, target: Tensor | None) -> Any:
        """What is computed of constants, which a file holds as one constant."""
        result = func(*args, **kwargs)
        self._hold_made(result if target is None else target, self._new(CONSTANT))
        return result

    def _wants(self, name: str, x: Tensor, value: Value, partly: bool) -> bool:
        """Whether an operator of this name has its operand rounded."""
        hands_on = name in HANDING and not partly and not (name in CLIPPING and value.operator in POOLING)
        return name in self.operands or (value.integer and (_is_part(x) or not hands_on))

    def _made(self, name: str, values: list[Value], rounded: bool) -> Value:
        """What an operator has made of these."""
        if (name in MOVING and values) or (name in UPSAMPLING and values[0].integer):
            return values[0]
        clipped = name in CLIPPING and any(value.integer for value in values)
        made = self._new(name, name in self.operands or name in POOLING or clipped)
        return values[0] if name in POOLING and rounded else made

    def _hold_made(self, result: Any, value: Value) -> None:
        first = next((x for x in tree_leaves(result) if isinstance(x, Tensor)), None)
        if first is None or not first.is_floating_point():
            return
        held = self.held.get(first.untyped_storage()._cdata)
        if held is not None and value.operator in COPYING:  # a view, which a file copies
            held[1].parts[_shown(first)] = value
        else:
            self._hold(first, value)

    # What is written into a part of something makes something else, in float, of what was there and of what is written

    def _round_whole(self, target: Tensor) -> None:
        """Have what the target is a part of rounded where integers made it."""
        value, whole = self._value(target), _whole(target)
        if value.integer and (read := self._read(whole, value, wanted=True)) is not whole:
            whole.copy_(read)

    def _written(self, name: str, target: Tensor) -> None:
        if name in self.operands:
            read = self._read(target, self._new(name), wanted=True)
            if read is not target:
                target.copy_(read)
        self._hold(target, self._new("written"))


def _is_part(x: Tensor) -> bool:
    """Whether its memory holds more than it shows."""
    if x.layout is not torch.strided:
        return False
    shown = prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
    return shown < x.untyped_storage().nbytes() // x.element_size()


def _shown(x: Tensor) -> tuple[Any, ...]:
    """What of its memory a tensor shows."""
    return x.storage_offset(), x.shape, x.stride()


def _whole(x: Tensor) -> Tensor:
    """All that x is a part of, as one row."""
    storage = x.untyped_storage()
    row: Tensor = x.new_empty(0).set_(storage, 0, (storage.nbytes() // x.element_size(),))  # type: ignore[call-overload]
    return row


def _swapped(args: tuple[Any, ...], old: list[Tensor], new: list[Tensor], target: Tensor | None) -> tuple[Any, ...]:
    """The arguments with what is read instead; what an operator writes into stays where it is, and is given what is read."""
    instead = {id(a): b for a, b in zip(old, new, strict=True) if a is not b}
    if target is not None and id(target) in instead:
        target.copy_(instead.pop(id(target)))
    swapped: tuple[Any, ...] = tree_map_only(Tensor, lambda x: instead.get(id(x), x), args)
    return swapped
