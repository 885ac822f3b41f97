"""The grids that few-bit weights live on: per output channel one scale, and levels -L .. L with L = 2^(bits-1) - 1.

    scale_O = weight_scale(summed(weight, axis=0, convolves=True), bits=4)
    levels  = (weight / scale).round().clamp(-L, L)

What simulates bits and what writes them take their scales from here, so that the two agree.

At 8 bits the scale is *pair-safe*. Without VNNI, an x86 CPU adds the U8 x S8 products of two neighbouring inputs in 16 bits:
255 (v + w) overflows, silently, once v + w > 128. So a channel's scale is its largest sum of two neighbours of one sign /
127, not its largest weight / 127: the same sums on every CPU, and about 7.7 of the 8 bits. Below 8 bits nothing can overflow, and the
scale is the one that leaves the smallest squared error: the largest weight alone is a poor guide to a coarse grid.

Linear layers may be held in blocks: every 128 neighbouring inputs of an output have a step of their own (`block_levels`).

Legend: O output channels, K products summed into one output, in the order in which a runtime sums them.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

from .costs import block_length
from .emptied import is_emptied, of_what_is_left
from .errors import LamellaError

SHRINKS = torch.linspace(0.2, 1.0, 41)  # shares of the largest weight that the search for the best scale tries
CHUNK = 2**14  # weights searched at a time, so that they stay in the CPU's cache


def levels(bits: int) -> int:
    """L: the largest level of a symmetric grid. The lowest value of the integer type is not used."""
    return int(2 ** (bits - 1)) - 1


def weight_scale(weight_OK: Tensor, bits: int, *, full_range: bool = False) -> Tensor:
    """The step of every output channel's grid, shape (O,), float64; zero where all weights are.

    `full_range` scales by the largest weight alone, whatever its neighbours. Below 8 bits the search also tries grids whose
    uppermost levels stay unused, so that a weight which lies on any grid of so many bits is found to lie there.
    """
    if bits >= 8 and (full_range or bits > 8):
        return weight_OK.abs().amax(1).double() / levels(bits)
    if bits == 8:
        return pair_scale(weight_OK)
    rows = max(1, CHUNK // max(1, weight_OK.shape[1]))
    return torch.cat([_closest(chunk, levels(bits)) for chunk in torch.split(weight_OK, rows)])


def _closest(weight_OK: Tensor, top: int) -> Tensor:
    weight_OK = weight_OK.double()
    largest_O = weight_OK.abs().amax(1)
    shares = [float(share) / top for share in SHRINKS] + [1 / used for used in range(1, top)]
    tried = [_with_error(weight_OK, largest_O * share, top) for share in shares]
    scales_TO, errors_TO = (torch.stack(part) for part in zip(*tried, strict=True))
    return scales_TO.gather(0, errors_TO.argmin(0, keepdim=True))[0]


def _with_error(weight_OK: Tensor, scale_O: Tensor, top: int) -> tuple[Tensor, Tensor]:
    step_O1 = scale_O.clamp_min(1e-30)[:, None]
    rounded_OK = (weight_OK / step_O1).round_().clamp_(-top, top).mul_(step_O1)  # in place: copies took half the time
    return scale_O, rounded_OK.sub_(weight_OK).square_().sum(1)


def pair_scale(weight_OK: Tensor) -> Tensor:
    """The scale, shape (O,), at which two neighbours of one sign come to at most 128 together after rounding; K is even.

    Weights that are all the same, as a mean's, lie on its grid.
    """
    pairs_OP2 = weight_OK.double().reshape(len(weight_OK), -1, 2)
    up_O = pairs_OP2.clamp(min=0).sum(2).amax(1)
    down_O = (-pairs_OP2).clamp(min=0).sum(2).amax(1)
    largest_O = torch.maximum(up_O, down_O)
    alike_O = weight_OK.abs().amax(1).double() * 2 == largest_O  # the largest beside itself: 63.5 of 127 each
    top_O = torch.where(alike_O & _all_alike(weight_OK), 126.0, 127.0)
    return largest_O / top_O  # rounding two numbers adds at most 1 to their sum


def _all_alike(weight_OK: Tensor) -> Tensor:
    """Which outputs' weights are one number, or 0 where the number of them was made even."""
    size_OK = weight_OK.abs()
    return ((size_OK == 0) | (size_OK == size_OK.amax(1, keepdim=True))).all(1)


def summed(weight: Tensor, axis: int, *, convolves: bool) -> Tensor:
    """The weight as (O, K), K even: a convolution sums over its kernel's positions, at each over the input channels.

    `axis` is that of the outputs.
    """
    front = weight.movedim(axis, 0)
    if not convolves:
        return _even(front.reshape(len(front), -1))
    front = front.movedim(1, -1)
    flat_OK = _even(front.reshape(len(front), -1))
    if front.shape[-1] % 2 == 0:
        return flat_OK
    # Runtimes differ in what an odd last channel is paired with: the next position's first, or nothing.
    return torch.cat([flat_OK, _even(front).reshape(len(front), -1)], dim=1)


def _even(tensor: Tensor) -> Tensor:
    return pad(tensor, (0, tensor.shape[-1] % 2))


def grid_scale(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """The step of every output channel's grid, float64, shaped to go with the weight, whose outputs lie along `axis`.

    A weight of more than two axes that makes its outputs along the first is a convolution's.
    """
    scale_O = weight_scale(summed(weight, axis, convolves=weight.dim() > 2 and axis == 0), bits).clamp_min(1e-30)
    return scale_O.reshape([-1 if d == axis else 1 for d in range(weight.dim())])


def rounded_weight(weight: Tensor, bits: int, axis: int = 0) -> Tensor:
    """The weight on its grid: round(w / s) s per output channel; one without elements as it is."""
    if not weight.numel():
        return weight
    scale, top = grid_scale(weight, bits, axis), levels(bits)
    return ((weight.double() / scale).round().clamp(-top, top) * scale).to(weight.dtype)


def in_blocks(values_NK: Tensor) -> Tensor:
    """The rows of a linear layer's weight (or inputs) cut into blocks, (N, blocks, length), the last one filled with zeros."""
    length = block_length(values_NK.shape[-1])
    return pad(values_NK, (0, -values_NK.shape[-1] % length)).reshape(*values_NK.shape[:-1], -1, length)


def block_levels(weight_OK: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A linear layer's weight on one grid per block: whole numbers (O, blocks, length), and steps (O, blocks), float32."""
    blocks_OBL = in_blocks(weight_OK.detach().float())
    scale_OB = weight_scale(blocks_OBL.flatten(0, 1), bits, full_range=True).reshape(blocks_OBL.shape[:2]).float()
    steps_OB1 = scale_OB.clamp_min(1e-30)[..., None]
    return (blocks_OBL / steps_OB1).round().clamp(-levels(bits), levels(bits)), scale_OB


def rounded_in_blocks(weight_OK: Tensor, bits: int) -> Tensor:
    """The weight of a linear layer with every block of its inputs on a grid of its own."""
    levels_OBL, scale_OB = block_levels(weight_OK, bits)
    return (levels_OBL * scale_OB[..., None]).flatten(1)[:, : weight_OK.shape[1]].to(weight_OK.dtype)


def channel_axis(layer: nn.Module) -> int:
    """Where what a layer reads and makes holds its channels, counted from the end: behind them lie a convolution's windows alone."""
    return -1 - len(getattr(layer, "kernel_size", ()))


def output_axis(module: nn.Module) -> int:
    """The axis of a module's weight along which its outputs lie."""
    return 1 if getattr(module, "transposed", False) else 0


class OnGrid(nn.Module):
    """A parametrization: the weight on its grid going forward, itself going backward (Bengio et al. 2013, straight-through).

    The scale is found anew every `EVERY` training steps; in between it stays, so that the grid does not tremble.
    """

    EVERY = 20
    scale: Tensor
    age: Tensor

    def __init__(self, weight: Tensor, bits: int, axis: int) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis
        self.register_buffer("scale", self._found(weight))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            self.age += 1
            if int(self.age) % self.EVERY == 0:
                self.scale.copy_(self._found(weight))
        return weight + (self._rounded(weight) - weight).detach()

    def _found(self, weight: Tensor) -> Tensor:
        return grid_scale(weight.detach(), self.bits, self.axis).to(weight)

    def _rounded(self, weight: Tensor) -> Tensor:
        top = levels(self.bits)
        return (weight / self.scale).round().clamp(-top, top) * self.scale


def sharing(model: nn.Module) -> dict[str, list[str]]:
    """For every layer that holds a weight, all layers that hold the same one, itself included, in the model's order."""
    by_weight: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = _held(module)
        if weight is not None:
            by_weight.setdefault(id(weight), []).append(name)
    return {name: names for names in by_weight.values() for name in names}


def _held(module: nn.Module) -> Tensor | None:
    """The module's own weight; that behind a parametrization, where it is one."""
    weight = module._parameters.get("weight")
    if weight is None and is_parametrized(module, "weight"):
        found = getattr(module.parametrizations.weight, "original", None)  # type: ignore[union-attr]
        return found if isinstance(found, Tensor) else None
    return weight


def shared_bits(model: nn.Module, bits: Mapping[str, int]) -> dict[str, int]:
    """These bits, given also to the layers that share a weight with those named: one weight has one grid.

    LamellaError where they contradict each other, or where few bits would need grids along different axes.
    """
    groups, found = sharing(model), dict(bits)
    for name, width in bits.items():
        for other in groups.get(name, ()):
            if found.setdefault(other, width) != width:
                raise LamellaError(
                    f"{name!r} and {other!r} share one weight, and were given {width} and {found[other]} bits. Give both the same."
                )
            axes = {output_axis(model.get_submodule(each)) for each in (name, other)}
            if width < 8 and len(axes) > 1:
                raise LamellaError(
                    f"{name!r} and {other!r} share one weight, and make their outputs along different axes of it: no grid of "
                    f"{width} bits fits both. Give them 8, or weights of their own."
                )
    return found


def put_on_grids(model: nn.Module, bits: Mapping[str, int]) -> nn.Module:
    """Keep, in place, the weights of these layers on grids of so many bits while the model is trained and evaluated; returns it.
    Layers without weights stay as they are.

    LamellaError for a layer whose weight is computed anew at every call.
    """
    for name, width in shared_bits(model, of_what_is_left(model, bits)).items():
        module = model.get_submodule(name)
        weight = module._parameters.get("weight")
        if weight is None:
            raise LamellaError(
                f"{name!r} holds no weight of its own (a parametrization or a hook computes it), so it cannot be given {width} bits. "
                "Remove the parametrization first, or give the layer 8."
            )
        grid = OnGrid(weight, width, output_axis(module))
        register_parametrization(module, "weight", grid)
    return model


def take_off_grids(model: nn.Module, layers: Iterable[str]) -> nn.Module:
    """Undo `put_on_grids`, in place: ordinary parameters that hold the values on the grids, and shared ones still shared."""
    groups = sharing(model)
    for name in dict.fromkeys(each for layer in layers for each in groups.get(layer, [layer])):
        module = model.get_submodule(name)
        if is_emptied(module):
            continue
        remove_parametrizations(module, "weight", leave_parametrized=True)
        if module._parameters.get("bias") is not None:
            module._parameters["bias"] = module._parameters.pop("bias")  # after the weight, as it was
    return model
