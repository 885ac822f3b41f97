"""Norms over channels, as they are once some channels have left: the dense model's reference for `masked`.

    with KeptStatistics(dense, graph, kept):
        outputs = dense(*inputs)

While it is active, layer, RMS and group norms normalize the kept channels and give zero for the others, and the standardization of
a weight (batch norm of the weight itself, Qiao et al. 2019) looks at the kept columns alone. A norm is known by its scale, a
weight by its storage, so that norms called as functions are found too.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .axes import Kept, kept_mask
from .schema import Axis, Graph

NORMS = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}


class KeptStatistics(TorchFunctionMode):
    """Takes the statistics of norms over the channels that are kept."""

    def __init__(self, dense: nn.Module, graph: Graph, kept: Kept) -> None:
        super().__init__()
        tensors = dict(dense.named_parameters(remove_duplicate=False))
        norms = {x.weight for x in graph.layers if x.kind in ("layer_norm", "group_norm", "rms_norm")}
        self.scales: dict[int, Tensor] = {}
        self.columns: dict[int, Tensor] = {}
        for parameter in graph.parameters:
            tensor = tensors.get(parameter.name)
            if tensor is None or not parameter.axes:
                continue
            first = kept_mask(parameter.axes[0], kept)
            if parameter.name in norms and not first.all():
                self.scales[id(tensor)] = torch.from_numpy(np.flatnonzero(first)).to(tensor.device)
            elif len(parameter.axes) > 1 and parameter.axes[1].role == "in":
                self.columns[tensor.untyped_storage().data_ptr()] = _kept_elements(tensor, parameter.axes[1], kept)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        names = NORMS.get(getattr(func, "__name__", ""))
        if names is None:
            return func(*args, **kwargs)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if (index := self.scales.get(id(given.get("weight")))) is not None:
            return _over_channels(func, given, index)
        stays = self.columns.get(given["input"].untyped_storage().data_ptr()) if given.get("training") else None
        return func(*args, **kwargs) if stays is None else _over_columns(func, given, stays)


def _kept_elements(weight: Tensor, axis: Axis, kept: Kept) -> Tensor:
    """Which elements of a weight_OI stay, its rows flattened: (O, columns * kernel)."""
    mask = torch.from_numpy(kept_mask(axis, kept).reshape(axis.blocks, 1, -1, 1)).to(weight.device)
    rows, columns = weight.shape[0] // axis.blocks, weight.shape[1]
    return mask.expand(axis.blocks, rows, columns, weight[0, 0].numel()).reshape(weight.shape[0], -1)


def _over_channels(func: Any, given: dict[str, Any], index: Tensor) -> Tensor:
    axis = 1 if "num_groups" in given else -1
    x = given["input"]
    small = {k: v[index] if k in ("weight", "bias") and v is not None else v for k, v in given.items()}
    small["input"] = x.index_select(axis, index)
    if given.get("num_groups") == x.shape[1]:
        small["num_groups"] = len(index)
    if "normalized_shape" in small:
        small["normalized_shape"] = (len(index),)
    return torch.zeros_like(x).index_copy(axis, index, func(**small))


def _over_columns(func: Any, given: dict[str, Any], stays_ON: Tensor) -> Tensor:
    """The weight arrives as (1, O, N); every row keeps equally many elements."""
    x = given["input"]
    if x.shape != (1, *stays_ON.shape) or bool(stays_ON.all()):
        return torch.as_tensor(func(**given))
    small = func(**{**given, "input": x[:, stays_ON].reshape(1, len(stays_ON), -1)})
    return torch.zeros_like(x).masked_scatter(stays_ON[None], small)
