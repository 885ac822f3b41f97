"""lamella accordion, as a user runs it: a table in, a run of the chosen network out; killed, resumed, and fed nonsense."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_tables import csv, rows
from torch import nn
from typer.testing import CliRunner

from lamella.accordions import RECIPE, Settings, accordion, networks
from lamella.cli import app
from lamella.errors import BudgetError, DataError, LamellaError, MismatchError
from lamella.exporting import OnnxModel
from lamella.records import load_record, save_record, to_plain
from lamella.schema import Accordion, Budget, Graph, RunInfo, Search, Standardization
from lamella.sessions import describe, resume
from lamella.stages import quantized, shaping
from lamella.tasks import make_task, read_table

ROOT = Path(__file__).parent.parent
KEPT = {"accordion/inputs.json": Standardization, "accordion.json": Accordion}
QUICK = ("--widths", "4,2,4", "--candidates", "2,4", "--seeds", "2", "--epochs", "2", "--option", "batch_size=32")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return csv(tmp_path_factory.mktemp("data") / "machines.csv", *rows()[:2])


def run(*arguments):
    return CliRunner().invoke(app, ["accordion", *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """A finished run, and what it printed."""
    directory = tmp_path_factory.mktemp("runs") / "r"
    result = run(directory, "--task", "table", "--data", table, *QUICK, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    return directory, json.loads(result.output)


def test_a_table_in_a_run_of_the_winner_out(finished):
    directory, plain = finished
    found = load_record(directory / "accordion.json", Accordion)
    assert plain["widths"] == list(found.widths)
    assert [file.name for file in found.files] == ["baseline, fp32", "winner, fp32", "winner, int8"]
    for file in found.files:
        assert (directory / file.file).stat().st_size == file.bytes
    session = resume(directory)
    winner = session.dense()
    assert sum(p.numel() for p in winner.parameters()) == found.entry("winner").params
    groups = load_record(directory / "graph.json", Graph).groups
    assert [group.width for group in groups if group.frozen is None] == list(found.widths)


def test_raw_rows_standardized_by_the_inputs_file_give_the_recorded_outputs(finished, table):
    directory, plain = finished
    told, found = (load_record(directory / name, kind) for name, kind in KEPT.items())
    assert any("accordion/inputs.json" in note for note in plain["notes"])
    raw = read_table(table).columns(told.columns)
    rows_ND = ((raw - np.array(told.mean)) / np.array(told.std)).astype(np.float32)
    place = {row.tobytes(): number for number, row in enumerate(rows_ND)}
    test = resume(directory).task.test
    numbers = [place[row.numpy().tobytes()] for row in test.inputs]  # bit for bit what the files were judged on
    odd_N, weights_N = test.targets["labels"].numpy() == 1, test.targets["weights"].numpy()
    assert list(told.thresholds) == ["baseline.onnx", "winner.onnx", "winner.int8.onnx"]
    for file in found.files:
        outputs_ND = OnnxModel(directory / file.file)(torch.from_numpy(rows_ND[numbers])).numpy()
        scores_N = 1 / (1 + np.abs(outputs_ND.astype(float) - rows_ND[numbers]).mean(1))
        alarm_N = scores_N <= told.thresholds[Path(file.file).name]
        assert weights_N[alarm_N & odd_N].sum() / weights_N[odd_N].sum() == pytest.approx(file.test["recall"])
        assert weights_N[alarm_N == odd_N].sum() / weights_N.sum() == pytest.approx(file.test["accuracy"])


def test_the_documented_program_raises_the_recorded_alarms(finished, table, tmp_path, monkeypatch):
    told, found = (load_record(finished[0] / name, kind) for name, kind in KEPT.items())
    test = resume(finished[0]).task.test
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "machines").symlink_to(finished[0])
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "accordions.md").read_text(), re.DOTALL)
    names = {"values": test.inputs.double().numpy() * np.array(told.std) + np.array(told.mean)}
    exec(compile(program, "accordions.md", "exec"), names)
    right_N = names["alarms"] == (test.targets["labels"].numpy() == 1)
    weights_N = test.targets["weights"].numpy()
    assert weights_N[right_N].sum() / weights_N.sum() == pytest.approx(found.files[1].test["accuracy"])


def test_a_run_of_a_version_that_wrote_no_inputs_file_gets_one(finished, table, tmp_path):
    directory = tmp_path / "r"
    shutil.copytree(finished[0], directory)
    path, record, files = (
        directory / "accordion" / "inputs.json",
        directory / "accordion.json",
        (directory / "accordion"),
    )
    before, found = path.read_bytes(), load_record(record, Accordion)
    path.unlink()
    save_record(record, replace(found, notes=found.notes[:1]))
    written = {each: each.stat().st_mtime_ns for each in (record, *files.iterdir())}
    assert run(directory, "--task", "table", "--data", table, *QUICK).exit_code == 0
    assert path.read_bytes() == before
    assert written == {each: each.stat().st_mtime_ns for each in written}


def test_what_was_made_of_an_earlier_winner_goes_with_it(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "r")
    session = resume(tmp_path / "r")
    quantized(session)
    assert session.has("result")
    found, winner = session.read("accordion", Accordion), session.dense()
    shaping._forget(session)
    assert shaping._finished(session, replace(found, files=())) is None  # a kill from here on begins anew
    shaping._as_run(session, found, winner, "relu")
    assert not session.has("result")
    assert not session.has("inputs")
    quantized(session)


def test_the_run_of_a_pruned_winner_has_the_widths_that_its_own_candidates_gave(table, tmp_path, monkeypatch):
    monkeypatch.setattr(shaping, "_written", lambda *arguments: ())  # files take seconds
    session = shaping.begin(tmp_path, describe(model="autoencoder", task="table", data=table))
    settings = Settings(method="prune", seeds=2, budget=Budget(params="70%"))
    asked = {"settings": settings, "recipe": replace(RECIPE, epochs=1)}
    found = shaping.shaped(session, (8,), candidates=(5,), **asked)
    layers = [m.out_features for m in resume(tmp_path).dense().modules() if isinstance(m, nn.Linear)]
    assert tuple(layers[:-1]) == found.widths
    with pytest.raises(LamellaError, match=r"which the search found, were expected. Give the candidates"):
        networks(session.task, found, **asked)


def test_a_finished_run_is_only_told_again(finished, table):
    directory, plain = finished
    written = {
        path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.suffix in {".onnx", ".safetensors"}
    }
    again = run(directory, "--task", "table", "--data", table, *QUICK)
    assert again.exit_code == 0, again.output
    for words in ("isolation forest", "one hidden layer, equal size", "The winner's test f1", "accordion.json"):
        assert words in again.output
    assert to_plain(load_record(directory / "accordion.json", Accordion).entries) == plain["entries"]
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert len(written) == 4
    of_the_run = QUICK[:-2]  # its data and their options need not be named again
    assert json.loads(run(directory, *of_the_run, "--quiet", "--json").stdout)["entries"] == plain["entries"]


def test_more_seeds_alone_widen_the_search_that_the_run_holds(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "r")
    run(tmp_path / "r", "--metric", "roc_auc", "--budget", "params=70%", "--asymmetric")
    before = load_record(tmp_path / "r" / "accordion.json", Accordion)
    wider = run(tmp_path / "r", "--seeds", "3", "--quiet")
    assert wider.exit_code == 0, wider.output
    found = load_record(tmp_path / "r" / "accordion.json", Accordion)
    assert found.seeds == (0, 1, 2)
    for same in ("baseline", "metric", "method", "epochs"):
        assert getattr(found, same) == getattr(before, same)
    assert {width for shape in found.tried for width in shape.widths} == {2, 4}
    assert found.entry("winner").params <= 0.7 * found.entry("baseline").params
    assert [sweep.layers for sweep in found.sweeps] == [(0,), (2,), (1,)]


def test_what_was_made_of_a_winner_stays_while_it_is_the_winner(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(shaping, "_written", lambda *arguments: ())  # files take seconds
    shutil.copytree(finished[0], tmp_path / "r")
    session = resume(tmp_path / "r")
    quantized(session)
    made = {name: session.path(name).read_bytes() for name in ("weights", "graph", "result", "model", "run")}
    before = session.read("accordion", Accordion)
    assert run(tmp_path / "r", "--passes", "2").exit_code == 0
    found = session.read("accordion", Accordion)
    assert (len(found.sweeps), found.widths) == (2 * len(before.sweeps), before.widths)
    assert made == {name: session.path(name).read_bytes() for name in made}
    assert run(tmp_path / "r", "--widths", "3", "--candidates", "3").exit_code == 0
    assert not session.has("result")


def test_another_search_in_a_run_is_told_in_a_line(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(shaping, "_written", lambda *arguments: ())  # files take seconds
    shutil.copytree(finished[0], tmp_path / "r")
    other = run(tmp_path / "r", "--widths", "4,4", "--metric", "pr_auc")
    assert (
        "another search than the run's: widths was [4, 2, 4] and is [4, 4]; metric was None and is pr_auc. "
        in other.stderr
    )
    asked = load_record(tmp_path / "r" / "search.json", Search)
    assert (asked.widths, asked.candidates, asked.metric, asked.seeds) == ((4, 4), (2, 4), "pr_auc", 2)
    assert "another search" not in run(tmp_path / "r", "--seeds", "3").stderr


@pytest.mark.parametrize("named_before", [False, True])
def test_the_tasks_first_metric_is_the_usual_one_by_whatever_name(finished, tmp_path, monkeypatch, named_before):
    monkeypatch.setattr(shaping, "networks", lambda *_, **__: pytest.fail("what is done is done again"))
    shutil.copytree(finished[0], tmp_path / "r")
    path = tmp_path / "r" / "search.json"
    if named_before:  # as it was written down before
        save_record(path, replace(load_record(path, Search), metric="f1"))
    for options in (("--metric", "f1"), ()):
        again = run(tmp_path / "r", *options)
        assert again.exit_code == 0
        assert "another search" not in again.stderr
        assert path.read_bytes() == (finished[0] / "search.json").read_bytes()


def test_a_budget_of_the_run_is_taken_back_by_none(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(shaping, "_written", lambda *arguments: ())
    shutil.copytree(finished[0], tmp_path / "r")
    for budget, kept in (("max_drop=50", Budget(max_drop=50)), ("none", Budget())):
        run(tmp_path / "r", "--budget", budget, "--quiet")
        assert load_record(tmp_path / "r" / "search.json", Search).budget == kept


def test_a_refused_search_is_not_the_one_to_widen(finished, table, tmp_path):
    shutil.copytree(finished[0], tmp_path / "r")
    before = (tmp_path / "r" / "search.json").read_bytes()
    refused = run(tmp_path / "r", "--budget", "params=5")
    assert isinstance(refused.exception, BudgetError)
    assert (tmp_path / "r" / "search.json").read_bytes() == before
    fresh = run(tmp_path / "new", "--task", "table", "--data", table, *QUICK, "--metric", "prauc")
    assert "unknown metric 'prauc'" in str(fresh.exception)
    assert not (tmp_path / "new" / "search.json").exists()


def test_a_search_that_nobody_wrote_down_is_not_widened(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "r")
    (tmp_path / "r" / "search.json").unlink()
    refused = run(tmp_path / "r", "--seeds", "3")
    assert "accordion.json: holds a search that did not write down all that it was asked" in str(refused.exception)
    assert "--widths 4,2,4 --method sequential --metric f1 --epochs 2, and --candidates" in str(refused.exception)
    assert run(tmp_path / "r", *QUICK[:-2], "--quiet").exit_code == 0
    assert load_record(tmp_path / "r" / "search.json", Search) == load_record(finished[0] / "search.json", Search)


def test_another_task_is_not_mixed_in(finished, table):
    directory, _ = finished
    other = run(directory, "--task", "table", "--data", table, *QUICK, "--option", "ignore=a")
    assert isinstance(other.exception, MismatchError)
    assert "holds another run: option " in str(other.exception)
    assert "ignore" not in load_record(directory / "run.json", RunInfo).options


def test_a_search_that_is_refused_leaves_the_run_it_found(finished, table):
    directory, _ = finished
    before = (directory / "run.json").read_bytes()
    other = run(directory, "--task", "table", "--data", table, *QUICK, "--epochs", "3", "--activation", "relu")
    told = "accordion.jsonl: belongs to another run: activation was 'elu' and is 'relu'; recipe.epochs was 2 and is 3. Name"
    assert told in str(other.exception)
    assert (directory / "run.json").read_bytes() == before
    assert resume(directory).dense()


def test_a_run_of_another_kind_is_no_search(tmp_path):
    traced = describe(model="resnet14", task="digits", seed=0, options={})
    save_record(tmp_path / "run.json", traced)
    (tmp_path / "graph.json").touch()
    other = run(tmp_path, "--widths", "6,3,6")
    assert "holds another run: model was 'resnet14' and is 'autoencoder'" in str(other.exception)


def test_digits_offline_with_a_published_name_refused_and_a_shape_taken(tmp_path):
    short = (tmp_path / "r", "--task", "digits", "--option", "limit=60", "--seeds", "2", "--epochs", "1")
    result = run(*short, "--widths", "6-3-6", "--candidates", "3,6", "--budget", "max_drop=50", "--quiet")
    assert result.exit_code == 0, result.output
    with_name = run(*short, "--widths", "mnist-accordeon")
    assert "did you mean 'mnist-accordion'" in str(with_name.exception)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("--widths", "4,0,4"), LamellaError, "widths 4, 0, 4"),
        (("--widths", "4,two,4"), LamellaError, "numbers such as 16,8,4,8,16"),
        (("--widths", ""), LamellaError, "at least one hidden layer"),
        (("--widths", "4,2"), LamellaError, "(--asymmetric)"),
        (("--candidates", "0,2"), LamellaError, "candidates: widths 0, 2"),
        (("--seeds", "1"), LamellaError, "at least two"),
        (("--seed", "-1"), LamellaError, "seed -1: a whole number from 0 on"),
        (("--activation", "gelu"), LamellaError, "unknown activation 'gelu'"),
        (("--option", "model.widths=3"), LamellaError, "Give --widths and --activation instead"),
        (("--budget", "bytes=5"), LamellaError, "unknown --budget name 'bytes'"),
        (("--option", "labels=x"), LamellaError, "did you mean 'label'"),
        (("--option", "label=failed"), DataError, "unknown column 'failed'"),
        (("--option", "validation=time"), DataError, "needs a time column"),
        (("--metric", "accuracy_"), LamellaError, "did you mean 'accuracy'"),
    ],
)
def test_nonsense_is_one_sentence(table, tmp_path, arguments, kind, words):
    result = run(tmp_path / "r", "--task", "table", "--data", table, *QUICK, *arguments)
    assert isinstance(result.exception, kind), result.exception
    assert words in str(result.exception)


def test_an_unknown_executor_is_told_before_anything_is_trained(table, tmp_path):
    result = run(tmp_path / "r", "--task", "table", "--data", table, *QUICK, "--executor", "thread")
    assert "unknown executor 'thread'" in str(result.exception)
    assert not (tmp_path / "r").exists()


def process(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "lamella", "accordion", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_killed_at_its_hardest_it_ends_with_the_same_table(table, tmp_path):
    arguments = ("--task", "table", "--data", table, *QUICK, "--seeds", "4", "--quiet")
    journal = tmp_path / "killed" / "accordion.jsonl"
    killed = process(tmp_path / "killed", *arguments)
    end = time.monotonic() + 120
    while time.monotonic() < end and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = journal.read_text()
    assert before.count("\n") > 1
    assert run(tmp_path / "killed", "--quiet").exit_code == 0  # what it was asked lies beside it
    assert journal.read_text().startswith(before[: before.rfind("\n") + 1])
    found = load_record(tmp_path / "killed" / "accordion.json", Accordion)
    task = make_task("table", table, batch_size=32)
    whole = accordion(task, (4, 2, 4), candidates=(2, 4), settings=Settings(seeds=4), recipe=replace(RECIPE, epochs=2))
    assert replace(found, files=()) == whole


def test_errors_are_a_paragraph_and_exit_2(tmp_path):
    (tmp_path / "bad.csv").write_text("a,label\n1,0\n<script>,1\n")
    failed = process(tmp_path / "r", "--task", "table", "--data", tmp_path / "bad.csv")
    _, complaint = failed.communicate(timeout=120)
    assert failed.returncode == 2
    assert complaint.startswith("error: ")
    assert "row 2, column 'a' holds text ('<script>')" in complaint
    assert "Traceback" not in complaint
