"""How far a score can be trusted: intervals for a mean, and for the difference of two networks on the same samples.

    score_interval(correct)                # Score(value=0.9173, low=0.9117, high=0.9225, n=10000)
    paired_difference(dense, narrowed)     # (0.0012, -0.0008, 0.0032): mean(a - b) and its 95 % interval
    over_seeds([0.913, 0.917, 0.909])      # Score(value=0.913, low=0.9031, high=0.9229, n=3)
    race = Race(sizes, floor, error)       # draw samples until it is known whether a mean lies above a floor

Scores are per sample, shape (N,). Right-or-wrong scores get score intervals for proportions, which hold near 0 and 1
and with few disagreements; any other scores get Student's t.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

from .errors import DataError
from .schema import Score

Floats = NDArray[np.float64]
Z = float(norm.ppf(0.975))  # two-sided 95 %


def score_interval(scores: ArrayLike) -> Score:
    """The mean of per-sample scores (N,) with its 95 % interval: Wilson (1927) for scores of 0 and 1, else Student's t.

    >>> score = score_interval([1.0] * 98 + [0.0] * 2)
    >>> round(score.low, 4), score.value, round(score.high, 4), score.n
    (0.93, 0.98, 0.9945, 100)
    """
    values_N = _checked(scores)
    mean = float(values_N.mean())
    low, high = _wilson(mean, values_N.size) if _is_binary(values_N) else _student(values_N)
    return Score(value=mean, low=min(low, mean), high=max(high, mean), n=values_N.size)


def paired_difference(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float]:
    """mean(a - b) over the same samples, with the low and high end of its 95 % interval.

    For scores of 0 and 1, Tango's score interval (Statistics in Medicine 17, 1998), recommended by Fagerland, Lydersen
    and Laake (Statistics in Medicine 33, 2014): it depends on the samples where a and b disagree, and is honest even
    when none do. Over n = 100 and 360 and disagreements of 0 to 10 % each way it holds the truth with probability 96 %
    on average and 93 % at worst, by enumeration. Else Student's t on the differences.

    >>> [round(end, 3) for end in paired_difference([1] * 100, [1] * 100)]
    [0.0, -0.037, 0.037]
    """
    a_N, b_N = _checked(a), _checked(b)
    if a_N.size != b_N.size:
        raise DataError(f"paired scores must be of the same samples, and there are {a_N.size} and {b_N.size} of them.")
    difference_N = a_N - b_N
    mean = float(difference_N.mean())
    if _is_binary(a_N) and _is_binary(b_N):
        won, lost = int((difference_N > 0).sum()), int((difference_N < 0).sum())
        return mean, -_tango_high(lost, won, a_N.size), _tango_high(won, lost, a_N.size)
    low, high = _student(difference_N)
    return mean, low, high


def over_seeds(values: ArrayLike) -> Score:
    """The mean over seeds (S,) with its 95 % interval by Student's t; of one seed, or of equal ones, the value itself.

    Differences of two networks, paired by seed, are handed in as they are. Values that are all 0 or 1 are no single samples here.
    """
    values_S = _checked(values)
    mean, (low, high) = float(values_S.mean()), _student(values_S)
    return Score(value=mean, low=min(low, mean), high=max(high, mean), n=values_S.size)


def _checked(scores: ArrayLike) -> NDArray[np.float64]:
    values_N = np.asarray(scores, dtype=np.float64)
    if values_N.ndim != 1 or values_N.size == 0:
        raise DataError(
            f"scores of shape {values_N.shape} were given; one number per sample, shape (N,), was expected."
        )
    bad = np.flatnonzero(~np.isfinite(values_N))
    if bad.size:
        raise DataError(
            f"{bad.size} of {values_N.size} scores are not finite (the first, {values_N[bad[0]]}, at sample {bad[0]}). "
            "Look for NaN in the inputs, the weights or the score function."
        )
    return values_N


def _is_binary(values_N: NDArray[np.float64]) -> bool:
    return bool(np.isin(values_N, (0.0, 1.0)).all())


def _wilson(share: float, n: int) -> tuple[float, float]:
    """(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    centre = share + Z * Z / (2 * n)
    reach = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    return (centre - reach) / scale, (centre + reach) / scale


def _student(values_N: NDArray[np.float64]) -> tuple[float, float]:
    """mean ± t s / sqrt(n). A single value shows no spread: its interval is the value itself."""
    n, mean = values_N.size, float(values_N.mean())
    if n == 1:
        return mean, mean
    reach = float(t.ppf(0.975, n - 1)) * float(values_N.std(ddof=1)) / math.sqrt(n)
    return mean - reach, mean + reach


def _tango_high(won: int, lost: int, n: int) -> float:
    """The largest difference that a score test at 5 % does not reject, given the disagreements among n."""
    estimate = (won - lost) / n
    if estimate == 1:
        return 1.0
    excess = partial(_tango_excess, won=won, lost=lost, n=n)
    # With no disagreement the statistic is 0/0 at the estimate itself, so start a hair above it.
    return float(brentq(excess, estimate + 1e-12, 1.0))


def _tango_excess(difference: float, *, won: int, lost: int, n: int) -> float:
    """(won - lost - n d) + z sqrt(n (2q + d(1 - d))), q the likeliest P(lost) given d (Tango 1998): 0 at the bound."""
    linear = -won - lost + (2 * n - won + lost) * difference
    constant = -lost * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    likeliest = (root - linear) / (4 * n)
    variance = n * (2 * likeliest + difference * (1 - difference))
    return won - lost - n * difference + Z * math.sqrt(max(0.0, variance))


def clearly_below(values_KS: ArrayLike, reference: int, error: float) -> NDArray[np.bool_]:
    """Which of K rows have a mean below the reference row's, (K,), at an error rate of `error` over all rows (Bonferroni).

    All rows share the S seeds, so that what a seed does to every row drops out: what is left after row and column means gives
    one variance with (K - 1)(S - 1) degrees of freedom (a randomized block design). Where a row's own differences spread wider,
    theirs is taken.

    >>> clearly_below([[0.9, 0.91, 0.9], [0.5, 0.52, 0.49], [0.89, 0.91, 0.9]], 0, 0.05).tolist()
    [False, True, False]
    """
    table = np.asarray(values_KS, dtype=np.float64)
    rows, seeds = table.shape
    if rows < 2 or seeds < 2:
        return np.zeros(rows, dtype=bool)
    means_K = table.mean(1)
    residual = table - means_K[:, None] - table.mean(0) + table.mean()
    freedom = (rows - 1) * (seeds - 1)
    pooled = 2 * float(np.square(residual).sum()) / freedom
    own_K = np.var(table[reference] - table, axis=1, ddof=1)
    reach_K = float(t.isf(error / (rows - 1), freedom)) * np.sqrt(np.maximum(pooled, own_K) / seeds)
    below_K = (means_K[reference] - means_K > reach_K) & (np.arange(rows) != reference)
    return np.asarray(below_K, dtype=np.bool_)


STRATA = 5  # by rising margin of the dense network: nearly all flips lie at the smallest
# Samples of a stratum, of the first look, and how many times more each further look has.
LEAST, FIRST, GROWTH = 16, 200, 1.35
MOST = 0.25  # the largest variance of a score of 0 or 1
PRIOR, CARRY = 8.0, 0.5  # a stratum counts as PRIOR samples more, with CARRY times the spread of the stratum before


def strata_of(margins: ArrayLike | None, n: int) -> list[NDArray[np.int64]]:
    """Sample numbers in strata by rising margin; one stratum where there are no margins."""
    if margins is None:
        return [np.arange(n)]
    order = np.argsort(np.asarray(margins, dtype=np.float64), kind="stable")
    return [part for part in np.array_split(order, STRATA) if part.size]


class Race:
    """Is the mean of N differences (variant minus dense, on the same samples) at or above `floor`? Drawn until that is known.

    Samples come without replacement, stratum by stratum (`sizes` of each); the estimate is sum(W_h mean_h), its variance
    sum(W_h^2 (1 - n_h / N_h) v_h / n_h), exact when all are drawn; `variance` is taken for a sample's before any is seen. There are
    at most `looks` looks, each at error / (2 looks) on either side, so `error` bounds the chance of a wrong answer (Bonferroni); the
    last look sees all samples. Within `indifference` of the floor either answer counts as right: a half-width below it ends the race
    at the estimate.
    """

    def __init__(
        self, sizes: Sequence[int], floor: float, error: float, indifference: float = 0.0, *, variance: float = MOST
    ) -> None:
        self.sizes = np.asarray(sizes, dtype=np.float64)
        self.floor, self.indifference, self.variance = floor, indifference, variance
        self.counts, self.sums, self.squares = (np.zeros(len(sizes)) for _ in range(3))
        total = float(self.sizes.sum())
        self.looks = 1 + max(0, math.ceil(math.log(max(1.0, total / FIRST), GROWTH)))
        self.z = float(norm.isf(error / self.looks))

    def wanted(self, look: int) -> list[int]:
        """How many samples each stratum should have given by this look (0 is the first)."""
        total = FIRST * GROWTH**look
        if look >= self.looks - 1 or total >= self.sizes.sum():
            return [int(n) for n in self.sizes]
        need = self.sizes * np.sqrt(self._spreads(self.sums / np.maximum(self.counts, 1)))
        wanted = np.minimum(np.maximum(self.counts, LEAST), self.sizes)
        for _ in range(len(need)):  # a stratum that is used up leaves its share to the others
            open_ = wanted < self.sizes
            spare = total - wanted[~open_].sum()
            share = np.where(open_, spare * need / max(need[open_].sum(), 1e-12), 0.0) if open_.any() else 0.0
            wanted = np.minimum(np.maximum(wanted, np.ceil(share)), self.sizes)
        return [int(n) for n in wanted]

    def add(self, stratum: int, differences: ArrayLike) -> None:
        """Count in drawn samples of one stratum."""
        d_n = np.asarray(differences, dtype=np.float64)
        self.counts[stratum] += d_n.size
        self.sums[stratum] += d_n.sum()
        self.squares[stratum] += np.square(d_n).sum()

    def estimate(self) -> tuple[float, float]:
        """The mean difference, and its standard error."""
        weights = self.sizes / self.sizes.sum()
        means = self.sums / np.maximum(self.counts, 1)
        left = 1 - self.counts / self.sizes
        variance = float((weights**2 * left * self._spreads(means) / np.maximum(self.counts, 1)).sum())
        return float((weights * means).sum()), math.sqrt(max(0.0, variance))

    def _spreads(self, means: Floats) -> Floats:
        """Variance within each stratum. Few samples may show no flip where there are some: each leans on the stratum before."""
        spreads, before = np.zeros(len(self.sizes)), self.variance / CARRY
        for h, (n, square, mean) in enumerate(zip(self.counts, self.squares, means, strict=True)):
            own = max(0.0, square - n * mean * mean)
            prior = PRIOR if h else 1.0
            before = spreads[h] = (own + prior * CARRY * before) / (n + prior)
        return spreads

    def verdict(self) -> bool | None:
        """True: at or above the floor; False: below; None: not known yet."""
        mean, error = self.estimate()
        if (self.counts >= self.sizes).all():
            return mean >= self.floor - 1e-12
        if abs(mean - self.floor) > self.z * error or self.z * error < self.indifference:
            return mean >= self.floor
        return None


def climb(levels: int, holds: Callable[[int], bool]) -> int:
    """The highest level (0 is the mildest) that holds, -1 for none, if holding once implies holding at every milder level.

    Bisection: about log2(levels) questions.
    """
    low, high = -1, levels
    ask = levels // 2
    while high - low > 1:
        low, high = (ask, high) if holds(ask) else (low, ask)
        ask = (low + high) // 2
    return low
