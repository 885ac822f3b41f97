"""Search: starts at the knapsack plan, measures what the budget allows, resumes, drops losers, reports honestly."""

import sys
from dataclasses import replace

import pytest
from reporting_records import resnet
from test_planning import measured

from lamella.errors import LamellaError, MissingExtra
from lamella.planning import plan
from lamella.planning.searching import final_score
from lamella.schema import Budget

pytest.importorskip("optuna")

BUDGET = Budget(bytes="35%")


@pytest.fixture(scope="module")
def profile():
    return measured(resnet(1, (8, 16, 32)))


class Meter:
    """A score that punishes one group more than its curve says, and counts calls."""

    def __init__(self):
        self.seen = []

    def __call__(self, widths, bits):
        self.seen.append((dict(widths), dict(bits)))
        lost = sum(0.02 * (1 - w / 32) for w in widths.values()) + 0.3 * (widths["conv1"] < 8)
        return 0.92 - lost - sum(0.02 for b in bits.values() if b < 4)


def searched(profile, meter, **options):
    return plan(profile, BUDGET, planner="search", measure=meter, **options)


def test_search_starts_at_the_knapsack_plan_and_never_ends_below_it(profile):
    meter = Meter()
    start = plan(profile, BUDGET, planner="knapsack")
    made = searched(profile, meter, trials=12, control=True)
    widths, bits = meter.seen[0]
    assert {n: w for n, w in widths.items() if w < profile.graph.group_of[n].width} == start.widths
    assert {n: b for n, b in bits.items() if b < 32} == start.bits
    assert made.predicted.bytes <= 0.35 * made.dense.bytes
    full = profile.graph.completed(start.widths)
    first = Meter()(full, start.bits)
    assert made.predicted_score >= first
    assert len(meter.seen) == 24
    assert any("its knapsack start" in note for note in made.notes)
    assert any("12 knapsack plans from jittered curves" in note for note in made.notes)


def test_search_goes_on_where_it_stopped(profile, tmp_path):
    storage = tmp_path / "search.journal"
    first, second = Meter(), Meter()
    searched(profile, first, trials=4, storage=storage)
    made = searched(profile, second, trials=7, storage=storage)
    assert (len(first.seen), len(second.seen)) == (4, 3)
    assert made == searched(profile, Meter(), trials=7, storage=storage)


def test_a_search_that_ended_in_its_first_candidate_begins_with_it_again(profile, tmp_path):
    storage, meter = tmp_path / "search.journal", Meter()

    def interrupted(widths, bits):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(profile, interrupted, trials=4, storage=storage)
    made = searched(profile, meter, trials=4, storage=storage)
    start = plan(profile, BUDGET, planner="knapsack")
    assert len(meter.seen) == 4
    assert meter.seen[0][0] == profile.graph.completed(start.widths)
    assert any("best of 4 candidates" in note for note in made.notes)
    assert made == searched(profile, meter, trials=4, storage=storage)
    assert len(meter.seen) == 4


def test_the_same_seed_gives_the_same_plan(profile):
    assert searched(profile, Meter(), trials=6, seed=3) == searched(profile, Meter(), trials=6, seed=3)


def test_two_objectives_list_their_front(profile):
    made = searched(profile, Meter(), trials=6, trade="bytes")
    assert any(note.startswith("front (score, cost): (") for note in made.notes)


def test_another_question_is_another_study(profile, tmp_path):
    """Trials are levels by their place: what they stand for, and what they are judged by, belongs to the question."""
    storage = tmp_path / "search.journal"
    first, traded, moved = Meter(), Meter(), Meter()
    searched(profile, first, trials=4, storage=storage)
    made = searched(profile, traded, trials=4, storage=storage, trade="macs")
    assert len(traded.seen) == 4
    assert made.front
    steep = replace(profile, points=tuple(p for p in profile.points if p.level not in (2, 4)))
    searched(steep, moved, trials=4, storage=storage)
    assert len(moved.seen) == 4


class Predicted:
    """Milliseconds by layer, some slower than others."""

    def __init__(self, factor):
        self.factor = factor

    def layer_ms(self, layer, inputs, outputs, bits):
        return (self.factor if layer.name == "conv1" else 1.0) * 1e-4 * inputs * outputs

    def predict(self, graph, widths, bits):
        full = graph.completed(widths)
        return sum(self.layer_ms(x, x.inputs.at(full), x.outputs.at(full), 32) for x in graph.multiplying)


def test_milliseconds_of_another_runtime_are_another_question(profile, tmp_path):
    storage, budget = tmp_path / "search.journal", Budget(latency_ms="60%")
    meters = Meter(), Meter(), Meter()
    for meter, factor in zip(meters, (1.0, 1.0, 1.2), strict=True):
        options = {"measure": meter, "latency": Predicted(factor), "storage": storage, "trials": 4}
        plan(profile, budget, planner="search", bits=32, **options)
    first, again, elsewhere = (len(meter.seen) for meter in meters)
    assert (first > 0, again, elsewhere > 0) == (True, 0, True)


def test_a_score_of_the_tasks_own_has_no_highest(profile):
    """Decibels, say: a stream of 31 is not beaten by 30 because no share of it could be above 1."""
    seen = []

    def stream(widths, bits):
        seen.append(widths)
        yield 30.0 + len(seen), 0.5
        yield 30.0 + len(seen), 1.0

    decibels = replace(profile, metric="score", baseline=replace(profile.baseline, value=31.0, low=30.0, high=32.0))
    made = searched(decibels, stream, trials=5, control=True)
    assert made.predicted_score == 30.0 + 10
    assert any("the best of 5 candidates" in note for note in made.notes)


def test_losers_are_dropped_before_all_samples_are_seen():
    seen = []

    def stream(widths, bits):
        for share in (0.25, 0.5, 0.75, 1.0):
            seen.append(share)
            yield 0.2, share

    assert final_score(stream, {}, {}, best=0.6) is None
    assert seen == [0.25, 0.5, 0.75][: len(seen)]
    assert len(seen) < 4
    assert final_score(stream, {}, {}, best=0.1) == 0.2


def test_what_search_needs(profile, monkeypatch):
    with pytest.raises(LamellaError, match=r"planner 'search' measures candidates and needs measure="):
        plan(profile, BUDGET, planner="search")
    with pytest.raises(LamellaError, match=r"trials 0: at least one measurement"):
        searched(profile, Meter(), trials=0)
    with pytest.raises(LamellaError, match=r"trade='flops': one of params"):
        searched(profile, Meter(), trials=2, trade="flops")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"planner 'search' needs optuna.*pip install 'lamella\[search\]'"):
        searched(profile, Meter(), trials=2)
