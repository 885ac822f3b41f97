"""Batch norms in evaluation mode are absorbed by the convolution before them.

    folded = fold(listing)             # fewer operators, the same function
    weight, bias = absorbed(op, tensors)

With s = gamma / sqrt(var + eps):  weight' = weight s,  bias' = beta + (bias - mean) s.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from .operators import Listing, Name, Norm, Operator, Ref, aten, is_item

CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
LAYERS = (*CONVOLUTIONS, aten.linear.default)  # what reads a weight as its second argument and a bias as its third


def fold(listing: Listing) -> Listing:
    """The listing without the batch norms that a layer can absorb."""
    readers = _readers(listing)
    made = {op.index: op for op in listing.operators}
    renamed: dict[int, int] = {}
    gone: set[int] = set()
    for op in listing.operators:
        found = norm_of(op)
        layer = made.get(op.reads[0]) if found and op.reads else None
        if found is None or layer is None or not _absorbs(layer) or readers[layer.index] != [op.index]:
            continue
        items = [made[r] for r in readers[op.index]] if op.target != aten.batch_norm.default else []
        if any(not is_item(item) or item.args[1] != 0 for item in items):
            continue
        layer.norm = found
        layer.note_reads()
        for absorbed_op in (op, *items):
            renamed[absorbed_op.index] = layer.index
            gone.add(absorbed_op.index)
    kept = [_renamed(op, renamed) for op in listing.operators if op.index not in gone]
    outputs = tree_map_only(Ref, lambda ref: Ref(renamed.get(ref.index, ref.index)), listing.outputs)
    return replace(listing, operators=kept, outputs=outputs)


def _readers(listing: Listing) -> dict[int, list[int]]:
    readers: dict[int, list[int]] = {i: [] for i in [*range(listing.inputs), *(op.index for op in listing.operators)]}
    for op in listing.operators:
        for index in op.reads:
            readers[index].append(op.index)
    for leaf in tree_leaves(listing.outputs, is_leaf=lambda x: isinstance(x, Ref)):
        if isinstance(leaf, Ref):
            readers[leaf.index].append(-1)
    return readers


def norm_of(op: Operator) -> Norm | None:
    """The batch norm an operator is, if it uses running statistics that are held."""
    if op.target == aten.batch_norm.default:
        _, weight, bias, mean, var, training, _, eps, *_ = op.args
    elif op.target == aten._native_batch_norm_legit_no_training.default:
        _, weight, bias, mean, var, _, eps = op.args
        training = False
    else:
        return None
    held = isinstance(mean, Name) and isinstance(var, Name) and all(isinstance(x, Name | None) for x in (weight, bias))
    return Norm(weight, bias, mean, var, float(eps)) if held and not training else None


def _absorbs(layer: Operator) -> bool:
    bias = layer.args[2] if len(layer.args) > 2 else None
    return (
        layer.target in CONVOLUTIONS
        and isinstance(layer.args[1], Name)
        and isinstance(bias, Name | None)
        and not layer.norm
    )


def _renamed(op: Operator, renamed: Mapping[int, int]) -> Operator:
    op.args, op.kwargs = tree_map_only(Ref, lambda ref: Ref(renamed.get(ref.index, ref.index)), (op.args, op.kwargs))
    op.note_reads()
    return op


def absorbed(op: Operator, tensors: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Weight and bias of a layer, its batch norm folded in; computed in float64."""
    weight = tensors[op.args[1].text]
    bias = tensors[op.args[2].text] if len(op.args) > 2 and op.args[2] is not None else None
    if op.norm is None:
        return weight, bias
    norm = op.norm
    mean, var = tensors[norm.mean.text].double(), tensors[norm.var.text].double()
    scale = torch.rsqrt(var + norm.eps)
    scale = scale * tensors[norm.weight.text].double() if norm.weight else scale
    shift = (0.0 if bias is None else bias.double()) - mean
    shift = shift * scale + (tensors[norm.bias.text].double() if norm.bias else 0.0)
    wide = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return wide.to(weight.dtype), shift.to(weight.dtype)
