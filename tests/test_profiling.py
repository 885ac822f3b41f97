"""Profiles: exact counts, journals that survive a kill, races, estimates, executors, and bad input with its words."""

import contextlib
import copy
import importlib.util
import io
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reporting_records import chain
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy

import lamella as lm
from lamella.baselines import check_baseline
from lamella.errors import DataError, LamellaError, MismatchError, RecordError, RunError
from lamella.profiling import Forecast, Sweep, merge, profile, rank_agreement, screening
from lamella.profiling.checks import is_out_of_memory
from lamella.profiling.engine import Engine
from lamella.profiling.facts import receptive_fields, weight_facts
from lamella.profiling.keeping import keeping
from lamella.profiling.points import Item, Job, KnobLevel, planned_items
from lamella.profiling.recalibrating import Statistics
from lamella.profiling.samples import Chunk
from lamella.profiling.variants import Subject
from lamella.profiling.walks import Walks, size_of
from lamella.profiling.working import Work
from lamella.records import to_plain
from lamella.replay import Program
from lamella.schema import Score
from lamella.statistics import score_interval
from lamella.surgery import copied
from lamella.training import Batches, Recipe, Task, correct, evaluate, fit, recalibrate_bn
from lamella.views import profile_view
from lamella.zoo import make_model

RATIOS = (0.3, 0.6)


def make_net():
    torch.manual_seed(0)
    return make_model("resnet", depth=8, widths=(8, 8, 16), in_channels=1, num_classes=4)


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(4, (400,), generator=generator)
    patterns = torch.randn(4, 1, 8, 8, generator=generator)
    inputs = patterns[classes] + 0.9 * torch.randn(400, 1, 8, 8, generator=generator)
    train, held = Batches(inputs[:200], classes[:200], 32, shuffle=True), Batches(inputs[200:], classes[200:], 75)
    return Task((inputs[:1],), train=train, validation=held, test=held)


@pytest.fixture(scope="module")
def model(task):
    return fit(make_net(), task, Recipe(epochs=3, lr=0.05), seed=0).eval()


@pytest.fixture(scope="module")
def graph(model, task):
    return lm.trace(model, task.example_inputs, round_to=1)


@pytest.fixture(scope="module")
def exact(model, task, graph):
    return profile(
        model, task, graph=graph, pruning_ratios=RATIOS, bits=(8, 2), sweep=Sweep(layers=True, inputs=True, chunk=16)
    )


def plain(points):
    """Points without their times."""
    return [to_plain(replace(p, seconds=0.0)) for p in points]


def test_counts_are_those_of_the_plain_loop(model, task, graph, exact):
    sweep = Sweep(layers=True, inputs=True)
    subject = Subject(model, graph, task, sweep)
    dense = evaluate(model, task.validation).sum()
    assert round(exact.baseline.value * exact.baseline.n) == dense
    items = planned_items(model, graph, sweep, RATIOS, (8, 2))
    found = {(p.target, p.knob, p.level): round(p.score.value * p.score.n) for p in exact.points}
    assert len(found) == sum(len(item.levels) for item in items)
    for item in items:
        for level in item.levels:
            count = int(evaluate(subject.setting(item, level).model(), task.validation).sum())
            assert found[item.target, item.knob, level.value] == count, (item, level)
    assert exact.notes == ()


class Attending(nn.Module):
    """Attention reads the weight of its output layer, and never calls it."""

    def __init__(self):
        super().__init__()
        self.embed, self.attend = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.out(torch.relu(self.mix(x + self.attend(x, x, x)[0])).mean(1))


def test_inputs_that_nobody_sees_get_no_curve_and_it_is_said():
    torch.manual_seed(0)
    data = [(torch.randn(6, 5, 6), torch.arange(6) % 3)]
    task = Task((data[0][0][:1],), train=data, validation=data, test=data)
    found = profile(Attending().eval(), task, pruning_ratios=(), bits=(8,), sweep=Sweep(inputs=True))
    both = {p.target for p in found.points if p.knob == "bits_both"}
    assert {"embed", "mix", "out"} <= both
    assert "attend.out_proj" in {p.target for p in found.points} - both
    assert any(note.startswith("attend.out_proj: no curve with its inputs rounded") for note in found.notes)


def test_curves_of_groups_and_of_layers_are_kept_apart(exact, graph):
    names = {g.name for g in graph.free}
    assert {p.target for p in exact.points if p.knob == "pruning_ratio"} == names
    layers = {p.target for p in exact.points if p.knob == "masked_ratio"}
    assert "layer1.0.conv2" in layers
    assert "linear" not in layers
    both = "layer1.0.conv1"
    assert both in names & layers
    assert len(exact.curve(both)) == len(exact.curve(both, "masked_ratio")) == 2
    assert [p.level for p in exact.curve("linear", "bits")] == [8.0, 2.0]
    assert {p.knob for p in exact.points} == {"pruning_ratio", "masked_ratio", "bits", "bits_both"}


def test_the_model_is_left_as_it_was(model, task, graph):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.train()
    profile(model, task, graph=graph, pruning_ratios=(0.5,), sweep=Sweep(recalibrate=True, points=("conv1",)))
    assert all(module.training for module in model.modules())
    model.eval()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


class Interrupted(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("method", ["exact", "race"])
def test_interrupted_anywhere_and_resumed_equals_uninterrupted(model, task, graph, tmp_path, method):
    options = {"graph": graph, "pruning_ratios": RATIOS, "method": method}
    whole = profile(model, task, **options)
    for stop in (4,):  # calls: baseline, forecast, then a point each
        journal, calls = tmp_path / f"{stop}.jsonl", []

        def stopping(stage, done, total, note="", calls=calls, stop=stop):
            calls.append(done)
            if len(calls) == stop:
                raise Interrupted

        with pytest.raises(Interrupted):
            profile(model, task, journal=journal, progress=stopping, **options)
        before = journal.read_text().splitlines()
        assert len(before) == 2 + stop - 2  # identity and baseline
        journal.write_text(journal.read_text() + '{"key": "cut sho')  # a kill within a line
        resumed = profile(model, task, journal=journal, **options)
        lines = journal.read_text().splitlines()
        assert lines[: len(before)] == before
        keys = [json.loads(line)["key"] for line in lines[1:]]
        assert len(keys) == len(set(keys))
        assert plain(resumed.points) == plain(whole.points)
        assert resumed.baseline == whole.baseline


@pytest.mark.filterwarnings("ignore:This process")  # of a fork in a process with threads
def test_a_kill_costs_at_most_one_point(model, task, graph, tmp_path, exact):
    journal = tmp_path / "profile.jsonl"
    options = {
        "graph": graph,
        "pruning_ratios": RATIOS,
        "journal": journal,
        "sweep": Sweep(points=("layer*",), chunk=16),
    }
    child = os.fork()
    if child == 0:
        points = []

        def killed(stage, done, total, note=""):
            points.append(note)
            if len(points) == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        profile(model, task, progress=killed, **options)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(journal.read_text().splitlines()) == 2 + 3  # identity, baseline, points
    told = []
    found = profile(model, task, progress=lambda s, done, t, note="": told.append((done, t)), **options)
    assert told[1][0] == 1 + 3
    assert len(told) == 2 + len(found.points) - 3
    kept = [p for p in exact.points if p.knob == "pruning_ratio" and p.target.startswith("layer")]
    assert plain(found.points) == plain(kept)


@pytest.mark.parametrize("memory", [0, 100_000])
def test_activations_that_do_not_fit_change_nothing(model, task, graph, exact, memory):
    sweep = Sweep(points=("layer1.0*",), memory=memory, chunk=16)
    found = profile(model, task, graph=graph, pruning_ratios=RATIOS, sweep=sweep)
    kept = [p for p in exact.points if p.knob == "pruning_ratio" and p.target.startswith("layer1.0")]
    assert plain(found.points) == plain(kept)
    program = Program(model, (next(iter(task.validation))[0][:16],))
    walks = Walks(program, memory)
    for number, (x, _) in enumerate(task.validation):
        with torch.inference_mode():
            walks.branch(Chunk(number, (x[:16],), None), frozenset({"layer1.0.conv1.weight"}))
        held = [state.values for state, _ in walks._states.values()] + [b.values for b, _ in walks._branches.values()]
        assert size_of({id(v): v for values in held for v in values.values()}.values()) <= memory


@pytest.fixture
def bf16(monkeypatch):
    """bf16 wherever the test runs: emulated it is slow, and right."""
    monkeypatch.setattr(screening, "native_bf16", lambda device: True)


@pytest.mark.usefixtures("bf16")
def test_screening_in_bf16_keeps_every_count(model, task, graph, exact, monkeypatch):
    glances, again = [], []
    glance, outputs = screening.Screen.glance, Engine.outputs
    monkeypatch.setattr(screening.Screen, "glance", lambda s, v, b, c: glances.append(len(c)) or glance(s, v, b, c))
    monkeypatch.setattr(Engine, "outputs", lambda e, run, c: again.append(len(c)) or outputs(e, run, c))
    sweep = Sweep(layers=True, inputs=True, chunk=16, screening="bf16")
    found = profile(model, task, graph=graph, pruning_ratios=RATIOS, bits=(8, 2), sweep=sweep)
    assert plain(found.points) == plain(exact.points)
    assert found.notes == ()
    left = sum(p.knob == "bits_both" for p in found.points) * exact.baseline.n  # rounded inputs are not screened
    assert sum(glances) == (len(found.points) * exact.baseline.n) - left
    assert 0 < sum(again) - left < 0.7 * sum(glances)


@pytest.mark.usefixtures("bf16")
def test_a_race_draws_the_same_samples_whatever_the_unit_of_the_score():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)).eval()
    inputs = torch.randn(2000, 8, generator=generator)
    with torch.no_grad():
        wanted = net(inputs) + 0.05 * torch.randn(2000, 1, generator=generator)
    held = Batches(inputs, wanted, 100)

    def drawn(unit):
        squares = lambda outputs, targets: -unit * (outputs - targets).square().mean(1)
        own = Task((inputs[:2],), train=held, validation=held, test=held, loss=nn.functional.mse_loss, score=squares)
        found = profile(net, own, pruning_ratios=(0.25, 0.5, 0.75), method="race", sweep=Sweep(factor=0.9))
        return [(p.target, p.level, p.score.n) for p in found.points]

    assert drawn(1.0) == drawn(2.0**-20)
    assert all(n < 2000 for *_, n in drawn(1.0))


def test_a_screened_race_is_the_same_race(model, task, graph):
    options = {"graph": graph, "pruning_ratios": RATIOS, "method": "race"}
    bare = profile(model, task, sweep=Sweep(points=("layer2*",), factor=0.9), **options)
    screened = profile(model, task, sweep=Sweep(points=("layer2*",), factor=0.9, screening="bf16"), **options)
    assert plain(screened.points) == plain(bare.points)


def test_a_larger_error_raises_the_bound(model, task, graph, bf16):
    engine = Engine(Subject(model, graph, task, Sweep(screening="bf16", chunk=16)))
    engine.dense()
    item = planned_items(model, graph, Sweep(), RATIOS, ())[0]
    ready = engine.maker(item)(item.levels[0])
    ready.error, ready.measured = 0.0, True  # as if bf16 had been exact so far
    chunks = list(engine.samples)
    with torch.inference_mode():
        seen = [engine.glance(ready, chunk) for chunk in chunks]
        seen[0].margins[:2] = 0.0, 0.01  # the first is in doubt, and shows how wrong the other may be
        seen[0].scores[:2] = 1.0 - seen[0].scores[:2]
        found = engine.final_scores(ready, chunks, seen)
    assert ready.error > 0
    assert found.sum() == evaluate(ready.whole(), task.validation).sum()


def test_screening_that_cannot_be_is_left_out_and_said(model, task, graph, exact, monkeypatch):
    options = {"graph": graph, "pruning_ratios": RATIOS, "sweep": Sweep(points=("conv1",), screening="bf16")}
    monkeypatch.setattr(screening, "native_bf16", lambda device: False)
    found = profile(model, task, **options)
    assert "has no bf16 instructions, so it would be slower. Scores are float32" in found.notes[0]
    assert plain(found.points) == plain(exact.curve("conv1"))
    own = profile(model, replace(task, score=lambda outputs, targets: correct(outputs, targets)), **options)
    assert "exact only for the default score" in own.notes[0]
    with pytest.raises(LamellaError, match="unknown screening 'bf61'; did you mean 'bf16'"):
        Sweep(screening="bf61")


def test_points_choose_targets(model, task, graph):
    found = profile(model, task, graph=graph, pruning_ratios=(0.5,), sweep=Sweep(points=("layer3.*",)))
    assert {p.target for p in found.points} == {g.name for g in graph.free if g.name.startswith("layer3")}
    with pytest.raises(LamellaError, match=r"match no target. Known: conv1"):
        profile(model, task, graph=graph, sweep=Sweep(points=("nowhere",)))


def test_journals_of_several_machines_are_merged(model, task, graph, tmp_path, exact):
    parts = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, points in zip(parts, [("conv1",), ("layer*",)], strict=True):
        profile(model, task, graph=graph, pruning_ratios=RATIOS, sweep=Sweep(points=points), journal=path)
    both = tmp_path / "all.jsonl"
    assert merge(parts, both) == sum(len(p.read_text().splitlines()) - 2 for p in parts)
    assert merge(parts, both) == 0

    def none_left(stage, done, total, note=""):
        assert done in (0, total)

    merged = profile(model, task, graph=graph, pruning_ratios=RATIOS, journal=both, progress=none_left)
    assert plain(merged.points) == plain(p for p in exact.points if p.knob == "pruning_ratio")


def test_merging_changes_no_source(tmp_path):
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"identity":{"weights":"a"}}\n{"key":"x","value":1}\n{"key":"y","va')
    before = torn.read_bytes()
    assert merge([torn], tmp_path / "all.jsonl") == 1
    assert torn.read_bytes() == before
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(RunError, match="no journal can be read"):
        merge([tmp_path / "list.jsonl"], tmp_path / "all.jsonl")


def test_a_race_decides_as_exact_does(model, task, graph, exact):
    for factor in (0.95, 0.8):
        raced = profile(
            model, task, graph=graph, pruning_ratios=RATIOS, method="race", sweep=Sweep(factor=factor, chunk=16)
        )
        floor = factor * exact.baseline.value
        for group in graph.free:
            holding = [p.level for p in exact.curve(group.name) if p.score.value >= floor]
            found = [p.level for p in raced.curve(group.name) if p.score.value >= floor]
            monotone = holding == [p.level for p in exact.curve(group.name)][: len(holding)]
            assert not monotone or max(found, default=0) == max(holding, default=0)
        assert raced.method == "race"
        assert "a level milder than one that holds was not measured" in raced.notes[0]


class Mixed(nn.Module):
    """Channels on axis 1 of sequences and on the last axis of sequences and pictures, and a layer that is no module."""

    def __init__(self):
        super().__init__()
        self.conv, self.along, self.bare = nn.Conv1d(2, 7, 3), nn.Linear(7, 9), nn.Parameter(torch.randn(6, 9))
        self.wide, self.out = nn.Linear(6, 11), nn.Linear(11, 3)

    def forward(self, x):
        x = torch.relu(self.along(torch.relu(self.conv(x)).transpose(1, 2)))
        x = torch.relu(nn.functional.linear(x, self.bare))
        return self.out(torch.relu(self.wide(x[:, :, None])).mean((1, 2)))


def test_an_estimate_finds_the_channels_wherever_they_lie():
    torch.manual_seed(0)
    model = Mixed().eval()
    data = [(torch.randn(6, 2, 12), torch.arange(6) % 3)]
    task = Task((data[0][0][:2],), train=data, validation=data, test=data)
    found = profile(
        model, task, pruning_ratios=(0.5,), method="estimate", graph=lm.trace(model, (data[0][0],), round_to=1)
    )
    losses = {p.target: found.baseline.value - p.score.value for p in found.points}
    assert losses.keys() == {"conv", "along", "wide"}
    assert min(losses.values()) > 0
    assert any(note.startswith("bare: no estimate") for note in found.notes)


class Bare(nn.Module):
    """No layer is called as a module."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(nn.functional.conv2d(x, self.conv.weight, self.conv.bias)).mean((2, 3))
        return nn.functional.linear(x, self.out.weight, self.out.bias)


def test_an_estimate_of_layers_that_are_no_modules_says_what_to_do():
    torch.manual_seed(0)
    data = [(torch.randn(6, 1, 8, 8), torch.arange(6))]
    task = Task((data[0][0][:2],), train=data, validation=data, test=data)
    with pytest.raises(LamellaError, match=r"no layer of this network that makes channels is called as one\. Measure"):
        profile(Bare().eval(), task, pruning_ratios=(0.5,), method="estimate")


def test_an_estimate_of_a_score_below_zero_falls_too(model, task, graph):
    negative = replace(
        task, score=lambda outputs, targets: -nn.functional.cross_entropy(outputs, targets, reduction="none")
    )
    found = profile(model, negative, graph=graph, pruning_ratios=RATIOS, method="estimate")
    assert found.baseline.value < 0
    assert all(point.score.value <= found.baseline.value for point in found.points)


def test_an_estimate_ranks_and_says_what_it_is(model, task, graph, exact):
    found = profile(model, task, graph=graph, pruning_ratios=RATIOS, method="estimate", sweep=Sweep(layers=True))
    assert len(found.points) == sum(p.knob.endswith("ratio") for p in exact.points)
    assert rank_agreement(found, exact) > 0.3
    assert "not measured" in found.notes[0]
    with pytest.raises(LamellaError, match="not of bits"):
        profile(model, task, graph=graph, pruning_ratios=(), bits=(4,), method="estimate")
    with pytest.raises(LamellaError, match="share 0 points"):
        rank_agreement(replace(found, points=()), exact)


def test_another_process_gives_the_same_profile(model, task, graph, exact):
    found = profile(model, task, graph=graph, pruning_ratios=RATIOS, sweep=Sweep(executor="processes", workers=1))
    assert plain(found.points) == plain(p for p in exact.points if p.knob == "pruning_ratio")


class Deadly:
    """A score that notes every call, and once kills the worker at its call of this number."""

    def __init__(self, folder, number):
        self.folder, self.number, self.home, self.calls = Path(folder), number, os.getpid(), 0

    def __call__(self, outputs, targets):
        self.calls += 1
        if os.getpid() != self.home:
            (self.folder / f"{os.getpid()}-{self.calls}").touch()
            if self.calls == self.number and not (self.folder / "killed").exists():
                (self.folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return correct(outputs, targets)


@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed: pip install 'lamella[ray]'")
@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_of_two_gives_the_same_and_a_kill_costs_one_point(
    model, task, graph, exact, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    whole = replace(task, validation=list(Batches(task.validation.inputs, task.validation.targets, 200)))
    calls = -(-200 // 50)  # chunks, so calls of a pass
    deadly = replace(
        whole, score=Deadly(tmp_path, calls + 2 * calls + 1)
    )  # the baseline, two points, and one call more
    journal = tmp_path / "profile.jsonl"
    sweep = Sweep(executor="ray", workers=2, chunk=50)
    found = profile(model, deadly, graph=graph, pruning_ratios=RATIOS, sweep=sweep, journal=journal)
    assert (tmp_path / "killed").exists()
    assert plain(found.points) == plain(p for p in exact.points if p.knob == "pruning_ratio")
    seen = [p.name.split("-")[0] for p in tmp_path.iterdir() if "-" in p.name]
    assert len(set(seen)) == 3  # two workers, and one in the place of the killed one
    assert len(seen) == calls * (3 + len(found.points)) + 1
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()[2:]]
    assert len(keys) == len(set(keys)) == len(found.points)


def test_a_task_that_cannot_travel_runs_here_and_says_so(model, task, graph):
    own = replace(task, score=lambda outputs, targets: correct(outputs, targets))
    found = profile(
        model, own, graph=graph, pruning_ratios=(0.5,), sweep=Sweep(executor="processes", points=("conv1",))
    )
    assert any(note.startswith("ran in this process") for note in found.notes)


def test_recalibrated_points_share_the_prefix_and_equal_whole_models(model, task, graph, monkeypatch):
    sweep = Sweep(layers=True, recalibrate=True, chunk=16)
    items = [i for i in planned_items(model, graph, sweep, (0.5,), (3,)) if not i.target.startswith("layer2")]
    whole, work = Engine(Subject(model, graph, task, sweep)), Work(Subject(model, graph, task, sweep), "exact")
    ran = []
    monkeypatch.setattr(Subject, "mended", lambda s, m, own=Subject.mended: ran.append(m) or own(s, m))
    shared = {item: [report.point.score for report in work(Job(item))] for item in items}
    assert not ran, work.engine.notes
    bare = 0
    for item in items:
        for (_, scores_N), score in zip(whole.curve(item, item.levels), shared[item], strict=True):
            assert score == score_interval(scores_N), item
        bare += sum(evaluate(whole.subject.setting(item, v).model(), task.validation).mean() for v in item.levels)
    assert len(ran) == len(items)
    assert bare != sum(s.value for scores in shared.values() for s in scores)
    assert work.engine.notes == []


def test_statistics_pass_by_a_single_sample_that_was_left_over(model, task):
    images = torch.cat([x for x, _ in task.validation])[:33]
    loader = [(part, torch.zeros(len(part))) for part in images.split(16)]
    assert [len(part) for part, _ in loader] == [16, 16, 1]
    found = Statistics(model, loader, memory=10**8).dense
    right = dict(recalibrate_bn(copied(model, {}), loader).named_buffers())
    assert found
    assert all(torch.allclose(value, right[name], atol=1e-5) for name, value in found.items())


class TwiceNormed(nn.Module):
    """Its batch norm is called twice, so its statistics are a mean over both."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn, self.head = (
            nn.Conv2d(1, 4, 3),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
            nn.Linear(4, 4),
        )

    def forward(self, x):
        x = self.bn(self.b(torch.relu(self.bn(self.a(x)))))
        return self.head(x.mean((2, 3)))


def test_statistics_that_cannot_be_shared_are_found_by_whole_models(task):
    torch.manual_seed(0)
    twice = TwiceNormed().eval()
    found = profile(twice, task, pruning_ratios=(0.5,), sweep=Sweep(recalibrate=True, layers=True))
    assert any("every recalibrated point ran the whole network: not every batch norm" in n for n in found.notes)
    assert found.recalibrated
    assert found.notes[0].startswith("every point was recalibrated before it was scored")
    assert found.points


def test_tuned_points_are_tuned(model, task, graph):
    sweep = Sweep(points=("conv1",), tune_epochs=2, tune_samples=128, lr=0.02)
    tuned = profile(model, task, graph=graph, pruning_ratios=(0.6,), sweep=sweep)
    assert tuned.notes[0].endswith("then tuned (tune_epochs=2)")
    again = profile(model, task, graph=graph, pruning_ratios=(0.6,), sweep=sweep)
    bare = profile(model, task, graph=graph, pruning_ratios=(0.6,), sweep=Sweep(points=("conv1",)))
    assert tuned.points[0].score.value > bare.points[0].score.value
    assert plain(tuned.points) == plain(again.points)
    with pytest.raises(LamellaError, match="need method='exact'"):
        profile(model, task, graph=graph, method="race", sweep=sweep)


@pytest.mark.parametrize(
    ("option", "other", "fact"),
    [
        ({"tune_epochs": 1}, {"loss": lambda outputs, y: cross_entropy(outputs, y) / 2}, "loss was 'cross_entropy'"),
        ({"tune_epochs": 1}, {"train": "scaled"}, "training inputs was"),
        ({"recalibrate": True}, {"train": "scaled"}, "training inputs was"),
        ({"recalibrate": True}, {"loss": lambda outputs, y: cross_entropy(outputs, y) / 2}, None),
    ],
)
def test_journals_know_what_points_were_trained_on(model, task, graph, tmp_path, option, other, fact):
    asked = {"graph": graph, "pruning_ratios": (0.6,), "journal": tmp_path / "points.jsonl"}
    asked["sweep"] = Sweep(points=("conv1",), tune_samples=32, **option)
    profile(model, task, **asked)
    if "train" in other:
        other = {"train": Batches(2 * task.train.inputs, task.train.targets, task.train.batch_size)}
    with pytest.raises(MismatchError, match=fact) if fact else contextlib.nullcontext():
        profile(model, replace(task, **other), **asked)


def test_facts_stand_beside_the_curves(exact, graph):
    facts = exact.facts["layer1.0.conv1"]
    assert facts["receptive_field"] == 5
    assert facts["params"] == 8 * 8 * 9
    assert 0 < facts["effective_rank"] <= 1
    assert exact.facts["layer3.0.conv2"]["input_field_exceeds_picture"] == 1
    assert exact.facts["conv1"]["input_field_exceeds_picture"] == 0
    assert list(exact.facts) == [layer.name for layer in graph.layers]


def test_facts_are_what_they_say(model, exact, graph):
    known, weight = exact.facts["layer2.0.conv1"], model.get_submodule("layer2.0.conv1").weight.detach()
    assert known["macs"] == 8 * 8 * 9 * 16
    assert known["memory"] == 8 * 16 * 4
    assert known["position"] == [x.name for x in graph.layers].index("layer2.0.conv1")
    assert known["weight_std"] == pytest.approx(float(weight.std(correction=0)))
    assert known["weight_largest"] == pytest.approx(float(weight.abs().max()))
    assert weight_facts(torch.eye(4))["effective_rank"] == pytest.approx(1.0)
    assert weight_facts(torch.ones(4, 4))["effective_rank"] == pytest.approx(0.25, abs=1e-3)
    assert weight_facts(torch.eye(4))["weight_near_zero"] == 0.75


def test_latency_stands_among_the_facts_where_a_table_is_named(model, task, graph, tmp_path):
    pytest.importorskip("onnxruntime")
    options = {"graph": graph, "pruning_ratios": (0.5,), "method": "estimate"}
    found = profile(model, task, sweep=Sweep(latency=str(tmp_path), points=("conv1",)), **options)
    assert all(found.facts[x.name]["latency_ms"] > 0 for x in graph.layers if x.kind in ("conv2d", "linear"))
    again = profile(model, task, sweep=Sweep(latency=str(tmp_path), points=("conv1",)), **options)
    assert again.facts == found.facts  # from the table on disk
    next(tmp_path.iterdir()).write_text("no table")
    told, named = [], Sweep(latency=str(tmp_path), points=("conv1",))
    with pytest.raises(RecordError, match="not a latency table"):  # before any point is measured
        profile(model, task, sweep=named, progress=lambda *_: told.append(1), **options)
    assert not told


def test_the_screen_shows_every_curve_and_the_facts(exact):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(profile_view(exact))
    text = console.export_text()
    field = f"{exact.facts['layer3.0.conv2']['receptive_field']:.0f}, input sees all"
    for words in ("pruning_ratio", "masked_ratio", "bits_both", "2 bits: ", "eff. rank", field):
        assert words in text, words


def test_receptive_fields_as_published():
    model = make_model("vgg16", head=(8, 8)).eval()
    fields = receptive_fields(Program(model, (torch.zeros(2, 3, 32, 32),)))
    assert [after for _, after, _ in fields.values()] == [3, 5, 10, 14, 24, 32, 40, 60, 76, 92, 132, 164, 196]


def test_the_cost_is_told_before_the_start(model, task, graph):
    told = []
    profile(model, task, graph=graph, pruning_ratios=RATIOS, progress=lambda s, d, t, note="": told.append(note))
    assert told[0] == "baseline"
    assert "points, about" in told[1]
    work = Work(Subject(model, graph, task, Sweep()), "exact")
    export, made = 3.0, work.engine._made_program
    work.engine._made_program = lambda: (time.sleep(export), made())[1]
    _ = work.dense_scores
    assert work.scores_seconds < export  # making the program is no part of what every point repeats
    assert Forecast(171, 160.0).text == "171 points, about 2 min 40 s here"
    assert Forecast(9, 7300.0).text == "9 points, about 2 h 1 min here"


# ---- bad input


def test_scores_that_are_not_numbers(model, task, graph):
    broken = replace(task, score=lambda outputs, targets: outputs[:, 0] * torch.nan)
    with pytest.raises(
        DataError,
        match=r"(\d+) of \1 scores of samples 0 and on are not finite \(the first, nan, at sample 0 of these.*Look for NaN",
    ):
        profile(model, broken, graph=graph)


def test_scores_outside_their_range(model, task, graph):
    dense = evaluate(model, task.validation)

    def odd(outputs, targets):
        right = correct(outputs, targets)
        return right if torch.is_inference_mode_enabled() and odd.calls < 0 else right * (1 if odd.dense else 2)

    odd.calls, odd.dense = 0, True
    engine = Engine(Subject(model, graph, replace(task, score=odd), Sweep()))
    assert engine.dense().sum() == dense.sum()
    odd.dense = False
    with pytest.raises(DataError, match=r"a score of 2.0 .* outside the range"):
        list(engine.curve(item := Item("conv1", "pruning_ratio", (KnobLevel(0.5, 4),)), item.levels))


def test_scores_of_another_form(model, task, graph):
    with pytest.raises(DataError, match="one number per sample"):
        profile(model, replace(task, score=lambda outputs, targets: outputs.sum()), graph=graph)


class Changing:
    """A loader that gives other samples, or fewer, when it is walked again."""

    def __init__(self, batches, change):
        self.batches, self.change, self.walks = list(batches), change, 0

    def __iter__(self):
        self.walks += 1
        yield from self.change(self.batches) if self.walks > 1 else self.batches


def test_a_loader_of_changing_order_or_length(model, task, graph):
    shuffled = replace(task, validation=Changing(task.validation, lambda b: b[::-1]))
    with pytest.raises(DataError, match=r"in another order.*Turn shuffling"):
        profile(model, shuffled, graph=graph)
    shorter = replace(task, validation=Changing(task.validation, lambda b: b[:-1]))
    with pytest.raises(DataError, match="gave 200 samples and then 150"):
        profile(model, shorter, graph=graph)


class Noisy(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) + 0.01 * torch.rand(1)


def test_a_model_that_is_not_deterministic(model, task):
    noisy = Noisy(model)
    found = profile(
        noisy, task, graph=lm.trace(noisy, task.example_inputs, round_to=1, prove=False), pruning_ratios=(0.5,)
    )
    assert any("not deterministic" in note and "differ by up to" in note for note in found.notes)


def test_out_of_memory_goes_on_with_fewer_samples(model, task, graph, exact):
    whole = correct

    def hungry(outputs, targets):
        if len(targets) > 20 and hungry.armed:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.")
        return whole(outputs, targets)

    hungry.armed = False
    engine = Engine(Subject(model, graph, replace(task, score=hungry), Sweep()))
    engine.dense()
    hungry.armed = True
    item = planned_items(model, graph, Sweep(), RATIOS, ())[0]
    found = list(engine.curve(item, item.levels))
    assert [scores.mean() for _, scores in found] == [p.score.value for p in exact.curve(item.target)]
    assert [n for n in engine.notes if "out of memory" in n][-1].endswith("16 samples at a time")
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_out_of_memory_at_the_baseline_and_in_a_race(model, task, graph):
    def hungry(outputs, targets):
        if len(targets) > 20:
            raise RuntimeError("CUDA out of memory. Tried to allocate 64 MiB.")
        return correct(outputs, targets)

    options = {"graph": graph, "pruning_ratios": RATIOS, "method": "race", "sweep": Sweep(points=("conv1",))}
    found = profile(model, replace(task, score=hungry), **options)
    assert plain(found.points) == plain(profile(model, task, **options).points)
    assert "out of memory at the dense network: went on with 16 samples at a time" in found.notes
    assert "out of memory: went on without kept activations" in found.notes


def test_two_processes_on_one_journal(model, task, graph, tmp_path):
    journal = tmp_path / "profile.jsonl"
    profile(model, task, graph=graph, pruning_ratios=(0.5,), journal=journal, sweep=Sweep(points=("conv1",)))
    identity = json.loads(journal.read_text().splitlines()[0])["identity"]
    with keeping(journal, identity), pytest.raises(RunError, match="another process is writing this profile"):
        profile(model, task, graph=graph, pruning_ratios=(0.5,), journal=journal)


def test_journals_of_other_models_and_data(model, task, graph, tmp_path):
    journal, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    few = Sweep(points=("conv1",))
    profile(model, task, graph=graph, pruning_ratios=(0.5,), journal=journal, sweep=few)
    changed = make_net().eval()
    with pytest.raises(MismatchError, match="belongs to another run: weights was"):
        profile(changed, task, graph=graph, pruning_ratios=(0.5,), journal=journal, sweep=few)
    less = replace(task, validation=list(task.validation)[:1])
    with pytest.raises(MismatchError, match="data was"):
        profile(model, less, graph=graph, pruning_ratios=(0.5,), journal=journal, sweep=few)
    profile(changed, task, graph=graph, pruning_ratios=(0.5,), journal=other, sweep=few)
    with pytest.raises(MismatchError, match="weights was"):
        merge([journal, other], tmp_path / "all.jsonl")
    mended = Sweep(points=("conv1",), recalibrate=True)
    profile(model, task, graph=graph, pruning_ratios=(0.5,), journal=tmp_path / "c.jsonl", sweep=mended)
    trained = replace(task, train=task.validation)
    with pytest.raises(MismatchError, match="training data was '200 samples"):
        profile(model, trained, graph=graph, pruning_ratios=(0.5,), journal=tmp_path / "c.jsonl", sweep=mended)
    again = replace(mended, seed=1)
    with pytest.raises(MismatchError, match=r"another run: sweep\.seed was 0 and is 1\. Name"):
        profile(model, task, graph=graph, pruning_ratios=(0.5,), journal=tmp_path / "c.jsonl", sweep=again)
    with pytest.raises(RunError, match="no journal can be read"):
        merge([tmp_path / "absent.jsonl"], tmp_path / "all.jsonl")


def sure(outputs, targets):
    """The probability of the target class."""
    return outputs.softmax(1).gather(1, targets[:, None])[:, 0].double()


def test_points_of_another_score_or_forward_are_refused(model, task, graph, tmp_path):
    journal, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    few = {"graph": graph, "pruning_ratios": (0.5,), "sweep": Sweep(points=("conv1",))}
    found = profile(model, task, journal=journal, **few)
    seen = f"{100 * found.baseline.value:.2f} % there and scores"
    before = journal.read_bytes()
    scored = replace(task, score=sure)
    with pytest.raises(MismatchError, match=rf"a\.jsonl: .* scored {seen} .* the task's score or .*forward is another"):
        profile(model, scored, journal=journal, **few)
    bent = copy.deepcopy(model)
    bent.forward = lambda x: -model.forward(x)
    with pytest.raises(MismatchError, match=f"scored {seen}"):
        profile(bent, task, journal=journal, **few)
    profile(model, scored, journal=other, **few)
    with pytest.raises(MismatchError, match=r"b\.jsonl: .*there and scores .* here"):
        merge([journal, other], tmp_path / "all.jsonl")
    assert journal.read_bytes() == before
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 1


def test_a_journal_without_a_baseline_is_read_and_gets_one(model, task, graph, tmp_path):
    journal = tmp_path / "a.jsonl"
    few = {"graph": graph, "pruning_ratios": RATIOS, "sweep": Sweep(points=("conv1",)), "journal": journal}
    found = profile(model, task, **few)
    identity, baseline, *points = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([identity, *points]))
    assert profile(model, task, **few).points == found.points
    assert journal.read_text() == "".join([identity, *points, baseline])


@pytest.mark.parametrize(
    ("was", "now", "alike"),
    [
        (score_interval([1.0] * 150 + [0.0] * 50), score_interval([1.0] * 149 + [0.0] * 51), True),  # one tipped over
        (score_interval([1.0] * 150 + [0.0] * 50), score_interval([1.0] * 145 + [0.0] * 55), False),
        (
            Score(value=-0.0748, low=-0.08, high=-0.07, n=1000),
            Score(value=-0.07481, low=-0.08, high=-0.07, n=1000),
            True,
        ),
        (Score(value=-0.0748, low=-0.08, high=-0.07, n=1000), Score(value=0.9252, low=0.9, high=0.95, n=1000), False),
        (Score(value=30.0, low=30.0, high=30.0, n=1), Score(value=30.01, low=30.01, high=30.01, n=1), True),
    ],
)
def test_rounding_is_no_other_measurement(was, now, alike, tmp_path):
    with contextlib.nullcontext() if alike else pytest.raises(MismatchError):
        check_baseline(tmp_path / "j", was, now)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pruning_ratios": (50,)}, r"fractions removed, in \[0, 1\)"),
        ({"pruning_ratios": ()}, "fractions removed"),
        ({"bits": (1,)}, "from 2 to 8"),
        ({"method": "exat"}, "did you mean 'exact'"),
    ],
)
def test_options_that_make_no_sense(model, task, graph, options, words):
    with pytest.raises(LamellaError, match=words):
        profile(model, task, graph=graph, **options)
    with pytest.raises(LamellaError, match=r"factor 1\.5"):
        Sweep(factor=1.5)


def test_planned_widths_are_legal_and_distinct(model, graph):
    items = planned_items(model, graph, Sweep(), (0.1, 0.11, 0.5), ())
    points = [(graph.group_of[item.target], level.width) for item in items for level in item.levels]
    assert len({(g.name, w) for g, w in points}) == len(points)
    assert all(w == g.legal(w) < g.width for g, w in points)
    assert all(w >= 1 for _, w in points)
    (twenty,) = planned_items(model, chain((20, 10)), Sweep(), (0.9,), ())
    assert [level.width for level in twenty.levels] == [2]  # 20 (1 - 0.9) is a little less than 2 in floats
