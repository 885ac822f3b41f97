"""Files as tables for the terminal: what they weigh, score and take. No torch here.

table_view(table, files), files_view(facts), formats_view(facts), published_view(rows, own, notes)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group as Stack
from rich.markup import escape
from rich.text import Text

from ..published import Accounting
from ..schema import Row, Table
from ..texts import short, told, told_between
from .grids import grid


def table_view(table: Table, files: Mapping[str, str]) -> Stack:
    """The closing table of a run, its notes, and where its files lie."""
    rows = grid("", "valid. %", "test %", "below dense [95 %]", "params", "MACs", "bytes", "smaller", "latency")
    for row in table.rows:
        rows.add_row(*_row_cells(row, table.rows[0]))
    notes = Text(
        "\n".join(
            f"- {note}" for note in (f"n = {table.n_validation:,} validation, {table.n_test:,} test.", *table.notes)
        )
    )
    places = Text("\n".join(f"{name:<11}{path}" for name, path in files.items()))
    return Stack(rows, notes, places)


def _row_cells(row: Row, dense: Row) -> list[str]:
    drop = ""
    if row.drop is not None and row.drop_low is not None and row.drop_high is not None:
        drop = f"{100 * row.drop:+.2f} [{100 * row.drop_low:.1f}, {100 * row.drop_high:.1f}]"
    latency = "" if row.latency_ratio is None else f"{row.latency_ratio:.2f}x"
    scores = (f"{100 * row.validation_accuracy:.2f}", f"{100 * row.test_accuracy:.2f}")
    sizes = (short(row.params), short(row.macs), short(row.bytes), f"{dense.bytes / row.bytes:.1f}x")
    return [row.name, *scores, drop, *sizes, latency]


def files_view(facts: Mapping[str, Any]) -> Stack:
    """What the exported files weigh, score and take."""
    classes = facts["classes"]
    table = grid("file", "bytes", "validation", "latency")
    for fact in facts["files"]:
        score = fact["validation_accuracy"]
        cells = (f"{fact['bytes']:,}", told(score, "accuracy" if classes else "score"), _ratio(fact))
        table.add_row(escape(fact["path"]), *cells)
    same = Text(f"- {facts['written']} and its simulation: {_alike(facts)}")
    return Stack(table, same, *(Text(f"- {note}") for note in facts["notes"]))


def _alike(facts: Mapping[str, Any]) -> str:
    """How far two answer the same: by class where they give classes, else by their scores."""
    if "agreement" not in facts:
        return f"scores of a validation sample {facts['apart']:.2g} apart in the mean"
    between = told_between(*(facts[name] for name in ("agreement", "agreement_low", "agreement_high")))
    return f"{between} of {facts['samples']:,} validation samples in the same class"


def _ratio(times: Mapping[str, Any]) -> str:
    if times["ratio"] == times["ratio_low"] == times["ratio_high"]:
        return f"{times['ratio']:.2f}x"
    return f"{times['ratio']:.2f}x [{times['ratio_low']:.2f}, {times['ratio_high']:.2f}]"


def formats_view(facts: Mapping[str, Any]) -> Stack:
    """What the files of every format weigh and take, as a ratio to dense of the same format, and how far converted integers answer
    as the file that they were made from.
    """
    files = facts["files"]
    table = grid("file", "format", "bytes", "smaller", "ms", "latency")
    for file in files:
        dense = next(f for f in files if f["format"] == file["format"] and f["variant"] == "dense")
        sizes = (f"{file['bytes']:,}", f"{dense['bytes'] / file['bytes']:.1f}x")
        table.add_row(escape(file["path"]), file["format"], *sizes, f"{file['latency_ms']:.3f}", _ratio(file))
    told = "latency: one thread, batch of the example inputs, in the format's own runtime, as a ratio to dense float32 there"
    same = (f"{each['path']} and {each['source']}: {_alike(each)}" for each in facts["alike"])
    lines = (f"{told}, with its 95 % interval; the formats' milliseconds are of separate runs.", *same, *facts["notes"])
    return Stack(table, *(Text(f"- {line}") for line in lines))


def published_view(rows: Sequence[Accounting], own: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Stack:
    """Published schedules in both accountings, and our own results in true bytes alone."""
    table = grid("published", "paper accounting", "true bytes", "MACs", "stored bytes", "filters kept")
    for row in rows:
        ratios = (f"{row.paper_ratio:.2f}x", f"{row.true_ratio:.2f}x", f"{row.macs_ratio:.2f}x")
        table.add_row(row.name, *ratios, f"{row.stored_bytes:,}", " ".join(map(str, row.filters)))
    parts: list[Any] = [table]
    if own:
        ours = grid("our own", "what", "seeds", "true bytes", "MACs", "file bytes", "points below dense [95 %]")
        for each in own:
            macs = "" if each["macs_ratio"] is None else f"{each['macs_ratio']:.2f}x"
            drop, *ends = each["points_below_dense"]
            between = " [{:+.2f}, {:+.2f}]".format(*ends) if ends else ""
            cells = (
                f"{each['true_ratio']:.2f}x",
                macs,
                f"{each['bytes']:,}",
                "" if drop is None else f"{drop:+.2f}{between}",
            )
            ours.add_row(escape(each["result"]), escape(each["name"]), str(each["seeds"]), *cells)
        parts += [Text(), ours]
    return Stack(*parts, *(Text(f"- {note}") for note in notes))
