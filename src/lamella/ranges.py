"""Ranges of activations: which ends of a grid of 256 levels leave the least error.

    some = sampled(flat)                                # of every batch
    low, high = least_error(some, flat.min(), flat.max())

The range from the smallest to the largest value ever seen grows with every sample that is looked at, and a few outliers take the levels
from all others. Here each end may move towards zero as long as what is cut off costs less than the finer step gains, in squared error
(the criterion of Sung, Shin and Hwang 2015; figures: docs/decisions/0022). Ends of values without outliers stay where they are, or nearly.
"""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

SAMPLED = 2**14  # values of a tensor and a batch that tell how all of them are spread
BINS = 4096  # of the values' histogram
STEPS = 255  # of a grid
SHARES = 0.95 ** np.arange(100)  # of an end that are tried: from all of it to a hundred and sixtieth


def sampled(flat_N: Values, size: int | None = None, start: int = 0) -> Values:
    """Every n-th value, n odd so that all channels are met, some `SAMPLED` in all; the same ones of a tensor of `size` values that comes
    in parts, this one from position `start` on.
    """
    step = (len(flat_N) if size is None else size) // SAMPLED | 1
    return flat_N[-start % step :: step]


def least_error(values_N: Values, low: float, high: float) -> tuple[float, float]:
    """The ends, zero between them and within `low` and `high`, that leave the least squared error on the values, a sample of what lies
    between `low` and `high`.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    counts_B, edges = np.histogram(values_N[values_N != 0], BINS, (low, max(high, low + 1e-30)))
    middles_B = (edges[1:] + edges[:-1]) / 2
    lows_L, highs_H = (end * SHARES if end else np.zeros(1) for end in (low, high))
    cut_L = (np.minimum(middles_B - lows_L[:, None], 0) ** 2) @ counts_B
    cut_H = (np.maximum(middles_B - highs_H[:, None], 0) ** 2) @ counts_B
    step_LH = (highs_H - lows_L[:, None]) / STEPS
    error_LH = cut_L[:, None] + cut_H + _rounding(step_LH, middles_B, counts_B)
    best_low, best_high = np.unravel_index(int(error_LH.argmin()), error_LH.shape)
    return float(lows_L[best_low]), float(highs_H[best_high])


def _rounding(step_LH: np.ndarray, middles_B: np.ndarray, counts_B: np.ndarray) -> np.ndarray:
    """The squared error of rounding to multiples of each step: a twelfth of the step's square, but what is smaller becomes zero."""
    order = np.argsort(np.abs(middles_B))
    squares_B = middles_B[order] ** 2
    small_B = np.concatenate([[0.0], np.cumsum(squares_B * counts_B[order])])
    number_B = np.concatenate([[0], np.cumsum(counts_B[order])])
    twelfth_LH = step_LH**2 / 12
    below_LH = np.searchsorted(squares_B, twelfth_LH)
    found: np.ndarray = small_B[below_LH] + (number_B[-1] - number_B[below_LH]) * twelfth_LH
    return found
