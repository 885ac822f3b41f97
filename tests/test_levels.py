"""Levels before anything trains: targets met by prediction and by the file itself, whole steps, and what is refused as slower."""

from types import SimpleNamespace

import pytest
import zoo

import lamella as lm
from lamella.elasticity import make_levels
from lamella.errors import BudgetError, LamellaError
from lamella.schema import Budget, Plan, Step
from lamella.stages import levels as stage
from lamella.stages import slower
from lamella.timing import Latency


def took(ratio, spread=0.01):
    return Latency(
        latency_ms=ratio, median_ms=ratio, ratio=ratio, ratio_low=ratio - spread, ratio_high=ratio + spread, n=12
    )


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A run whose files take 1.7 times as long per multiply-add where a width is no multiple of 4."""
    _, _, graph = zoo.traced("residual", 32)

    def timed_files(session, widths):
        def ms(each):
            odd = any(width % 4 for width in each.values())
            return lm.cost(graph, each).macs / lm.cost(graph, {}).macs * (1.7 if odd else 1)

        return {name: took(ms(each)) for name, each in widths.items()}

    for module in (stage, slower):
        monkeypatch.setattr(module, "timed_files", timed_files)
    return SimpleNamespace(graph=lambda: graph, directory=tmp_path, info=SimpleNamespace(seed=0))


def test_a_level_slower_than_a_larger_one_is_refused_with_the_widths_that_would_do(session):
    with pytest.raises(LamellaError) as seen:
        stage.drafted(session, {"wide": 0.05, "core": 0.5})
    words = str(seen.value)
    assert "level 'wide' is slower than 'full', which is larger: in ONNX Runtime it takes 1.5" in words
    assert "in whole steps of channels it takes" in words
    assert "30 -> " in words
    assert "--round-to aligned" in words
    assert "level 'core'" not in words


def test_steps_are_not_advised_where_they_do_not_help(session, monkeypatch):
    tiny = lambda session, widths: {name: took(1.5 if each else 1) for name, each in widths.items()}
    for module in (stage, slower):
        monkeypatch.setattr(module, "timed_files", tiny)
    with pytest.raises(LamellaError) as seen:
        stage.drafted(session, {"wide": 0.05, "core": 0.5})
    words = str(seen.value)
    assert "calling the layers takes the time" in words
    assert "try: other levels. Nothing has been trained" in words
    assert "--round-to" not in words


def test_slower_levels_are_accepted_with_a_note_and_whole_steps_are_not_slower(session):
    draft = stage.drafted(session, {"wide": 0.05, "core": 0.5}, allow_slower=True)
    assert draft.names == ("core", "wide", "full")
    assert draft.notes[0].startswith("level 'wide' is slower than 'full'")
    draft = stage.drafted(session, {"wide": 0.2, "core": 0.5}, round_to="8")
    assert draft.notes == ()
    assert {width % 8 for level in draft.levels for width in level.widths.values()} == {0}


def test_where_nothing_was_asked_for_other_steps_are_taken(session):
    draft = stage.drafted(session, None)
    assert "widths are in steps of --round-to" in draft.notes[0]
    assert {width % 4 for level in draft.levels for width in level.widths.values()} == {0}
    assert len(draft.levels) > 2


def test_a_plan_keeps_its_widths_and_a_note_says_where_they_are_not_in_whole_steps(session):
    graph = session.graph()
    steps, price = (Step(widths={"stem.0": 23}),), lm.cost(graph)
    plan = Plan(structure=graph.structure, planner="uniform", steps=steps, predicted=price, dense=price)
    draft = stage.drafted(session, {"planned": plan}, round_to="8", allow_slower=True)
    assert draft.levels[0].widths == plan.widths
    assert (
        "level 'planned' keeps the widths of its plan: 1 are not in steps of --round-to, 'stem.0' with 23"
        in draft.notes[0]
    )


def test_the_same_levels_come_back_when_asked_again(session, monkeypatch):
    first = stage.drafted(session, {"core": 0.5})
    monkeypatch.setattr(slower, "timed_files", None)
    assert stage.drafted(session, {"core": 0.5}) == first


class Optimist:
    """A predictor that says four tenths too little."""

    def predict(self, graph, widths, bits):
        return 0.6 * lm.cost(graph, widths).macs / lm.cost(graph, {}).macs


def test_a_target_is_held_by_the_file_where_the_prediction_misses(session):
    graph = stage.stepped(session.graph(), "4")
    asked = Budget(latency_ms=0.5)
    predicted = make_levels(graph, {"half": asked}, Optimist())[0]
    assert stage.timed_files(session, {"half": predicted.widths})["half"].latency_ms > 0.5
    level, note = stage._on_target(session, graph, "half", asked, Optimist())
    assert 0.3 < stage.timed_files(session, {"half": level.widths})["half"].latency_ms <= 0.5
    assert "latency_ms=0.5 asked; its file takes 0." in note


def test_a_target_that_nothing_keeps_is_an_error(session):
    with pytest.raises(BudgetError, match=r"latency_ms .* where 0\.0001 is asked"):
        stage._on_target(session, stage.stepped(session.graph(), "16"), "a", Budget(latency_ms=0.0001), Optimist())


def test_what_the_command_line_says_of_a_level():
    found = stage.settings_of([("a", "0.5"), ("b", "latency_ms=50%,params=1000")])
    assert found == {"a": 0.5, "b": Budget(latency_ms="50%", params=1000)}
