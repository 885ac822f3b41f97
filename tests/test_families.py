"""A family of ONNX files: every level says what torch says, the weights lie there once, and the runner switches under load."""

import io
import json
import re
import shutil
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import zoo
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import lamella as lm
from lamella.cli import app
from lamella.elasticity import elasticize, make_levels, nest, publish, save_elastic
from lamella.errors import LamellaError, MismatchError, RecordError, RunError
from lamella.exporting import OnnxModel, family_bytes, in_form, layers_in_float
from lamella.records import load_record, save_record
from lamella.reporting.charts import day_spec
from lamella.reporting.charts.grammar import ACCENT
from lamella.runs import write_atomically
from lamella.schema import Family, Level, Score
from lamella.serving import Clock, Governor, Policy, choose, day_of, open_family, serve
from lamella.stages.serving import a_day, samples, switched, timed_here
from lamella.timing import Latency
from lamella.tracing import trace
from lamella.training import Batches, Recipe, Task, evaluate
from lamella.views import family_view


class Dense(nn.Module):
    """Two layers whose outputs are joined: the second one's input channels are two stretches."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.one = zoo.cbr(3, width), zoo.cbr(width, width)
        self.two, self.out = zoo.cbr(2 * width, width), zoo.head(width)

    def forward(self, x):
        x = self.stem(x)
        return self.out(self.two(torch.cat((x, self.one(x)), 1)))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A trained family whose levels hold slices, gathered channels and a batch norm of their own, on disk."""
    torch.manual_seed(0)
    model, inputs = Dense(16).eval(), (torch.randn(2, 3, 8, 8),)
    x, y = torch.randn(48, 3, 8, 8), torch.randint(0, 5, (48,))
    batches = Batches(x, y, 16)
    task = Task(inputs, train=batches, validation=batches, test=batches)
    levels, graph = {"core": 0.5, "middle": 0.25}, trace(model, inputs, round_to=1)
    net = elasticize(model, levels, task, recipe=Recipe(epochs=2, lr=0.05), graph=graph)
    directory = tmp_path_factory.mktemp("run")
    told = []
    publish(net, task, directory / "elastic", slots=2, progress=lambda *heard: told.append(heard[1:3]))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    save_elastic(directory, net)
    return net, x, directory


def expected(net, x):
    with torch.no_grad():
        return {level.name: net.view(level.name)(x).numpy() for level in net.levels}


def test_every_level_says_what_torch_says(published):
    net, x, directory = published
    with open_family(directory / "elastic") as family:
        assert family.active_subnet == "full"
        for name, logits in expected(net, x).items():
            family.set_active_subnet(name)
            np.testing.assert_allclose(family.run(x.numpy())[0], logits, rtol=0, atol=1e-4 * np.abs(logits).max())


def test_every_level_runs_in_integers(published):
    net, x, directory = published
    with open_family(directory / "elastic", precision="int8") as family:
        for name, logits in expected(net, x).items():
            assert layers_in_float(directory / "elastic" / f"{name}.int8.onnx") == ()
            family.set_active_subnet(name)
            error = np.abs(family.run(x.numpy())[0] - logits).max()
            assert error < 0.1 * np.abs(logits).max()


def test_weights_are_stored_once_and_nothing_is_computed_twice(published):
    net, _, directory = published
    shared = sum(p.nbytes for n, p in net.net.named_parameters() if not net.is_own(n) and p.nbytes >= 512)
    assert (directory / "elastic" / "weights.bin").stat().st_size == shared
    assert (directory / "elastic" / "weights.int8.bin").stat().st_size == shared / 4
    files = [path.stat().st_size for path in (directory / "elastic").glob("*.onnx") if "int8" not in path.name]
    assert family_bytes(directory / "elastic", net.family.names) == shared + sum(files) == net.family.onnx_bytes
    for level in net.levels:
        kinds = [n.op_type for n in onnx.load(directory / "elastic" / f"{level.name}.onnx").graph.node]
        assert ("Slice" in kinds) == (level.name != "full")
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(directory / "elastic" / "optimized.onnx.tmp")
        options.log_severity_level = 3
        ort.InferenceSession(str(directory / "elastic" / f"{level.name}.onnx"), options, ["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
        assert not {"Slice", "Gather", "Mul"} & {n.op_type for n in optimized.graph.node}


def test_layers_of_fewer_than_8_bits_lie_in_the_levels_own_file_and_leave_the_others_alone(tmp_path):
    torch.manual_seed(0)
    model, x = Dense(16).eval(), torch.randn(48, 3, 8, 8)
    batches = Batches(x, torch.randint(0, 5, (48,)), 16)
    task = Task((x[:2],), train=batches, validation=batches, test=batches)
    graph = trace(model, task.example_inputs, round_to=1)
    bits = {"one.0": 4, "two.0": 5, "out.2": 2, "stem.0": 8}
    coarse = Level(name="coarse", widths=make_levels(graph, (0.5,))[0].widths, bits=bits)
    net = elasticize(model, {"core": 0.5, "coarse": coarse}, task, method="none", graph=graph)
    publish(net, task, tmp_path / "elastic", slots=2)
    save_elastic(tmp_path, net)
    stored = {i.name: i for i in onnx.load(tmp_path / "elastic" / "coarse.int8.onnx").graph.initializer}
    assert stored["one.0.weight"].data_type == onnx.TensorProto.INT4
    assert stored["out.2.weight"].data_type == onnx.TensorProto.INT2
    assert np.abs(onnx.numpy_helper.to_array(stored["two.0.weight"])).max() == 15
    with open_family(tmp_path / "elastic", precision="int8") as family:
        for name, logits in expected(net, x).items():
            assert layers_in_float(tmp_path / "elastic" / f"{name}.int8.onnx") == ()
            family.set_active_subnet(name)
            assert np.abs(family.run(x.numpy())[0] - logits).max() < 0.1 * np.abs(logits).max(), name


def test_levels_are_timed_and_weighed(published):
    net, _, _ = published
    assert all(level.latency_ms > 0 and level.bytes > 0 for level in net.levels)
    assert net.levels[-1].latency_ratio == 1
    assert net.levels[0].bytes < net.levels[-1].bytes
    assert net.family.int8_bytes < net.family.onnx_bytes


def test_integers_are_judged_by_the_bytes_and_times_of_their_own_files(published):
    net, _, directory = published
    with open_family(directory / "elastic", precision="int8") as family:
        coarse = family.levels
    for level, whole in zip(coarse, net.levels, strict=True):
        measured = (whole.int8_bytes, whole.int8_latency_ms, whole.int8_latency_ratio)
        assert (level.bytes, level.latency_ms, level.latency_ratio) == measured
        assert level.bytes < whole.bytes
        assert level.latency_ms > 0
    assert coarse[-1].latency_ratio == 1
    policy = Policy(memory=coarse[-1].bytes + coarse[-1].memory)
    assert choose(coarse, policy).level.name == "full"
    assert choose(net.levels, policy).level.name != "full"


def test_a_level_that_is_slower_than_a_larger_one_in_integers_is_noted_once(tmp_path, little, monkeypatch):
    def scripted(files, inputs, slots):
        ratios = {"core": 1.3, "full": 1.0} if ".int8" in str(files["core"]) else {"core": 0.5, "full": 1.0}
        return {
            n: Latency(latency_ms=r, median_ms=r, ratio=r, ratio_low=r, ratio_high=r, n=9) for n, r in ratios.items()
        }

    monkeypatch.setattr("lamella.elasticity.publishing.latency", scripted)
    net = little({"core": 0.5}, tmp_path)
    says = r"in integers, level 'core' is slower than 'full', which is larger: 1.30x \[1.30, 1.30\] .* 1.00x\. "
    batches = Batches(torch.randn(32, 3, 8, 8), torch.randint(0, 5, (32,)), 16)
    publish(net, Task((torch.randn(1, 3, 8, 8),), train=batches, validation=batches, test=batches), tmp_path)
    (note,) = net.family.notes
    assert re.match(says, note)
    assert note.endswith("Serve 'full' instead, or trace with another round_to (--round-to).")


def test_integers_that_an_older_record_does_not_measure_are_told(published, tmp_path):
    net, _, directory = published
    unknown = {"int8_bytes": None, "int8_latency_ms": None, "int8_latency_ratio": None}
    shutil.copytree(directory, tmp_path / "run")
    old = replace(net.family, levels=tuple(replace(level, **unknown) for level in net.levels))
    save_record(tmp_path / "run" / "elastic.json", old)
    with open_family(tmp_path / "run" / "elastic", precision="int8") as family:
        levels = family.levels
    with pytest.raises(LamellaError, match="no measured latency, and the policy needs it"):
        choose(levels, Policy(load=0.7))


def test_a_name_that_two_files_would_have_is_refused_before_anything_trains():
    with pytest.raises(RecordError, match=r"name: 'core\.int8': names its files, and \.int8 marks those in integers"):
        Level(name="core.int8", widths={})


@pytest.mark.parametrize("resident", [None, ("core",)])
def test_switching_while_requests_run(published, resident):
    _, x, directory = published
    with open_family(directory / "elastic", resident=resident) as family:
        answers, wrong, stop = [], [], threading.Event()
        for name in family.family.names:
            family.set_active_subnet(name)
            answers.append(family.run(x.numpy())[0])

        def ask():
            while not stop.is_set():
                seen = family.run(x.numpy())[0]
                if not any(np.array_equal(seen, a) for a in answers):
                    wrong.append(seen)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            family.set_active_subnet(family.family.names[turn % 3])
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_level_loaded_later_is_held_against_the_weights_that_lie_there_then(published, tmp_path):
    _, x, directory = published
    shutil.copytree(directory, tmp_path / "run")
    folder = tmp_path / "run" / "elastic"
    with open_family(folder, resident=("full",)) as family:
        family.set_active_subnet("core")
        family.set_active_subnet("full")
        before = family.run(x.numpy())[0]
        write_atomically(folder / "weights.bin", bytes((folder / "weights.bin").stat().st_size))  # of the next family
        with pytest.raises(MismatchError, match=r"weights\.bin: holds other weights .* than elastic\.json"):
            family.set_active_subnet("core")
        assert np.array_equal(family.run(x.numpy())[0], before)  # what was loaded serves on


def test_a_family_closed_while_another_thread_switches_stays_closed(published, monkeypatch):
    _, x, directory = published
    family = open_family(directory / "elastic", resident=("full",))
    loading, opened = threading.Event(), family._opened

    def slowly(name):
        loading.set()
        time.sleep(0.2)
        return opened(name)

    monkeypatch.setattr(family, "_opened", slowly)
    thread = threading.Thread(target=family.set_active_subnet, args=("core",))
    thread.start()
    loading.wait()
    family.close()
    thread.join()
    with pytest.raises(LamellaError, match="the family is closed"):
        family.run(x.numpy())


def test_nothing_is_written_where_a_level_says_something_else_than_its_own_file(little, tmp_path, monkeypatch):
    from lamella.exporting import families

    little({"core": 0.5}, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    compared = families.difference
    calls = []

    def second_differs(*arguments):
        calls.append(arguments)
        return "it is another" if len(calls) == 2 else compared(*arguments)

    monkeypatch.setattr(families, "difference", second_differs)
    with pytest.raises(LamellaError, match=r"it is another\. Nothing was written"):
        little({"core": 0.75}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_float_files_stay_where_those_in_integers_fail(little, tmp_path, monkeypatch):
    from lamella.exporting import families

    little({"core": 0.5}, tmp_path)
    in_float = iter([("fc",), ()])
    monkeypatch.setattr(families, "layers_in_float", lambda path: next(in_float))
    with pytest.raises(
        LamellaError, match=r"1 layers in float .* The float files are written, those in integers are not\."
    ):
        little({"small": 0.75}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "full.onnx", "weights.bin"}


def test_inputs_that_do_not_fit_and_a_closed_family_are_told(published):
    _, x, directory = published
    family = open_family(directory / "elastic", resident=("core",))
    wanted = r"; a tensor\(float\) of shape \(.*, 3, 8, 8\) was expected"
    with pytest.raises(LamellaError, match=r"is a tensor\(double\) of shape \(48, 3, 8, 8\)" + wanted):
        family.run(x.numpy().astype(np.float64))
    with pytest.raises(LamellaError, match=r"is a tensor\(float\) of shape \(48, 3, 8\)" + wanted):
        family.run(x.numpy()[..., 0])
    with pytest.raises(LamellaError, match="2 inputs were given; the level takes 1"):
        family.run(x.numpy(), x.numpy())
    family.close()
    for use in (lambda: family.run(x.numpy()), lambda: family.set_active_subnet("full")):
        with pytest.raises(LamellaError, match="the family is closed"):
            use()


def test_a_day_asks_for_no_more_batches_than_it_takes():
    walked = []

    class Walked:
        def __iter__(self):
            for number in range(4):
                walked.append(number)
                yield torch.zeros(3, 1), torch.zeros(3)

    found = samples(Task(torch.zeros(1, 1), train=[], validation=[], test=Walked()), 6)
    assert (len(found.inputs), len(found.targets)) == (6, 6)
    assert len(walked) == 2


def test_a_day_scores_outputs_and_targets_of_any_form():
    levels = (Level(name="full", widths={}, latency_ms=2.0),)
    family = SimpleNamespace(family=SimpleNamespace(names=("full",)), active_subnet="full")
    family.set_active_subnet = lambda name: None
    family.run = lambda x: [x, -x]
    batches = [(torch.arange(4.0), {"half": torch.arange(4.0) / 2})]
    score = lambda outputs, targets: ((outputs[0] == 2 * targets["half"]) & (outputs[1] == -outputs[0])).double()
    task = Task((torch.zeros(1),), train=batches, validation=batches, test=batches, loss=None, score=score)
    day = a_day(family, levels, samples(task, 3), Policy(load=0.7), 0.2)
    assert [(shift.name, shift.score) for shift in day["shifts"]] == [("governor", 1.0), ("full", 1.0)]


def test_an_answer_given_again_is_held_and_scored_once():
    scored = []

    def score(outputs, targets):
        scored.append(len(outputs))
        return (outputs == 2 * targets).double()

    family = SimpleNamespace(family=SimpleNamespace(names=("full",)), active_subnet="full", run=lambda x: [2 * x])
    batches = [(torch.arange(4.0), torch.arange(4.0))]
    requests = samples(Task((torch.zeros(1),), train=batches, validation=batches, test=batches, score=score), 3)
    found = serve(family, day_of(peak=500, quiet=100, seconds=0.5), requests.inputs)
    assert len(found.outputs) > 30
    assert len(set(map(id, found.outputs))) == 3
    assert requests.scores(found.outputs).tolist() == [1.0] * len(found.outputs)
    assert scored == [3]


def test_a_level_may_be_named_governor():
    levels = tuple(Level(name=name, widths={}, latency_ms=ms) for name, ms in (("governor", 1.0), ("full", 2.0)))
    family = SimpleNamespace(family=SimpleNamespace(names=("governor", "full")), active_subnet="full")
    family.set_active_subnet = lambda name: setattr(family, "active_subnet", name)
    family.run = lambda x: [x]
    batches = [(torch.arange(4.0), torch.arange(4.0))]
    task = Task(
        (torch.zeros(1),), train=batches, validation=batches, test=batches, score=lambda outputs, y: outputs == y
    )
    day = a_day(family, levels, samples(task, 3), Policy(load=0.7), 0.2)
    assert [shift.name for shift in day["shifts"]] == ["the governor", "governor", "full"]
    assert [shift.shares["governor"] for shift in day["shifts"][1:]] == [1.0, 0.0]
    assert list(day["plot"]["p99_ms"]) == ["the governor", "governor", "full"]
    colours = day_spec(day["plot"])["vconcat"][2]["encoding"]["color"]["scale"]
    assert (colours["domain"][0], colours["range"].index(ACCENT)) == ("the governor", 0)


def test_a_day_of_a_network_of_two_inputs():
    levels = (Level(name="full", widths={}, latency_ms=2.0),)
    family = SimpleNamespace(family=SimpleNamespace(names=("full",)), levels=levels, active_subnet="full")
    family.set_active_subnet = lambda name: None
    family.run = lambda image, row: [image.sum((1, 2)) + row]
    inputs = torch.arange(12.0).reshape(3, 2, 2), torch.arange(3.0)
    batches = [(inputs, torch.tensor([6.0, 23.0, 40.0]))]
    score = lambda outputs, targets: (outputs == targets).double()
    requests = samples(Task(inputs, train=batches, validation=batches, test=batches, score=score), 9)
    assert [level.latency_ratio for level in timed_here(family, requests.inputs)] == [1.0]
    assert switched(family, requests.inputs, seconds=0.02, threads=1).wrong == 0
    day = a_day(family, levels, requests, Policy(load=0.7), 0.2)
    assert [shift.score for shift in day["shifts"]] == [1.0, 1.0]


def test_a_day_too_short_for_a_single_request_is_told():
    levels = (Level(name="full", widths={}, latency_ms=90_000.0),)
    words = r"in a day of 1 seconds: .* Give it more seconds: \d+ \(--seconds\) bring about 100\."
    with pytest.raises(LamellaError, match=words):
        a_day(None, levels, None, Policy(load=0.7), 1.0)


def test_a_file_answers_in_the_form_of_the_network_it_came_from(published):
    _, x, directory = published
    path = directory / "elastic" / "full.onnx"
    plain = OnnxModel(path)(x)
    found = OnnxModel(path, like={"out": torch.zeros(1), "names": ("a", "b")})(x)
    assert found["names"] == ("a", "b")
    assert torch.equal(found["out"], plain)
    several = in_form((plain, x), [torch.zeros(1), {"again": torch.zeros(1)}])
    assert several[0] is plain
    assert several[1]["again"] is x


def test_a_day_is_served_by_real_sessions(published):
    net, x, directory = published
    requests = [image[None].numpy() for image in x]
    alone = expected(net, x)
    with open_family(directory / "elastic") as family:
        levels = tuple(
            Level(name=n, widths={}, params=i, latency_ms=t, bits={"a": 8 - i})
            for i, (n, t) in enumerate(zip(family.family.names, (0.05, 0.1, 0.2), strict=True))
        )
        day = day_of(peak=2000, quiet=50, seconds=0.5)
        policy = Policy(load=0.02, window=0.02, patience=0.02)
        governor = Governor(levels, family.set_active_subnet, policy, clock=Clock())
        with warnings.catch_warnings(action="ignore"):
            found = serve(family, day, requests, governor)
    assert len(found.outputs) == len(day.arrivals)
    assert (found.finished > found.arrivals).all()
    assert (np.diff(found.finished) > 0).all()
    assert len(set(found.levels.tolist())) > 1
    for index in range(0, len(day.arrivals), 37):
        logits = alone[family.family.names[found.levels[index]]][index % len(x)]
        np.testing.assert_allclose(found.outputs[index][0], logits, rtol=0, atol=1e-3 * np.abs(logits).max())


def test_a_missing_or_foreign_level_is_refused(published, tmp_path):
    _, _, directory = published
    shutil.copytree(directory, tmp_path / "run")
    folder = tmp_path / "run" / "elastic"
    (folder / "core.onnx").write_bytes((folder / "middle.onnx").read_bytes())
    with pytest.raises(MismatchError, match=r"is level 'middle' of '.*', and level 'core' of '.*' was expected"):
        open_family(folder)
    (folder / "core.onnx").unlink()
    with pytest.raises(MismatchError, match="level 'core' of the family is not there"):
        open_family(folder)
    whole = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(whole[::-1])
    with pytest.raises(
        MismatchError, match=r"weights\.bin: holds other weights .* than elastic\.json was written with"
    ):
        open_family(folder, resident=("full",))
    older = replace(load_record(tmp_path / "run" / "elastic.json", Family), weights=None, int8_weights=None)
    save_record(tmp_path / "run" / "elastic.json", older)
    with pytest.raises(MismatchError, match=r"weights\.bin: holds other weights .* than full\.onnx was written with"):
        open_family(folder, resident=("full",))
    with pytest.raises(LamellaError, match="unknown precision 'int4'"):
        open_family(folder, precision="int4")
    with pytest.raises(LamellaError, match="unknown level 'cor'"):
        open_family(folder, resident=("cor",))
    with pytest.raises(
        LamellaError, match=r"resident: 'core' was given; a list of levels was expected, such as \['core'\]"
    ):
        open_family(folder, resident="core")
    (folder / "weights.bin").unlink()
    with pytest.raises(MismatchError, match=r"weights\.bin: the weights of the family's levels are not there"):
        open_family(folder, resident=("full",))
    (tmp_path / "run" / "elastic.json").unlink()
    with pytest.raises(RunError, match=r"no elastic\.json here or one level up"):
        open_family(folder)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_files_of_the_same_levels_with_other_weights_are_refused(published, tmp_path, precision):
    """A record says what its levels score; files of another training would be served under these scores."""
    net, x, directory = published
    shutil.copytree(directory, tmp_path / "run")
    batches = Batches(x, torch.zeros(len(x), dtype=torch.long), 16)
    task = Task((x[:2],), train=batches, validation=batches, test=batches)
    again = elasticize(net.extract("full"), net, task, recipe=Recipe(epochs=1, lr=0.05))
    assert not any((again.family.onnx_bytes, again.family.int8_weights, again.family.file_bytes))
    publish(again, task, tmp_path / "run" / "elastic", slots=2)
    with pytest.raises(MismatchError, match=r"holds other weights .* than elastic\.json was written with"):
        open_family(tmp_path / "run" / "elastic", precision=precision)
    save_elastic(tmp_path / "run", again)
    open_family(tmp_path / "run" / "elastic", precision=precision).close()


@pytest.fixture(scope="module")
def little():
    """Publishes two untrained layers at these levels into a folder; no record."""
    torch.manual_seed(0)
    model, inputs = nn.Sequential(zoo.cbr(3, 16), zoo.cbr(16, 16), zoo.head(16)).eval(), (torch.randn(1, 3, 8, 8),)
    batches = Batches(torch.randn(32, 3, 8, 8), torch.randint(0, 5, (32,)), 16)
    task = Task(inputs, train=batches, validation=batches, test=batches)
    graph = trace(model, inputs, round_to=1)
    return lambda levels, folder: publish(nest(model, graph, make_levels(graph, levels), inputs), task, folder, slots=2)


def test_a_family_in_bfloat16_is_told_what_to_export(tmp_path):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16().eval(),
        torch.randn(2, 4).bfloat16(),
    )
    batches, graph = Batches(x, torch.zeros(2, dtype=torch.int64), 2), trace(model, (x,), round_to=1)
    task = Task((x,), train=batches, validation=batches, test=batches)
    net = nest(model, graph, make_levels(graph, (0.5,)), (x,))
    with pytest.raises(LamellaError, match=r"holds bfloat16 numbers, .* Export a float32 copy"):
        publish(net, task, tmp_path)


def test_a_layer_that_no_file_computes_in_integers_stops_no_family(tmp_path):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 3, 1),
    )
    model, x = nn.Sequential(*layers).eval(), torch.randn(48, 3, 8, 8)
    batches = Batches(x, nn.functional.interpolate(x, scale_factor=2.0), 16)
    score = lambda outputs, targets: -(outputs - targets).square().mean((1, 2, 3))
    task = Task((x[:2],), train=batches, validation=batches, test=batches, loss=nn.functional.mse_loss, score=score)
    graph = trace(model, task.example_inputs, round_to=1)
    net = elasticize(model, {"core": 0.5}, task, method="none", graph=graph)
    publish(net, task, tmp_path / "elastic", slots=2)
    for level in net.levels:
        assert len(layers_in_float(tmp_path / "elastic" / f"{level.name}.int8.onnx")) == 1


class Words(nn.Module):
    """Scores of the next word, by the very vectors that words are looked up in."""

    def __init__(self):
        super().__init__()
        self.words, self.one, self.two = nn.Embedding(40, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.out = nn.Linear(16, 40, bias=False)
        self.out.weight = self.words.weight

    def forward(self, words):
        x = self.words(words)
        return self.out((x + self.two(self.one(x).relu())).mean(1))


def test_a_layer_tied_to_an_embedding_is_written_in_integers(tmp_path):
    torch.manual_seed(0)
    model, words = Words().eval(), torch.randint(40, (48, 6))
    batches = Batches(words, torch.randint(40, (48,)), 16)
    task = Task((words[:2],), train=batches, validation=batches, test=batches)
    graph = trace(model, task.example_inputs, round_to=1)
    net = elasticize(model, {"core": 0.5}, task, method="none", graph=graph)
    publish(net, task, tmp_path / "elastic", slots=2)
    for level in net.levels:
        file = tmp_path / "elastic" / f"{level.name}.int8.onnx"
        assert layers_in_float(file) == ()
        with torch.no_grad():
            exact = net.view(level.name)(words)
        assert (OnnxModel(file)(words) - exact).abs().max() < 0.05 * exact.abs().max()
    shared = [i.name for i in onnx.load(file, load_external_data=False).graph.initializer if i.external_data]
    assert "words.weight" in shared


class Tokens(nn.Module):
    """Linear layers on tokens, whose files hold their weights transposed, and a recurrent layer, whose weights have no names there."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.rows = nn.Linear(8, 32), nn.Linear(32, 24), nn.LSTM(24, 16, batch_first=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        rows, _ = self.rows(self.two(self.one(x).relu()))
        return self.out(rows[:, -1])


class Attending(nn.Module):
    """Attention, whose weights all levels hold alike, and a spectral norm that no level narrows."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.normed = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))
        self.one, self.two = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x):
        h = self.normed(self.inner(x))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.two(self.one(h.mean(1)).relu())


def test_weights_that_no_level_narrows_are_written_in_integers_too(tmp_path):
    torch.manual_seed(0)
    model, x = Attending().eval(), torch.randn(48, 6, 8)
    batches = Batches(x, torch.randint(0, 5, (48,)), 16)
    task = Task((x[:2],), train=batches, validation=batches, test=batches)
    graph = trace(model, task.example_inputs, round_to=1)
    net = elasticize(model, (0.5,), task, method="none", graph=graph)
    publish(net, task, tmp_path, slots=2)
    for level in net.levels:
        with torch.no_grad():
            exact = net.view(level.name)(x)
        for suffix, within in ((".onnx", 1e-4), (".int8.onnx", 0.1)):
            found = OnnxModel(tmp_path / f"{level.name}{suffix}")(x)
            assert (found - exact).abs().max() < within * exact.abs().max(), level.name


@pytest.mark.filterwarnings("ignore:The tensor attributes self.rows")  # torch.export's, of its own LSTM
def test_weights_on_tokens_and_of_recurrent_layers_are_stored_once(tmp_path):
    torch.manual_seed(0)
    model, x = Tokens().eval(), torch.randn(48, 6, 8)
    batches = Batches(x, torch.randint(0, 5, (48,)), 16)
    task = Task((x[:2],), train=batches, validation=batches, test=batches)
    net = elasticize(model, (0.5, 0.25), task, method="none", graph=trace(model, task.example_inputs, round_to=1))
    publish(net, task, tmp_path, slots=2)
    for level in net.levels:
        for suffix, within in ((".onnx", 1e-5), (".int8.onnx", 0.05)):
            path = tmp_path / f"{level.name}{suffix}"
            constants = onnx.load(path, load_external_data=False).graph.initializer
            assert sum(len(each.raw_data) for each in constants) < 2000
            assert {"one.weight", "two.weight"} <= {each.name for each in constants if each.external_data}
            with torch.no_grad():
                exact = net.view(level.name)(x)
            assert (OnnxModel(path)(x) - exact).abs().max() < within * exact.abs().max(), path.name


def test_files_written_for_other_levels_are_refused_and_those_of_levels_gone_are_removed(tmp_path, little):
    folder = tmp_path / "elastic"
    save_elastic(tmp_path, little({"core": 0.5}, folder))
    for path in folder.glob("*.onnx"):
        forget_levels(path)
    open_family(folder).close()  # older files do not name their levels
    (folder / "mine.onnx").write_text("no level")
    little({"small": 0.75}, folder)  # killed before its record
    with pytest.raises(MismatchError, match=r"full\.onnx: was written beside levels of other widths or bits"):
        open_family(folder, resident=("full",))
    assert {path.name for path in folder.glob("*.onnx")} == {
        *("small.onnx", "small.int8.onnx", "full.onnx", "full.int8.onnx", "mine.onnx")
    }


def forget_levels(path):
    proto = onnx.load(path, load_external_data=False)
    kept = [each for each in proto.metadata_props if each.key != "lamella.levels"]
    assert len(kept) == 3
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    path.write_bytes(proto.SerializeToString())


def test_the_page_about_elastic_networks_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "elastic.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "elastic.md", "exec"), {})
    assert "full" in capsys.readouterr().out


NETS = """
from dataclasses import replace
import lamella as lm
import torch
from torch import nn
from torch.nn.functional import cross_entropy

class Named(nn.Sequential):
    def forward(self, x):
        return {"logits": super().forward(x)}

def net():
    torch.manual_seed(0)
    return Named(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))

def task():
    return replace(
        lm.make_task("digits", limit=256),
        loss=lambda outputs, targets: cross_entropy(outputs["logits"], targets),
        score=lambda outputs, targets: (outputs["logits"].argmax(1) == targets).double(),
    )
"""


def test_a_table_of_levels_shows_both_precisions_and_scores_that_are_no_fractions():
    fraction, other = (Score(value=v, low=v - 0.25, high=v, n=20) for v in (0.75, -1.5))
    level = Level(name="full", widths={}, test=fraction, bytes=100, int8_bytes=25, int8_test=other)
    family = Family(structure="s", method="none", levels=(level,), order={}, int8_bytes=50)
    told = lines(family_view(family))
    assert next(line for line in told if line.startswith("full")).split() == [
        "full",
        "0",
        "0",
        "100",
        *["75.00", "[50.00,", "75.00]", "0"],
    ]
    assert "test %" in told[0]
    assert told[2].split() == ["in", "int8", "bytes", "validation", "test", "latency"]
    assert told[3].split() == ["full", "25", *["-1.5", "[-1.75,", "-1.5]"]]
    assert "ONNX int8 +100.0 %" in told[4]
    assert "n = 20" in told[4]


def lines(view):
    console = Console(width=160, file=io.StringIO())
    console.print(view)
    return [line for line in console.file.getvalue().splitlines() if line.strip()]


def test_answers_with_names_are_quantized_too(tmp_path, monkeypatch):
    (tmp_path / "named_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    traced = ["r", "--model", "named_nets:net", "--task", "named_nets:task", "--option", "round_to=1"]
    planned = ["r", "--planner", "uniform", "--budget", "params=60%"]
    for verb in (
        ["trace", *traced],
        ["profile", "r", "--pruning-ratios", "0.5"],
        ["plan", *planned],
        ["compress", "r"],
    ):
        assert CliRunner().invoke(app, [*verb, "--quiet"]).exit_code == 0, verb
    made = CliRunner().invoke(app, ["quantize", "r", "--allow-slower", "--json"])
    assert made.exit_code == 0, made.exception
    assert json.loads(made.stdout)["apart"] <= 0.01


def test_the_verbs(tmp_path, monkeypatch):
    (tmp_path / "elastic_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    run = lambda *arguments: CliRunner().invoke(app, list(arguments))
    options = ["--task", "elastic_nets:task", "--option", "round_to=1", "--quiet"]
    assert run("trace", "r", "--model", "elastic_nets:net", *options).exit_code == 0
    for ask in (["serve-levels", "r"], ["elasticize", "r", "--further"]):
        assert "It is made by `lamella elasticize r`" in str(run(*ask).exception)
    assert "0.5.5" in str(run("elasticize", "r", "--level", "core=0.5.5").exception)
    assert "a=nan: a pruning ratio" in str(run("elasticize", "r", "--level", "a=nan").exception)
    assert "two levels" in str(run("elasticize", "r", "--level", "a=0.5", "--level", "a=0.4").exception)
    assert "latncy_ms" in str(run("elasticize", "r", "--level", "a=latncy_ms=50%").exception)
    assert "aligned or measured" in str(run("elasticize", "r", "--round-to", "eight").exception)
    assert "did you mean 'sandwich'" in str(run("elasticize", "r", "--method", "sandwhich").exception)
    told = str(run("elasticize", "r", "--recipe", "sandwich").exception)
    assert told == "--recipe sandwich: NAME=VALUE was expected. How levels are trained is --method sandwich."
    assert "--recipe 'lr': NAME=VALUE" in str(run("elasticize", "r", "--recipe", "lr").exception)
    assert "'nowhere' is no module" in str(run("elasticize", "r", "--own", "nowhere").exception)
    assert "not a positive rate" in str(run("elasticize", "r", "--lr", "0").exception)
    assert "not a positive rate" in str(run("elasticize", "r", "--recipe", "lr=0").exception)
    assert "say different things" in str(run("elasticize", "r", "--recipe", "lr=0.1", "--lr", "0.2").exception)
    assert "did you mean 'warmup'" in str(run("elasticize", "r", "--recipe", "warmap=1").exception)
    assert "bf16-mixed" in str(run("elasticize", "r", "--precision", "half").exception)
    assert "trains nothing" in str(run("elasticize", "r", "--method", "none", "--epochs", "9").exception)
    assert "nobody teaches" in str(run("elasticize", "r", "--method", "grow", "--teach", "labels=0.5").exception)
    assert "'2' holds no weights" in str(run("elasticize", "r", "--own", "2").exception)
    assert not (tmp_path / "r" / "elastic").exists()  # nothing was timed for any of these
    made = run(
        "elasticize", "r", "--level", "core=0.5", "--epochs", "1", "--recipe", "warmup=0.5", "--allow-slower", "--json"
    )
    assert made.exit_code == 0, made.exception
    family = json.loads(made.stdout)
    assert [level["name"] for level in family["levels"]] == ["core", "full"]
    assert all(level["test"]["n"] == level["int8_test"]["n"] == 256 for level in family["levels"])
    elastic, like = tmp_path / "r" / "elastic", torch.zeros(1)  # the files' own outputs, without the network's names
    files = [OnnxModel(elastic / f"{name}.int8.onnx", like=like) for name in ("core", "full")]
    scores = [float(evaluate(file, lm.make_task("digits", limit=256).test).mean()) for file in files]
    assert [level["int8_test"]["value"] for level in family["levels"]] == scores
    told = run("report", "r", "--quiet")
    assert told.exit_code == 0, told.exception
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert f"{100 * scores[0]:.2f} %" in re.search(r'<table id="levels-int8">.*?</table>', page, re.DOTALL)[0]
    assert 'id="training"' not in page
    served = run("serve-levels", "r", "--seconds", "1", "--precision", "int8", "--picture", "day.svg", "--json")
    assert served.exit_code == 0, served.exception
    found = json.loads(served.stdout)
    assert found["switching"]["wrong"] == 0
    assert found["notes"] == []
    for name in ("bytes", "test", "validation"):
        assert [x[name] for x in found["levels"]] == [x[f"int8_{name}"] for x in family["levels"]]
    assert [shift["name"] for shift in found["day"]["shifts"]] == ["governor", "core", "full"]

    assert "asked for others" in str(run("elasticize", "r", "--further", "--level", "core=0.5").exception)
    further = ["elasticize", "r", "--further", "--epochs", "1", "--lr", "0.01", "--json"]

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lamella.stages.elastic.publish", killed)
        assert run(*further).exit_code == 130
    before = load_record(tmp_path / "r" / "elastic.json", Family)  # the family as it was, until another is whole
    with monkeypatch.context() as patch:
        patch.setattr("lamella.stages.elastic._tested", killed)  # the files are whole, the record is still the old one
        assert run(*further).exit_code == 130
    assert "A run was cut short, and the same command goes on" in str(run("serve-levels", "r").exception)
    with monkeypatch.context() as patch:  # the old record is gone, and the new one not in its place
        patch.setattr("lamella.stages.elastic._put_in_place", lambda session, _: session.path("elastic").unlink())
        assert run(*further).exit_code != 0
    assert not (tmp_path / "r" / "elastic.json").exists()
    monkeypatch.setattr("lamella.stages.elastic.elasticize", lambda *_, **__: pytest.fail("trained twice"))
    made = run(*further)
    assert made.exit_code == 0, made.exception
    trained = json.loads(made.stdout)
    assert (before.epochs, trained["epochs"]) == (1, 2)
    assert len(list((elastic / "training").iterdir())) == 1  # that of the family as it was first made
    assert trained["levels"][0]["widths"] == before.levels[0].widths
    assert trained["levels"][0]["test"] != family["levels"][0]["test"]
    monkeypatch.setattr("lamella.stages.elastic.elasticize", elasticize)
    again = run(
        "elasticize", "r", "--level", "core=0.5", "--epochs", "1", "--recipe", "warmup=0.5", "--allow-slower", "--json"
    )
    assert "and further since (trainings: 2), which this would undo" in str(again.exception)
    assert load_record(tmp_path / "r" / "elastic.json", Family).epochs == 2
    assert run("serve-levels", "r", "--seconds", "1", "--quiet").exit_code == 0

    monkeypatch.setattr("lamella.stages.elastic.publish", killed)
    assert run("elasticize", "r", "--level", "core=0.75", "--method", "none", "--allow-slower").exit_code == 130
    told = str(run("serve-levels", "r").exception)  # not with the files of the family before
    assert "of the family is not there" in told
    saved = load_record(tmp_path / "r" / "elastic.json", Family)
    assert saved.levels[0].widths != family["levels"][0]["widths"]
    assert (tmp_path / "r" / "elastic.safetensors").exists()
    assert "requests per second" in (tmp_path / "day.svg").read_text()
