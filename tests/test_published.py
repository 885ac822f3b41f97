"""The published ratios, recomputed exactly, in both accountings; and what is said of them."""

import importlib.util
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lamella.cli import app
from lamella.commands.bench import published
from lamella.errors import LamellaError
from lamella.published import SCHEDULES
from lamella.resultfiles import own_rows


@pytest.fixture(scope="module")
def rows():
    return {row.name: row for row in published()}


@pytest.mark.parametrize(
    ("name", "paper", "true", "macs"),
    [
        ("alexnet-c10", 47.28, 3.82, 1.51),
        ("alexnet-c100", 40.82, 3.77, 1.50),
        ("vgg16-c10", 35.21, 3.97, 5.43),
        ("vgg16-c100", 19.50, 3.63, 3.17),  # 3.1748; 3.18 is against the dense network of 1000 classes
    ],
)
def test_the_published_ratios_follow_from_the_schedules(rows, name, paper, true, macs):
    row = rows[name]
    assert (round(row.paper_ratio, 2), round(row.true_ratio, 2), round(row.macs_ratio, 2)) == (paper, true, macs)


def test_filters_are_floors_and_the_last_convolution_stays(rows):
    assert rows["alexnet-c10"].filters == (57, 172, 230, 153, 256)
    assert rows["vgg16-c10"].filters == (12, 32, 25, 64, 51, 102, 128, 256, 256, 307, 256, 204, 512)
    assert rows["alexnet-c10"].dense_bytes == 4 * (61_100_840 - 990 * 4097)
    assert rows["alexnet-c10"].stored_bytes == 59_767_404
    assert all(len(set(s.order)) == len(s.order) for s in SCHEDULES.values())


def test_the_table_says_what_the_papers_accounting_leaves_out(tmp_path):
    dense, small = (
        {"name": "dense", "bytes": 1000, "macs": 50},
        {"name": "int8", "bytes": 40, "macs": 10, "drop": 0.002},
    )
    (tmp_path / "demo-2026-01-01.json").write_text(json.dumps({"rows": [[dense, small]]}))
    again = {**small, "bytes": 60, "drop": 0.004}
    (tmp_path / "seeds-2026-01-01.json").write_text(json.dumps({"rows": [[dense, small], [dense, again]]}))
    (tmp_path / "other-2026-01-01.json").write_text(json.dumps({"speedup": 3.0}))
    reached = {"dense_bytes": 1000, "bytes": 20, "macs": [50, 10], "test_drop": {"file_below_dense": [0.5, 0.1, 0.9]}}
    other = {**reached, "bytes": 40, "test_drop": {"file_below_dense": [0.7, 0.2, 1.2]}}
    (tmp_path / "reach-2026-01-01.json").write_text(
        json.dumps({"rows": {"net_bytes-0": reached, "half-0": reached, "net_bytes-1": other}})
    )
    result = CliRunner().invoke(app, ["bench", "tables", "--network", "alexnet", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    for words in ("paper accounting", "true bytes", "47.28x", "3.82x", "leaves out", "25.00x", "+0.20"):
        assert words in result.output
    assert "vgg16" not in result.output
    _, several, one, seeds = own_rows(tmp_path)
    assert (several["name"], several["seeds"], several["bytes"]) == ("net_bytes", 2, 30)
    assert several["points_below_dense"][0] == pytest.approx(0.6)
    assert (one["name"], one["seeds"], one["points_below_dense"]) == ("half", 1, [0.5, 0.1, 0.9])
    assert (seeds["seeds"], seeds["bytes"], seeds["macs_ratio"]) == (2, 50, 5.0)
    mean, low, high = seeds["points_below_dense"]
    assert low < 0.2 < mean < 0.4 < high
    assert mean == pytest.approx(0.3)


def test_seeds_that_all_say_the_same_give_no_interval(tmp_path):
    reached = {"dense_bytes": 1000, "bytes": 20, "macs": [50, 10], "test_drop": {"file_below_dense": [0.7, 0.1, 0.9]}}
    (tmp_path / "reach-2026-01-01.json").write_text(json.dumps({"rows": {f"net-{seed}": reached for seed in range(3)}}))
    (row,) = own_rows(tmp_path)
    assert (row["seeds"], row["points_below_dense"]) == (3, [pytest.approx(0.7)])
    result = CliRunner().invoke(app, ["bench", "tables", "--network", "alexnet", "--results", str(tmp_path)])
    assert "+0.70" in result.output
    assert "+0.70 [" not in result.output


def test_the_cpu_seconds_of_a_row_are_those_of_all_its_calls(tmp_path, monkeypatch):
    root = Path(__file__).parent.parent
    spec = importlib.util.spec_from_file_location("reach_benchmark", root / "benchmarks" / "reach.py")
    reach = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])  # it puts its own in place
    monkeypatch.setitem(sys.modules, spec.name, reach)  # where its dataclasses look themselves up
    spec.loader.exec_module(reach)
    now = [100.0]
    monkeypatch.setattr(reach.time, "process_time", lambda: now[0])
    for ends in (KeyboardInterrupt, RuntimeError, None):
        with pytest.raises(ends) if ends else nullcontext(), reach.spending(tmp_path / "row-0") as spent:
            now[0] += 5
            if ends:
                raise ends
        now[0] = 0.0 if ends else now[0]  # the next call is another process
    assert spent() == 15


def test_bad_input(tmp_path):
    with pytest.raises(LamellaError, match="unknown network 'vgg'; did you mean 'vgg16'"):
        published("vgg")
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(LamellaError, match=r"demo\.json: cannot be read as a result file"):
        list(own_rows(tmp_path))
