"""The main job, small: its table, and that a kill at any moment changes nothing in it but the timings."""

import json
import os
import random
import subprocess
import sys
import textwrap
import time

import pytest

from lamella.records import load_record
from lamella.schema import Result

NAMES = ["dense", "pruned in order", "pruned out of order", "out of order + int8", "small from scratch"]

PROGRAM = textwrap.dedent("""
    import sys
    import torch
    torch.set_num_threads(1)
    from lamella.demo import Settings, demo
    from lamella.runs import locked
    from lamella.sessions import describe, start
    from lamella.training import Recipe

    directory = sys.argv[1]
    options = {"limit": "96", "model.widths": "8,8,16"}
    settings = Settings(training=Recipe(epochs=4, lr=0.05), tuning=Recipe(epochs=1, lr=0.02), epochs_per_step=1, factor=0.5)
    with locked(directory):
        demo(start(directory, describe(model="resnet14", task="digits", options=options)), settings)
""")


def run(directory, kill_after=None):
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        _, errors = child.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return False
    assert child.returncode == 0, errors.decode()[-3000:]
    return True


def table(directory):
    value = json.loads((directory / "table.json").read_text())["value"]
    for row in value["rows"]:
        row.pop("latency_ratio")
    return value


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, and the seconds it took."""
    directory = tmp_path_factory.mktemp("demo") / "whole"
    started = time.perf_counter()
    assert run(directory)
    return directory, time.perf_counter() - started


def test_the_table_holds_every_variant_and_true_bytes(whole):
    directory, _ = whole
    rows = {row["name"]: row for row in table(directory)["rows"]}
    assert list(rows) == NAMES
    assert rows["dense"]["bytes"] == (directory / "dense.onnx").stat().st_size
    assert rows["out of order + int8"]["bytes"] == (directory / "model.int8.onnx").stat().st_size
    assert rows["pruned out of order"]["params"] == rows["small from scratch"]["params"] < rows["dense"]["params"]
    assert rows["pruned in order"]["params"] == rows["pruned out of order"]["params"]
    assert all(0 <= row["test_accuracy"] <= 1 for row in rows.values())
    assert table(directory)["walk"] == load_record(directory / "result.json", Result).walk


def test_the_page_is_written(whole):
    page = (whole[0] / "report.html").read_text()
    assert all(name in page for name in NAMES)


def test_a_second_run_changes_nothing(whole):
    before = table(whole[0])
    files = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*.onnx")}
    assert run(whole[0])
    assert table(whole[0]) == before
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert len(files) == 5


def test_kills_at_any_moment_change_nothing_but_timings(whole, tmp_path):
    """SIGKILL again and again, at random moments spread over the run, until it gets through."""
    directory, seconds = whole
    generator = random.Random(0)
    kills = 0
    while not run(tmp_path / "r", kill_after=generator.uniform(0.05, 0.3) * seconds * (1 + kills / 4)):
        kills += 1
    assert kills >= 2
    assert table(tmp_path / "r") == table(directory)
