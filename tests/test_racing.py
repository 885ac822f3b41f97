"""Races on recorded outcomes: the error that is stated, the samples that are spared, and the search over levels."""

import numpy as np
import pytest

from lamella.statistics import Race, climb, strata_of

SAMPLES = 2000


def outcomes(drop, seed, dense_accuracy=0.9):
    """Right-or-wrong scores of a dense network and a variant, and margins: flips lie among the small margins, as measured."""
    rng = np.random.default_rng(seed)
    margin = rng.exponential(1.0, SAMPLES)
    dense = (rng.random(SAMPLES) < np.clip(0.5 + margin, 0, 1) * 2 * dense_accuracy / 2).astype(float)
    flips = rng.random(SAMPLES) < 0.35 * np.exp(-4 * margin)
    helps = rng.random(SAMPLES) < 0.3
    variant = np.where(flips & helps, 1.0, np.where(flips, 0.0, dense))
    gap = round(drop * SAMPLES) - round((dense - variant).sum())
    order = np.argsort(margin)
    pool = [i for i in order if variant[i] == (1.0 if gap > 0 else 0.0)][: abs(gap)]
    variant[pool] = 0.0 if gap > 0 else 1.0
    return dense, variant, margin


def raced(dense, variant, margin, floor, error, seed, indifference=0.0):
    strata = [np.random.default_rng(seed).permutation(part) for part in strata_of(margin, len(dense))]
    race = Race([len(part) for part in strata], floor, error, indifference)
    difference = variant - dense
    for look in range(race.looks):
        for h, wanted in enumerate(race.wanted(look)):
            have = int(race.counts[h])
            if wanted > have:
                race.add(h, difference[strata[h][have:wanted]])
        if race.verdict() is not None:
            break
    return race


def test_all_samples_drawn_give_the_exact_mean_and_verdict():
    dense, variant, margin = outcomes(0.01, 0)
    strata = strata_of(margin, SAMPLES)
    race = Race([len(part) for part in strata], -0.01, 0.05)
    for h, part in enumerate(strata):
        race.add(h, (variant - dense)[part])
    mean, error = race.estimate()
    assert mean == pytest.approx((variant - dense).mean())
    assert error == 0
    assert race.verdict() is True  # at the floor holds


def test_the_last_look_sees_every_sample():
    race = Race([100, 900], -0.01, 0.05)
    assert race.wanted(race.looks - 1) == [100, 900]


@pytest.mark.parametrize("drop", [0.0, 0.008, 0.012, 0.03])
def test_the_stated_error_is_kept(drop):
    error, floor = 0.1, -0.01
    wrong, drawn = 0, []
    for seed in range(60):
        dense, variant, margin = outcomes(drop, seed)
        race = raced(dense, variant, margin, floor, error, seed)
        wrong += race.verdict() != ((variant - dense).mean() >= floor - 1e-12)
        drawn.append(race.counts.sum())
    assert wrong <= 60 * error
    if drop in (0.0, 0.03):
        assert np.mean(drawn) < 0.6 * SAMPLES


def test_far_candidates_cost_little():
    dense, variant, margin = outcomes(0.3, 1)
    race = raced(dense, variant, margin, -0.01, 0.02, 1)
    assert race.verdict() is False
    assert race.counts.sum() < 0.2 * SAMPLES


def test_within_the_indifference_zone_a_race_ends_early():
    dense, variant, margin = outcomes(0.01, 2)
    strict = raced(dense, variant, margin, -0.0101, 0.05, 2)
    loose = raced(dense, variant, margin, -0.0101, 0.05, 2, indifference=0.02)
    assert loose.counts.sum() < strict.counts.sum()
    assert loose.verdict() is not None


def test_margins_need_not_be_there():
    assert [part.tolist() for part in strata_of(None, 3)] == [[0, 1, 2]]
    parts = strata_of([3.0, 1.0, 2.0], 3)
    assert np.concatenate(parts).tolist() == [1, 2, 0]


@pytest.mark.parametrize("boundary", range(-1, 9))
def test_climb_finds_the_last_level_that_holds(boundary):
    asked = []

    def holds(level):
        asked.append(level)
        return level <= boundary

    assert climb(9, holds) == boundary
    assert len(asked) == len(set(asked)) <= 4


def test_a_race_does_not_depend_on_the_unit_of_the_score():
    rng = np.random.default_rng(0)
    scores, lost = rng.chisquare(1, SAMPLES), rng.normal(0.02, 0.1, SAMPLES)
    strata = np.array_split(np.arange(SAMPLES), 5)

    def counts(unit):
        race = Race([len(part) for part in strata], -0.1 * unit, 0.05, variance=float((unit * scores).var()))
        for look in range(race.looks):
            for h, wanted in enumerate(race.wanted(look)):
                race.add(h, -unit * lost[strata[h][int(race.counts[h]) : wanted]])
            if race.verdict() is not None:
                break
        return race.verdict(), race.counts.tolist()

    assert counts(1.0) == counts(1e-3) == counts(1e-6) == counts(1e3)
    assert counts(1e-3)[0] is True
    assert sum(counts(1e-3)[1]) < SAMPLES
