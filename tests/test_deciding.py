"""The planning stage over a run: latencies timed, candidates measured, files weighed, and plans made anew on the way."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import nll_loss
from typer.testing import CliRunner

from lamella import latencies
from lamella.candidates import Candidates
from lamella.cli import app
from lamella.costs import cost
from lamella.digests import weights_digest
from lamella.errors import BudgetError, LamellaError, MismatchError, RecordError, RunError
from lamella.exporting import onnx_bytes
from lamella.latencies import RULE, Timing, is_of_this_rule, latency_fit, measured_steps, random_plans
from lamella.planning import editable
from lamella.profiling import profile
from lamella.records import digest
from lamella.schema import Budget, Front, LatencyFit, Measuring, Plan, Profile, Request, Result, Tuned
from lamella.sessions import describe, start
from lamella.stages import Way, compressed, deciding, exported, opened, quantized, replanning
from lamella.stages.controls import CONTROLS
from lamella.stages.deciding import fronted, heavier, planned, timed
from lamella.stages.deployment import usual_format
from lamella.stages.replanning import compressed_in_turns
from lamella.tracing import trace
from lamella.training import Batches, Recipe, Task
from lamella.walking import tuning

pytest.importorskip("onnxruntime")

FEW = Measuring(fits=3, holds=2, weigh=False)
UNIFORM = Request(budget=Budget(), planner="uniform", order="by_score", epochs=0, options={"pruning_ratio": 0.5})


def asked(session, request, *progress):
    """The plan, measured on few networks and its file not weighed."""
    return planned(session, replace(request, measuring=FEW), *progress)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ResNet-8 on digits with curves of widths and bits."""
    info = describe(
        model="resnet",
        task="digits",
        seed=0,
        options={"limit": 64, "model.depth": 8, "model.widths": "8,8,16", "round_to": 4},
    )
    session = start(tmp_path_factory.mktemp("runs") / "r", info)
    opened(session)
    dense = session.dense()
    for module in dense.modules():  # a trained network's: zeros would not be written
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.1)
    session.keep_dense(dense)
    found = profile(session.dense(), session.task, graph=session.graph(), pruning_ratios=(0.5,), bits=(8, 4))
    session.write("profile", found)
    return session


@pytest.fixture
def session(made, tmp_path, monkeypatch):
    """A copy of the run of its own, and a cache of its own."""
    import shutil

    from lamella.sessions import resume

    monkeypatch.setenv("LAMELLA_CACHE", str(tmp_path / "cache"))
    shutil.copytree(made.directory, tmp_path / "r")
    return resume(tmp_path / "r")


@pytest.fixture
def quick(monkeypatch):
    """Plans timed by a formula: exporting takes seconds a file."""

    def ms(model, graph, task, files, *rest):
        return [
            0.01 + 1e-3 * sum({g.name: widths.get(g.name, g.width) for g in graph.free}.values()) for widths, _ in files
        ]

    monkeypatch.setattr(latencies, "_timed", ms)
    monkeypatch.setattr(latencies.LatencyTable, "_timed", lambda _, shapes, slots: [1e-4 * s.outputs for s in shapes])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_files_are_exported_and_timed(session, runtime):
    pytest.importorskip(runtime)
    found = timed(session, Timing(precision="int8", runtime=runtime, fits=0, holds=1))
    assert found.runtime == runtime
    assert found.machine.startswith(f"{runtime}-")
    (seen,) = found.plans
    assert 0 < seen.measured_ms < 50
    assert not seen.fitted
    assert found.median_error == pytest.approx(abs(seen.predicted_ms / seen.measured_ms - 1))
    assert "on 1 plans it was not fitted on" in found.text


def test_a_budget_in_latency_times_the_network_once(session, quick, monkeypatch):
    request = Request(budget=Budget(latency_ms="95%"), planner="knapsack", order="by_score", bits=32)
    made = asked(session, request)
    assert made.latency_ms <= 0.95 * made.dense_latency_ms
    kept = session.read("latency_fp32", LatencyFit)
    assert (kept.held_out, len(kept.plans)) == (2, 5)
    assert kept.median_error >= 0
    assert any(note == kept.text for note in made.notes)
    assert list((session.directory.parent / "cache").glob("onnxruntime-*-fp32.json"))
    monkeypatch.setattr("lamella.stages.deciding.latency_fit", lambda *_: pytest.fail("timed twice"))
    assert asked(session, request) == made
    assert not [p for p in session.directory.iterdir() if p.is_dir()]


def test_runtimes_have_fits_of_their_own(session, quick):
    pytest.importorskip("openvino")
    here, there = (
        Timing(precision="int8", fits=3, holds=2),
        Timing(precision="int8", runtime="openvino", fits=3, holds=2),
    )
    assert timed(session, here) == session.read("latency_int8", LatencyFit)
    assert timed(session, there) == session.read("latency_int8_openvino", LatencyFit)
    measuring = replace(FEW, runtime="openvino")
    request = Request(
        budget=Budget(latency_ms="95%"), planner="knapsack", order="by_score", bits=8, measuring=measuring
    )
    made = planned(session, request)
    assert any("int8 latency predicted for openvino-" in note for note in made.notes)
    assert made.dense_latency_ms == session.read("latency_int8_openvino", LatencyFit).dense_ms
    assert usual_format(session) == "openvino"
    compressed(session, Way(Recipe(epochs=1)))
    assert usual_format(session) == "openvino"
    planned(session, UNIFORM)
    assert usual_format(session) == "onnx"
    compressed(session, Way(Recipe(epochs=1)))
    planned(session, request)
    assert usual_format(session) == "onnx"  # the compressed network is of the plan before


def in_fours(task):
    """The task with four samples as its example inputs."""
    return replace(task, example_inputs=tuple(x[:1].repeat(4, 1, 1, 1) for x in task.example_inputs))


def test_plans_are_timed_on_one_sample(session, monkeypatch):
    seen, timing = [], latencies.latency
    monkeypatch.setattr(
        latencies, "latency", lambda files, inputs, **how: seen.append(inputs) or timing(files, inputs, **how)
    )
    latency_fit(
        session.dense(), session.graph(), in_fours(session.task), Timing(fits=0, holds=1), session.directory / "t"
    )
    ((one,),) = seen
    assert len(one) == 1


def test_fits_of_an_older_rule_are_made_anew_where_it_was_wrong(session, quick, monkeypatch):
    timing = Timing(fits=3, holds=2)
    found = timed(session, timing)
    assert found.rule == RULE
    older = replace(found, rule=0)
    session.write("latency_fp32", older)
    assert timed(session, timing) == older  # no depthwise convolution, and one sample
    monkeypatch.setitem(vars(session), "task", in_fours(session.task))
    assert timed(session, timing).rule == RULE
    deep = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4)), (torch.zeros(1, 3, 8, 8),))
    one = Task(torch.zeros(1, 3, 8, 8), train=[], validation=[], test=[])
    assert not is_of_this_rule(older, deep, one)
    assert is_of_this_rule(found, deep, one)


def test_a_network_with_few_plans_is_timed_once_too(session, quick, monkeypatch):
    request = Request(
        budget=Budget(latency_ms="95%"),
        planner="knapsack",
        order="by_score",
        bits=32,
        measuring=Measuring(fits=90, holds=90),
    )
    calls = []
    monkeypatch.setattr("lamella.stages.deciding.latency_fit", lambda *given: calls.append(1) or latency_fit(*given))
    made = planned(session, request)
    assert len(session.read("latency_fp32", LatencyFit).plans) < 180
    assert planned(session, request) == made
    assert calls == [1]


def test_latencies_in_integers_and_from_the_table_alone(session, quick):
    found = timed(session, Timing(precision="int8", fits=0, holds=0))
    assert (found.scale, found.per_layer, found.plans) == (1.0, 0.0, ())
    assert "its error is not known" in found.text
    with pytest.raises(LamellaError, match=r"fits=2, holds=8: 0 or at least 3 plans"):
        Timing(fits=2)


@pytest.mark.parametrize("fits", [0, 3])
def test_a_share_of_latency_in_integers_is_of_the_dense_network_in_float(session, quick, monkeypatch, fits):
    formula, slower = latencies._timed, lambda kind: 2.0 if kind == "int8" else 1.0  # as layers of few channels are
    layers = lambda self, shapes, slots: [1e-4 * slower(self.precision) * s.outputs for s in shapes]
    plans = lambda *given: [slower(kind) * ms for ms, (_, kind) in zip(formula(*given), given[3], strict=True)]
    monkeypatch.setattr(latencies.LatencyTable, "_timed", layers)
    monkeypatch.setattr(latencies, "_timed", plans)
    measuring = Measuring(fits=fits, holds=2, weigh=False)
    request = replace(
        UNIFORM, budget=Budget(latency_ms="100%"), options={"pruning_ratio": 0.0}, bits=8, measuring=measuring
    )
    with pytest.raises(BudgetError, match=r"reaches latency_ms <= "):
        planned(session, request)
    made = planned(session, replace(request, budget=Budget(latency_ms=10.0)))
    assert made.latency_ms > 1.5 * made.dense_latency_ms
    assert made.dense_latency_ms == session.read("latency_int8", LatencyFit).dense_ms
    text = editable(made, session.graph())
    (session.directory / "text.json").write_text(text)
    with pytest.raises(BudgetError, match=r"reaches latency_ms <= "):
        deciding.taken(session, session.directory / "text.json", Budget(latency_ms="100%"), measuring)


def test_steps_follow_the_runtime(session, monkeypatch):
    monkeypatch.setattr(latencies, "free_step", lambda _, shape: 8 if shape.outputs == 16 else 4)
    steps = measured_steps(session.graph())
    assert set(steps) == {g.name for g in session.graph().groups}
    assert {steps[g.name] for g in session.graph().groups if g.width == 16} == {8}


def test_a_run_may_take_its_steps_from_the_runtime(session, monkeypatch):
    monkeypatch.setattr(latencies, "free_step", lambda _, shape: 2)
    session.info.options["round_to"] = "measured"
    assert {g.round_to for g in session.traced(session.dense()).free} == {2}
    session.info.options["round_to"] = "fast"
    with pytest.raises(LamellaError, match="option round_to=fast: a whole number"):
        session.traced(session.dense())


def test_greedy_measures_and_is_never_measured_twice(session, monkeypatch):
    seen = []
    request = replace(UNIFORM, order="greedy")
    made = asked(session, request, lambda stage, done, total, note="": seen.append((stage, done, total)))
    assert all(step.expected is not None for step in made.steps if step.widths)
    assert seen[0][:2] == ("measure candidates", 0)
    assert seen[-1][1] == seen[-1][2]
    monkeypatch.setattr(Candidates, "_made", lambda *_: pytest.fail("measured twice"))
    assert asked(session, request) == made


def test_a_candidate_scores_as_the_network_it_stands_for(session):
    from lamella.coarsening import coarsen
    from lamella.surgery import narrow
    from lamella.training import evaluate

    graph, model, task = session.graph(), session.dense(), session.task
    widths, bits = {graph.free[0].name: 4}, {"conv1": 4}
    expected = float(evaluate(coarsen(narrow(model, graph, widths), bits), task.validation, task.score).mean())
    measure = Candidates(model, graph, task)
    assert measure(widths, bits) == pytest.approx(expected)
    assert list(measure.stream(widths, bits)) == [(pytest.approx(expected), 1.0)]
    assert 0 <= Candidates(model, graph, task, recalibrate=True)(widths, {}) <= 1


def test_search_over_a_run_resumes_and_reports(session, monkeypatch):
    pytest.importorskip("optuna")
    budget = Budget(bytes=int(0.27 * cost(session.graph()).bytes))
    request = Request(budget=budget, planner="search", order="by_score", options={"trials": 3, "control": True})
    made = asked(session, request)
    assert made.predicted.bytes <= budget.bytes
    assert any("beat" in note and "knapsack start" in note for note in made.notes)
    assert any("from jittered curves" in note for note in made.notes)
    assert not any("adds up" in note for note in made.notes)
    monkeypatch.setattr(Candidates, "_made", lambda *_: pytest.fail("measured twice"))
    assert asked(session, request).steps == made.steps


def test_two_objectives_leave_a_measured_front(session, quick):
    pytest.importorskip("optuna")
    options = {"trials": 4, "trade": "bytes"}
    request = Request(budget=Budget(latency_ms="90%"), planner="search", order="by_score", options=options)
    made = asked(session, request)
    front = session.read("front", Front)
    assert front.axis == "bytes"
    assert front.rows == made.front
    assert front.dense_latency_ms == made.dense_latency_ms is not None
    assert all(row.measured_score == row.predicted_score for row in front.rows)


# -- files --------------------------------------------------------------------------------------------------------------------


def test_a_plan_in_bytes_is_weighed(session):
    dense = cost(session.graph()).bytes
    request = Request(budget=Budget(bytes=int(0.35 * dense)), planner="knapsack", order="by_score")
    made = planned(session, request)
    note = next(note for note in made.notes if note.startswith("its file weighs"))
    compressed(session, Way(Recipe(epochs=1, lr=0.01)))
    quantized(session)
    weighs = onnx_bytes(session.path("int8_onnx" if made.bits else "onnx"))
    told = int(note.split("weighs ")[1].split(" bytes")[0].replace(",", ""))
    assert told == pytest.approx(weighs, rel=0.005)  # equal constants are stored once, and tuning parts them
    assert weighs <= 0.35 * dense
    assert heavier(session, "int8_onnx") == []


def test_integers_follow_the_data_that_their_ranges_come_from(session):
    _, first = quantized(session)
    before = session.path("int8_onnx").read_bytes()
    batches = [batch for batch, _ in zip(session.task.calibration, range(2), strict=False)]
    session.task = replace(session.task, calibration=[(2 * x, y) for x, y in batches])
    _, second = quantized(session)
    assert second.ranges != first.ranges
    assert session.path("int8_onnx").read_bytes() != before
    assert quantized(session)[1] == second


def test_a_file_over_its_bytes_is_planned_again(session, monkeypatch):
    request = replace(UNIFORM, budget=Budget(bytes="80%"), options={}, bits=32)
    first = asked(session, request)
    limit = 0.8 * first.dense.bytes
    weights = iter((int(limit) + 300, int(limit)))
    monkeypatch.setattr("lamella.stages.deciding._file_bytes", lambda *_: next(weights))
    made = planned(session, request)
    assert made.predicted.bytes <= limit - (int(limit) + 300 - first.predicted.bytes)
    assert any(note.startswith("planned again: the file of plan 1 weighed") for note in made.notes)
    heavy = iter(range(4))
    monkeypatch.setattr("lamella.stages.deciding._file_bytes", lambda _, made: next(heavy) or int(limit + 1))
    monkeypatch.setattr("lamella.stages.deciding.with_residue", lambda budget, *_: budget)
    monkeypatch.setattr("lamella.stages.deciding.WEIGHINGS", 1)
    with pytest.raises(BudgetError, match=r"no plan's file keeps bytes <= [\s\S]*try:"):
        planned(session, request)


def test_the_error_for_bytes_speaks_of_what_was_asked_and_weighed(session, monkeypatch):
    request = replace(UNIFORM, options={}, bits=32)
    dense = cost(session.graph()).bytes
    asked_bytes = int(0.6 * dense)  # of what can be reached the least, so that any residue is too much
    while True:
        try:
            made = asked(session, replace(request, budget=Budget(bytes=asked_bytes)))
        except BudgetError:
            break
        asked_bytes = made.predicted.bytes - 1
    budget, weights = Budget(bytes=made.predicted.bytes), iter((made.predicted.bytes + 700,))
    monkeypatch.setattr("lamella.stages.deciding._file_bytes", lambda *_: next(weights))
    with pytest.raises(BudgetError) as told:
        planned(session, replace(request, budget=budget))
    limit, weighs = made.predicted.bytes, made.predicted.bytes + 700
    assert str(told.value) == (
        f"no plan's file keeps bytes <= {limit:,}: the file of plan 1 weighs {weighs:,}.\n"
        f"  try:     a budget of bytes={weighs}, or a smaller round_to."
    )


def test_where_no_plan_is_so_light_the_lightest_is_weighed(session, monkeypatch):
    request = replace(UNIFORM, options={}, bits=32)
    dense = cost(session.graph()).bytes
    monkeypatch.setattr(deciding, "_file_bytes", lambda _, made: made.predicted.bytes + int(0.55 * dense))
    with pytest.raises(BudgetError) as told:
        planned(session, replace(request, budget=Budget(bytes="60%")))
    (weighed,) = re.findall(r"a budget of bytes=(\d+)", str(told.value))
    assert planned(session, replace(request, budget=Budget(bytes=int(weighed))))
    with pytest.raises(BudgetError):
        planned(session, replace(request, budget=Budget(bytes=int(weighed) - 1)))


def test_the_curves_of_another_network_are_refused(session):
    profile = session.read("profile", Profile)
    session.write("profile", replace(profile, graph=replace(profile.graph, layers=profile.graph.layers[1:])))
    with pytest.raises(MismatchError, match=r"profile\.json: the curves of another network.* lamella profile"):
        asked(session, UNIFORM)
    assert not session.has("plan")


def test_an_exported_file_over_its_bytes_is_planned_again(session):
    request = replace(UNIFORM, budget=Budget(bytes="80%"), options={}, bits=32)
    first = asked(session, request)
    compressed(session, Way(Recipe(epochs=1, lr=0.01)))
    exported(session)
    budget = Budget(bytes=onnx_bytes(session.path("onnx")) - 1)
    session.write("request", replace(request, budget=budget))
    (note,) = heavier(session, "onnx")
    assert "over its budget of" in note
    assert "planned again with the" in note
    assert session.read("plan", Plan).predicted.bytes < first.predicted.bytes
    assert session.read("request", Request).budget == budget
    again = session.read("plan", Plan)
    assert heavier(session, "onnx") == [], "the file is that of the plan before this one"
    assert session.read("plan", Plan) == again


def test_an_exported_file_that_no_plan_is_light_enough_for_is_told(session, monkeypatch):
    made = asked(session, replace(UNIFORM, budget=Budget(bytes="80%"), options={}, bits=32))
    compressed(session, Way(Recipe(epochs=1, lr=0.01)))
    exported(session)
    monkeypatch.setattr(deciding, "onnx_bytes", lambda path: made.dense.bytes)
    session.write("request", replace(session.read("request", Request), budget=Budget(bytes="30%")))
    (note,) = heavier(session, "onnx")
    assert f"no plan is so much smaller. Plan with a budget of bytes={made.dense.bytes}" in note
    assert session.read("plan", Plan) == made


def test_a_plan_without_a_profile_may_be_timed_and_has_controls(session, quick):
    session.path("profile").unlink()
    request = replace(UNIFORM, budget=Budget(latency_ms="90%"), options={}, bits=32)
    made = asked(session, request)
    assert made.latency_ms <= 0.9 * made.dense_latency_ms
    assert [CONTROLS[name](session, made).planner for name in ("in_order", "uniform")] == [
        "uniform, in_order",
        "uniform, by_score",
    ]
    with pytest.raises(RunError, match=r"profile\.json"):
        fronted(session, "latency_ms", request)


# -- plans made anew on the way -------------------------------------------------------------------------------------------------


def test_compress_plans_anew_and_resumes(session, monkeypatch):
    first = asked(session, replace(UNIFORM, epochs=1, closing_epochs=1, bits=4, bits_epochs=1))
    cuts = sum(bool(step.widths) for step in first.steps)
    assert cuts >= 3
    recipe = Way(Recipe(epochs=1, lr=0.01))
    small, result = compressed_in_turns(session, recipe, every=2)
    taken = [m for m in result.history if m.step]
    assert len({m.step for m in taken}) == len(taken)
    assert [m.name for m in taken if m.expected is None and m.name not in ("tuned", "4 bits")] == []
    assert result.plan.steps[:2] == first.steps[:2]
    assert [len(s.widths) == 1 for s in result.plan.steps].count(True) == cuts
    assert [s.epochs for s in result.plan.steps if s.bits] == [1]
    assert any(note.startswith("after 2 steps the rest was planned anew from") for note in result.plan.notes)
    assert result.asked == digest(session.read("plan", Plan))
    assert result.widths == {**session.graph().widths, **result.plan.widths}
    assert list((session.directory / "replan").glob("profile-*.jsonl"))
    quantized(session)  # the walk belongs to the run's plan

    monkeypatch.setattr("lamella.walking.steps._take", lambda *_: pytest.fail("walked twice"))
    again, same = compressed_in_turns(session, recipe, every=2)
    assert same == result
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


def test_every_turn_measures_as_the_plan_did(session, monkeypatch):
    request = replace(UNIFORM, order="greedy", epochs=0, bits=32, measuring=Measuring(recalibrate=True, weigh=False))
    planned(session, request)
    tuned = Tuned(epochs=1, samples=8, lr=0.02, seed=3)
    session.write("profile", replace(session.read("profile", Profile), recalibrated=True, tuned=tuned))
    seen, candidates, curves = [], deciding.Candidates, replanning.profile
    meter = lambda *given, **named: (seen.append(named["recalibrate"]), candidates(*given, **named))[1]

    def sweep(*given, **named):
        found = curves(*given, **named)
        seen.append(named["sweep"].recalibrate and found.tuned == tuned)
        return found

    monkeypatch.setattr(deciding, "Candidates", meter)
    monkeypatch.setattr(replanning, "profile", sweep)
    compressed_in_turns(session, Way(Recipe(epochs=0)), every=2)
    assert len(seen) >= 2
    assert all(seen)


def test_every_turn_is_taught_by_the_dense_network(session, monkeypatch):
    asked(session, replace(UNIFORM, epochs=1, bits=32))
    teachers, fit = [], tuning.fit
    keep = lambda *given, **named: (teachers.append(weights_digest(named["teacher"])), fit(*given, **named))
    monkeypatch.setattr(tuning, "fit", keep)
    _, result = compressed_in_turns(session, Way(Recipe(epochs=1, lr=0.01, distil=0.5)), every=2)
    assert len(teachers) == len(result.history) - 1 > 2
    assert set(teachers) == {weights_digest(session.dense())}


def test_turns_count_steps_as_the_plan_does(session):
    plan = asked(session, replace(UNIFORM, epochs=0, bits=8))
    *cuts, bits = plan.steps
    plan = replace(plan, steps=(cuts[0], bits, *cuts[1:]))
    session.write("plan", plan)
    once, turns = (make(session, Way(Recipe(epochs=1, lr=0.01))) for make in (compressed, _in_turns))
    for _, result in (once, turns):
        for measure in result.history[1:]:
            (group,) = result.plan.steps[measure.step - 1].widths
            assert measure.name.startswith(f"{group} to")


def _in_turns(session, way):
    return compressed_in_turns(session, way, every=2)


def test_where_the_rest_cannot_keep_the_budget_the_old_plan_stays(session):
    request = replace(UNIFORM, budget=Budget(max_drop=99.0), options={})
    first = asked(session, request)
    session.write("request", replace(request, budget=Budget(params=1)))
    _, result = compressed_in_turns(session, Way(Recipe(epochs=1, lr=0.01)), every=2)
    assert result.plan.widths == first.widths
    assert any("the old plan was kept: no plan by 'uniform, by_score'" in note for note in result.plan.notes)
    with pytest.raises(LamellaError, match="replan=0"):
        compressed_in_turns(session, Way(Recipe(epochs=1, lr=0.01)), every=0)


def test_the_rest_of_a_plan_made_by_hand_is_planned_by_nobody(session, tmp_path):
    asked(session, UNIFORM)
    text = tmp_path / "plan.txt"
    text.write_text(editable(session.read("plan", Plan), session.graph()))
    deciding.taken(session, text, Budget(), Measuring())
    with pytest.raises(LamellaError, match="replan=1: this plan was made by hand"):
        compressed_in_turns(session, Way(Recipe(epochs=1, lr=0.01)), every=1)


def test_the_file_of_an_edited_plan_is_weighed(session, tmp_path):
    made = asked(session, replace(UNIFORM, bits=32))
    text = tmp_path / "plan.txt"
    text.write_text(editable(made, session.graph()))
    found = deciding.taken(session, text, Budget(bytes="100%"), Measuring())
    assert any(note.startswith("its file weighs") for note in found.notes)
    with pytest.raises(BudgetError, match=r"the file of plan 1 weighs [\d,]+\.\n  try:"):
        deciding.taken(session, text, Budget(bytes=made.predicted.bytes + 1), Measuring())


def test_a_network_without_freedom_has_a_latency_all_the_same(session):
    """Nothing can be fitted to one and the same plan: the table alone predicts."""
    frozen = replace(session.graph(), groups=tuple(replace(g, frozen="no") for g in session.graph().groups))
    assert random_plans(frozen, 5, 0) == []
    assert len(random_plans(session.graph(), 5, 0)) == 5
    found = latency_fit(session.dense(), frozen, session.task, Timing(), session.directory / "timed")
    assert (found.plans, found.rank_correlation) == ((), None)


# -- the command --------------------------------------------------------------------------------------------------------------


def run(session, *arguments):
    return CliRunner().invoke(app, [*arguments[:1], str(session.directory), *arguments[1:]])


def test_the_command_asks_for_all_of_it(session, quick):
    few = ("--measure", "fits=3", "--measure", "holds=2")
    told = run(session, "plan", "--planner", "uniform", "--budget", "latency_ms=90%", "--bits", "32", *few)
    assert told.exit_code == 0, told.exception
    assert "expected latency" in told.output
    assert "depth against sensitivity" in told.output
    assert "#1" in told.output
    front = run(session, "plan", "--pareto", "latency_ms", "--bits", "32", *few, "--json")
    assert front.exit_code == 0, front.exception
    assert all(row["latency_ms"] > 0 for row in json.loads(front.stdout))
    walked = run(session, "compress", "--replan", "1")
    assert walked.exit_code == 0, walked.exception
    assert "expected" in walked.output
    assert session.read("result", Result).asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "bytes=120%"), "bytes: '120%' is not a share of the dense model"),
        (("--budget", "macs=-3"), "macs: -3 is not a positive amount"),
        (("--budget", "max_drop=much"), "max_drop: 'much' where a number of points was expected"),
        (("--budget", "bytes"), "--budget 'bytes': NAME=VALUE was expected"),
        (("--measure", "precison=int8"), "unknown name of --measure 'precison'; did you mean 'precision'"),
        (("--measure", "precision=int4"), "precision: 'int4'"),
        (("--measure", "runtime=tvm"), "runtime: 'tvm'"),
        (("--measure", "runtime=openvino", "--budget", "bytes=50%"), "and none were asked for"),
        (("--measure", "runtime=openvino", "--pareto", "bytes"), "and none were asked for"),
        (("--measure", "fits=1", "--budget", "latency_ms=50%"), "fits=1, holds=8: 0 or at least 3"),
        (("--text", "--pareto", "bytes"), "--pareto and --text ask for different things"),
        (("--planner", "knapsack", "--budget", "params=1%", "--budget", "max_drop=0.1"), "params <= "),
    ],
)
def test_bad_input_is_one_paragraph(session, quick, arguments, words):
    failed = run(session, "plan", *arguments)
    assert failed.exit_code
    assert isinstance(failed.exception, LamellaError)
    assert words in str(failed.exception)


def test_a_run_without_the_asked_knob(session):
    found = session.read("profile", Profile)
    session.write("profile", replace(found, points=tuple(p for p in found.points if p.knob == "bits")))
    failed = run(session, "plan", "--planner", "threshold")
    assert "the profile holds no pruning_ratio curve (it holds: bits)" in str(failed.exception)


def test_a_candidate_may_be_tuned_briefly_before_it_is_scored(session, tmp_path):
    from lamella.matching import mend
    from lamella.surgery import narrow, resolve
    from lamella.training import Brief, evaluate, seeded

    graph, model, task = session.graph(), session.dense(), session.task
    widths, seen = {group.name: group.legal(group.width / 2) for group in graph.free}, []
    before, brief = weights_digest(model), Brief(epochs=2, lr=0.05)
    kept = resolve(model, graph, widths)
    with seeded(0, 0, torch.device("cpu")):
        small = mend(narrow(model, graph, kept), model, graph, kept, task)
    mended = weights_digest(small)
    expected = float(evaluate(brief.tune(small, task), task.validation, task.score).mean())
    assert weights_digest(small) != mended
    journal = tmp_path / "candidates.jsonl"
    tuned = Candidates(model, graph, task, brief=brief, journal=journal)
    score = tuned(widths, {})
    assert score == pytest.approx(expected)
    again = Candidates(model, graph, task, brief=brief, journal=journal)
    again._made = lambda *_: seen.append("measured twice")
    assert again(widths, {}) == score
    assert not seen
    assert weights_digest(model) == before
    with pytest.raises(MismatchError):
        Candidates(model, graph, task, brief=Brief(epochs=1), journal=journal)
    with pytest.raises(MismatchError, match="loss"):
        Candidates(model, graph, replace(task, loss=nll_loss), brief=brief, journal=journal)


def test_journals_of_candidates_know_the_score_and_what_statistics_came_from(session, tmp_path):
    graph, model, task = session.graph(), session.dense(), session.task
    brighter = replace(task, train=replace_inputs(task.train))
    Candidates(model, graph, task, recalibrate=True, journal=tmp_path / "mended.jsonl")
    Candidates(model, graph, task, journal=tmp_path / "plain.jsonl")
    Candidates(model, graph, brighter, journal=tmp_path / "plain.jsonl")
    with pytest.raises(MismatchError, match="training inputs was"):
        Candidates(model, graph, brighter, recalibrate=True, journal=tmp_path / "mended.jsonl")
    with pytest.raises(MismatchError, match="score was 'correct' and is"):
        Candidates(model, graph, replace(task, score=confidence), journal=tmp_path / "plain.jsonl")


def replace_inputs(batches):
    return Batches(5 * batches.inputs, batches.targets, batches.batch_size)


def confidence(outputs, targets):
    return outputs.softmax(1).amax(1)


@pytest.mark.parametrize("bits", [{}, {"2": 4}], ids=["floats", "rounded"])
@pytest.mark.parametrize("rate", [1e30, 10.0], ids=["diverged", "harmed"])
def test_a_candidate_whose_tuning_diverges_or_does_harm_is_scored_as_it_is(rate, bits):
    from torch import nn

    from lamella.training import Batches, Brief, Recipe, Task, evaluate, fit

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    data = Batches(x, (x[:, 0] > 0).long(), 32)
    task = Task((x[:1],), train=data, validation=data, test=data)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    graph = trace(fit(model, task, Recipe(epochs=10, lr=0.1)), task.example_inputs, round_to=1)
    widths, brief = {"0": 14}, Brief(epochs=1, lr=rate)
    untuned = Candidates(model, graph, task, recalibrate=True)
    assert untuned(widths, {}) > 0.9
    if rate < 1e30:
        tuned = brief.tune(untuned._made(widths, {}), task)
        assert float(evaluate(tuned, task.validation).mean()) < 0.7
    assert Candidates(model, graph, task, brief=brief)(widths, bits) == untuned(widths, bits)


def test_harm_to_a_candidate_is_looked_for_on_some_samples_of_every_batch(session):
    from lamella.training import Batches, Brief

    graph, model, task = session.graph(), session.dense(), session.task
    seen, data = [], task.validation
    x, y = data.inputs[:1].repeat(4500, 1, 1, 1), data.targets[:1].repeat(4500)
    counting = lambda outputs, targets: (seen.append(len(targets)), torch.ones(len(targets)))[1]
    task = replace(task, validation=Batches(x, y, 1000, transform=data.transform), score=counting)
    Candidates(model, graph, task, brief=Brief(epochs=1))({graph.free[0].name: 4}, {})
    assert seen == 2 * [250, 250, 250, 250, 125] + [1000, 1000, 1000, 1000, 500]


def test_a_tuned_search_asks_anew_and_tells_how_it_measured(session):
    pytest.importorskip("optuna")
    request = Request(budget=Budget(params="70%"), planner="search", order="by_score", bits=32, options={"trials": 2})
    asked(session, request)
    seen = []
    tuned = replace(request, measuring=Measuring(tune_epochs=1, tune_samples=64, lr=0.05))
    made = planned(session, tuned, lambda stage, *rest: seen.append(stage))
    assert any("tuned for 1 epoch of 64 samples at 0.05" in note for note in made.notes)
    assert len(list(session.directory.glob("search-*.journal"))) == 2
    with pytest.raises(LamellaError, match="neither was asked for"):
        planned(session, replace(tuned, planner="knapsack"))
    with pytest.raises(RecordError, match="tune_samples: says nothing without tune_epochs"):
        Measuring(tune_samples=64)
