"""Batch norms folded into the convolutions and linear layers before them, in a copy of an eager model."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.utils._pytree import tree_leaves

from ..training import call, device_of, hooked, modes_kept, on_device

M = TypeVar("M", bound=nn.Module)


def folded(model: M, example_inputs: tuple[Tensor, ...]) -> M:
    """A copy in evaluation mode in which every batch norm that directly follows a layer is part of that layer.

    What follows what is seen in a forward pass on `example_inputs`; a layer that is called twice keeps its batch norms, and so does a
    transposed convolution in groups. Where folding would change the outputs (something else reads a layer before its batch norm),
    nothing is folded.
    """
    plain = copy.deepcopy(model).eval()
    merged: Any = copy.deepcopy(plain)
    for layer, norm in _pairs(merged, example_inputs).items():
        module: Any = merged.get_submodule(layer)
        follower: Any = merged.get_submodule(norm)
        fuse: Any = fuse_linear_bn_eval if isinstance(module, nn.Linear) else fuse_conv_bn_eval
        transposed = {"transpose": True} if getattr(module, "transposed", False) else {}
        merged.set_submodule(layer, fuse(module, follower, **transposed))
        merged.set_submodule(norm, nn.Identity())
    return merged if _agree(merged, plain, on_device(example_inputs, device_of(plain))) else plain


def _agree(one: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    with torch.no_grad():
        pairs = zip(tree_leaves(call(one, inputs)), tree_leaves(call(other, inputs)), strict=True)
        return all(torch.allclose(a, b, rtol=0, atol=1e-3 * float(b.abs().max())) for a, b in pairs)


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
    once = {layer: norm for layer, norm in pairs.items() if calls[layer] == calls[norm] == 1}
    return {layer: norm for layer, norm in once.items() if not _spread_in_groups(model.get_submodule(layer))}


def _spread_in_groups(layer: Any) -> bool:
    """Whether outputs of the layer lie along no axis of its weight."""
    return bool(getattr(layer, "transposed", False) and layer.groups > 1)
