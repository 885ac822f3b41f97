"""What belongs to one level alone, packed: one vector of scales and shifts, one of statistics, and matrices one by one.

A level of ResNet-20 owns 84 small tensors. As tensors of their own their names would take more of a file than their numbers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Own(nn.Module):
    """The tensors of a level that are not shared, by name. `places[name]`: which store, the start in it, the shape."""

    statistics: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.places: dict[str, tuple[str, int, torch.Size]] = {}
        trained = {n: t for n, t in tensors.items() if isinstance(t, nn.Parameter) or t.requires_grad}
        vectors = {n: t for n, t in trained.items() if t.dim() <= 1}
        matrices = {n: t for n, t in trained.items() if t.dim() > 1}
        rest = {n: t for n, t in tensors.items() if n not in trained}
        self.vectors = nn.Parameter(self._packed("vectors", vectors))
        self.register_buffer("statistics", self._packed("statistics", rest))
        self.matrices = nn.ParameterList(nn.Parameter(t.detach().clone()) for t in matrices.values())
        self.places |= {n: ("matrices", i, t.shape) for i, (n, t) in enumerate(matrices.items())}

    def _packed(self, store: str, tensors: Mapping[str, Tensor]) -> Tensor:
        start = 0
        for name, tensor in tensors.items():
            self.places[name] = (store, start, tensor.shape)
            start += tensor.numel()
        flat = [t.detach().flatten() for t in tensors.values()]
        return torch.cat(flat).clone() if flat else torch.zeros(0)

    def tensor(self, name: str) -> Tensor:
        """One tensor: a view of where it is packed."""
        store, start, shape = self.places[name]
        if store == "matrices":
            matrix: Tensor = self.matrices[start]
            return matrix
        packed: Tensor = getattr(self, store)
        return packed[start : start + shape.numel()].view(shape)
