"""Tables of numbers from files: CSV, Parquet or npz, refused with row and column where a cell is no number.

    table = read_table("creditcard.csv")          # Table(names=("Time", "V1", ...), values=(284807, 31) float64)
    table = read_table("machines.csv", ignore=("id",))                       # without a column, whatever it holds
    table.column("Class"), table.columns(("V1", "V2"))

A CSV has a line of column names; its separator is a comma, semicolon or tab, its quotes are double. An npz holds `x` (rows, columns), `y`
(labels) and `columns` (names of x). Shapes: N rows, D columns.
"""

import csv
import math
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingExtra, unknown_name

Floats = NDArray[np.float64]
MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
# An index without a name, in a CSV that pandas wrote, read and wrote again, and in Parquet.
PANDAS_INDEX = ("Unnamed: 0", "__index_level_0__")
NPZ_LABEL = "Class"  # what the labels of an npz are called as a column


@dataclass(frozen=True, slots=True)
class Table:
    """Named columns of finite numbers, (N, D)."""

    names: tuple[str, ...]
    values: Floats

    def column(self, name: str) -> Floats:
        """One column, (N,). DataError offers the nearest names."""
        if name not in self.names:
            raise DataError(unknown_name("column", name, self.names))
        return np.asarray(self.values[:, self.names.index(name)])

    def columns(self, names: Sequence[str]) -> Floats:
        """Some columns in this order, (N, len(names))."""
        return np.stack([self.column(name) for name in names], axis=1)

    def without(self, names: Collection[str]) -> "Table":
        """All other columns."""
        kept = [i for i, name in enumerate(self.names) if name not in names]
        return Table(tuple(self.names[i] for i in kept), self.values[:, kept])


def read_table(path: Path, ignore: Collection[str] = ()) -> Table:
    """The table in a file, without the columns to `ignore`, which may hold anything.

    DataError names the file and the first row and column that is not a finite number.
    """
    if not path.is_file():
        seen = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {seen}. Name a .csv, .parquet or .npz file with one row per sample.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: {path.suffix or 'no ending'} is not one of {', '.join(READERS)}. Convert it to CSV.")
    table = reader(path, ignore)
    for name in ignore:
        if name not in table.names:
            raise DataError(f"{path}: {unknown_name('column', name, table.names)} Name the right one with ignore=.")
    table = table.without(ignore)
    _check_index(path, table.names)
    if not len(table.values):
        raise DataError(f"{path}: holds no row. One row per sample was expected.")
    bad = np.argwhere(~np.isfinite(table.values))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        number = table.values[row, column]
        kind = "missing" if math.isnan(number) else str(number)
        raise DataError(
            f"{path}: row {row + 1:,}, column {table.names[column]!r} is {kind} ({len(bad):,} such cells). Every cell must be a "
            f"finite number: fill them in, leave these rows out, or the column with ignore={table.names[column]}."
        )
    return table


def _check_names(path: Path, names: Sequence[str]) -> None:
    if names and all(_number(name) is not None for name in names):
        shown = ", ".join(names[:4])
        raise DataError(
            f"{path}: the first line holds numbers ({shown} ...); a line of column names was expected. Add one."
        )
    unnamed = [number for number, name in enumerate(names, 1) if not name]
    if unnamed:
        raise DataError(
            f"{path}: column {unnamed[0]} of {len(names)} has no name. Where it is pandas' index, write the file with index=False; where "
            "the lines end in a separator, end them without. Else name it in the first line; ignore= then takes that name."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is there twice. Rename one.")


def _check_index(path: Path, names: Sequence[str]) -> None:
    for name in PANDAS_INDEX:
        if name in names:
            raise DataError(
                f"{path}: column {name!r} is pandas' index, the number of a row, which is no input. Leave it out with ignore={name}, or "
                "give it the name of what it holds."
            )


# Readers check the names, and give zeros for the columns to ignore.


def _read_csv(path: Path, ignore: Collection[str]) -> Table:
    separator = _separator(path)
    try:
        with _opened(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "input contained no data": said better by read_table
            names = tuple(name.strip() for name in next(csv.reader(file, delimiter=separator), ()))
            _check_names(path, names)
            unread: dict[int | str, Callable[[str], float]] = {
                i: _zero for i, name in enumerate(names) if name in ignore
            }
            values = np.loadtxt(file, delimiter=separator, quotechar='"', comments=None, converters=unread, ndmin=2)
    except (ValueError, csv.Error):
        raise _first_problem(path, separator, ignore) from None
    if values.size and values.shape[1] != len(names):
        raise _first_problem(path, separator, ignore)
    return Table(names, values.reshape(-1, max(1, len(names))))


def _zero(_: str) -> float:
    return 0.0


def _opened(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a text file
    return path.open(encoding="utf-8-sig", newline="")


def _separator(path: Path) -> str:
    """The likeliest of comma, semicolon and tab, by the first line."""
    try:
        with _opened(path) as file:
            line = file.readline(1_000_000)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}). A CSV file in UTF-8 was expected.") from None
    if not line.strip():
        raise DataError(f"{path}: begins with an empty line; a line of column names was expected.")
    return max(",;\t", key=line.count)


def _first_problem(path: Path, separator: str, ignore: Collection[str]) -> DataError:
    """What is wrong with a CSV, found cell by cell."""
    try:
        for number, cells, names in _rows(path, separator):
            if len(cells) != len(names):
                return DataError(
                    f"{path}: row {number:,} has {len(cells)} cells, and the first line names {len(names)} columns. "
                    "Check its separators and quotes."
                )
            for name, cell in zip(names, cells, strict=True):
                if name not in ignore and _number(cell) is None:
                    return _bad_cell(path, number, name, cell)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        return DataError(f"{path}: cannot be read as CSV ({error}). It is damaged or not a text file: export it again.")
    return DataError(f"{path}: cannot be read as a table of numbers. Export it again as plain CSV in UTF-8.")


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str], list[str]]]:
    with _opened(path) as file:
        lines = csv.reader(file, delimiter=separator)
        names = [name.strip() for name in next(lines, [])]
        for number, cells in enumerate((row for row in lines if row), 1):
            yield number, cells, names


def _bad_cell(path: Path, row: int, name: str, cell: str) -> DataError:
    if cell.strip().lower() in MISSING:
        return DataError(
            f"{path}: row {row:,}, column {name!r} is missing. Every cell must be a finite number: fill it in, leave these rows out, "
            f"or the column with ignore={name}."
        )
    shown = cell if len(cell) <= 40 else cell[:37] + "..."
    return DataError(f"{path}: row {row:,}, column {name!r} holds text ({shown!r}). {_encode(name)}")


def _encode(name: str) -> str:
    """What to do about a column of no numbers."""
    return (
        f"Every cell must be a number: encode the column as numbers (a date as seconds), or, unless it is the label or the time, leave it "
        f"out with ignore={name}."
    )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _read_parquet(path: Path, ignore: Collection[str]) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", "reading a Parquet file") from None
    try:
        found = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}). It is damaged: export it again.") from None
    _check_names(path, found.column_names)
    kinds = {field.name: field.type for field in found.schema}
    read = [name for name in kinds if name not in ignore]
    texts = [name for name in read if not (pa.types.is_floating(kinds[name]) or _whole(pa, kinds[name]))]
    if texts:
        raise DataError(f"{path}: column {texts[0]!r} holds {kinds[texts[0]]}. {_encode(texts[0])}")
    columns = [
        column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if name in read
        else np.zeros(found.num_rows)
        for name, column in zip(found.column_names, found.combine_chunks().itercolumns(), strict=True)
    ]
    return Table(tuple(found.column_names), _stacked(columns))


def _whole(pa, kind) -> bool:  # type: ignore[no-untyped-def]  # noqa: ANN001 - pyarrow and one of its types
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _stacked(columns: Iterable[NDArray[np.generic]]) -> Floats:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    return np.stack(arrays, axis=1) if arrays else np.empty((0, 0))


def _read_npz(path: Path, _: Collection[str]) -> Table:
    wanted = "x (rows, columns), y (rows) and columns (names of x)"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            parts = {name.lower(): np.asarray(arrays[name]) for name in arrays.files}
        x, y, names = parts["x"], parts["y"], [str(name) for name in parts["columns"]]
        if x.ndim != 2 or y.shape != (len(x),) or x.shape[1] != len(names):
            seen = ", ".join(f"{name} {array.shape}" for name, array in parts.items())
            raise DataError(f"{path}: the arrays do not belong together ({seen}); {wanted} were expected.")
        _check_names(path, (*names, NPZ_LABEL))
        return Table((*names, NPZ_LABEL), np.concatenate([x, y[:, None]], axis=1).astype(np.float64))
    except KeyError as error:
        raise DataError(f"{path}: has no array {error}; {wanted} were expected.") from None
    except (OSError, TypeError, ValueError, EOFError, BadZipFile, zlib.error) as error:  # a lone array is no context
        raise DataError(f"{path}: cannot be read as npz ({error}); {wanted} were expected.") from None


READERS: dict[str, Callable[[Path, Collection[str]], Table]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}
