"""Ready-made tasks: real data in its official files, split, normalized and batched.

    task = make_task("digits")                                            # offline, from scikit-learn
    task = make_task("cifar10", "data/cifar-10-batches-bin")              # the official binary files
    task = make_task("cifar10", "data", validation="test_even")           # for weights trained on all training images
    task = make_task("fraud", "creditcard.csv", validation="time")        # the official table: anomalies to be detected
    task = make_task("table", "machines.csv", columns=Columns(label="failed", ignore=("id",)))

Pictures are told apart by class; tables are learned by heart (`tables` reads them, `splitting` divides them, `detection` makes
the task).
"""

from pathlib import Path

from ..errors import DataError, LamellaError, unknown_name
from ..training import Task
from .detection import detection_task
from .images import (
    TASKS,
    VALIDATIONS,
    Prepare,
    Source,
    image_task,
    mirrored,
    shifted,
    stratified_order,
)
from .splitting import FRAUD, SPLITS, Columns
from .tables import Table, read_table

TABLES: dict[str, Columns] = {"fraud": FRAUD, "table": Columns()}


def make_task(
    name: str,
    data: str | Path | None = None,
    *,
    seed: int = 0,
    batch_size: int = 128,
    limit: int | None = None,
    validation: str | None = None,
    columns: Columns | None = None,
) -> Task:
    """A ready-made task: digits, mnist, cifar10 or cifar100 from the directory `data`; fraud or any table from the file `data`.

    `seed` orders the calibration batches (splits never depend on it), `limit` keeps the first so many samples of every
    split. `validation` is "heldout" (the last training images) or "test_even" (for weights that have seen all of those);
    for tables "random" or "time". `columns` says what the columns of a table mean.
    """
    kinds = SPLITS if name in TABLES else VALIDATIONS
    if name not in TASKS and name not in TABLES:
        raise LamellaError(unknown_name("task", name, (*TASKS, *TABLES)))
    if validation is not None and validation not in kinds:
        raise LamellaError(unknown_name("validation", validation, kinds))
    if limit is not None and limit < 1:
        what = "row" if name in TABLES else "image"
        raise DataError(f"task {name!r}: limit={limit} leaves no {what}; at least 1 was expected, or None for all.")
    path = None if data is None else Path(data)
    options = {"seed": seed, "batch_size": batch_size, "limit": limit}
    if name in TABLES:
        return detection_task(name, path, columns or TABLES[name], split=validation or "random", **options)  # type: ignore[arg-type]
    if columns is not None:
        raise LamellaError(f"task {name!r} has pictures, and no columns; columns= is for tables: {', '.join(TABLES)}.")
    return image_task(name, path, validation=validation or "heldout", **options)  # type: ignore[arg-type]


__all__ = [
    "FRAUD",
    "SPLITS",
    "TABLES",
    "TASKS",
    "VALIDATIONS",
    "Columns",
    "Prepare",
    "Source",
    "Table",
    "make_task",
    "mirrored",
    "read_table",
    "shifted",
    "stratified_order",
]
