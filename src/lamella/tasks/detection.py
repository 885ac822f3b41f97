"""Anomaly detection on a table: a network learns to copy clean rows, and what it copies badly is an anomaly.

    task = detection_task("fraud", Path("creditcard.csv"), FRAUD, split="time", seed=0, batch_size=128, limit=None)
    rows, targets = next(iter(task.validation))          # targets: {"rows", "labels", "weights"}

Inputs are standardized by the clean training rows alone. The score of a row is 1 / (1 + d), d the mean absolute deviation
of its copy: 1 for a perfect copy, low for an anomaly. `labels` are 1 for anomalies; `weights` say how many rows a day each row
stands for, so that rates and alarms are those of the whole stream even where a file holds a sample of the clean rows.
Shapes: N rows, D inputs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ..errors import DataError, unknown_name
from ..schema import FILES, Standardization
from ..training import Batches, Task
from .splitting import SPLITS, Columns, Floats, Rows, Stream
from .tables import Table, read_table

STANDARDIZED = (
    "rows are standardized by the clean training rows, and exported files take them so: columns, means, standard deviations and each "
    f"file's threshold are in {FILES['inputs'][0]} of a width search's run (in Python, Task.standardization)."
)


def reconstruction_loss(outputs_ND: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Mean squared deviation of the copy."""
    return mse_loss(outputs_ND, targets["rows"])


def reconstruction_score(outputs_ND: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """1 / (1 + mean absolute deviation) of every row's copy, (N,), in (0, 1]."""
    return 1 / (1 + (outputs_ND.double() - targets["rows"].double()).abs().mean(1))


def detection_task(
    name: str, path: Path | None, columns: Columns, *, split: str, seed: int, batch_size: int, limit: int | None
) -> Task:
    """A Task from a table file. DataError for whatever a network cannot learn from, with the column."""
    if path is None:
        raise DataError(
            f"task {name!r}: no file was named. Name a .csv, .parquet or .npz with a row per sample in data= (--data)."
        )
    table = read_table(path, columns.ignore)
    _check_named(path, table, columns)
    labels_N = _labels(path, table.column(columns.label))
    names = _inputs(path, table, columns)
    parts = SPLITS[split](Stream(path, table, columns, labels_N))
    rows_ND = table.columns(names)
    clean = parts.train[labels_N[parts.train] == 0]
    _check_spread(path, names, rows_ND[clean])
    mean_D, std_D = rows_ND[clean].mean(0), rows_ND[clean].std(0)
    scaled = torch.from_numpy(((rows_ND - mean_D) / std_D).astype(np.float32))
    shared = {"batch_size": batch_size}
    cut = slice(limit)
    ones = np.ones(len(labels_N))
    train = _batches(scaled, labels_N, ones, clean[cut], shuffle=True, **shared)
    calibration = _batches(scaled, labels_N, ones, clean[cut], shuffle=True, seed=seed, **shared)
    judged = [
        _first(_sorted(part, labels_N), labels_N, parts.weights, limit) for part in (parts.validation, parts.test)
    ]
    held, test = (_batches(scaled, labels_N, weights_N, part, **shared) for weights_N, part in judged)
    return Task(
        (scaled[parts.validation[:1]],),
        train=train,
        validation=held,
        test=test,
        calibration=calibration,
        loss=reconstruction_loss,
        score=reconstruction_score,
        name=name,
        notes=(*parts.notes, STANDARDIZED),
        standardization=Standardization(columns=names, mean=tuple(mean_D.tolist()), std=tuple(std_D.tolist())),
    )


def _sorted(part: Rows, labels_N: Rows) -> Rows:
    """The rows of a split with anomalies spread evenly, so that its first rows are a small picture of it."""
    order = np.empty(len(part))
    for label in (0, 1):
        members = np.flatnonzero(labels_N[part] == label)
        order[members] = (np.arange(len(members)) + 0.5) / max(1, len(members))
    return part[np.argsort(order, kind="stable")]


def _first(part: Rows, labels_N: Rows, weights_N: Floats, limit: int | None) -> tuple[Floats, Rows]:
    """Weights and row numbers of a split's first rows: those of a label stand for as many rows a day as all of it in the split."""
    kept, scaled_N = part[:limit], weights_N.copy()
    for label in (0, 1):
        whole, left = (rows[labels_N[rows] == label] for rows in (part, kept))
        if len(left):
            scaled_N[left] *= weights_N[whole].sum() / weights_N[left].sum()
    return scaled_N, kept


def _batches(scaled: Tensor, labels_N: Rows, weights_N: Floats, part: Rows, **options: Any) -> Batches:
    rows, index = scaled[torch.from_numpy(part)], torch.from_numpy(part)
    labels, weights = torch.from_numpy(labels_N)[index], torch.from_numpy(weights_N)[index]
    return Batches(rows, {"rows": rows, "labels": labels, "weights": weights}, **options)


def _labels(path: Path, column_N: Floats) -> Rows:
    seen = np.unique(column_N)
    if not np.isin(seen, (0.0, 1.0)).all() or len(seen) != 2:
        shown = ", ".join(f"{value:g}" for value in seen[:5]) + (" ..." if len(seen) > 5 else "")
        raise DataError(
            f"{path}: the label column holds {len(seen)} classes ({shown}); two were expected, 1 for an anomaly and 0 for a clean row."
        )
    return column_N.astype(np.int64)


def _check_named(path: Path, table: Table, columns: Columns) -> None:
    """DataError for a column that is named and not there."""
    for option, name in [("label", columns.label), *([("time", columns.time)] if columns.time else [])]:
        if name not in table.names:
            raise DataError(f"{path}: {unknown_name('column', name, table.names)} Name the right one with {option}=.")


def _inputs(path: Path, table: Table, columns: Columns) -> tuple[str, ...]:
    apart = {columns.label, columns.time}
    found = tuple(name for name in table.names if name not in apart)
    if not found:
        raise DataError(f"{path}: no column is left as an input.")
    if not columns.inputs:
        return found
    absent = [name for name in columns.inputs if name not in table.names]
    extra = [name for name in found if name not in columns.inputs]
    if absent or extra:
        problem = (
            f"lacks {', '.join(map(repr, absent[:4]))}" if absent else f"has {', '.join(map(repr, extra[:4]))} besides"
        )
        raise DataError(
            f"{path}: {len(found)} inputs were found and {len(columns.inputs)} expected: it {problem}. Leave extra columns out with "
            "ignore=, or take it as task 'table'."
        )
    return columns.inputs


def _check_spread(path: Path, names: Sequence[str], clean_ND: Floats) -> None:
    # By the values themselves: rounding gives 600 times 0.1 a standard deviation of 1e-16.
    flat = [name for name, span in zip(names, np.ptp(clean_ND, axis=0), strict=True) if not span > 0]
    if flat:
        raise DataError(
            f"{path}: column {flat[0]!r} is constant over the clean training rows ({len(flat)} such columns): it tells nothing and cannot "
            f"be scaled. Leave it out with ignore={','.join(flat[:4])}."
        )
