"""Networks by name, and their weights from safetensors.

    model = make_model("resnet20")                                        # CIFAR ResNet, option A, 269,722 parameters
    model = make_model("resnet14", widths=(32, 64, 128), in_channels=1)   # for 8x8 digits
    model = load_weights(make_model("resnet20"), "cifar10_resnet20.safetensors")

A row of `MODELS` is a function of keyword options that returns a freshly initialized `nn.Module`; the weights come from
torch's global generator, so seed it first. No `forward` here holds a channel count: narrowed tensors suffice. `residual` holds the
networks with shortcuts, `chains` those without, `weights` reads files.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ..errors import LamellaError, unknown_name
from .chains import ACTIVATIONS, alexnet, alexnet32, autoencoder, lenet5, vgg16
from .residual import PaddedShortcut, resnet
from .weights import load_weights

MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "alexnet32": alexnet32,
    "autoencoder": autoencoder,
    "lenet5": lenet5,
    "resnet": resnet,
    **{f"resnet{depth}": partial(resnet, depth) for depth in (14, 20, 32, 44, 56, 110)},
    "vgg16": vgg16,
    "vgg16_bn": partial(vgg16, batch_norm=True, head=(512, 512)),
}


def make_model(name: str, **options: Any) -> nn.Module:
    """A fresh network by name. `options` are those of its function: widths, shortcut, in_channels, num_classes, ...

    >>> sum(p.numel() for p in make_model("resnet20").parameters())
    269722
    """
    if name not in MODELS:
        raise LamellaError(unknown_name("model", name, MODELS))
    signature = inspect.signature(MODELS[name])
    unknown = [option for option in options if option not in signature.parameters]
    if unknown:
        raise LamellaError(f"model {name!r}: {unknown_name('option', unknown[0], signature.parameters)}")
    return MODELS[name](**options)


__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "PaddedShortcut",
    "alexnet",
    "alexnet32",
    "autoencoder",
    "lenet5",
    "load_weights",
    "make_model",
    "resnet",
    "vgg16",
]
