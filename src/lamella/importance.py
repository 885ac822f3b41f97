"""Which channels of a group matter: a table from a name to a function of the model's weights.

    scores = importance(model, graph, "l2")          # {group: array (C,)}, higher is more important

A channel's importance is taken over all the layers that make it: coupled channels are judged, and leave, together. A new
importance is one function of the rows that make a channel, and one row in `IMPORTANCES`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .axes import channel_positions, groups_of
from .errors import LamellaError, unknown_name
from .schema import Axis, Graph

Norm = Callable[[Tensor], Tensor]


def l1(rows_RN: Tensor) -> Tensor:
    """Sum of absolute weights per row, shape (R,) (Li et al. 2017)."""
    return rows_RN.abs().sum(1)


def l2(rows_RN: Tensor) -> Tensor:
    """Squared sum per row, shape (R,): summed over a channel's rows it orders as the l2 norm of all its weights together."""
    return rows_RN.square().sum(1)


IMPORTANCES: dict[str, Norm] = {"l1": l1, "l2": l2}


def importance(model: nn.Module, graph: Graph, name: str = "l2") -> dict[str, np.ndarray]:
    """Importance of every channel of every group, {group: (C,) float64}. LamellaError for a name that is not in the table."""
    if name not in IMPORTANCES:
        raise LamellaError(unknown_name("importance", name, IMPORTANCES))
    norm = IMPORTANCES[name]
    scores = {g.name: np.zeros(g.width) for g in graph.groups}
    weights = dict(model.named_parameters(remove_duplicate=False))
    for parameter in graph.parameters:
        for d, axis in enumerate(parameter.axes):
            if axis.role == "out" and parameter.name in weights and len(parameter.axes) > 1:
                _add(scores, norm, weights[parameter.name], d, axis)
    return scores


def _add(scores: dict[str, np.ndarray], norm: Norm, weight: Tensor, dim: int, axis: Axis) -> None:
    rows = weight.detach().double().movedim(dim, 0)
    if axis.blocks > 1:  # the output axis of a grouped transposed convolution: columns block by block
        rows = torch.cat(
            [weight.detach().double().chunk(axis.blocks, 0)[b].movedim(dim, 0) for b in range(axis.blocks)]
        )
    each = norm(rows.flatten(1)).cpu().numpy()
    for group in groups_of(axis):
        channel = channel_positions(axis, group)
        np.add.at(scores[group], channel[channel >= 0], each[channel >= 0])
