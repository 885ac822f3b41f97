"""The ranges of activations, seen on data: the inputs of layers, and the places where streams meet."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import hardsigmoid
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from ..errors import LamellaError
from ..ranges import Spread
from ..training import call, device_of, hooked, inputs_of, modes_kept, on_device

Ranges = Mapping[str, tuple[float, float]]
Visit = Callable[[str, Tensor], Tensor]

SIMULATION = (
    "it simulates integers in eager PyTorch. Export the float network, and write its integers from that file: lamella.quantization."
    "integers_file, or `lamella quantize`"
)
CALIBRATION_BATCHES = 8  # from which ranges are taken, unless another number is asked for
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

# What no runtime computes as part of the layer before it, as it does a ReLU: what goes in has been rounded, where integers made it.
BENT = {
    "gelu",
    "gelu_",
    "tanh",
    "tanh_",
    "elu",
    "elu_",
    "mish",
    "mish_",
    "softplus",
    "hardsigmoid",
    "hardsigmoid_",
    "_prelu_kernel",
}
# What a file holds as operators of integers: what goes in is rounded, whatever made it.
WHOLE = {"sigmoid", "sigmoid_", "leaky_relu", "leaky_relu_", "silu", "silu_", "hardswish", "hardswish_"}
# An input times a gate, which a file holds as two operators: the gate is rounded too.
GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": torch.sigmoid, "hardswish": hardsigmoid}
GATE = "gate"
CONVOLVED = {"convolution", "_convolution", "native_batch_norm", "_native_batch_norm_legit_no_training"}
MULTIPLIED = {"addmm", "mm", "linear"}
BEHIND_LINEAR = "(linear)"  # how the places end that are rounded only where linear layers give integers
INTEGER_MAKERS = {
    "Convolution",
    "Add",
    "Mul",
    "Cat",
    "Mean",
    "AvgPool2D",
    "AdaptiveAvgPool2D",
    "Sigmoid",
    "LeakyRelu",
    "Silu",
    "Hardswish",
}  # as autograd names them
FLOAT_MAKERS = {"Addmm", "Mm", "Bmm", "Linear"}


def observe_ranges(
    model: nn.Module,
    layers: Iterable[str],
    loader: Iterable[Any],
    count: int = CALIBRATION_BATCHES,
    *,
    joins: bool = False,
) -> dict[str, tuple[float, float]]:
    """The range of each layer's inputs over `count` batches; `joins` as in `observe`."""
    return ranges_of(observe(model, layers, loader, count, joins=joins))


def ranges_of(seen: Mapping[str, Spread]) -> dict[str, tuple[float, float]]:
    """The ranges that leave the least error; of the output from its lowest to its highest value, since the largest are what it is read
    for.
    """
    return {place: (s.low, s.high) if place == OUTPUT else s.ends() for place, s in seen.items()}


def observe(
    model: nn.Module,
    layers: Iterable[str],
    loader: Iterable[Any],
    count: int = CALIBRATION_BATCHES,
    *,
    joins: bool = False,
) -> dict[str, Spread]:
    """How inputs of each layer are spread over `count` batches; nothing of a layer that is not called, or called with whole numbers.

    With `joins` also every operand where streams meet or are averaged, in the order of the forward pass ("add.0.1": the
    first such operation, its second operand), what goes into activations that are computed apart ("silu.1.0", and its gate
    "silu.1.gate"; "tanh.2.0.(linear)" behind a linear layer), and the model's `OUTPUT`.
    """
    seen: dict[str, Spread] = {}
    hooks = [model.get_submodule(name).register_forward_pre_hook(_observer(seen, name)) for name in layers]
    if joins:
        hooks += at_joins(model, lambda place, x: _widen(seen, place, x))
    with hooked(hooks), modes_kept(model), torch.inference_mode():
        model.eval()
        for index, batch in enumerate(islice(loader, count)):
            call(model, on_device(inputs_of(batch, index), device_of(model)))
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
    with hooked(hooks), modes_kept(model), torch.enable_grad():
        call(model.eval(), on_device(tracked, device_of(model)))
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


def _observer(seen: dict[str, Spread], name: str) -> Any:
    def observe(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and inputs[0].is_floating_point():
            _widen(seen, name, inputs[0])

    return observe


def _widen(seen: dict[str, Spread], place: str, x: Tensor) -> Tensor:
    if x.numel() == 0:  # a shortcut padded by no channels
        return x
    values = x.detach().cpu().float().numpy()  # not torch: a walk over joins must not meet what looks at them
    seen.setdefault(place, Spread()).add(values)
    return x


def at_joins(model: nn.Module, visit: Visit) -> list[RemovableHandle]:
    """Hooks that send every operand of a join, and the output, through `visit(place, tensor)` in each forward pass.

    LamellaError under torch.export, which runs no hook where a forward pass fails: a walk would stay open.
    """
    open_walks: list[_Joins] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_exporting():
            raise LamellaError(SIMULATION)
        open_walks.append(_Joins(visit).__enter__())  # type: ignore[no-untyped-call]

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        open_walks.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return visit(OUTPUT, outputs) if isinstance(outputs, Tensor) else outputs

    return [model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)]


@contextmanager
def unseen() -> Iterator[None]:
    """Inside, walks over joins see no operator: what rounds is no part of the network, and would be counted as one."""
    before, _Joins.blind = _Joins.blind, True
    try:
        yield
    finally:
        _Joins.blind = before


class _Joins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is open, operands of joins go through `visit`. Numbers the joins from 0."""

    blind = False

    def __init__(self, visit: Visit) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.visit, self.number = visit, 0
        self.passed: Any = None
        self.convolved: Any = None
        self.multiplied: Any = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if self.blind:
            return func(*args, **(kwargs or {}))
        with (
            self
        ):  # under inference_mode operators come whole that elsewhere come in parts: joins must be the same ones
            parts = func.decompose(*args, **(kwargs or {}))
        return self._done(func, args, kwargs or {}) if parts is NotImplemented else parts

    def _done(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        name = func.overloadpacket.__name__
        if name in JOINS:
            operands = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.dim() and x.is_floating_point()]
            if len(operands) >= JOINS[name] and not (name == PASSING and operands[0] is self.passed):
                args = self._visited(name, args, operands)
        elif name in WHOLE or (name in BENT and args[0] is self.convolved):
            args = self._visited(name, args, [args[0]])
        elif name in BENT and args[0] is self.multiplied:
            args = self._visited(name, args, [args[0]], f".{BEHIND_LINEAR}")
        result = self._gated(name, args[0]) if name.strip("_") in GATES else func(*args, **kwargs)
        if name == PASSING:
            self.passed = result
        if name in CONVOLVED:
            self.convolved = result[0] if isinstance(result, tuple) else result
        if name in MULTIPLIED:
            self.multiplied = result
        return result

    def _gated(self, name: str, x: Tensor) -> Tensor:
        """x times its gate, which goes through `visit` as x did."""
        kind = name.strip("_")
        made = x * self.visit(f"{kind}.{self.number - 1}.{GATE}", GATES[kind](x))
        return x.copy_(made) if name.endswith("_") else made

    def _visited(self, name: str, args: tuple[Any, ...], operands: list[Tensor], after: str = "") -> tuple[Any, ...]:
        fresh = [self.visit(f"{name.strip('_')}.{self.number}.{i}{after}", x) for i, x in enumerate(operands)]
        self.number += 1
        if name.endswith("_") and fresh and fresh[0] is not operands[0]:
            operands[0].copy_(fresh[0])  # the operation writes into this one, and others read it there
            fresh[0] = operands[0]
        swapped = {id(old): new for old, new in zip(operands, fresh, strict=True)}
        changed: tuple[Any, ...] = tree_map_only(Tensor, lambda x: swapped.get(id(x), x), args)
        return changed
