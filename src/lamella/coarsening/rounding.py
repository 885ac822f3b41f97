"""coarsen() itself: weights, activations and biases onto their grids."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LamellaError
from ..grids import grid_scale, output_axis, rounded_weight, shared_bits
from ..surgery import copied, hold_weight
from .observing import Ranges
from .places import at_places
from .watching import Read


def coarsen(
    model: nn.Module,
    bits: Mapping[str, int],
    ranges: Ranges | None = None,
    input_bits: Mapping[str, int] | None = None,
    *,
    linear: bool = True,
) -> nn.Module:
    """A copy with the weights of these layers (by module path) rounded to `bits`, and their inputs too where a range is given.

    Inputs have 8 bits where `input_bits` does not say otherwise. With ranges of all places (`observe_places`) what is made there is
    rounded wherever it is read, and so are the biases; `linear` as they were observed with.
    """
    coarse = copied(model, {})
    for name in bits:
        hold_own_weight(_layer(coarse, name), name)
    # An embedding tied to one of these layers keeps its weight: files hold a copy for it, which has 8 bits.
    shared = shared_bits(coarse, bits).items()
    bits = {n: b for n, b in shared if n in bits or not isinstance(_layer(coarse, n), nn.Embedding)}
    ranges, layers = ranges or {}, dict(coarse.named_modules())
    rounded: dict[tuple[int, int], nn.Parameter] = {}  # by weight and axis, so that shared ones stay shared
    for name, width in bits.items():
        module = _layer(coarse, name)
        weight, axis = module.weight, output_axis(module)
        if (id(weight), axis) not in rounded:
            made = rounded_weight(weight.detach(), width, axis)
            rounded[id(weight), axis] = nn.Parameter(made, weight.requires_grad)
        module.weight = rounded[id(weight), axis]
    grids = {place: InputGrid(*ends, (input_bits or {}).get(place, 8)) for place, ends in ranges.items()}
    if set(grids) <= set(layers):
        for name, grid in grids.items():
            layers[name].register_forward_pre_hook(grid)
        return coarse
    for name, width in bits.items():
        if name in grids:
            _round_bias(_layer(coarse, name), _layer(model, name).weight.detach(), width, grids[name].scale)

    def visit(read: Read) -> Tensor:
        return grids[read.place].rounded(read.x) if read.place in grids else read.x

    at_places(coarse, visit, [name for name in layers if name in grids or name in bits], linear=linear)
    return coarse


def hold_own_weight(module: Any, name: str) -> None:
    """A weight that a parametrization computes becomes one that is held, in place."""
    hold_weight(module)
    if module._parameters.get("weight") is None:
        raise LamellaError(
            f"a hook of {name!r} computes its weight anew at every call, so it cannot be rounded. Take the hook off first "
            "(torch.nn.utils.remove_weight_norm, remove_spectral_norm)."
        )


def _round_bias(module: Any, weight: Tensor, bits: int, input_scale: float) -> None:
    """A bias enters the sum of products, whose step is that of the inputs times that of the weights."""
    if getattr(module, "bias", None) is None:
        return
    scale_O = grid_scale(weight, bits, output_axis(module)).flatten()
    step_O = scale_O.repeat(len(module.bias) // len(scale_O)) * input_scale
    with torch.no_grad():
        module.bias.copy_((module.bias.double() / step_O).round() * step_O)


class InputGrid:
    """A forward pre-hook that rounds a layer's first input to 2^bits levels over [low, high], zero included."""

    def __init__(self, low: float, high: float, bits: int = 8) -> None:
        low, high = min(low, 0.0), max(high, 0.0)
        self.steps = 2**bits - 1
        self.scale = max(high - low, 1e-12) / self.steps
        self.zero = round(-low / self.scale)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.rounded(inputs[0]), *inputs[1:])

    def rounded(self, x: Tensor) -> Tensor:
        rounded: Tensor = (((x / self.scale).round() + self.zero).clamp(0, self.steps) - self.zero) * self.scale
        return rounded


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
