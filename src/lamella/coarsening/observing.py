"""The ranges of activations, seen on data: the inputs of layers, and the places where streams meet."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from ..training import call, device_of, modes_kept, on_device

Ranges = Mapping[str, tuple[float, float]]
Visit = Callable[[str, Tensor], Tensor]

OUTPUT = "(output)"  # a name that no module has
PASSING = "slice"  # takes its operand's grid along, so that grid is what its operand is rounded to
JOINS = {
    "slice": 1,
    "add": 2,
    "add_": 2,
    "mul": 2,
    "mul_": 2,
    "cat": 1,
    "mean": 1,
    "avg_pool2d": 1,
    "_adaptive_avg_pool2d": 1,
}  # least operands

INTEGER_MAKERS = {
    "Convolution",
    "Add",
    "Mul",
    "Cat",
    "Mean",
    "AvgPool2D",
    "AdaptiveAvgPool2D",
}  # as autograd names them
FLOAT_MAKERS = {"Addmm", "Mm", "Bmm", "Linear"}


def observe_ranges(
    model: nn.Module, layers: Iterable[str], loader: Iterable[Any], count: int = 8, *, joins: bool = False
) -> dict[str, tuple[float, float]]:
    """The lowest and highest input of each layer over `count` batches.

    With `joins` also of every operand where streams meet or are averaged, in the order of the forward pass ("add.0.1": the
    first such operation, its second operand), and of the model's `OUTPUT`.
    """
    seen: dict[str, tuple[float, float]] = {}
    hooks = [model.get_submodule(name).register_forward_pre_hook(_observer(seen, name)) for name in layers]
    if joins:
        hooks += at_joins(model, lambda place, x: _widen(seen, place, x))
    try:
        with modes_kept(model), torch.inference_mode():
            model.eval()
            for batch in islice(loader, count):
                call(model, on_device(batch, device_of(model))[0])
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def reached_in_integers(model: nn.Module, layers: Iterable[str], inputs: Any) -> set[str]:
    """Of these layers and `OUTPUT`, those before which a convolution or a join comes last, and not a linear layer.

    There a file whose convolutions compute in integers has rounded the values, whatever comes after.
    """
    found: set[str] = set()

    def look(name: str, x: Any) -> None:
        if isinstance(x, Tensor) and _last_maker(x) in INTEGER_MAKERS:
            found.add(name)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda module, given, name=name: look(name, given[0]))
        for name in layers
    ]
    hooks.append(model.register_forward_hook(lambda module, given, outputs: look(OUTPUT, outputs)))
    tracked = tree_map_only(Tensor, lambda x: x.detach().requires_grad_(x.is_floating_point()), inputs)
    try:
        with modes_kept(model), torch.enable_grad():
            call(model.eval(), on_device(tracked, device_of(model)))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _last_maker(x: Tensor) -> str | None:
    """The operator that made these values, with those passed over that hand values on: what autograd noted, nearest first."""
    waiting = [x.grad_fn]
    for node in waiting:
        kind = node.name().partition("Backward")[0] if node is not None else ""
        if kind in INTEGER_MAKERS | FLOAT_MAKERS:
            return kind
        waiting += [before for before, _ in node.next_functions] if node is not None else []
    return None


def _observer(seen: dict[str, tuple[float, float]], name: str) -> Any:
    def observe(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        _widen(seen, name, inputs[0])

    return observe


def _widen(seen: dict[str, tuple[float, float]], place: str, x: Tensor) -> Tensor:
    if x.numel() == 0:  # a shortcut padded by no channels
        return x
    low, high = float(x.min()), float(x.max())
    before = seen.get(place, (low, high))
    seen[place] = (min(low, before[0]), max(high, before[1]))
    return x


def at_joins(model: nn.Module, visit: Visit) -> list[RemovableHandle]:
    """Hooks that send every operand of a join, and the output, through `visit(place, tensor)` in each forward pass."""
    open_walks: list[_Joins] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        open_walks.append(_Joins(visit).__enter__())  # type: ignore[no-untyped-call]

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        open_walks.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return visit(OUTPUT, outputs) if isinstance(outputs, Tensor) else outputs

    return [model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)]


class _Joins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is open, operands of joins go through `visit`. Numbers the joins from 0."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.visit, self.number = visit, 0
        self.passed: Any = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in JOINS:
            operands = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.dim() and x.is_floating_point()]
            if len(operands) >= JOINS[name] and not (name == PASSING and operands[0] is self.passed):
                args = self._visited(name, args, operands)
        result = func(*args, **(kwargs or {}))
        if name == PASSING:
            self.passed = result
        return result

    def _visited(self, name: str, args: tuple[Any, ...], operands: list[Tensor]) -> tuple[Any, ...]:
        fresh = [self.visit(f"{name.strip('_')}.{self.number}.{i}", x) for i, x in enumerate(operands)]
        self.number += 1
        if name.endswith("_") and fresh and fresh[0] is not operands[0]:
            operands[0].copy_(fresh[0])  # the operation writes into this one, and others read it there
            fresh[0] = operands[0]
        swapped = {id(old): new for old, new in zip(operands, fresh, strict=True)}
        changed: tuple[Any, ...] = tree_map_only(Tensor, lambda x: swapped.get(id(x), x), args)
        return changed
