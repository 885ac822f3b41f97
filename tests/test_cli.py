"""The command line: verbs over one run directory, JSON that parses, and bad input as one paragraph with exit status 2."""

import html
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from lamella import __version__
from lamella.cli import app
from lamella.errors import LamellaError, RecordError
from lamella.records import load_record, save_record
from lamella.reporting.stages import read_stages
from lamella.runs import locked
from lamella.schema import FILES, Result
from lamella.sessions import resume
from lamella.views import files_view

NETS = """
import torch
from torch import nn

def good():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))

class Branchy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        if x.sum() > 0:
            x = x * 2
        return self.head(x)

def branchy():
    return Branchy()

class Aux(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.aux, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 10), nn.Linear(4, 10)
        self.table = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 4))
        self.register_buffer("places", torch.rand(36, 2))

    def forward(self, x):
        x = self.conv(x).relu()
        side = self.aux(x.mean((2, 3)))
        main = self.head((x.flatten(2) + self.table(self.places).T).mean(2))
        return (main, side) if self.training else main

def aux():
    torch.manual_seed(0)
    return Aux()

class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

def bessel():
    return nn.Sequential(nn.Conv2d(1, 8, 3), Bessel(), nn.Flatten(), nn.Linear(288, 10))

def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def number():
    return 7

def raising():
    raise FileNotFoundError("weights.pt")

class Broken(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * float("nan")

def broken():
    return Broken(*good())

def empty():
    import lamella
    return lamella.Task((torch.zeros(1, 1, 8, 8),), train=[], validation=[], test=[])

def plane():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

def own():
    torch.manual_seed(0)
    model = plane()
    model.load_state_dict(torch.load("own.pt"))
    return model

def drawn():
    model = plane()
    with torch.no_grad():
        model[0].weight[0, 0] = float(int.from_bytes(__import__("os").urandom(4)) / 2**32)
    return model

def heights():
    import lamella
    from torch.nn.functional import mse_loss
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    part = lamella.Batches(rows, rows.sum(1, keepdim=True), batch_size=32)
    score = lambda outputs, targets: -(outputs - targets).square().mean(1)
    return lamella.Task((rows[:1],), train=part, validation=part, test=part, loss=mse_loss, score=score)

def hills():
    import lamella, os
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(int(os.environ.get("SEED", "0"))))
    targets = (rows.sum(1) > 0).long()
    part = lamella.Batches(rows, targets, batch_size=32)
    pairs = torch.utils.data.TensorDataset(rows, targets)
    own = torch.utils.data.DataLoader(pairs, batch_size=32, shuffle="SHUFFLED" in os.environ)
    return lamella.Task((rows[:1],), train=part, validation=own, test=part)

def ridge():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))

def images():
    import lamella
    batches = [(torch.zeros(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64))]
    return lamella.Task((torch.zeros(1, 1, 28, 28),), train=batches, validation=batches, test=batches)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A directory with a module of networks, current and importable."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("nets", None)


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def lamella(*arguments, **options):
    """The real console script's module in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lamella", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        **options,
    )


def refused(*arguments):
    """The error a command ends with."""
    result = run(*arguments)
    assert isinstance(result.exception, LamellaError), result.exception or result.output
    return str(result.exception)


def test_version():
    assert run("--version").output.strip() == f"lamella {__version__}"


def test_the_verbs_work_over_one_run_directory(nets):
    traced = run("trace", "r", "--model", "nets:good", "--task", "digits", "--json", "--option", "limit=64")
    assert traced.exit_code == 0, traced.output
    assert [g["name"] for g in json.loads(traced.output)["groups"]] == ["0", "2", "5"]
    profiled = run(
        "profile", "r", "--pruning-ratios", "0.5", "--bits", "8,4", "--points", "[02]", "--sweep", "chunk=16", "--json"
    )
    assert profiled.exit_code == 0, profiled.exception
    assert len(json.loads(profiled.stdout)["points"]) == 6
    planned = run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--epochs", "1", "--json")
    assert planned.exit_code == 0, planned.exception
    front = run("plan", "r", "--pareto", "params", "--json")
    assert front.exit_code == 0, front.exception
    assert json.loads(front.stdout)[0]["params"] > 0
    assert (nets / "r" / "pareto.csv").read_text().startswith("limit,")
    text = run("plan", "r", "--text").stdout
    (nets / "edited.json").write_text(text.replace('"epochs": 1', '"epochs": 2'))
    assert json.loads(run("plan", "r", "--edit", "edited.json", "--json").stdout)["steps"][0]["epochs"] == 2
    (nets / "edited.json").write_text(text.replace('"0": 4', '"0": 40'))
    assert "40 channels asked" in refused("plan", "r", "--edit", "edited.json")
    said = refused("plan", "r", "--edit", "edited.json", "--epochs", "3", "--bits-epochs", "2")
    assert "--edit with --epochs and --bits-epochs: steps, epochs and bits are those of the edited text" in said
    said = refused("plan", "r", "--text", "--planner", "nonsense", "--budget", "bytes=1%")
    assert "--text with --planner and --budget: the run's own plan is shown" in said
    assert "same" in run("plan", "r", "--compare", "r/plan.json").stdout
    compressed = run("compress", "r", "--json")
    assert compressed.exit_code == 0, compressed.exception
    assert [len(c) for c in json.loads(compressed.stdout)["kept"].values()] == [4, 4, 10]
    exported = run("export", "r", "--allow-slower", "--json")
    paths = [file["path"] for file in json.loads(exported.stdout)["files"]]
    assert paths == [os.path.join("r", name) for name in ("dense.onnx", "model.onnx")]
    quantized = run("quantize", "r", "--allow-slower", "--json")
    assert quantized.exit_code == 0, quantized.exception
    sizes = [fact["bytes"] for fact in json.loads(quantized.stdout)["files"]]
    assert sizes == [os.path.getsize(nets / "r" / name) for name in ("dense.onnx", "model.onnx", "model.int8.onnx")]
    again = json.loads(run("quantize", "r", "--scheme", "static-nbits-fc", "--allow-slower", "--json").stdout)
    assert [os.path.basename(fact["path"]) for fact in again["files"]][2:] == [
        "model.int8.onnx",
        "model.static-nbits-fc.onnx",
    ]
    assert again["agreement"] >= 0.95  # 64 samples
    assert again["classes"] is True
    assert again["files"][3]["bytes"] == os.path.getsize(nets / "r" / "model.static-nbits-fc.onnx")
    assert "unknown scheme 'static-fc'; did you mean" in refused("quantize", "r", "--scheme", "static-fc")
    assert run("report", "r").exit_code == 0
    assert "<svg" in (nets / "r" / "report.html").read_text()


def test_layers_that_are_in_no_file_have_no_bits(nets):
    assert run("trace", "r", "--model", "nets:aux", "--task", "digits", "--option", "limit=64").exit_code == 0
    quantized = run("quantize", "r", "--allow-slower", "--json")
    assert quantized.exit_code == 0, quantized.output
    assert "'aux': called in PyTorch, and no output of the exported network follows from it" in quantized.output
    assert set(json.loads((nets / "r" / "result.json").read_text())["value"]["bits"]) == {"conv", "head"}


def test_tables_are_printed_for_people(nets):
    traced = run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64")
    assert "2 of 3 groups free" in traced.output
    assert "model output" in traced.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("demo", "--task", "digts"), "unknown demo task 'digts'; did you mean 'digits'?"),
        (("demo", "--model", "resnet15"), "unknown model 'resnet15'; did you mean"),
        (("trace", "r", "--model", "resnet20"), "needs both --model and --task"),
        (("trace", "r", "--model", "resnet20", "--task", "digts"), "unknown task 'digts'; did you mean 'digits'?"),
        (("trace", "r", "--model", "absent_module:f", "--task", "digits"), "module 'absent_module' cannot be imported"),
        (("trace", "r", "--model", "nets:nothing", "--task", "digits"), "nets has no function 'nothing'"),
        (("trace", "r", "--model", "nets:number", "--task", "digits"), "returned a int; an nn.Module was expected"),
        (("trace", "r", "--model", "nets:branchy", "--task", "digits"), r"cannot be exported.*nets.py:17"),
        (("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit"), "NAME=VALUE was expected"),
        (
            ("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=few"),
            "limit=few: a whole number",
        ),
        (("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limits=5"), "did you mean 'limit'"),
        (
            ("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "round_to=0"),
            "round_to=0: a whole number from 1 on, measured or measured_int8 was expected",
        ),
        (("plan", "r", "--planner", "treshold"), "unknown planner 'treshold'; did you mean 'threshold'"),
        (("plan", "r", "--order", "by_scor"), "unknown order 'by_scor'; did you mean 'by_score'"),
        (("plan", "r", "--budget", "byte=5"), "did you mean 'bytes'"),
        (("plan", "r", "--budget", "bytes=1%"), r"reaches .*bytes.*nearest:.*frozen:.*try:"),
        (("plan", "r", "--option", "factr=1"), "did you mean 'factor'"),
        (("profile", "r", "--sweep", "recalibrat=1"), "did you mean 'recalibrate'"),
        (("profile", "r", "--sweep", "chunk=few"), "chunk: 'few' where int was expected"),
        (("profile", "r", "--method", "guess"), "unknown method 'guess'"),
        (("profile", "nowhere"), "no run directory"),
        (("profile", "r", "--pruning-ratios", "half"), "'half' is not a number"),
        (("report", "nowhere"), "nowhere"),
        (("demo", "--task", "cifar10"), "cifar"),
    ],
)
def test_bad_input_is_one_paragraph(nets, arguments, words):
    import re

    if arguments[:2] in (("profile", "r"), ("plan", "r")):
        run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    if arguments[0] == "plan":
        run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    assert re.search(words, refused(*arguments), re.DOTALL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("plan --bits 64", "bits 64: from 2 to 8, or 32 for none, was expected"),
        ("plan --bits 1", "bits 1: from 2 to 8, or 32 for none, was expected"),
        ("plan --budget bytes=1,2", "bytes: (1, 2) where one number, or a share such as '10%', was expected"),
        (
            "plan --planner search --budget bytes=50% --option trials=few",
            "'few' where a whole number from 1 on was expected",
        ),
        (
            "plan --planner search --budget bytes=50% --option trials=-1",
            "-1 where a whole number from 1 on was expected",
        ),
        (
            "plan --budget bytes=30% --budget bytes=90%",
            "--budget bytes=30% and --budget bytes=90% say different things. Give one of them.",
        ),
        ("plan --option factor=0.9 --option factor=0.5", "--option factor=0.9 and --option factor=0.5 say different"),
        ("plan --measure fits=3 --measure fits=4", "--measure fits=3 and --measure fits=4 say different things"),
        ("plan --pareto bytes --budget bytes=30%", "--pareto bytes with --budget bytes=: a front goes over limits"),
        ("plan --pareto bytes --epochs 7 --order greedy", "--pareto with --order and --epochs: a front has no steps."),
        ("plan --compare .", ".: is a folder; a file was expected, as made by `lamella plan RUN`"),
        ("plan --compare absent.json", "absent.json: not there. It is made by `lamella plan RUN`"),
        ("plan --edit .", ".: is a folder; a file was expected, as made by `lamella plan RUN --text`"),
        ("profile --merge .", ".: is a folder; a journal was expected, such as profile.jsonl"),
        ("profile --merge planned/plan.json", "Name the profile.jsonl of the other run directory"),
    ],
)
def test_values_that_an_option_cannot_have_are_told(planned_run, options, words):
    verb, *rest = options.split()
    assert words in refused(verb, "planned", *rest)


@pytest.fixture(scope="module")
def planned_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planned")


@pytest.fixture
def planned_run(nets, planned_folder, monkeypatch):
    """A run with a plan, made once for all."""
    monkeypatch.chdir(planned_folder)
    if not (planned_folder / "planned").exists():
        run("trace", "planned", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
        run("profile", "planned", "--pruning-ratios", "0.5", "--quiet")
        run("plan", "planned", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--quiet")


def test_a_plan_is_read_beside_whoever_writes_there(planned_run):
    from lamella.runs import locked

    with locked("planned"):
        assert run("plan", "planned", "--text").exit_code == 0
        assert run("plan", "planned", "--compare", "planned/plan.json").exit_code == 0


def test_bits_without_a_grid_are_told(planned_run):
    told = run("plan", "planned", "--option", "factor=0.5", "--bits-epochs", "2").output
    assert "no layer has fewer than 8 bits, so there is no grid to tune on" in " ".join(told.split())


def test_a_verb_before_its_time_names_the_one_to_run_first(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64")
    assert "It is made by `lamella profile r`" in refused("plan", "r")
    assert "It is made by `lamella plan r`" in refused("compress", "r")
    (nets / "r" / "plan.json").write_text("{}")  # there is a plan, and nothing has walked it
    assert "It is made by `lamella compress r`" in refused("export", "r")
    assert "It is made by `lamella compress r`" in refused("quantize", "r")
    assert not (nets / "r" / "dense.onnx").exists()


def test_a_network_that_a_module_brings_is_judged_on_images_it_cannot_have_seen(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--quiet")
    task = resume("r").task
    assert any("test images at even" in note for note in task.notes), task.notes
    run("trace", "q", "--model", "nets:good", "--task", "digits", "--option", "validation=heldout", "--quiet")
    assert resume("q").info.options["validation"] == "heldout"


def test_a_network_is_quantized_as_it_is(nets):
    """Without a plan; one in which nothing can be narrowed as well, and it is told what can be done with it."""
    traced = run("trace", "r", "--model", "nets:single", "--task", "digits", "--option", "limit=64")
    assert "0 of 1 groups free" in traced.output
    assert "next: lamella quantize r" in traced.output
    assert "no group of this network can be narrowed. Measure bits: bits=(8, 4) (--bits 8,4)." in refused(
        "profile", "r"
    )
    written = json.loads(run("quantize", "r", "--allow-slower", "--json").output)
    files = {Path(file["path"]).name: file["bytes"] for file in written["files"]}
    assert set(files) == {"dense.onnx", "model.onnx", "model.int8.onnx"}
    assert files["model.int8.onnx"] < files["model.onnx"]
    assert run("export", "r", "--allow-slower").exit_code == 0
    assert read_stages("r").plan is None  # nobody planned
    assert "next: lamella plan r --planner knapsack" in run("profile", "r", "--bits", "8,4").output
    assert "nothing can be narrowed. Bits alone are planned by planner 'knapsack'" in refused("plan", "r")
    assert run("plan", "r", "--planner", "knapsack", "--budget", "bytes=50%").exit_code == 0
    assert read_stages("r").plan.planner.startswith("knapsack")
    assert read_stages("r").result is None  # that of the network as it is
    assert "was made after the compressed model" in refused("quantize", "r")
    assert run("compress", "r").exit_code == 0
    assert run("quantize", "r", "--allow-slower").exit_code == 0
    assert "nothing can be narrowed" not in run("report", "r").output


def test_scores_that_are_not_numbers_are_refused(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64")
    text = (nets / "r" / "run.json").read_text().replace("nets:good", "nets:broken")
    (nets / "r" / "run.json").write_text(text)
    assert "not finite" in refused("profile", "r")


def test_an_empty_loader_is_refused_before_anything_is_measured(nets):
    words = refused("trace", "r", "--model", "nets:good", "--task", "nets:empty", "--quiet")
    assert "nets:empty: the task's train loader has no batch; at least one (inputs, targets) was expected" in words
    text = (nets / "nets.py").read_text().replace("train=[],", "train=[(torch.zeros(1, 1, 8, 8), torch.zeros(1))],")
    (nets / "nets.py").write_text(text)
    sys.modules.pop("nets")
    assert "the task's validation loader has no batch" in refused(
        "trace", "r", "--model", "nets:good", "--task", "nets:empty"
    )


def plane_weights(path, seed):
    torch.manual_seed(seed)
    torch.save(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)).state_dict(), path)


def test_weights_that_were_trained_again_are_not_passed_over(nets):
    given = ("--model", "nets:plane", "--task", "nets:heights", "--quiet", "--weights", "w.pt")
    plane_weights("w.pt", 0)
    for _ in range(2):
        assert run("trace", "r", *given).exit_code == 0
        plane_weights("w.pt", 0)  # the same again
    plane_weights("w.pt", 1)
    words = refused("trace", "r", *given)
    assert f"{FILES['weights'][0]}: keeps other weights than" in words
    assert "w.pt gives now, which has changed since" in words
    assert "Name another run directory, or remove this one" in words
    os.unlink("w.pt")
    assert run("trace", "r", *given).exit_code == 0


def test_a_function_that_gives_another_network_by_now_is_not_passed_over(nets):
    plane_weights("own.pt", 0)
    for name in ("own", "drawn", "plane"):
        for _ in range(2):
            traced = run("trace", name, "--model", f"nets:{name}", "--task", "nets:heights", "--quiet")
            assert traced.exit_code == 0, traced.exception
    plane_weights("own.pt", 1)
    words = refused("trace", "own", "--model", "nets:own", "--task", "nets:heights")
    assert "keeps other weights than nets:own gives now" in words
    (nets / "nets.py").write_text(
        NETS.replace("Linear(6, 16)", "Linear(6, 32)").replace("Linear(16, 1)", "Linear(32, 1)")
    )
    sys.modules.pop("nets")
    for name in ("drawn", "plane"):
        words = refused("trace", name, "--model", f"nets:{name}", "--task", "nets:heights")
        assert f"keeps other weights than nets:{name} gives now" in words


def test_a_run_directory_in_use_is_refused(nets):
    with locked(nets / "r"):
        words = refused("trace", "r", "--model", "nets:good", "--task", "digits")
    assert f"in use by another process (pid {os.getpid()}). Wait for it, or name another run directory." in words


def test_a_plan_of_another_model_is_refused(nets):
    for name, model in (("a", "nets:good"), ("b", "lenet5")):
        size = ["--option", "model.image_size=28"] if model == "lenet5" else []
        task = "nets:images" if model == "lenet5" else "digits"
        assert run("trace", name, "--model", model, "--task", task, *size, "--quiet").exit_code == 0
    run("profile", "a", "--pruning-ratios", "0.5", "--quiet")
    run("plan", "a", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--quiet")
    (nets / "b" / "plan.json").write_bytes((nets / "a" / "plan.json").read_bytes())
    assert "the plan was made for another model: group" in refused("compress", "b")


def test_a_planner_that_looks_at_no_curve_plans_a_run_that_was_only_traced(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    for option in (
        ("--planner", "shares", "--budget", "params=60%"),
        ("--planner", "uniform", "--option", "pruning_ratio=0.5"),
    ):
        planned = run("plan", "r", *option, "--json")
        assert planned.exit_code == 0, planned.exception
        made = json.loads(planned.stdout)
        assert {step["expected"] for step in made["steps"]} == {made["predicted_score"]} == {None}
        assert made["dense_score"] is not None
    assert [step["widths"] for step in made["steps"]] == [{"0": 4}, {"2": 4}, {}]
    assert "expected" not in run("plan", "r", *option).stdout.replace("expected", "", 1)  # but for a column's head
    assert run("compress", "r", "--quiet").exit_code == 0
    assert run("report", "r").exit_code == 0
    assert "profile.json: not there" in refused("plan", "r", "--planner", "threshold")
    assert "holds no pruning_ratio curve" in refused("plan", "r", "--planner", "uniform", "--budget", "max_drop=1")


def test_planning_again_never_mixes_two_plans(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--quiet")
    first = json.loads(run("compress", "r", "--json").stdout)
    weights = (nets / "r" / "model.safetensors").read_bytes()
    assert json.loads(run("compress", "r", "--json").stdout) == first
    assert (nets / "r" / "model.safetensors").read_bytes() == weights
    assert run("compress", "r", "--lr", "0.1", "--json").exit_code == 0
    assert (nets / "r" / "model.safetensors").read_bytes() != weights
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--bits", "4", "--epochs", "2", "--quiet")
    assert "was made after the compressed model. Run `lamella compress r` first" in refused("quantize", "r")
    again = run("compress", "r", "--json")
    assert again.exit_code == 0, again.exception
    facts = json.loads(run("quantize", "r", "--allow-slower", "--json").stdout)
    assert facts["agreement"] >= 0.98  # 64 samples, random weights
    kinds = [t.data_type for t in onnx.load(nets / "r" / "model.int8.onnx").graph.initializer]
    assert kinds.count(onnx.TensorProto.INT4) == 3


def test_a_typo_does_not_spoil_the_directory(nets):
    assert "unknown model" in refused("trace", "r", "--model", "resnt14", "--task", "digits")
    assert run("trace", "r", "--model", "nets:good", "--task", "digits", "--quiet").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trace", "r", "--seed", "7"), "belong to a new run"),
        (("trace", "q", "--model", "nets:good", "--task", "digits", "--option", "model.widths=4"), "ready-made"),
        (("trace", "q", "--model", "nets:good", "--task", "nets:images", "--data", "x"), "ready-made"),
        (("trace", "q", "--model", "nets:raising", "--task", "digits"), r"failed: FileNotFoundError: .*nets\.py"),
        (
            ("trace", "q", "--model", "nets:good", "--task", "digits", "--seed", "9" * 20),
            "at most 63 bits was expected",
        ),
        (("compress", "nosuch"), "no run directory"),
        (("compress", "r", "--control", "origin", "--replan", "4"), "Give one of them"),
        (("compress", "r", "--seeds", "5"), "seeds are of controls. Name one"),
    ],
)
def test_nothing_asked_is_ignored(nets, arguments, words):
    import re

    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    assert re.search(words, refused(*arguments), re.DOTALL)
    assert not (nets / "nosuch").exists()


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (
            True,
            (
                "91.30 %",
                "m.int8.onnx and its simulation: 80.00 % [71.11 %, 86.66 %] of 100 validation samples in the same class",
            ),
        ),
        (False, ("0.913", "sample 0.0041 apart")),
    ],
)
def test_scores_of_a_tasks_own_are_no_percentages(classes, words):
    file = {
        "path": "m.onnx",
        "bytes": 9,
        "validation_accuracy": 0.913,
        "ratio": 1.0,
        "ratio_low": 1.0,
        "ratio_high": 1.0,
    }
    agreement = {"agreement": 0.8, "agreement_low": 0.7111, "agreement_high": 0.8666, "samples": 100}
    alike = agreement if classes else {"apart": 0.00412}
    console = Console(width=200)
    with console.capture() as shown:
        console.print(files_view({"files": [file], "written": "m.int8.onnx", "classes": classes, "notes": []} | alike))
    assert all(word in shown.get() for word in words)


def test_export_tells_what_it_leaves_out_and_of_a_newer_plan(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.25,0.5", "--quiet")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--quiet")
    run("compress", "r", "--quiet")
    run("quantize", "r", "--allow-slower", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "executorch", None)
        lacking = str(run("export", "r", "--format", "onnx", "--format", "pt2", "--format", "executorch").exception)
    assert "exporting to ExecuTorch needs executorch" in lacking
    assert not list((nets / "r").glob("*.pt2"))  # before anything is written
    whole = json.loads(run("export", "r", "--allow-slower", "--json").stdout)
    assert (len(whole["files"]), whole["notes"]) == (3, [])
    with (nets / "r" / "model.int8.onnx").open("ab") as file:
        file.write(b"x")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.25", "--quiet")
    found = json.loads(run("export", "r", "--allow-slower", "--json").stdout)
    assert len(found["files"]) == 2
    left_out, earlier = found["notes"]
    assert "model.int8.onnx is left out" in left_out
    assert "`lamella quantize r` writes it anew" in left_out
    assert "these files follow an earlier plan. `lamella compress r` walks the new one" in earlier


def test_formats_that_are_not_made_from_onnx_do_without_it(nets, monkeypatch):
    run("trace", "r", "--model", "nets:bessel", "--task", "digits", "--option", "limit=64", "--quiet")
    assert "ONNX has no counterpart for the operator" in refused("export", "r", "--format", "pt2", "--format", "onnx")
    assert not list((nets / "r").glob("*.pt2"))  # all that was asked, or nothing
    found = json.loads(run("export", "r", "--format", "pt2", "--allow-slower", "--json").stdout)
    assert [Path(each["path"]).name for each in found["files"]] == ["dense.pt2", "model.pt2"]

    for library in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, library, None)
    run("trace", "s", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    assert "needs onnx" in refused("export", "s")
    run("profile", "s", "--pruning-ratios", "0.5", "--quiet")
    run("plan", "s", "--planner", "uniform", "--budget", "bytes=50%", "--bits", "32", "--quiet")
    run("compress", "s", "--quiet")
    (nets / "s" / "model.onnx").write_bytes(b"of a machine that has onnx")
    found = json.loads(run("export", "s", "--format", "pt2", "--allow-slower", "--json").stdout)
    dense, model = (each["bytes"] for each in found["files"])
    assert model < dense
    kept = (nets / "s" / "model.pt2").stat().st_mtime_ns
    run("export", "s", "--format", "pt2", "--allow-slower", "--quiet")
    assert (nets / "s" / "model.pt2").stat().st_mtime_ns == kept


def test_integers_that_a_format_cannot_hold_are_left_out_of_it_alone(nets):
    pytest.importorskip("openvino")
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--bits", "2", "--quiet")
    run("compress", "r", "--quiet")
    run("quantize", "r", "--allow-slower", "--quiet")
    run("quantize", "r", "--scheme", "static-nbits-fc", "--allow-slower", "--quiet")
    found = json.loads(
        run("export", "r", "--format", "openvino", "--format", "onnx", "--allow-slower", "--json").stdout
    )
    names = [Path(each["path"]).name for each in found["files"]]
    assert names[:2] == ["dense.xml", "model.xml"]
    assert names[2:] == ["dense.onnx", "model.onnx", "model.int8.onnx", "model.static-nbits-fc.onnx"]
    held, scheme = found["notes"]
    assert "model.int8.xml is left out: r/model.int8.onnx: OpenVINO" in held
    assert "INT2 it does not" in held
    assert "r/model.static-nbits-fc.onnx is not converted to .xml" in scheme


def test_converted_integers_of_an_earlier_network_are_told(nets):
    pytest.importorskip("openvino")
    asked = ("export", "r", "--format", "openvino", "--allow-slower", "--json")
    plan = ("plan", "r", "--planner", "uniform", "--option")

    def notes():
        found = json.loads(run(*asked).stdout)
        assert (nets / "r" / "model.int8.xml").exists()
        return [Path(each["path"]).name for each in found["files"]], [n for n in found["notes"] if ".int8.xml" in n]

    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    run(*plan, "pruning_ratio=0.5", "--bits", "8", "--quiet")
    run("compress", "r", "--quiet")
    run("quantize", "r", "--allow-slower", "--quiet")
    assert notes() == (["dense.xml", "model.xml", "model.int8.xml"], [])

    run(*plan, "pruning_ratio=0.5", "--bits", "2", "--quiet")
    run("compress", "r", "--quiet")
    names, (told,) = notes()  # not quantized yet
    assert names == ["dense.xml", "model.xml"]
    assert told.startswith(
        "r/model.int8.xml is left out: it was made from integers that are not this model's. `lamella quantize r`"
    )

    run("quantize", "r", "--allow-slower", "--quiet")
    names, (told,) = notes()  # and then in 2 bits, which OpenVINO does not take
    assert names == ["dense.xml", "model.xml"]
    assert "INT2 it does not" in told
    assert told.endswith("What lies there was made from other integers: remove it.")
    (nets / "r" / "model.int8.xml").unlink()
    assert "What lies there" not in json.loads(run(*asked).stdout)["notes"][0]


def walked():
    run("trace", "r", "--model", "nets:ridge", "--task", "nets:hills", "--quiet")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--epochs", "1", "--quiet")
    assert run("compress", "r", "--quiet").exit_code == 0


def test_scores_of_other_data_are_not_added_to_a_walks(nets, monkeypatch):
    walked()
    quantize = ("quantize", "r", "--allow-slower", "--json")
    monkeypatch.setenv("SEED", "9")
    kept = {path.name: path.read_bytes() for path in (nets / "r").iterdir() if path.is_file() and path.name != ".lock"}
    for asked in (quantize, (*quantize, "--equalize")):
        said = refused(*asked)
        assert said.startswith("r/result.json: its scores were measured on other validation data: its digest was '")
        assert said.endswith("change the data back, or name another run directory.")
    assert kept == {name: (nets / "r" / name).read_bytes() for name in kept}
    older = replace(load_record(nets / "r" / "result.json", Result), data="")
    monkeypatch.delenv("SEED")
    assert run(*quantize).exit_code == 0
    monkeypatch.setenv("SEED", "9")
    assert "other validation data" in refused(*quantize)
    save_record(nets / "r" / "result.json", older)
    assert run(*quantize).exit_code == 0


def test_a_loader_that_shuffles_is_told_by_what_the_dense_network_scores(nets, monkeypatch):
    monkeypatch.setenv("SHUFFLED", "1")
    walked()
    assert run("quantize", "r", "--allow-slower", "--quiet").exit_code == 0
    monkeypatch.setenv("SEED", "9")
    assert "r/result.json: belongs to another measurement: the dense network scored" in refused("quantize", "r")


@pytest.mark.parametrize(
    ("asked", "told"),
    [("--removal soft --lr 0.05", "--recipe lr=0.05 --removal soft"), ("--replan 1", "--replan 1")],
)
def test_a_walk_that_is_not_finished_is_told_of(nets, monkeypatch, asked, told):
    """After a kill; the run's model is still that of the walk before it."""

    def killed(*_):
        raise KeyboardInterrupt

    walked()
    before = load_record(nets / "r" / "result.json", Result)
    assert "unknown removal" in refused("compress", "r", "--removal", "nonsense")
    assert load_record(nets / "r" / "result.json", Result) == before  # nothing was begun
    with monkeypatch.context() as patch:
        patch.setattr("lamella.walking.steps._take", killed)
        assert run("compress", "r", *asked.split()).exit_code != 0
    note = f"`lamella compress r {told}` was begun and not finished; this is the model of the walk before it."
    for verb in ("quantize", "export"):
        assert any(note in each for each in json.loads(run(verb, "r", "--allow-slower", "--json").stdout)["notes"]), (
            verb
        )
    run("report", "r")
    page = nets / "r" / "report.html"
    assert note.replace("compress r", "compress RUN") in html.unescape(page.read_text())
    assert run("compress", "r", *asked.split()).exit_code == 0
    assert json.loads(run("export", "r", "--allow-slower", "--json").stdout)["notes"][1:] == []
    run("report", "r")
    assert "not finished" not in page.read_text()


@pytest.mark.parametrize(("differing", "told"), [(1, False), (4, True)])
def test_a_file_that_is_not_its_simulation_is_told(nets, monkeypatch, differing, told):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--quiet")
    run("compress", "r", "--quiet")
    monkeypatch.setattr("lamella.stages.verbs.same_answers", lambda *_: torch.arange(64).ge(differing).double())
    found = json.loads(run("quantize", "r", "--allow-slower", "--json").stdout)
    assert found["agreement"] == 1 - differing / 64
    note = f"gives {64 - differing} of 64 validation samples the class that its simulation gives them"
    assert any(note in each for each in found["notes"]) is told
    kept = load_record(nets / "r" / "result.json", Result)
    assert kept.agreement.n == 64
    assert any(note in each for each in kept.notes) is told
    assert kept.file_score.value == found["files"][2]["validation_accuracy"]  # its own, and not that of the simulation
    assert (kept.file_score.n, kept.simulated.validation.value) == (64, found["simulated_validation_accuracy"])
    assert run("report", "r").exit_code == 0
    assert (note in (nets / "r" / "report.html").read_text().split('<section id="plan"')[0]) is told


def test_converted_integers_are_compared_on_all_validation_samples(nets, monkeypatch):
    pytest.importorskip("openvino")
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("quantize", "r", "--allow-slower", "--quiet")
    asked = ("export", "r", "--format", "openvino", "--allow-slower")
    (same,) = json.loads(run(*asked, "--json").stdout)["alike"]
    assert (same["path"], same["source"], same["samples"]) == ("r/model.int8.xml", "r/model.int8.onnx", 64)
    assert same["agreement"] >= 0.98
    monkeypatch.setattr("lamella.stages.deployment.same_answers", lambda *_: torch.arange(64).ge(1).double())
    shown = run(*asked).output
    assert "r/model.int8.xml and r/model.int8.onnx: 98.44 % [" in shown
    assert "99.5 % were expected" not in shown  # 63 of 64 may be chance
    monkeypatch.setattr("lamella.stages.deployment.same_answers", lambda *_: torch.arange(64).ge(4).double())
    (note,) = json.loads(run(*asked, "--json").stdout)["notes"]
    assert "gives 60 of 64 validation samples the class that r/model.int8.onnx gives them in ONNX Runtime" in note


def test_a_regression_is_told_in_plain_numbers_by_every_verb(nets):
    assert run("trace", "r", "--model", "nets:plane", "--task", "nets:heights").exit_code == 0
    curves = run("profile", "r", "--pruning-ratios", "0.5").output
    baseline = json.loads((nets / "r" / "profile.json").read_text())["value"]["baseline"]["value"]
    assert baseline < -1, "untrained: a mean squared deviation of several units"
    assert f"baseline {baseline:.4g} [" in curves
    planned = run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--bits", "32").output
    plan = json.loads((nets / "r" / "plan.json").read_text())["value"]
    assert plan["predicted_score"] == pytest.approx(plan["steps"][0]["predicted"])
    walked = run("compress", "r").output
    assert run("plan", "r", "--option", "factor=0.5", "--bits", "32", "--quiet").exit_code == 0
    assert json.loads((nets / "r" / "plan.json").read_text())["value"]["threshold"] == pytest.approx(1.5 * baseline)
    front = run("plan", "r", "--pareto", "params", "--bits", "32").output
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--bits", "32", "--quiet")
    beside = run("compress", "r", "--control", "origin", "--seeds", "2").output
    assert f"{baseline:.4g} [" in walked
    assert " %" not in walked.split("expected:")[0]
    assert " %" not in beside.replace("[95 %]", "")
    assert "points" not in planned.split("significance:")[0]
    assert " points" not in front
    assert "next: lamella plan r --planner knapsack --bits 32 --budget params=LIMIT" in front
    assert "test score [95 %]" in beside


def test_networks_and_data_may_be_named_by_their_files(nets, monkeypatch):
    (nets / "deeper").mkdir()
    (nets / "nets.py").rename(nets / "deeper" / "nets_of_mine.py")
    own = "deeper/nets_of_mine.py"
    traced = run("trace", "r", "--model", f"{own}:plane", "--task", f"./{own}:heights", "--quiet")
    assert traced.exit_code == 0, traced.exception
    monkeypatch.chdir(nets / "deeper")
    again = run("profile", "../r", "--pruning-ratios", "0.5", "--quiet")
    assert again.exit_code == 0, again.exception
    assert "no such file" in refused("trace", "q", "--model", "gone.py:plane", "--task", "digits")
    assert "path/file.py:function" in refused("trace", "q", "--model", "nets.plane", "--task", "digits")
    (nets / "deeper" / "json.py").write_text("")
    assert "Rename the file" in refused("trace", "q", "--model", "json.py:plane", "--task", "digits")


def test_a_network_that_cannot_be_traced_does_not_bind_the_directory(nets):
    assert "fails on the example inputs" in refused("trace", "r", "--model", "nets:good", "--task", "nets:images")
    assert not (nets / "r" / "dense.safetensors").exists()
    mended = run("trace", "r", "--model", "nets:good", "--task", "digits", "--quiet")
    assert mended.exit_code == 0, mended.exception


def test_points_of_another_network_are_not_taken_in(nets):
    for name, model in (("a", "nets:good"), ("b", "nets:plane")):
        task = "digits" if name == "a" else "nets:heights"
        run("trace", name, "--model", model, "--task", task, "--quiet")
    run("profile", "b", "--pruning-ratios", "0.5", "--quiet")
    words = refused("profile", "a", "--pruning-ratios", "0.5", "--merge", "b/profile.jsonl")
    assert "holds the points of another network: structure is" in words
    assert not (nets / "a" / "profile.jsonl").exists()


def test_points_of_other_data_are_not_taken_in(nets):
    for name, samples in (("a", "64"), ("b", "128")):
        run("trace", name, "--model", "nets:good", "--task", "digits", "--option", f"limit={samples}", "--quiet")
    shutil.copy("a/dense.safetensors", "b/dense.safetensors")
    run("profile", "b", "--pruning-ratios", "0.5", "--quiet")
    words = refused("profile", "a", "--pruning-ratios", "0.5", "--merge", "b/profile.jsonl")
    assert "holds the points of other data or options: data is" in words
    assert not (nets / "a" / "profile.jsonl").exists()
    words = refused("profile", "b", "--pruning-ratios", "0.5", "--method", "race", "--merge", "b/profile.jsonl")
    assert "method is None there and 'race: factor" in words


def test_recalibrated_points_of_another_machine_are_taken_in(nets):
    asked = ("--pruning-ratios", "0.5", "--sweep", "recalibrate=1", "--quiet")
    for name in ("a", "b"):
        run("trace", name, "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    shutil.copy("a/dense.safetensors", "b/dense.safetensors")
    run("profile", "b", *asked)
    taken = run("profile", "a", *asked, "--merge", "b/profile.jsonl")
    assert taken.exit_code == 0, taken.output
    assert (nets / "a" / "profile.jsonl").read_text() == (nets / "b" / "profile.jsonl").read_text()


def test_an_edited_text_that_is_none_is_named(nets):
    run("trace", "r", "--model", "nets:plane", "--task", "nets:heights", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    assert "nets.py: line 2, column 1: not JSON" in refused("plan", "r", "--edit", "nets.py")
    Path("other.json").write_text(json.dumps({"structure": "another", "steps": []}))
    assert "other.json: the plan is for structure another" in refused("plan", "r", "--edit", "other.json")
    assert "lamella plan --epochs" in refused("compress", "r", "--recipe", "epochs=3")


def test_every_verb_says_what_comes_next(nets):
    asked = ("trace", "a run", "--model", "nets:plane", "--task", "nets:heights")
    assert run(*asked).output.rstrip().endswith("next: lamella profile 'a run'")
    json.loads(run(*asked, "--json").stdout)
    assert "next: lamella plan 'a run'" in run("profile", "a run", "--pruning-ratios", "0.5").output


def test_fresh_weights_are_told(nets):
    result = run("trace", "r", "--model", "resnet14", "--task", "digits", "--option", "model.widths=4,4,8", "--quiet")
    assert "note: these weights are fresh ones" in result.stderr


def test_every_file_of_a_run_names_a_verb_that_is_there():
    verbs = {command.callback.__name__ for command in app.registered_commands}
    assert {verb.removeprefix("lamella ").split()[0] for _, verb in FILES.values()} <= verbs


def test_a_run_directory_keeps_to_its_first_model(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64")
    words = refused("trace", "r", "--model", "resnet14", "--task", "digits", "--option", "limit=64")
    assert "holds another run: model was 'nets:good' and is 'resnet14'" in words


def test_damaged_files_are_named(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64")
    run("profile", "r", "--pruning-ratios", "0.5")
    profile = nets / "r" / "profile.json"
    profile.write_text(profile.read_text()[:500])
    assert "profile.json: not JSON" in refused("plan", "r")
    (nets / "r" / "run.json").write_text('{"kind": "RunInfo", "format": "9.0", "value": {}}')
    assert "written in format 9.0 by a newer Lamella" in refused("plan", "r")


def test_the_process_exits_2_without_a_traceback(nets):
    result = lamella("trace", "r", "--model", "resnet15", "--task", "digits", cwd=nets)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: unknown model 'resnet15'")
    usage = lamella("plan", "r", "--epochs", "many", cwd=nets)
    assert usage.returncode == 2
    assert "Traceback" not in usage.stderr


def test_controls_are_walked_from_every_seed_and_compared(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--quiet")
    assert "unknown control 'orign'; did you mean 'origin'" in refused("compress", "r", "--control", "orign")
    ask = ["compress", "r", "--control", "origin", "--control", "in_order", "--control", "uniform", "--seeds", "2"]
    found = run(*ask, "--tuning-samples", "64", "--json")
    assert found.exit_code == 0, found.exception
    trials = json.loads(found.stdout)["trials"]
    assert [(t["name"], t["seed"]) for t in trials] == [
        (name, seed) for seed in (0, 1) for name in ("plan", "origin", "in_order", "uniform")
    ]
    own = load_record(Path("r/result.json"), Result).history[-1]
    assert own.validation.value == trials[0]["validation"]  # the plan's walk from the run's seed is the run's model
    params = {t["name"]: t["params"] for t in trials}
    assert params["origin"] > params["plan"] == params["in_order"]
    macs = {t["name"]: t["macs"] for t in trials}
    assert macs["uniform"] <= macs["plan"] < macs["origin"]
    assert json.loads(run(*ask, "--tuning-samples", "64", "--json").stdout) == json.loads(found.stdout)
    shown = run(*ask, "--tuning-samples", "64")
    assert "plan ahead by" in shown.stdout


def test_a_warm_up_may_take_as_many_epochs_as_the_plans_longest_step(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    run("plan", "r", "--planner", "uniform", "--option", "pruning_ratio=0.5", "--epochs", "2", "--quiet")
    ask = ["compress", "r", "--tuning-samples", "64", "--quiet", "--recipe"]
    assert "warmup: 3.0 epochs of 2" in refused(*ask, "warmup=3")
    found = run(*ask, "warmup=2")
    assert found.exit_code == 0, found.output


def test_the_recipe_and_the_removal_are_asked_for_by_name(nets):
    run("trace", "r", "--model", "nets:good", "--task", "digits", "--option", "limit=64", "--quiet")
    run("profile", "r", "--pruning-ratios", "0.5", "--quiet")
    run(
        "plan",
        "r",
        "--planner",
        "uniform",
        "--option",
        "pruning_ratio=0.5",
        "--bits",
        "3",
        "--bits-epochs",
        "1",
        "--quiet",
    )
    assert "unknown name of --recipe 'distill'; did you mean 'distil'" in refused(
        "compress", "r", "--recipe", "distill=0.5"
    )
    assert "unknown removal 'slow'" in refused("compress", "r", "--removal", "slow")
    done = run("compress", "r", "--recipe", "distil=0.5", "--removal", "soft", "--tuning-samples", "64", "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["history"][-1]["name"] == "3 bits"


def test_a_shorthand_and_its_pair_must_agree():
    from lamella.compression import TUNING
    from lamella.pairs import recipe_of

    assert recipe_of([], "--recipe", TUNING).lr == 0.02
    assert recipe_of(["lr=0.1"], "--recipe", TUNING, lr=None).lr == recipe_of([], "--recipe", TUNING, lr=0.1).lr == 0.1
    assert recipe_of(["lr=0.1", "momentum=0.5"], "--recipe", TUNING, lr=0.1).momentum == 0.5
    with pytest.raises(LamellaError, match=r"--lr 0\.1 and --recipe lr=0\.2 say different things\. Give one of them"):
        recipe_of(["lr=0.2"], "--recipe", TUNING, lr=0.1)
    with pytest.raises(LamellaError, match=r"--recipe lr=0\.3 and --recipe lr=0\.2 say different"):
        recipe_of(["lr=0.3", "lr=0.2"], "--recipe", TUNING)
    with pytest.raises(RecordError, match="weight_decay: nan where a finite number was expected"):
        recipe_of(["weight_decay=nan"], "--recipe", TUNING)
