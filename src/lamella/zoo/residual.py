"""CIFAR ResNets (He et al. 2016): depth 6n + 2, shortcuts of option A or B.

Shapes: N batch, C channels, H height, W width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LamellaError, unknown_name
from .weights import initialized


class PaddedShortcut(nn.Module):
    """Option A (He et al. 2016, section 3.3): every `stride`-th pixel, and zero channels on both sides."""

    before: Tensor
    after: Tensor

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if outputs < inputs:
            raise LamellaError(f"shortcut 'A' cannot go from {inputs} to {outputs} channels; use shortcut='B'.")
        self.stride = stride
        # The padded channels are a buffer's width, not numbers in `forward`: narrowing shrinks them like any tensor.
        before = (outputs - inputs) // 2
        self.register_buffer("before", torch.zeros(1, before, 1, 1), persistent=False)
        self.register_buffer("after", torch.zeros(1, outputs - inputs - before, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, :, :: self.stride, :: self.stride]
        n, _, h, w = y.shape
        return torch.cat((self.before.expand(n, -1, h, w), y, self.after.expand(n, -1, h, w)), 1)


def projected_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


SHORTCUTS: dict[str, Callable[[int, int, int], nn.Module]] = {"A": PaddedShortcut, "B": projected_shortcut}


class ResidualBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), all convolutions 3x3."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else SHORTCUTS[shortcut](inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A CIFAR ResNet: a stem, three stages (the second and third halve the picture), global mean, one linear layer."""

    def __init__(self, blocks: int, widths: Sequence[int], shortcut: str, in_channels: int, num_classes: int) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(in_channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(blocks, first, first, 1, shortcut)
        self.layer2 = _stage(blocks, first, second, 2, shortcut)
        self.layer3 = _stage(blocks, second, third, 2, shortcut)
        self.linear = nn.Linear(third, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits_NC: Tensor = self.linear(x.mean((2, 3)))
        return logits_NC


def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential:
    first = ResidualBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


def resnet(
    depth: int = 20,
    *,
    widths: Sequence[int] = (16, 32, 64),
    shortcut: str = "A",
    in_channels: int = 3,
    num_classes: int = 10,
) -> nn.Module:
    """A CIFAR ResNet of depth 6n + 2 (He et al. 2016, section 4.2). Names follow akamaster/pytorch_resnet_cifar10."""
    if depth < 8 or depth % 6 != 2:
        raise LamellaError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, 26, ...), and {depth} is not one.")
    if shortcut not in SHORTCUTS:
        raise LamellaError(unknown_name("shortcut", shortcut, SHORTCUTS))
    if len(widths) != 3 or min(widths) < 1:
        raise LamellaError(f"a CIFAR ResNet has three positive widths, such as (16, 32, 64), and not {tuple(widths)}.")
    return initialized(ResNet((depth - 2) // 6, widths, shortcut, in_channels, num_classes))
