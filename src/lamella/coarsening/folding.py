"""Batch norms as part of the convolutions and linear layers before them, or as convolutions, in a copy of an eager model."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils._pytree import tree_leaves

from ..surgery import copied, hold_weight
from ..training import call, device_of, hooked, modes_kept, on_device

M = TypeVar("M", bound=nn.Module)


def folded(model: M, example_inputs: tuple[Tensor, ...]) -> M:
    """A copy in evaluation mode in which every batch norm that directly follows a layer is part of that layer, and any other one of
    pictures a convolution of one pixel per channel: as in a file of integers.

    What follows what is seen in a forward pass on `example_inputs`; a layer that is called twice keeps its batch norms. Where
    folding would change the outputs (something else reads a layer before its batch norm), the norm becomes a convolution too.
    """
    plain = copied(model, {}).eval()
    for module in plain.modules():
        hold_weight(module)
    inputs, pairs = on_device(example_inputs, device_of(plain)), _pairs(plain, example_inputs)
    merged = _merged(plain, pairs)
    if not _agree(merged, plain, inputs):
        merged = _merged(plain, {a: b for a, b in pairs.items() if _agree(_merged(plain, {a: b}), plain, inputs)})
    return _convolved(merged)


def _merged(plain: M, pairs: Mapping[str, str]) -> M:
    """A copy in which these batch norms are part of these layers."""
    merged: Any = copied(plain, {})
    for layer, norm in pairs.items():
        merged.set_submodule(layer, _fused(merged.get_submodule(layer), merged.get_submodule(norm)))
        merged.set_submodule(norm, nn.Identity())
    result: M = merged
    return result


def _fused(module: Any, norm: Any) -> Any:
    """A layer that gives what the batch norm gives behind this one."""
    if isinstance(module, nn.Linear):
        return fuse_linear_bn_eval(module, norm)
    if not module.transposed or module.groups == 1:
        return fuse_conv_bn_eval(module, norm, transpose=module.transposed)
    fused = copied(module, {})  # torch's function takes the output channels of all groups to lie along one axis
    scale_O, shift_O = _scale_and_shift(norm)
    bias_O = shift_O if module.bias is None else shift_O + module.bias * scale_O
    blocks = zip(module.weight.chunk(module.groups), scale_O.chunk(module.groups), strict=True)
    weight = torch.cat([block * scale.view(1, -1, *[1] * (block.dim() - 2)) for block, scale in blocks])
    fused.weight, fused.bias = nn.Parameter(weight.detach()), nn.Parameter(bias_O.detach())
    return fused


def _convolved(model: M) -> M:
    """The model itself, its batch norms of pictures as convolutions."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            model.set_submodule(name, _convolution(module))
    return model


def _convolution(norm: Any) -> nn.Conv2d:
    """What a batch norm does in evaluation mode."""
    channels, (scale_C, shift_C) = norm.num_features, _scale_and_shift(norm)
    made = nn.Conv2d(channels, channels, 1, groups=channels, device=norm.running_mean.device)
    made.weight, made.bias = nn.Parameter(scale_C.detach().view(-1, 1, 1, 1)), nn.Parameter(shift_C.detach())
    return made.eval()


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies each channel by, and adds then, in evaluation mode."""
    scale_C = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
    return scale_C, (0.0 if norm.bias is None else norm.bias) - norm.running_mean * scale_C


def _agree(one: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether what is real of their outputs is nearly the same: masks, classes and None follow from it."""
    with torch.no_grad():
        pairs = zip(tree_leaves(call(one, inputs)), tree_leaves(call(other, inputs)), strict=True)
        real = [(a, b) for a, b in pairs if isinstance(b, Tensor) and b.is_floating_point() and b.numel()]
        return all(torch.allclose(a, b, rtol=0, atol=1e-3 * float(b.abs().max())) for a, b in real)


def _pairs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> dict[str, str]:
    """Layer -> the batch norm that took its output, where each was called once and nothing else read the output."""
    made: dict[int, str] = {}
    alive: list[Tensor] = []  # an id means something only while its tensor lives
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def watch(name: str) -> Any:
        def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, _BatchNorm):
                layer = made.get(id(inputs[0]))
                if layer is not None:
                    pairs[layer] = name
            elif isinstance(output, Tensor):
                made[id(output)] = name
                alive.append(output)

        return after

    kinds = (nn.Linear, _ConvNd, _BatchNorm)
    hooks = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    with hooked(hooks), modes_kept(model), torch.no_grad():
        call(model.eval(), on_device(example_inputs, device_of(model)))
    fit = {layer: norm for layer, norm in pairs.items() if calls[layer] == calls[norm] == 1}
    return {a: b for a, b in fit.items() if _foldable(model.get_submodule(a), model.get_submodule(b))}


def _foldable(layer: Any, norm: Any) -> bool:
    """Whether a layer holds a weight, and a norm statistics of this layer's very channels (not of tokens, say)."""
    if layer._parameters.get("weight") is None or norm.running_mean is None:
        return False
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return bool(norm.num_features == outputs)
