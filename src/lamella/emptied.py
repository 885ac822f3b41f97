"""What is left of a layer that has no channels on one side: torch's own layers refuse such tensors, or answer with a wrong shape.

    set_kind(module)                            # a layer or batch norm without elements becomes an emptied one, any other stays
    of_what_is_left(model, {"conv1": 4})        # bits are for layers with weights

A layer that reads nothing gives its bias everywhere, as one would whose weights are zero, and one that makes nothing gives no channels,
in the right shape: neither follows from its input. A batch norm of nothing passes it on. Parameters keep their names: an emptied layer
is saved, loaded and trained (its bias) as any other.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .errors import LamellaError


class _EmptiedConvolution(nn.modules.conv._ConvNd):
    def forward(self, input: Tensor) -> Tensor:
        """The bias at every position, of shape (N, out_channels, ...)."""
        places = [_places(*each) for each in zip(input.shape[2:], *self._geometry(), strict=True)]
        return _bias(self).view(1, -1, *(1 for _ in places)).expand(input.shape[0], -1, *places)

    def _geometry(self) -> tuple[Sequence[int], ...]:
        """Kernel, stride, dilation, and what is added at both ends together, axis by axis."""
        reach = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        named = {"same": reach, "valid": [0] * len(reach)}
        added = named[self.padding] if isinstance(self.padding, str) else [2 * p for p in self.padding]
        return self.kernel_size, self.stride, self.dilation, added


def _places(size: int, kernel: int, stride: int, dilation: int, added: int) -> int:
    """How many outputs a convolution makes along an axis."""
    return (size + added - dilation * (kernel - 1) - 1) // stride + 1


def _bias(layer: nn.Linear | nn.modules.conv._ConvNd) -> Tensor:
    """The bias, or as many zeros."""
    return layer.weight.flatten(1).sum(1) if layer.bias is None else layer.bias


class EmptiedLinear(nn.Linear):
    """A Linear without inputs or without outputs."""

    def forward(self, input: Tensor) -> Tensor:
        """The bias for every row, of shape (..., out_features)."""
        rows = input.shape[:-1]
        return _bias(self).view(*(1 for _ in rows), -1).expand(*rows, -1)


class EmptiedConv1d(_EmptiedConvolution, nn.Conv1d):
    """A Conv1d without inputs or without outputs."""


class EmptiedConv2d(_EmptiedConvolution, nn.Conv2d):
    """A Conv2d without inputs or without outputs."""


class EmptiedConv3d(_EmptiedConvolution, nn.Conv3d):
    """A Conv3d without inputs or without outputs."""


class _EmptiedNorm(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        """No channels, as they came."""
        return input


class EmptiedBatchNorm1d(_EmptiedNorm, nn.BatchNorm1d):
    """A BatchNorm1d of no channels."""


class EmptiedBatchNorm2d(_EmptiedNorm, nn.BatchNorm2d):
    """A BatchNorm2d of no channels."""


class EmptiedBatchNorm3d(_EmptiedNorm, nn.BatchNorm3d):
    """A BatchNorm3d of no channels."""


_EMPTIED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: EmptiedLinear,
    nn.Conv1d: EmptiedConv1d,
    nn.Conv2d: EmptiedConv2d,
    nn.Conv3d: EmptiedConv3d,
    nn.BatchNorm1d: EmptiedBatchNorm1d,
    nn.BatchNorm2d: EmptiedBatchNorm2d,
    nn.BatchNorm3d: EmptiedBatchNorm3d,
}


def is_emptied(module: object) -> bool:
    """Whether a layer's weight has no elements left."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.numel() == 0


def of_what_is_left(model: nn.Module, bits: Mapping[str, int]) -> dict[str, int]:
    """These bits of layers, without those of layers that have no weights left."""
    modules = dict(model.named_modules())
    return {name: width for name, width in bits.items() if not is_emptied(modules.get(name))}


def set_kind(module: nn.Module) -> None:
    """Make a layer or batch norm without elements an emptied one, in place. LamellaError for a kind that cannot be."""
    weight = module._parameters.get("weight")
    if weight is None or weight.numel() or type(module) in _EMPTIED.values():
        return
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)):
        if type(module) not in _EMPTIED:
            raise LamellaError(f"a {type(module).__name__} cannot be left without channels.")
        object.__setattr__(module, "__class__", _EMPTIED[type(module)])
    if isinstance(module, nn.modules.conv._ConvNd):
        module.groups = 1  # of nothing; its shape is that of one channel
