"""What a level takes of a tensor: a view where its channels lie in a row, a copy where they do not.

    ranks = {"conv1": array([0, 1, 2, 3])}                  # of every slot, among its part
    kept  = kept_slots(graph, ranks, {"conv1": 2})          # {"conv1": (0, 1)}
    cuts  = cuts_of(graph, kept)                            # {"conv1.weight": Cut, ...}
    cuts["conv1.weight"].take(weight_OIK)                   # weight_OIK[:2]: the same memory

Taking is differentiable: gradients of a level flow into the tensor it is cut from. Legend: O output channels, I input channels,
K kernel positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..axes import Kept, groups_of, kept_mask
from ..schema import Axis, Graph, Group

Place = slice | Tensor
Ranks = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Cut:
    """Positions axis by axis: a slice where they follow one another, else their indices.

    `blocks` is for a grouped convolution whose blocks keep different columns: the axis, and the places of every block.
    """

    places: tuple[Place, ...]
    blocks: tuple[int, tuple[Place, ...]] | None = None

    @property
    def copies(self) -> bool:
        """Whether what it takes is no view."""
        return self.blocks is not None or not all(isinstance(place, slice) for place in self.places)

    def take(self, tensor: Tensor) -> Tensor:
        """These positions of the tensor: a view if all places are slices."""
        for dim, place in enumerate(self.places):
            tensor = _placed(tensor, dim, place)
        if self.blocks is None:
            return tensor
        dim, places = self.blocks
        rows = tensor.chunk(len(places), 0)
        return torch.cat([_placed(block, dim, place) for block, place in zip(rows, places, strict=True)])


def _placed(tensor: Tensor, dim: int, place: Place) -> Tensor:
    if isinstance(place, Tensor):
        return tensor.index_select(dim, place.to(tensor.device))
    if place == slice(0, tensor.shape[dim], 1):
        return tensor
    return tensor[(slice(None),) * dim + (place,)]


def kept_slots(graph: Graph, ranks: Ranks, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The slots that each narrowed group keeps at these widths: of every part the best-ranked so many."""
    kept = {}
    for name, width in widths.items():
        group = graph.group_of[name]
        if width < group.width:
            counts = np.asarray(group.counts(width))[part_labels(group)]
            kept[name] = tuple(int(i) for i in np.flatnonzero(ranks[name] < counts))
    return kept


def part_labels(group: Group) -> np.ndarray:
    """The part of every slot, shape (width,); all zero where the group has one part."""
    return np.asarray(group.parts) if group.parts else np.zeros(group.width, dtype=int)


def places_in_parts(labels: np.ndarray) -> np.ndarray:
    """The place of every slot among those of its part."""
    places = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        slots = np.flatnonzero(labels == label)
        places[slots] = np.arange(len(slots))
    return places


def cuts_of(graph: Graph, kept: Kept) -> dict[str, Cut]:
    """The cut of every parameter and buffer that holds channels of the narrowed groups."""
    touched = (p for p in graph.parameters if any(kept.keys() & set(groups_of(axis)) for axis in p.axes))
    return {p.name: _cut(p.axes, kept) for p in touched}


def _cut(axes: tuple[Axis, ...], kept: Kept) -> Cut:
    places: list[Place] = []
    blocks = None
    for dim, axis in enumerate(axes):
        rows = kept_mask(axis, kept).reshape(axis.blocks, -1)
        if (rows == rows[0]).all():
            places.append(_place(rows[0]))
        else:
            places.append(slice(0, rows.shape[1], 1))
            blocks = (dim, tuple(_place(row) for row in rows))
    return Cut(tuple(places), blocks)


def _place(mask: np.ndarray) -> Place:
    """A slice if the kept positions are evenly spaced, else their indices."""
    positions = np.flatnonzero(mask)
    if not len(positions):
        return slice(0, 0, 1)
    steps = np.unique(np.diff(positions)) if len(positions) > 1 else np.array([1])
    if len(steps) == 1:
        step = int(steps[0])
        return slice(int(positions[0]), int(positions[-1]) + 1, step)
    return torch.from_numpy(positions)
