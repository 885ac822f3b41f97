"""The facts of the page as CSV: one file per table, plain names, numbers as they were measured.

csv_files(stages, facts, prints) -> {"layers.csv": "name,kind,...", "curves.csv": ..., "steps.csv": ..., ...}
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ...schema import FILES, Accordion, Family, Profile, Result
from ...schema.schemes import file_key
from ..facts import LayerFacts
from ..prints import LayerPrint
from ..stages import Stages


def csv_files(stages: Stages, facts: Sequence[LayerFacts], prints: Sequence[LayerPrint]) -> dict[str, str]:
    found = {}
    if stages.graph:
        found["layers.csv"] = _layers(facts, prints)
    if stages.profile and stages.profile.points:
        found["curves.csv"] = _curves(stages.profile)
    if stages.result:
        found["steps.csv"] = _steps(stages.result)
    if stages.family:
        found["levels.csv"] = _levels(stages.family)
    if stages.accordion:
        found["entries.csv"] = _entries(stages.accordion)
    return found


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV. A text that a spreadsheet would take for a formula gets a quote before it; None is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


def _layers(facts: Sequence[LayerFacts], prints: Sequence[LayerPrint]) -> str:
    fields = ("name", "kind", "dense", "kept", "bits", "bytes_dense", "bytes_kept", "macs_dense", "macs_kept")
    more = ("steps", "frozen", "group", "mean_loss", "significance", "params_share", "macs_share", "memory_share")
    rows = (
        [
            *(getattr(f, name) for name in fields),
            " ".join(map(str, f.order)),
            f.frozen,
            p.group,
            p.sensitivity,
            p.significance,
            *(p.shares.get(name) for name in ("params", "macs", "memory", "latency")),
            p.traits.get("redundancy"),
            p.traits.get("field"),
        ]
        for f, p in zip(facts, prints, strict=True)
    )
    return table((*fields, *more, "latency_share", "redundancy", "receptive_field_used"), rows)


def _curves(profile: Profile) -> str:
    names = ("target", "knob", "level", "width", "score", "low", "high", "n", "seconds")
    return table(
        names,
        (
            (p.target, p.knob, p.level, p.width, p.score.value, p.score.low, p.score.high, p.score.n, p.seconds)
            for p in profile.points
        ),
    )


def _steps(result: Result) -> str:
    names = ("step", "name", "score", "low", "high", "n", "before_tuning", "predicted", "expected", "params", "macs")
    measures = [*result.history]
    if result.simulated and result.file_score:
        name = FILES[file_key(result.scheme)][0]
        measures.append(replace(result.simulated, name=name, validation=result.file_score))
    return table(
        names,
        (
            (m.step, m.name, v.value, v.low, v.high, v.n, m.before_tuning, m.predicted, m.expected, m.params, m.macs)
            for m, v in ((m, m.validation) for m in measures)
        ),
    )


def _levels(family: Family) -> str:
    names = ("name", "params", "macs", "memory", "bytes", "latency_ms", "latency_ratio", "validation", "test")
    return table(
        names,
        (
            (
                *(getattr(x, name) for name in names[:7]),
                x.validation.value if x.validation else None,
                x.test.value if x.test else None,
            )
            for x in family.levels
        ),
    )


def _entries(found: Accordion) -> str:
    metrics = sorted({name for entry in found.entries for name in entry.test})
    names = ("name", "role", "widths", "params", "validation", *(f"test_{name}" for name in metrics))
    return table(
        names,
        (
            (
                e.name,
                e.role,
                "-".join(map(str, e.widths)),
                e.params,
                e.validation.value,
                *(e.test[m].value if m in e.test else None for m in metrics),
            )
            for e in found.entries
        ),
    )
