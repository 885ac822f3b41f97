"""The record of a width search: round trip, and nonsense is refused with its path."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from accordion_records import accordion
from rich.console import Console

from lamella.accordions.closing import unvaried
from lamella.errors import RecordError
from lamella.records import dumps, from_plain, loads, save_record, to_plain
from lamella.reporting import write_report
from lamella.schema import Accordion, Score, Standardization
from lamella.views import accordion_view


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


def test_what_is_the_same_from_every_seed_gets_no_interval_and_no_verdict(tmp_path):
    found, even = accordion(), Score(value=0.8, low=0.8, high=0.8 + 1e-16, n=2)
    baseline, winner, *controls = found.entries
    winner = replace(
        winner, test={**winner.test, "f1": even}, below={"f1": replace(even, value=-0.1, low=-0.1, high=-0.1)}
    )
    differences = [replace(found.comparisons[0], difference=even), *found.comparisons[1:]]
    assert differences[0].verdict == "open"
    assert replace(differences[0], difference=replace(even, low=0.79, high=0.81)).verdict == "better"
    entries = (baseline, winner, *controls)
    told = tuple(unvaried("f1", entries, differences))
    assert told[0] == f"{winner.name}: the same test f1 from all 5 seeds, so there is no interval to give."
    assert told[1].startswith(f"{differences[0].against}: the same difference to the winner from all 5 seeds")
    assert tuple(unvaried("f1", found.entries, found.comparisons)) == ()
    twin = replace(winner, name="twin", role="control")
    assert "twin: the winner's widths and scores" in tuple(unvaried("f1", (*entries, twin), ()))[1]

    even_one = replace(found, entries=entries, comparisons=tuple(differences), files=())
    save_record(tmp_path / "accordion.json", even_one)
    console = Console(width=250)
    with console.capture() as printed:
        console.print(accordion_view(even_one, ""))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert f"against {differences[0].against}: +80.00 points, open" in printed.get()
    for alone in ("80.0", "-10.0"):
        assert f"{alone} " in printed.get()
        assert f"{alone} [" not in printed.get()
    assert "+0.800: <strong>open" in page
    assert "0.800 to 0.800" not in page


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
