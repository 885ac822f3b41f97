"""Linear layers alone on grids, their inputs rounded anew at every call: what needs no calibration.

    coarse = coarsen_linear(model, ["classifier.1"], "blocks")       # 4 bits, a step for every 128 inputs of an output
    coarse = coarsen_linear(model, ["classifier.1"], "dynamic")      # 8 bits, a step per output

As ONNX Runtime computes them: `blocks` is MatMulNBits with int8 inputs (accuracy level 4), `dynamic` is DynamicQuantizeLinear and
MatMulInteger.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ..grids import in_blocks, rounded_in_blocks, rounded_weight
from ..surgery import copied
from .rounding import InputGrid, hold_own_weight
from .watching import unseen

LINEAR_BITS = {"blocks": 4, "dynamic": 8}


def coarsen_linear(model: nn.Module, layers: Iterable[str], how: str) -> nn.Module:
    """A copy with these linear layers (by module path) held in `blocks` or `dynamic`."""
    coarse = copied(model, {})
    weight_of: Callable[[Tensor, int], Tensor] = rounded_in_blocks if how == "blocks" else rounded_weight
    inputs_of: Callable[[Tensor], Tensor] = _rounded_blocks if how == "blocks" else _rounded_tensor
    for name in layers:
        module: Any = coarse.get_submodule(name)
        hold_own_weight(module, name)
        module.weight = nn.Parameter(weight_of(module.weight.detach(), LINEAR_BITS[how]), module.weight.requires_grad)
        module.register_forward_pre_hook(lambda module, inputs: (_unseen(inputs_of, inputs[0]), *inputs[1:]))
    return coarse


def _unseen(rounded: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with unseen():
        return rounded(x)


def _rounded_blocks(x: Tensor) -> Tensor:
    """Symmetric, 8 bits, a step for every block of a row."""
    blocks = in_blocks(x)
    step = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return ((blocks / step).round() * step).flatten(-2)[..., : x.shape[-1]]


def _rounded_tensor(x: Tensor) -> Tensor:
    """Unsigned, 8 bits, one step for the whole batch."""
    return InputGrid(float(x.min()), float(x.max())).rounded(x)
