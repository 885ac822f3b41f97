"""How channels leave: cut at once, or driven to zero while the network trains, so that cutting them then changes nothing.

    leave = REMOVALS["soft"](model, graph, {"layer1.0.conv1": 12})
    fit(model, task, recipe, after_batch=leave)          # the four channels that leave shrink, and are zero at the end
    small = narrow(model, graph, leave.kept())           # computes what `model` computes

`soft` multiplies the lowest-ranked channels by a factor each batch and ranks anew as it goes, so a channel that training holds on to
may stay (ISS-P, 2023). `sparse` decides at the start and takes the leaving channels' norms down a straight line, batch-norm scale and shift
included: a zero-invariant group (Chen et al. 2021, OTO). The first `UNTIL` of the training shrinks, the rest mends.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..axes import Kept, channel_positions, groups_of
from ..importance import importance
from ..schema import Axis, Graph
from ..surgery import resolve

UNTIL = 0.7  # the share of the training after which the leaving channels are zero
EVERY = 10  # batches between two rankings


class Removal(Protocol):
    """What `fit` calls after every batch, and which channels are left."""

    until: float  # the share of the training after which the leaving channels are zero

    def __call__(self, index: int, before: float, after: float) -> None:
        """After batch `index` of an epoch, which took the training from one share done to another."""

    def kept(self) -> Kept:
        """The channels each group keeps."""


class Soft:
    """The lowest-ranked channels shrink by a factor, ranked anew every `EVERY` batches."""

    until = UNTIL

    def __init__(self, model: nn.Module, graph: Graph, widths: Mapping[str, int]) -> None:
        self.model, self.graph, self.widths = model, graph, dict(widths)
        self._kept = self.kept()

    def kept(self) -> Kept:
        return resolve(self.model, self.graph, self.widths)

    def __call__(self, index: int, before: float, after: float) -> None:
        if index % EVERY == 0:  # by the batch, not by a count: a resumed training ranks at the same moments
            self._kept = self.kept()
        ratio = _left(after) / _left(before) if _left(before) else 0.0
        shrink(self.model, self.graph, {g: np.where(stays, 1.0, ratio) for g, stays in _staying(self).items()})


class Sparse:
    """The channels ranked lowest at the start; the norm of each falls from what it was to zero."""

    until = UNTIL

    def __init__(self, model: nn.Module, graph: Graph, widths: Mapping[str, int]) -> None:
        self.model, self.graph = model, graph
        self._kept = resolve(model, graph, dict(widths))
        self._norms = self._now()

    def kept(self) -> Kept:
        return self._kept

    def _now(self) -> dict[str, np.ndarray]:
        return {name: np.sqrt(squares) for name, squares in importance(self.model, self.graph).items()}

    def __call__(self, index: int, before: float, after: float) -> None:
        now, factors = self._now(), {}
        for group, stays in _staying(self).items():
            wanted = self._norms[group] * max(0.0, 1 - after / UNTIL)
            factors[group] = np.where(stays, 1.0, np.minimum(1.0, wanted / np.maximum(now[group], 1e-30)))
        shrink(self.model, self.graph, factors)


def _left(done: float) -> float:
    """The share of its size that a leaving channel has, training aside, at this share of the training."""
    return max(0.0, 1 - (done / UNTIL) ** 2)


def _staying(removal: "Soft | Sparse") -> dict[str, np.ndarray]:
    widths = removal.graph.widths
    return {g: np.isin(np.arange(widths[g]), np.asarray(kept)) for g, kept in removal._kept.items()}


def shrink(model: nn.Module, graph: Graph, factors: Mapping[str, np.ndarray]) -> None:
    """Multiply, in place, what makes a channel and what belongs to it by the channel's factor, {group: (C,)}.

    At zero what consumes the channel goes too: a sigmoid of zero is not zero.
    """
    held = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in graph.parameters:
            if parameter.name not in held:
                continue
            for d, axis in enumerate(parameter.axes):
                if axis.role != "fixed" and set(groups_of(axis)) & set(factors):
                    _multiply(held[parameter.name], d, axis, factors)


def _multiply(tensor: Tensor, dim: int, axis: Axis, factors: Mapping[str, np.ndarray]) -> None:
    along = np.ones(len(channel_positions(axis, groups_of(axis)[0])))
    for group in groups_of(axis):
        if group in factors:
            channel = channel_positions(axis, group)
            own = channel >= 0
            values = factors[group][channel[own]]
            along[own] = values if axis.role != "in" else np.where(values == 0, 0.0, 1.0)
    view = [1] * tensor.dim()
    view[dim] = -1
    blocks = torch.from_numpy(along).to(tensor).reshape(axis.blocks, -1)
    for block, factor in zip(tensor.chunk(axis.blocks), blocks, strict=True):
        block.mul_(factor.view(view))


REMOVALS: dict[str, Callable[[nn.Module, Graph, Mapping[str, int]], Removal] | None] = {
    "cut": None,
    "soft": Soft,
    "sparse": Sparse,
}
