"""coarsen(): narrow's twin for bits. A copy of the model that computes as if layers held few-bit integers.

    ranges = observe_ranges(model, layers, loader)                   # {layer: (low, high)} of each layer's input
    coarse = coarsen(model, {"conv1": 8, "linear": 4}, ranges)          # inputs at 8 bits; input_bits={...} for others

Weights are rounded per output channel to a symmetric grid (`grids`), inputs per tensor to an unsigned grid over their range, as ONNX
Runtime computes them (u8 activations, s8 weights). Still ordinary floating point: integers are written by the exporter.
"""

import copy
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from .errors import LamellaError
from .grids import output_axis, rounded_weight
from .training import call, device_of, modes_kept, on_device

Ranges = Mapping[str, tuple[float, float]]


def coarsen(
    model: nn.Module, bits: Mapping[str, int], ranges: Ranges | None = None, input_bits: Mapping[str, int] | None = None
) -> nn.Module:
    """A copy with the weights of these layers (by module path) rounded to `bits`, and their inputs too where a range is given.

    Inputs have 8 bits where `input_bits` does not say otherwise.
    """
    coarse = copy.deepcopy(model)
    for name, width in bits.items():
        module = _layer(coarse, name)
        rounded = rounded_weight(module.weight.detach(), width, output_axis(module))
        module.weight = nn.Parameter(rounded, module.weight.requires_grad)
        if ranges and name in ranges:
            module.register_forward_pre_hook(InputGrid(*ranges[name], (input_bits or {}).get(name, 8)))
    return coarse


class InputGrid:
    """A forward pre-hook that rounds a layer's first input to 2^bits levels over [low, high], zero included."""

    def __init__(self, low: float, high: float, bits: int = 8) -> None:
        self.low, self.high, self.steps = min(low, 0.0), max(high, 0.0), 2**bits - 1

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.rounded(inputs[0]), *inputs[1:])

    def rounded(self, x: Tensor) -> Tensor:
        scale = max(self.high - self.low, 1e-12) / self.steps
        zero = round(-self.low / scale)
        rounded: Tensor = (((x / scale).round() + zero).clamp(0, self.steps) - zero) * scale
        return rounded


def observe_ranges(
    model: nn.Module, layers: Iterable[str], loader: Iterable[Any], count: int = 8
) -> dict[str, tuple[float, float]]:
    """The lowest and highest input of each layer over `count` batches."""
    seen: dict[str, tuple[float, float]] = {}
    hooks = [_layer(model, name).register_forward_pre_hook(_observer(seen, name)) for name in layers]
    try:
        with modes_kept(model), torch.inference_mode():
            model.eval()
            for batch in islice(loader, count):
                call(model, on_device(batch, device_of(model))[0])
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _observer(seen: dict[str, tuple[float, float]], name: str) -> Any:
    def observe(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        low, high = float(inputs[0].min()), float(inputs[0].max())
        before = seen.get(name, (low, high))
        seen[name] = (min(low, before[0]), max(high, before[1]))

    return observe


def quantizable(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """Of these layer names, those that are modules with a weight to round."""
    modules = dict(model.named_modules())
    return [name for name in layers if isinstance(getattr(modules.get(name), "weight", None), Tensor)]


def _layer(model: nn.Module, name: str) -> Any:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if module is None or not isinstance(getattr(module, "weight", None), Tensor):
        raise LamellaError(
            f"{name!r} is not a layer with a weight in this {type(model).__name__}, so it cannot be given bits."
        )
    return module
