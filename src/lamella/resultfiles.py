"""What the benchmarks' result files say, as rows of one table: bytes of files and test accuracy, means over seeds. No torch.

for row in own_rows("benchmarks/results"):
    row["name"], row["true_ratio"], row["points_below_dense"]     # "resnet20_macs", 6.4, [0.64, 0.03, 1.26]
for note in missing_rows("benchmarks/results"): ...               # what was not measured, and why
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import LamellaError
from .statistics import over_seeds


def own_rows(directory: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of result files that hold a dense network and smaller ones: bytes of files, and test accuracy."""
    for path, content in _result_files(Path(directory)):
        rows = content.get("rows")
        for read in (_of_runs, _of_bits) if isinstance(rows, list) else (_of_reach,) if isinstance(rows, dict) else ():
            for row in read(content):
                yield {"result": path.stem, **row}


def missing_rows(directory: str | Path) -> Iterator[str]:
    """What result files say was not measured, and why."""
    for path, content in _result_files(Path(directory)):
        missing = content.get("missing")
        for name, why in missing.items() if isinstance(missing, dict) else ():
            yield f"not measured ({path.stem}): {name}: {why}."


def _result_files(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(directory.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise LamellaError(f"{path}: cannot be read as a result file ({error}). Run its benchmark again.") from None
        if isinstance(content, dict):
            yield path, content


def _of_runs(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The demo's: a list of rows for every seed, the dense network first. A row of the table is the mean over the seeds."""
    named: dict[str, list[dict[str, Any]]] = {}
    for rows in content["rows"]:
        if isinstance(rows, list) and rows and all(isinstance(r, dict) and {"name", "bytes"} <= set(r) for r in rows):
            dense = rows[0]
            for row in rows[1:]:
                drop = row.get("drop")
                points = (None if drop is None else 100 * drop,)
                sizes, macs = (dense["bytes"], row["bytes"]), (dense.get("macs"), row.get("macs"))
                named.setdefault(row["name"], []).append(_own_row(row["name"], sizes, macs, points))
    yield from map(_over_seeds, named.values())


def _of_bits(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of `benchmarks/bits.py`: one network, its weights in fewer and fewer bits."""
    dense, right = content.get("dense_file_bytes"), content.get("dense_test")
    for row in content["rows"]:
        if dense and right and isinstance(row, dict) and {"bits", "file_bytes", "file_test"} <= set(row):
            points = (100 * (right - row["file_test"]),)
            yield _own_row(f"{row['bits']} bits", (dense, row["file_bytes"]), (None, None), points)


def _of_reach(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of `benchmarks/reach.py`, NAME-SEED: of one seed with its paired interval, of several the mean over them."""
    named: dict[str, list[dict[str, Any]]] = {}
    for key, row in content["rows"].items():
        if isinstance(row, dict) and {"dense_bytes", "bytes", "macs", "test_drop"} <= set(row):
            name, points = key.rpartition("-")[0] or key, row["test_drop"]["file_below_dense"]
            named.setdefault(name, []).append(_own_row(name, (row["dense_bytes"], row["bytes"]), row["macs"], points))
    yield from map(_over_seeds, named.values())


def _own_row(
    name: str, sizes: Sequence[int], macs: Sequence[int | None], points: Sequence[float | None]
) -> dict[str, Any]:
    """`sizes`, `macs`: of the dense network and of this one; `points` of test accuracy below dense, and their interval if known."""
    return {
        "name": name,
        "seeds": 1,
        "bytes": sizes[1],
        "true_ratio": sizes[0] / sizes[1],
        "macs_ratio": macs[0] / macs[1] if macs[0] and macs[1] else None,
        "points_below_dense": list(points),
    }


def _over_seeds(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means; the points with their 95 % interval over seeds, where these do not all say the same."""
    if len(rows) == 1:
        return rows[0]
    means = {key: _mean([row[key] for row in rows]) for key in ("bytes", "true_ratio", "macs_ratio")}
    points = [row["points_below_dense"][0] for row in rows]
    found = None if None in points else over_seeds(points)
    ends = [found.low, found.high] if found and found.has_width else []
    shown = [found.value if found else None, *ends]
    return {**rows[0], **means, "seeds": len(rows), "bytes": round(means["bytes"] or 0), "points_below_dense": shown}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
