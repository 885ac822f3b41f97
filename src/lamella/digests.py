"""Identities: the weights of a model and the samples of a loader, as short digests.

A journal or a checkpoint binds to them, so that what was measured on one network or data set is never taken for another.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def weights_digest(model: nn.Module) -> str:
    """16 hex digits over the names, shapes and bytes of all parameters and buffers."""
    return tensors_digest({**dict(model.named_parameters()), **dict(model.named_buffers())})


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits over named tensors, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


class DataDigest:
    """The digest of a loader's batches, taken as they pass by."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, batch: Any) -> None:
        """Count in the next batch."""
        for leaf in tree_leaves(batch):
            self._digest.update(_bytes(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode())

    @property
    def text(self) -> str:
        """16 hex digits over every tensor of every batch so far."""
        return self._digest.hexdigest()[:16]


def data_digest(loader: Iterable[Any]) -> str:
    """16 hex digits over every tensor of every batch, in the loader's order."""
    digest = DataDigest()
    for batch in loader:
        digest.add(batch)
    return digest.text


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
