"""The search of an accordion as tables for the terminal. No torch here."""

from typing import Literal

from rich.console import Group as Stack
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from ..schema import Accordion, Entry, Metric, Score
from ..texts import figure
from .grids import grid

OWN: Metric = "score"


def accordion_view(found: Accordion, place: str = "") -> Stack:
    """What every pair was given, the closing table with its controls, the winner against each of them, the files."""
    sweeps = grid("layers", "chosen", f"{found.metric} on validation at each width")
    for sweep in found.sweeps:
        curve = "  ".join(
            f"{width}: {figure(shape.validation.value, found.metric, 1)}{'*' if shape.dropped else ''}"
            for width, shape in zip(sweep.candidates, sweep.shapes, strict=True)
        )
        sweeps.add_row(" & ".join(str(i + 1) for i in sweep.layers), str(sweep.width), curve)
    shown = [m for m in found.entries[0].test if m in ("f1", "pr_auc", "roc_auc", "accuracy", "score")]
    shown = [m for m in shown if m != "accuracy" or len(found.entries[0].test) == 1]
    closing = grid("", "widths", "params", *(f"{m} [95 %]" for m in shown), f"{found.metric} below baseline")
    for entry in found.entries:
        closing.add_row(*_entry_cells(entry, shown, found.metric))
    files = grid("file", "bytes", "latency", *shown)
    for file in found.files:
        cells = [figure(file.test[m], m, 1) for m in shown]
        files.add_row(file.name, f"{file.bytes:,}", f"{file.latency_ratio:.2f}x", *cells)
    verdicts = [
        f"against {c.against}: {_difference(c.difference, found.metric, 2, ' points')}, {c.verdict}"
        for c in found.comparisons
    ]
    stopped = (
        ["* stopped early: it had clearly lost."] if any(s.dropped for w in found.sweeps for s in w.shapes) else []
    )
    counts = f"n = {found.n_train:,} training, {found.n_validation:,} validation, {found.n_test:,} test; {len(found.seeds)} seeds."
    notes = [f"- {note}" for note in (counts, *found.notes)]
    head = Text(f"The winner's test {found.metric}:")
    parts: list[Grid | Text] = [sweeps, *map(Text, stopped), Text()] if found.sweeps else []
    return Stack(
        *parts,
        closing,
        Text(),
        head,
        *map(Text, verdicts),
        Text(),
        files,
        *map(Text, notes),
        *([Text(place)] if place else []),
    )


def _entry_cells(entry: Entry, shown: list[str], metric: str) -> list[str]:
    tests = [(name, entry.test[name]) for name in shown]
    scores = [f"{figure(s.value, m, 1)}{_between(s, m, 1)}" for m, s in tests]
    below = entry.below.get(metric)
    drop = "" if below is None else _difference(below, metric, 1)
    return [escape(entry.name), "-".join(map(str, entry.widths)), f"{entry.params:,}", *scores, drop]


def _difference(score: Score, metric: str, digits: int, unit: str = "") -> str:
    return f"{figure(score.value, metric, digits, '+')}{'' if metric == OWN else unit}{_between(score, metric, digits, '+')}"


def _between(score: Score, metric: str, digits: int, sign: Literal["", "+"] = "") -> str:
    """The interval, where there is one."""
    low, high = (figure(each, metric, digits, sign) for each in (score.low, score.high))
    return f" [{low}, {high}]" if score.has_width else ""
