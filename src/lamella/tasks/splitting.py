"""How the rows of a labelled table become training, validation and test rows, and how many rows of the real stream each stands for.

    parts = SPLITS["time"](Stream(path, table, FRAUD, labels))
    parts.train, parts.validation, parts.test            # row numbers; parts.weights: rows a day, per row

A new way to split is one function and one row of `SPLITS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .tables import Table

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
DAY = 86_400.0
TRAIN, VALIDATION = 0.6, 0.2  # of the clean rows; the rest is test


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns of a table mean. `label`: 1 for an anomaly, 0 for a clean row. `time`: seconds, never an input.

    `inputs`: those expected (default: all that are left). `ignore`: columns to leave out, which may hold anything. `clean`: how
    many clean rows the whole set has, where the file may hold a sample of them.
    """

    label: str = "label"
    time: str | None = None
    inputs: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    clean: int | None = None

    def __post_init__(self) -> None:
        for option in ("label", "time"):
            name = getattr(self, option)
            if name in self.ignore:
                raise DataError(f"column {name!r} is the {option} column, which is no input: leave it out of ignore=.")


FRAUD = Columns(  # the ULB set (Dal Pozzolo et al. 2015): 284,807 card payments of two days, 492 of them frauds
    label="Class", time="Time", inputs=(*(f"V{i}" for i in range(1, 29)), "Amount"), clean=284_315
)


@dataclass(frozen=True, slots=True)
class Stream:
    """A labelled table in its order, and how much of the real stream it is."""

    path: Path
    table: Table
    columns: Columns
    labels: Rows

    @property
    def factor(self) -> float:
        """How many clean rows of the stream each clean row of the file stands for."""
        return (self.columns.clean or 0) / self.clean_rows if self.columns.clean else 1.0

    @property
    def clean_rows(self) -> int:
        return int((self.labels == 0).sum())

    @property
    def times(self) -> Floats | None:
        return self.table.column(self.columns.time) if self.columns.time else None

    def days(self, part: Rows | slice = slice(None)) -> float:
        """Days that rows span; one where there is no time."""
        times_N = self.times
        return max(float(np.ptp(times_N[part])) / DAY, 1 / DAY) if times_N is not None else 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Row numbers of every split, how many rows a day each row stands for in its split, and what a reader must know."""

    train: Rows
    validation: Rows
    test: Rows
    weights: Floats
    notes: tuple[str, ...]


def _random(stream: Stream) -> Parts:
    """Clean rows 60/20/20; anomalies half to validation and half to test, since training has no use for them."""
    chance = np.random.default_rng(0)
    clean, odd = (chance.permutation(np.flatnonzero(stream.labels == label)) for label in (0, 1))
    a, b = round(TRAIN * len(clean)), round((TRAIN + VALIDATION) * len(clean))
    half = len(odd) // 2
    held, test = np.concatenate([clean[a:b], odd[:half]]), np.concatenate([clean[b:], odd[half:]])
    weights_N, days = np.zeros(len(stream.labels)), stream.days()
    for part in (held, test):
        _check_both(stream, part)
        labels = stream.labels[part]
        daily = {0: stream.factor * len(clean) / days, 1: len(odd) / days}
        for label in (0, 1):
            weights_N[part[labels == label]] = daily[label] / (labels == label).sum()
    note = (
        "split at random: clean rows 60/20/20 for training, validation and test, anomalies half each to validation and test; "
        "every split is weighted to the rate of the whole set."
    )
    return Parts(clean[:a], held, test, weights_N, (note, *_rate_notes(stream)))


def _by_time(stream: Stream) -> Parts:
    """The first 60 % of rows in time train (the clean ones), the next 20 % validate, the last 20 % test."""
    times_N = stream.times
    if times_N is None:
        raise DataError(
            f"{stream.path}: a split by time needs a time column. Name it (--option time=COLUMN, in Python Columns(time=...)), or split "
            "at random."
        )
    order = np.argsort(times_N, kind="stable")
    clean_so_far = np.cumsum(stream.labels[order] == 0) / stream.clean_rows
    a, b = (int(np.searchsorted(clean_so_far, share)) for share in (TRAIN, TRAIN + VALIDATION))
    train, held, test = order[:a], order[a:b], order[b:]
    weights_N = np.zeros(len(order))
    for part in (held, test):
        _check_both(stream, part)
        weights_N[part] = np.where(stream.labels[part] == 0, stream.factor, 1.0) / stream.days(part)
    note = "split by time: the first 60 % of clean rows train, the next 20 % validate, the last 20 % test; frauds lie where they fell."
    return Parts(train, held, test, weights_N, (note.replace("frauds", "anomalies"), *_rate_notes(stream)))


def _rate_notes(stream: Stream) -> tuple[str, ...]:
    notes = []
    if abs(stream.factor - 1) > 1e-9:
        notes.append(
            f"the file holds {stream.clean_rows:,} of {stream.columns.clean:,} clean rows: each is weighted by {stream.factor:.2f} in "
            "every metric, so precision and alarms are those of the natural rate."
        )
    if stream.columns.time is None:
        notes.append("there is no time column: the whole table counts as one day.")
    return tuple(notes)


def _check_both(stream: Stream, part: Rows) -> None:
    count = int(stream.labels[part].sum())
    if count == 0 or count == len(part):
        what = "no anomaly (label 1)" if count == 0 else "no clean row (label 0)"
        raise DataError(
            f"{stream.path}: a split of {len(part):,} rows holds {what}; both kinds were expected. Give more rows, or split the other way "
            f"({' or '.join(SPLITS)})."
        )


SPLITS: dict[str, Callable[[Stream], Parts]] = {"random": _random, "time": _by_time}
