"""Where a file of integers rounds: the values that its operators of integers make or read, found while an eager model runs.

    hooks = at_places(model, visit, layers)       # visit(read) gives what is read instead, in every forward pass

A file is a graph, and one rule says which of its tensors are rounded (onnxruntime's quantizer, read off its files): those that an
operator of integers makes or reads, whoever else reads them. An activation that only clips what integers make is part of what makes
it, and what only moves values makes none. A value is therefore named by what made it ("add.2": the third addition), whatever views
show of it, and what is written into a part of it makes another value: as where a graph is made of such code.
"""

from collections.abc import Callable, Iterable
from functools import partial
from threading import local
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import LamellaError
from .watching import Visit, Watch

SIMULATION = (
    "it simulates integers in eager PyTorch. Export the float network, and write its integers from that file: "
    "lamella.integers_file, or `lamella quantize`"
)
OPAQUE = (nn.RNNBase,)  # what a file holds as one operator of floats


def at_places(
    model: nn.Module,
    visit: Visit,
    layers: Iterable[str] = (),
    *,
    linear: bool = True,
    leave: Callable[[str], None] = lambda place: None,
) -> list[Any]:
    """Hooks that send what is read through `visit`, in each forward pass of the model: by `layers` (module paths), by operators that
    may have to read it rounded, and by the caller, floating point alone. With `linear` false linear layers compute in float.
    `leave` is told the places that stay in float whoever reads them (`denominators`).

    What is returned has `remove`, as hooks have. LamellaError under torch.export.
    """
    here, layers, forward = _Here(), list(layers), _forward_of(model)

    def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_exporting():
            raise LamellaError(SIMULATION)
        if here.watch is not None:  # a model that calls itself
            return forward(module, *args, **kwargs)
        here.watch = watch = Watch(visit, linear, leave)
        try:
            args, kwargs = watch.start(module, (args, kwargs))
            outputs = forward(module, *args, **kwargs)
        finally:  # an interrupt, too, must leave no watch open
            watch.stop()
            here.watch = None
        return watch.read_outputs(outputs)

    def read(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if here.watch is None or not inputs:  # a part of the model called by itself is no forward pass of it
            return None
        return (here.watch.read_layer(inputs[0], name, module), *inputs[1:])

    def sleep(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if here.watch is None:
            return None
        read = tree_map_only(Tensor, here.watch.read_float, inputs)
        here.watch.asleep = True
        return read

    def wake(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if here.watch is not None:
            here.watch.asleep = False
            here.watch.hold_all(outputs, "linear" if isinstance(module, nn.Linear) else "recurrent")

    def end_apart(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if here.watch is not None:
            here.watch.apart = False

    hooks: list[Any] = [_Forward(model, watched)]
    hooks += [model.get_submodule(name).register_forward_pre_hook(partial(read, name)) for name in layers]
    opaque = OPAQUE if linear else (*OPAQUE, nn.Linear)
    for module in model.modules():
        if isinstance(module, opaque):
            hooks += [module.register_forward_pre_hook(sleep), module.register_forward_hook(wake, always_call=True)]
        elif isinstance(module, nn.Linear):
            hooks += [module.register_forward_hook(end_apart, always_call=True)]
    return hooks


class _Forward:
    """What a model's forward is, until `remove`. Copies of the model have it, too, as their own."""

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        self.model, self.before = model, vars(model).get("forward")
        model.forward = MethodType(forward, model)

    def remove(self) -> None:
        """Let the model's own forward be called again."""
        vars(self.model).pop("forward")
        if self.before is not None:
            self.model.forward = self.before


def _forward_of(model: nn.Module) -> Callable[..., Any]:
    """The model's forward as a function of the model, or of a copy; a model may have one that is not its class's."""
    own = vars(model).get("forward", model.forward)
    return own.__func__ if isinstance(own, MethodType) else lambda module, *args, **kwargs: own(*args, **kwargs)


class _Here(local):
    """The watch that is kept in this thread."""

    watch: "Watch | None" = None
