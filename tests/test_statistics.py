"""Intervals: published examples, edge cases, and coverage by simulation."""

import numpy as np
import pytest

from lamella.errors import DataError
from lamella.statistics import over_seeds, paired_difference, score_interval


def pairs(won, lost, n):
    a, b = np.ones(n), np.ones(n)
    b[:won] = 0
    a[won : won + lost] = 0
    return a, b


def test_wilson_as_published():
    score = score_interval([1] * 81 + [0] * 182)  # Newcombe 1998, Statistics in Medicine 17, 857, table I
    assert (round(score.low, 4), round(score.high, 4)) == (0.2553, 0.3662)
    assert score.n == 263


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 10, 10_000])
def test_all_right_and_all_wrong_have_honest_intervals(value, n):
    score = score_interval([value] * n)
    assert score.value == value
    assert 0 <= score.low <= value <= score.high <= 1
    assert score.high - score.low > 3 / (n + 4)


def test_continuous_scores_get_students_t():
    score = score_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert score.value == 2.5
    assert score.high - score.value == pytest.approx(3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2, rel=1e-6)


def test_one_continuous_score_is_its_own_interval():
    score = score_interval([-0.3])
    assert (score.low, score.value, score.high, score.n) == (-0.3, -0.3, -0.3, 1)


def test_scores_over_seeds_are_no_single_samples():
    assert over_seeds([1.0, 1.0, 1.0]).low == 1.0
    found = over_seeds([1.0, 0.0, 0.0])
    assert found.value == pytest.approx(1 / 3)
    assert found.high - found.value == pytest.approx(4.302653 / 3, rel=1e-6)  # t(2) times the standard error, 1/3
    assert found.low < 0
    alone = over_seeds([0.4])
    assert (alone.low, alone.value, alone.high, alone.n) == (0.4, 0.4, 0.4, 1)


def test_tango_as_published():
    # Airway hyper-responsiveness, 1 and 7 disagreements among 21 (Fagerland et al. 2014, tables II and V).
    mean, low, high = paired_difference(*pairs(1, 7, 21))
    assert mean == pytest.approx(-6 / 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def test_no_disagreement_still_leaves_doubt():
    mean, low, high = paired_difference(*pairs(0, 0, 100))
    assert mean == 0
    assert high == -low == pytest.approx(0.037, abs=1e-4)  # z² / (n + z²)


@pytest.mark.parametrize(("won", "lost", "n"), [(0, 0, 1), (1, 0, 1), (5, 0, 5), (0, 5, 5), (3, 2, 5), (1, 0, 10_000)])
def test_the_interval_holds_the_mean_and_mirrors(won, lost, n):
    mean, low, high = paired_difference(*pairs(won, lost, n))
    assert -1 <= low <= mean <= high <= 1
    assert low < high
    mirrored = paired_difference(*pairs(won, lost, n)[::-1])
    assert mirrored == pytest.approx((-mean, -high, -low), abs=1e-9)


def coverage(p_won, p_lost, n, random):
    """The share of 3,000 simulated experiments whose interval holds the true difference."""
    counts, times = np.unique(
        random.multinomial(n, [p_won, p_lost, 1 - p_won - p_lost], size=3000)[:, :2], axis=0, return_counts=True
    )
    covered = 0
    for (won, lost), count in zip(counts, times, strict=True):
        _, low, high = paired_difference(*pairs(won, lost, n))
        covered += count * (low <= p_won - p_lost <= high)
    return covered / 3000


def test_paired_proportions_cover_the_truth():
    random = np.random.default_rng(0)
    cases = [(0.1, 0.1, 50), (0.02, 0.06, 100), (0.01, 0.01, 360), (0.0, 0.02, 360), (0.3, 0.1, 80), (0.005, 0.02, 360)]
    covered = [coverage(*case, random) for case in cases]
    assert min(covered) > 0.93 - 0.012  # the worst exact coverage, less 2.5 standard errors of the simulation
    assert np.mean(covered) > 0.945


def test_continuous_differences_cover_the_truth():
    random = np.random.default_rng(1)
    shared = random.normal(size=(1000, 25, 1))
    scores = shared + random.normal(scale=0.3, size=(1000, 25, 2)) + np.array([0.2, 0.0])
    ends = [paired_difference(s[:, 0], s[:, 1])[1:] for s in scores]
    assert 0.93 <= np.mean([low <= 0.2 <= high for low, high in ends]) <= 0.97
    assert np.mean([high - low for low, high in ends]) < 0.4  # far narrower than the unpaired 1.1


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([], r"shape \(0,\)"),
        (np.ones((3, 2)), r"shape \(3, 2\)"),
        ([1.0, np.nan, 0.0], "1 of 3 scores are not finite .* at sample 1"),
        ([1.0, np.inf], "not finite"),
    ],
)
def test_scores_that_are_none_are_refused(scores, words):
    with pytest.raises(DataError, match=words):
        score_interval(scores)
    with pytest.raises(DataError, match=words):
        paired_difference(scores, scores)


def test_pairs_must_be_pairs():
    with pytest.raises(DataError, match="there are 3 and 2"):
        paired_difference([1, 0, 1], [1, 0])
