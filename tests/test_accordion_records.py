"""The record of a width search: round trip, and nonsense is refused with its path."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from accordion_records import accordion

from lamella.errors import RecordError
from lamella.records import dumps, from_plain, loads, to_plain
from lamella.schema import Accordion, Standardization


def test_the_record_survives_the_file():
    found = accordion()
    assert loads(dumps(found), Accordion) == found
    assert found.entry("winner").widths == (4, 2, 6, 2, 6, 2, 4)
    assert found.sweeps[0].candidates == (2, 4, 6, 8, 12, 16)
    assert {c.verdict for c in found.comparisons} == {"better", "open"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("tried", 0, "widths"), [4, 0, 4], r"tried\[0\].widths: \(4, 0, 4\)"),
        (("tried", 0, "params"), 0, r"tried\[0\].params: 0 is not"),
        (("sweeps", 1, "width"), 3, r"sweeps\[1\].width: 3 is not among the candidates"),
        (("entries", 0, "role"), "winner", "entries: exactly one baseline"),
        (("entries", 1, "test", "f1", "high"), 0.1, r"entries\[1\].test\['f1'\].value"),
    ],
)
def test_nonsense_is_refused_with_its_path(path, value, words):
    plain = to_plain(accordion())
    inner = plain
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(RecordError, match=words):
        from_plain(plain, Accordion)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": (0.0,)}, "mean: 1 numbers for 2 columns"),
        ({"std": (1.0, 2.0, 3.0)}, "std: 3 numbers for 2 columns"),
        ({"std": (1.0, 0.0)}, "std: 0.0 of column 'b' is not a positive number"),
    ],
)
def test_inputs_that_cannot_be_made_are_refused(change, words):
    good = Standardization(columns=("a", "b"), mean=(0.0, 1.0), std=(1.0, 2.0), thresholds={"winner.onnx": 0.5})
    assert loads(dumps(good), Standardization) == good
    with pytest.raises(RecordError, match=words):
        replace(good, **change)


def test_two_winners_are_one_too_many():
    found = accordion()
    with pytest.raises(RecordError, match="exactly one winner"):
        replace(found, entries=(*found.entries, found.entry("winner")))


def test_the_documented_tables_are_the_latest_result():
    root = Path(__file__).parent.parent
    spec = importlib.util.spec_from_file_location("accordion_benchmark", root / "benchmarks" / "accordion.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    result = json.loads(sorted((root / "benchmarks" / "results").glob("accordion-*.json"))[-1].read_text())
    told = (root / "docs" / "accordions.md").read_text()
    assert benchmark.table(result["fraud"], ("f1", "pr_auc")) in told
    assert benchmark.table(result["mnist"], ("accuracy",)) in told
