"""Networks without shortcuts: VGG-16, AlexNet, LeNet-5, dense autoencoders.

Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LamellaError, unknown_name
from .weights import initialized

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class Chain(nn.Module):
    """`features` on pictures, flattened, then `classifier`."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        logits_NC: Tensor = self.classifier(self.features(x).flatten(1))
        return logits_NC


def vgg16(
    *,
    batch_norm: bool = False,
    head: Sequence[int] = (4096, 4096),
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int = 32,
) -> nn.Module:
    """VGG-16 (Simonyan, Zisserman 2015, configuration D). `head`: widths of the hidden linear layers.

    `vgg16_bn` is the one for 32 px with a 512-512 head, 15,253,578 parameters; with `head=()`, one linear layer and
    14,728,266 parameters.
    """
    side = image_size // 32
    if side < 1:
        raise LamellaError(f"VGG-16 halves the picture five times: image_size={image_size} is below 32.")
    layers = [
        module for inputs, item in _with_inputs(VGG16, in_channels) for module in _vgg_part(inputs, item, batch_norm)
    ]
    return initialized(Chain(nn.Sequential(*layers), _head(512 * side * side, head, num_classes)))


def _with_inputs(plan: Sequence[int | str], inputs: int) -> Iterator[tuple[int, int | str]]:
    for item in plan:
        yield inputs, item
        inputs = item if isinstance(item, int) else inputs


def _vgg_part(inputs: int, item: int | str, batch_norm: bool) -> list[nn.Module]:
    if isinstance(item, str):
        return [nn.MaxPool2d(2)]
    norm: list[nn.Module] = [nn.BatchNorm2d(item)] if batch_norm else []
    return [nn.Conv2d(inputs, item, 3, padding=1), *norm, nn.ReLU()]


def _head(inputs: int, hidden: Sequence[int], classes: int) -> nn.Module:
    """A single linear layer, or dropout-linear-relu for every hidden width and a last linear layer."""
    if not hidden:
        return nn.Linear(inputs, classes)
    parts: list[nn.Module] = []
    for outputs in hidden:
        parts += [nn.Dropout(), nn.Linear(inputs, outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*parts, nn.Linear(inputs, classes))


def alexnet(*, in_channels: int = 3, num_classes: int = 1000, head: Sequence[int] = (4096, 4096)) -> nn.Module:
    """AlexNet for 224 px as torchvision lays it out (Krizhevsky 2014, one column); 61,100,840 parameters."""
    stem = [nn.Conv2d(in_channels, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2)]
    features = nn.Sequential(*stem, nn.ReLU(), nn.MaxPool2d(3, 2), *_alexnet_tail(), nn.MaxPool2d(3, 2))
    return Chain(features, _head(256 * 6 * 6, head, num_classes))


def alexnet32(*, in_channels: int = 3, num_classes: int = 10, head: Sequence[int] = (4096, 4096)) -> nn.Module:
    """AlexNet's five convolutions for 32 px: 3x3 kernels, stride 2, pools of 2; 2x2 pixels reach the head."""
    stem = [nn.Conv2d(in_channels, 64, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 192, 3, padding=1)]
    features = nn.Sequential(*stem, nn.ReLU(), nn.MaxPool2d(2), *_alexnet_tail(), nn.MaxPool2d(2))
    return Chain(features, _head(256 * 2 * 2, head, num_classes))


def _alexnet_tail() -> list[nn.Module]:
    pairs = ((192, 384), (384, 256), (256, 256))
    return [module for i, o in pairs for module in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]


def lenet5(*, in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, for 28 px (padded to 32) or 32 px; 61,706 parameters."""
    if image_size not in (28, 32):
        raise LamellaError(f"LeNet-5 takes pictures of 28 or 32 px, and not image_size={image_size}.")
    padding = (32 - image_size) // 2
    first = [nn.Conv2d(in_channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
    features = nn.Sequential(*first, nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
    hidden = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return Chain(features, nn.Sequential(*hidden, nn.Linear(84, num_classes)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "elu": F.elu, "tanh": torch.tanh}


class Dense(nn.Module):
    """Linear layers with an activation between them, on flattened inputs (N, inputs)."""

    def __init__(self, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise LamellaError(unknown_name("activation", activation, ACTIVATIONS))
        self.activation = activation
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        outputs_NC: Tensor = self.layers[-1](x)
        return outputs_NC


def autoencoder(
    *,
    widths: Sequence[int] = (16, 8, 4, 2, 4, 8, 16),
    inputs: int = 29,
    outputs: int | None = None,
    activation: str = "relu",
) -> nn.Module:
    """A dense autoencoder (1,351 parameters as it stands); `outputs=10` puts a 10-way head where the copy was.

    `activation`: relu, elu or tanh. Layers of two to four units of ReLU often end up passing nothing on; the others cannot.
    """
    if not widths or min(widths) < 1:
        raise LamellaError(f"an autoencoder has at least one hidden width, all positive, and not {tuple(widths)}.")
    return Dense((inputs, *widths, outputs or inputs), activation)
