"""What a file of integers holds eager PyTorch's operators as: integers, floats, or nothing of their own.

Names are aten's, without the underscore of those that compute in place. What is in no table computes in float.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import hardsigmoid
from torch.utils._pytree import tree_leaves

ALL = 99

# Operators of integers, and how many of their operands they read in integers. Layers are asked what they read; convolutions and
# products of matrices read no more.
INTEGER = {
    "convolution": 0,
    "add": ALL,
    "mul": ALL,
    "cat": ALL,
    "stack": ALL,
    "bmm": ALL,
    "baddbmm": ALL,
    "where": ALL,
    "mean": 1,
    "avg_pool1d": 1,
    "avg_pool2d": 1,
    "avg_pool3d": 1,
    "_adaptive_avg_pool2d": 1,
    "_adaptive_avg_pool3d": 1,
    "sigmoid": 1,
    "leaky_relu": 1,
    "softplus": 1,
    "threshold": 1,
    "_softmax": 1,
    "cumsum": 1,
    "constant_pad_nd": 1,
    "native_batch_norm": 1,
    "_native_batch_norm_legit": 1,
    "_native_batch_norm_legit_no_training": 1,
    "native_layer_norm": 1,
    "_safe_softmax": 1,
    "cudnn_batch_norm": 1,
}
# The one grid on which the runtime's integer operator gives the right numbers.
FIXED = dict.fromkeys(("_softmax", "_safe_softmax"), (0.0, 1.0))
LINEAR = {"addmm": 0, "mm": 0}
UPSAMPLING = {  # integers where their input is, on its grid
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
}

CLIPPING = {"relu", "clamp", "clamp_min", "clamp_max", "hardtanh"}  # part of what makes their input
POOLING = {"max_pool2d_with_indices", "max_pool3d_with_indices"}  # integers, on their input's grid where it has one
MOVING = {  # what they make is what they read
    "clone",
    "_to_copy",
    "_unsafe_view",
    "copy",
    "flip",
    "roll",
    "channel_shuffle",
    "index_select",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
}
HANDING = CLIPPING | POOLING | MOVING
COPYING = {"expand"}  # views, which files copy
FORMS = {  # they read a shape alone
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
}
OVERWRITING = {"copy", "fill", "zero"}  # they do not read what they write into


# Made of operators that no other is inside of: these are walked as they stand.


def _mish(x: Tensor) -> Tensor:
    return x * torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device)).tanh()


def _log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(x).log(), x.new_empty(0)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = torch.split(x, x.shape[dim] // 2, dim)
    return value * torch.sigmoid(gate)


def _shaped(x: Tensor, *shape: int) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format).view(shape)


def _group_norm(x: Tensor, weight: Any, bias: Any, n: int, c: int, size: int, groups: int, eps: float) -> Any:
    rows = _shaped(x, n, groups, c // groups * size)
    made = torch.native_layer_norm(rows, rows.shape[-1:], None, None, eps)[0].view(x.shape)
    along = (1, c, *[1] * (x.dim() - 2))
    made = made if weight is None else made * weight.view(along)
    return made if bias is None else made + bias.view(along), x.new_empty(0), x.new_empty(0)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    attn_mask: Any = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    root = (query.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    q, k, v = (_shaped(x, -1, *x.shape[-2:]) for x in (query * root, key * root, value))
    score = torch.bmm(q, k.transpose(-2, -1)).view(*query.shape[:-1], key.shape[-2])
    if causal:
        attn_mask = torch.full(score.shape[-2:], -torch.inf, dtype=score.dtype, device=score.device).triu(1)
    score = score if attn_mask is None else score + attn_mask
    weights = torch._softmax(score, -1, False).view(-1, *score.shape[-2:])
    return torch.bmm(weights, v).view(*query.shape[:-1], value.shape[-1]), query.new_empty(0)


def linear_in_parts(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """How a file holds a linear layer whose inputs have more than two axes."""
    return bias + torch.mm(x, weight)


# What a file holds as several operators.
COMPOSED: dict[str, Callable[..., Any]] = {
    "silu": lambda x: x * torch.sigmoid(x),
    "hardswish": lambda x: x * hardsigmoid(x),
    "mish": _mish,
    "log_sigmoid_forward": _log_sigmoid,
    "glu": _glu,
    "native_group_norm": _group_norm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}


def name_of(func: Any, args: tuple[Any, ...]) -> str:
    """The operator's name in these tables. A mean over anything but all pixels is no pool; padded ones over windows that hang over the
    border, and a layer norm over several axes, are no operators of integers (`exporting.pooling`, `exporting.integers`): they are told
    apart.
    """
    name: str = func.overloadpacket.__name__.removesuffix("_")
    apart = name in IN_FLOAT and IN_FLOAT[name](args)
    return f"{name}_in_float" if apart else name


def _averages_pixels(args: tuple[Any, ...]) -> bool:
    axes = args[1] if len(args) > 1 and args[1] is not None else ()
    return args[0].dim() > 3 and {axis % args[0].dim() for axis in axes} == set(range(2, args[0].dim()))


def _hangs(args: tuple[Any, ...]) -> bool:
    """Whether a mean over windows takes padding in, and windows that hang over it (x, kernel, stride, padding, ceil, taken in)."""
    given = args[3:6]
    padding, ceil, taken_in = given + (0, False, True)[len(given) :]
    return bool(ceil and taken_in and any(tree_leaves(padding)))


# In float for some arguments.
IN_FLOAT: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "mean": lambda args: not _averages_pixels(args),
    "native_layer_norm": lambda args: len(args[1]) > 1,
    "avg_pool1d": _hangs,
    "avg_pool2d": _hangs,
    "avg_pool3d": _hangs,
}


def operands_of(name: str, args: tuple[Any, ...], target: Tensor | None, count: int | None) -> list[Tensor]:
    """The real operands that an operator reads, single numbers aside, the first `count` of them where it is given."""
    read = [x for x in _tensors(args) if x.dim() and x.is_floating_point()]
    return [x for x in read if not (x is target and name in OVERWRITING)][:count]


def computed_of(name: str, args: tuple[Any, ...]) -> list[Tensor]:
    """All tensors whose values an operator computes with, whole numbers among them."""
    return [] if name in FORMS else _tensors(args)


def _tensors(args: tuple[Any, ...]) -> list[Tensor]:
    return [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.layout is torch.strided]


@cache
def writes_first(func: Any) -> bool:
    """Whether an operator writes into its first argument."""
    first = next(iter(func._schema.arguments), None)
    return first is not None and first.alias_info is not None and first.alias_info.is_write
