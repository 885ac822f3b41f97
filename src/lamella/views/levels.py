"""Elastic networks as tables for the terminal: the levels of a family, and how they served. No torch here.

family_view(family), serving_view(family, found)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import Group as Stack
from rich.table import Table as Grid
from rich.text import Text

from ..schema import Family, Level, Metric, Score
from ..texts import counted, figure, percent, short, told, told_bits
from .grids import grid


def family_view(family: Family, metric: Metric = "accuracy") -> Stack:
    """A row per level, a row per level's file in integers, and what the family weighs."""
    tables = [_levels_table(family, metric)]
    if any(level.int8_bytes for level in family.levels):
        tables.append(_integers_table(family.in_integers(), metric))
    return Stack(*tables, *_family_lines(family))


def _levels_table(family: Family, metric: Metric) -> Grid:
    unit = _unit(family, metric)
    table = grid("level", "params", "MACs", "bytes", f"validation{unit}", f"test{unit}", "latency", "copied")
    for level in family.levels:
        table.add_row(*_level_cells(level, unit))
    return table


def _unit(family: Family, metric: Metric) -> str:
    """Accuracies are shown in per cent; scores of a task's own stand as they are."""
    scores = [score for x in family.levels for score in (x.validation, x.test) if score]
    return " %" if metric == "accuracy" and all(0 <= score.value <= 1 for score in scores) else ""


def _integers_table(family: Family, metric: Metric) -> Grid:
    unit = _unit(family, metric)
    table = grid("in int8", "bytes", f"validation{unit}", f"test{unit}", "latency")
    for level in family.levels:
        table.add_row(level.name, *_file_cells(level, unit))
    return table


def _family_lines(family: Family) -> list[Text]:
    share = 100 * (family.file_bytes / family.largest_bytes - 1) if family.largest_bytes else 0.0
    line = f"{family.method}, {counted(family.epochs, 'epoch')}; all levels against the largest alone: safetensors {share:+.1f} %"
    for name, whole, largest in (
        ("ONNX", family.onnx_bytes, family.levels[-1].bytes),
        ("ONNX int8", family.int8_bytes, family.levels[-1].int8_bytes),
    ):
        line += f", {name} {100 * (whole / largest - 1):+.1f} %" if whole and largest else ""
    scores = [score for level in family.levels if (score := level.test or level.validation)]
    samples = f"; scores with 95 % intervals, n = {scores[0].n:,}" if scores else ""
    return [Text(line + samples), *(Text(f"note: {note}") for note in family.notes)]


def _level_cells(level: Level, unit: str) -> tuple[str, ...]:
    return (
        level.name + (f" ({told_bits(level.bits.values())})" if level.bits else ""),
        f"{level.params:,}",
        short(level.macs),
        *_file_cells(level, unit),
        f"{level.gathered:,}",
    )


def _file_cells(level: Level, unit: str) -> tuple[str, ...]:
    return (
        f"{level.bytes:,}" if level.bytes else "",
        _scored(level.validation, unit),
        _scored(level.test, unit),
        f"{level.latency_ms:.3f} ms, {level.latency_ratio:.2f}x" if level.latency_ms and level.latency_ratio else "",
    )


def _scored(score: Score | None, unit: str) -> str:
    if score is None:
        return ""
    value, low, high = (figure(x, "accuracy" if unit else "score") for x in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"


def serving_view(family: Family, found: Mapping[str, Any], metric: Metric = "accuracy") -> Stack:
    """The levels in the precision served, with this moment's times; what switching under load showed, and the day."""
    as_served = family.in_integers() if found["precision"] == "int8" else family
    as_served = replace(as_served, levels=found["levels"])
    switching, day = found["switching"], found["day"]
    classes = metric == "accuracy"
    heads = ("right", "in time", "right, in time") if classes else ("score", "in time")
    table = grid("all day", *heads, "median", "99 %", "switches", "requests per level")
    for shift in day["shifts"]:
        shares = ", ".join(f"{name} {percent(share, 0)}" for name, share in shift.shares.items() if share)
        # Half a score makes no sense: late is no answer.
        both = (percent(shift.right_in_time),) if classes else ()
        scores = (told(shift.score, metric), percent(shift.in_time, 1), *both)
        times = (f"{shift.median_ms:.2f} ms", f"{shift.p99_ms:.2f} ms")
        table.add_row(shift.name, *scores, *times, str(shift.switches), shares)
    line = (
        f"{switching.switches} switches during {switching.requests:,} requests: median {switching.median_us:.1f} us, longest "
        f"{switching.longest_us:.0f} us, {switching.wrong} answers that no level gives."
    )
    note = f"In time: within {day['deadline_ms']:.2f} ms, waiting included."
    warned = (Text(text) for text in found["notes"])
    levels: tuple[Any, ...] = (_levels_table(as_served, metric), *_family_lines(as_served))
    return Stack(*levels, Text(), Text(line), Text(), table, Text(note), *warned)
