"""The validation samples, in chunks that are always the same ones.

    samples = Samples(task.validation, chunk=64, memory=512 << 20)
    for chunk in samples:
        chunk.number, chunk.inputs, chunk.targets

Held in memory where they fit; else the loader is walked for every pass, and a pass that brings other samples is an error.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import and_, itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ..digests import DataDigest
from ..errors import DataError
from ..training import Loader, as_pair, batch_length, carry_batch, cut_batch, empty_loader, on_device


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some samples: inputs as a tuple of arguments, targets; and which tensors of both carry the batch, by their extent unless given."""

    number: int
    inputs: tuple[Any, ...]
    targets: Any
    carries: Sequence[bool] | None = None

    def __len__(self) -> int:
        return batch_length(self.inputs)


class Samples:
    """A loader's samples, cut into chunks."""

    def __init__(self, loader: Loader, chunk: int, device: torch.device, memory: int = 1 << 29) -> None:
        self.loader, self.chunk, self.device = loader, chunk, device
        self.digest, self.count, size, self.carries = _surveyed(loader)
        self.held: list[Any] | None = None
        if size <= memory:
            self.held = [on_device(batch, device) for batch in self._walked()]

    def __iter__(self) -> Iterator[Chunk]:
        number = 0
        for batch in self.held if self.held is not None else self._walked():
            for part in _parts(on_device(batch, self.device), self.chunk, self.carries):
                yield Chunk(number, *part, self.carries)
                number += 1

    def whole(self) -> Chunk:
        """All samples at once; DataError where they are too many to hold."""
        if self.held is None:
            raise DataError(
                "the validation samples do not fit into the memory that a race needs. Race on fewer, or use method='exact'."
            )
        parts = [next(iter(_parts(batch, self.count, self.carries))) for batch in self.held]
        return Chunk(0, *_joined(parts, self.carries), self.carries)

    def _walked(self) -> Iterator[Any]:
        """The loader's batches; DataError when they are not those of the first walk."""
        digest, count = DataDigest(), 0
        for batch in self.loader:
            digest.add(batch)
            count += batch_length(batch)
            yield batch
        if count != self.count:
            raise DataError(
                f"the validation loader gave {self.count} samples and then {count}; the same ones in the same order were expected. "
                "Check its sampler, or pass a Batches or a list."
            )
        if digest.text != self.digest:
            raise DataError(
                "the validation loader gave other samples, or the same in another order, when it was walked again. Turn shuffling and "
                "random augmentation off for validation."
            )


def _surveyed(loader: Loader) -> tuple[str, int, int, tuple[bool, ...]]:
    """Digest, number of samples, bytes, and which tensors carry the batch in every one."""
    digest, count, size = DataDigest(), 0, 0
    carries: tuple[bool, ...] = ()
    for index, batch in enumerate(loader):
        as_pair(batch, index)
        digest.add(batch)
        count += batch_length(batch)
        size += sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
        here = carry_batch(batch)
        carries = tuple(map(and_, carries, here)) if index else tuple(here)
    if not count:
        raise empty_loader()
    return digest.text, count, size, carries


def _parts(batch: Any, size: int, carries: Sequence[bool]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    inputs, targets = batch
    inputs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    for start in range(0, batch_length(inputs), size):
        yield cut_batch((inputs, targets), itemgetter(slice(start, start + size)), carries)


def _joined(parts: list[tuple[Any, Any]], carries: Sequence[bool]) -> tuple[Any, Any]:
    """Several (inputs, targets) as one."""
    structure, carried = tree_flatten(parts[0])[1], iter(carries)
    merged = [
        torch.cat(same) if isinstance(same[0], Tensor) and next(carried) else same[0]
        for same in zip(*map(tree_leaves, parts), strict=True)
    ]
    result: tuple[Any, Any] = tree_unflatten(merged, structure)
    return result


def gathered(chunks: Iterable[Chunk], rows: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], Chunk]]:
    """These rows of the chunks laid end to end, some at a time: (rows, their samples). A single sample comes twice: programs need two."""
    held: list[tuple[NDArray[np.int64], Chunk]] = []
    start = 0
    for chunk in chunks:
        at = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(chunk))]
        if len(at):
            held.append((at, picked(chunk, at - start)))
        start += len(chunk)
        if sum(len(a) for a, _ in held) >= size:
            yield _together(held)
            held = []
    if held:
        yield _together(held)


def picked(chunk: Chunk, rows: NDArray[np.int64], number: int = -1) -> Chunk:
    """These rows of a chunk."""
    index, whole = torch.from_numpy(rows), (chunk.inputs, chunk.targets)
    inputs, targets = cut_batch(whole, lambda leaf: leaf[index.to(leaf.device)], chunk.carries)
    return Chunk(number, inputs, targets, chunk.carries)


def _together(held: list[tuple[NDArray[np.int64], Chunk]]) -> tuple[NDArray[np.int64], Chunk]:
    rows = np.concatenate([at for at, _ in held])
    parts = [(chunk.inputs, chunk.targets) for _, chunk in held]
    carries = held[0][1].carries or carry_batch(parts[0])
    return rows, Chunk(-1, *_joined(parts if len(rows) > 1 else parts * 2, carries), carries)
