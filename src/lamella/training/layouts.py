"""How pictures lie in memory while a network trains: channels last where that is faster and all that computes with them takes it.

    lay, loss = first_laid(model, step, inputs)      # of the first batch; `step` computes with the inputs as they are laid
    loss = step(lay(inputs))                         # of the others

On a CPU, a training step of ResNet-20 takes two thirds of the time when its pictures lie channels last. Networks that flatten with
`view` instead of `flatten` cannot read them so, nor can a loss or a teacher that does; those keep what they are given.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from .evaluation import working_modules
from .loaders import device_of

Layout = Callable[[Any], Any]
T = TypeVar("T")


def first_laid(model: nn.Module, step: Callable[[Any], T], inputs: Any) -> tuple[Layout, T]:
    """The layout that a training step takes inputs like these in, and what the step gave.

    Where it fails channels last it is taken again with the inputs as they are given, from the same buffers and draws.
    """
    if _gains(model, inputs):
        buffers, drawn = _buffers_of(model), torch.get_rng_state()
        try:
            return channels_last, step(channels_last(inputs))
        except RuntimeError:  # torch: "view size is not compatible with input tensor's size and stride"
            torch.set_rng_state(drawn)
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
    return as_given, step(inputs)


def channels_last(inputs: Any) -> Any:
    """Inputs whose tensors (N, C, H, W) lie channels last: the same numbers, C next to each other in memory."""
    lay = lambda leaf: leaf.contiguous(memory_format=torch.channels_last) if leaf.ndim == 4 else leaf
    return tree_map_only(Tensor, lay, inputs)


def as_given(inputs: Any) -> Any:
    """The inputs."""
    return inputs


def _gains(model: nn.Module, inputs: Any) -> bool:
    """Whether channels last is faster: on a CPU, for pictures and 2-d convolutions."""
    convolves = any(isinstance(module, nn.Conv2d) for module in working_modules(model))
    pictures = any(leaf.ndim == 4 for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    return device_of(model).type == "cpu" and convolves and pictures


def _buffers_of(model: nn.Module) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
    """Every buffer, where it belongs, and its values."""
    return [(m, n, b, b.clone()) for m in working_modules(model) for n, b in m.named_buffers(recurse=False)]
