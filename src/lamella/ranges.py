"""Ranges of activations: which ends of a grid of 256 levels leave the least error.

    spread = Spread()
    spread.add(batch_of_activations)      # of every batch; or its parts, with what comes before them
    low, high = spread.ends()

The range from the smallest to the largest value ever seen grows with every sample that is looked at, and a few outliers take the levels
from all others. Here each end may move towards zero as long as what is cut off costs less than the finer step gains, in squared error
(the criterion of Sung, Shin and Hwang 2015; figures: docs/decisions/0022). Ends of values without outliers stay where they are, or nearly.

Legend: B bins of a histogram, L and H low and high ends that are tried.
"""

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

SAMPLED = 2**20  # values of a tensor and a batch that are counted at most, or twice as many
STEPS = 255  # of a grid
SHARES = 0.95 ** np.arange(100)  # of an end that are tried: from all of it to a hundred and sixtieth
BULK = 0.999  # of the values
MARK = -65504.0  # the lowest float16
SMALL = 1e-2  # what is added to keep a sum from zero is no larger

# A bin holds the float32 numbers that are the same in their upper 16 bits: 128 bins between powers of two.
PATTERNS = np.arange(2**16, dtype=np.uint32)
FINITE = PATTERNS & 0x7F80 != 0x7F80
MIDDLES = np.where(FINITE, (PATTERNS << 16 | 0x8000).view(np.float32), 0.0).astype(np.float64)
UPWARDS = np.argsort(MIDDLES, kind="stable")


class Spread:
    """The lowest and highest of the values seen, and how they are spread between."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.counts = np.zeros(len(PATTERNS), dtype=np.int64)

    def add(self, values: np.ndarray, size: int | None = None, start: int = 0) -> None:
        """Count some float32 values; of a tensor of `size` values that comes in parts, this one from position `start` on."""
        flat = np.ascontiguousarray(values).ravel()
        self.low, self.high = min(self.low, float(flat.min())), max(self.high, float(flat.max()))
        self.counts += np.bincount(sampled(flat, size, start).view(np.uint32) >> 16, minlength=len(PATTERNS))

    @property
    def marked(self) -> bool:
        """Whether there are infinite values, or negative ones that no float16 holds: no numbers but marks, such as a mask's before softmax.
        256 levels would have room for little else, so what takes them stays in float.
        """
        return is_marked(self.low, self.high)

    def ends(self) -> tuple[float, float]:
        """The range that leaves the least error, zero included."""
        return least_error(self.counts, self.low, self.high)

    def bulk(self) -> tuple[float, float]:
        """The ends between which nearly all values lie."""
        reached_B = np.cumsum(self.counts[UPWARDS])
        edges = np.searchsorted(reached_B, reached_B[-1] * np.array([(1 - BULK) / 2, (1 + BULK) / 2]))
        low, high = np.clip(MIDDLES[UPWARDS[np.minimum(edges, len(UPWARDS) - 1)]], self.low, self.high)
        return float(low), float(high)

    def crowd(self) -> float:
        """The share of the range in which nearly all values lie."""
        (low, high), (bulk_low, bulk_high) = self.ends(), self.bulk()
        return (max(bulk_high, 0.0) - min(bulk_low, 0.0)) / max(high - low, 1e-30)


def is_marked(low: float, high: float) -> bool:
    """Whether values between these ends, both taken, hold marks (`Spread.marked`)."""
    return low < MARK or high == math.inf


def sampled(flat_N: Values, size: int | None = None, start: int = 0) -> Values:
    """Every n-th value, n odd so that all channels are met, some `SAMPLED` in all; the same ones of a tensor of `size` values that comes
    in parts, this one from position `start` on.
    """
    step = (len(flat_N) if size is None else size) // SAMPLED | 1
    return np.ascontiguousarray(flat_N[-start % step :: step])


def least_error(counts_B: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """The ends, zero between them and within `low` and `high`, that leave the least squared error on values that were counted."""
    low, high = min(low, 0.0), max(high, 0.0)
    some = np.flatnonzero(counts_B * FINITE)
    counts_B, middles_B = counts_B[some], np.clip(MIDDLES[some], low, high)
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
