"""What is held against outputs and scores: two ways agree, scores are numbers in their range, memory ran out."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError

Scores = NDArray[np.float64]
TOLERANCE = 1e-3  # of the outputs' range, in float32; a wrong channel is off by far more


def check_binary(scores: Scores, place: str) -> None:
    """DataError unless every score is 0 or 1."""
    odd = scores[~np.isin(scores, (0.0, 1.0))]
    if odd.size:
        raise DataError(
            f"a score of {odd[0]} among {place}: every score of the dense network was 0 or 1, so this is outside the range. Mend "
            "the task's score(outputs, targets)."
        )


def agree(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether two sets of outputs are equal but for the order of additions. Where the one is not finite, neither need be the other."""
    return len(a) == len(b) and all(_near(x, y) for x, y in zip(a, b, strict=True))


def _near(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or not x.is_floating_point():
        return x.shape == y.shape
    if not bool(torch.isfinite(y).all()):
        return not bool(torch.isfinite(x).all())
    return float((x - y).abs().max()) <= TOLERANCE * max(float(y.abs().max()), 1e-6) if x.numel() else True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's or Python's way of saying that memory is used up."""
    text = str(error).lower()
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(word in text for word in words)


def unsteady(first: Sequence[Tensor], second: Sequence[Tensor]) -> str | None:
    """What to say of a model that gave these outputs for the same samples; None where they are the same."""
    if all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        return None
    apart = max(float((a.double() - b.double()).abs().max()) for a, b in zip(first, second, strict=True) if a.numel())
    return (
        f"the model is not deterministic: run twice on the same samples in evaluation mode, its outputs differ by up to {apart:.2g}, so "
        "intervals leave out that spread, and nothing could be shared between points. Look for dropout or random numbers in forward"
    )


__all__ = ["Scores", "agree", "check_binary", "is_out_of_memory", "unsteady"]
