"""Elastic networks as tables for the terminal: the levels of a family, and how they served. No torch here.

family_view(family), serving_view(family, found)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import Group as Stack
from rich.table import Table as Grid
from rich.text import Text

from ..schema import Family, Level, Score
from .runs import short


def family_view(family: Family) -> Stack:
    """A row per level, and what the family weighs."""
    table = _grid("level", "params", "MACs", "bytes", "validation", "test", "latency", "copied")
    for level in family.levels:
        table.add_row(*_level_cells(level))
    share = 100 * (family.file_bytes / family.largest_bytes - 1) if family.largest_bytes else 0.0
    lines = [f"{family.recipe}, {family.epochs} epochs; safetensors: {share:+.1f} % of the largest level alone"]
    largest = family.levels[-1].bytes
    if family.onnx_bytes and largest:
        lines[0] += f"; ONNX: {100 * (family.onnx_bytes / largest - 1):+.1f} %"
    return Stack(table, Text("; ".join(lines)), *(Text(f"note: {note}") for note in family.notes))


def _level_cells(level: Level) -> tuple[str, ...]:
    return (
        level.name + (f" ({min(level.bits.values())} bits)" if level.bits else ""),
        f"{level.params:,}",
        short(level.macs),
        f"{level.bytes:,}" if level.bytes else "",
        _scored(level.validation),
        _scored(level.test),
        f"{level.latency_ms:.3f} ms, {level.latency_ratio:.2f}x" if level.latency_ms and level.latency_ratio else "",
        f"{level.gathered:,}",
    )


def _scored(score: Score | None) -> str:
    return f"{100 * score.value:.2f} [{100 * score.low:.2f}, {100 * score.high:.2f}]" if score else ""


def serving_view(family: Family, found: Mapping[str, Any]) -> Stack:
    """The levels in the precision served, with this moment's times; what switching under load showed, and the day."""
    as_served = family.in_integers() if found["precision"] == "int8" else family
    as_served = replace(as_served, levels=found["levels"])
    switching, day = found["switching"], found["day"]
    table = _grid("all day", "right", "in time", "right, in time", "median", "99 %", "switches", "requests per level")
    for shift in day["shifts"]:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shift.shares.items() if share)
        table.add_row(
            shift.name,
            f"{100 * shift.score:.2f} %",
            f"{100 * shift.in_time:.1f} %",
            f"{100 * shift.right_in_time:.2f} %",
            f"{shift.median_ms:.2f} ms",
            f"{shift.p99_ms:.2f} ms",
            str(shift.switches),
            shares,
        )
    line = (
        f"{switching.switches} switches during {switching.requests:,} requests: median {switching.median_us:.1f} us, longest "
        f"{switching.longest_us:.0f} us, {switching.wrong} answers that no level gives."
    )
    note = f"In time: within {day['deadline_ms']:.2f} ms, waiting included."
    warned = (Text(text) for text in found["notes"])
    return Stack(family_view(as_served), Text(), Text(line), Text(), table, Text(note), *warned)


def _grid(*columns: str) -> Grid:
    table = Grid(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table
