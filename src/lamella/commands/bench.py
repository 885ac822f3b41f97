"""lamella bench tables: the published schedules in both accountings, beside what this project's own runs came to.

lamella bench tables
lamella bench tables --network alexnet --results benchmarks/results
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import LamellaError, unknown_name
from ..published import LEFT_OUT, SCHEDULES, TRUE, Accounting, account
from ..statistics import over_seeds
from ..views import published_view
from .shared import AsJson, Quiet, show

bench = typer.Typer(no_args_is_help=True, help="Tables that hold this project's figures against published ones.")
RESULTS = Path("benchmarks") / "results"


@bench.callback()
def _bench() -> None:
    """Tables that hold this project's figures against published ones."""


@bench.command()
def tables(
    network: Annotated[str | None, typer.Option(help="alexnet or vgg16 [default: both].")] = None,
    results: Annotated[Path, typer.Option(help="Where result files of the benchmarks lie.")] = RESULTS,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The published AlexNet and VGG-16 schedules in the paper's accounting and in true bytes, and our own results."""
    found = published(network)
    own = list(own_rows(results))
    notes = [LEFT_OUT, TRUE, "MACs at 224 px, against the network of the same classes."]
    if not own:
        notes.append(f"no result files of our own in {results}: the benchmarks write them there.")
    notes += missing_rows(results)
    plain = {"published": [asdict(row) for row in found], "own": own, "notes": notes}
    show(published_view(found, own, notes), plain, quiet=quiet, as_json=as_json)


def published(network: str | None = None) -> list[Accounting]:
    """The accounting of every published schedule; the networks are traced without their weights' memory."""
    known = {schedule.model for schedule in SCHEDULES.values()}
    if network is not None and network not in known:
        raise LamellaError(unknown_name("network", network, known))
    graphs = {name: _graph(name) for name in sorted(known) if network in (None, name)}
    return [account(graphs[s.model], s, name) for name, s in SCHEDULES.items() if s.model in graphs]


def _graph(name: str) -> Any:
    import torch

    from ..tracing import trace
    from ..zoo import make_model

    size = {} if name == "alexnet" else {"image_size": 224}
    with torch.device("meta"):
        model = make_model(name, num_classes=1000, **size)
        return trace(model, torch.zeros(1, 3, 224, 224), round_to=1, prove=False)


def own_rows(directory: Path) -> Iterator[dict[str, Any]]:
    """The rows of result files that hold a dense network and smaller ones: bytes of files, and test accuracy."""
    for path, content in _result_files(directory):
        rows = content.get("rows")
        for read in (_of_runs, _of_bits) if isinstance(rows, list) else (_of_reach,) if isinstance(rows, dict) else ():
            for row in read(content):
                yield {"result": path.stem, **row}


def missing_rows(directory: Path) -> Iterator[str]:
    """What result files say was not measured, and why."""
    for path, content in _result_files(directory):
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
    """Means; the points with their 95 % interval over seeds."""
    if len(rows) == 1:
        return rows[0]
    means = {key: _mean([row[key] for row in rows]) for key in ("bytes", "true_ratio", "macs_ratio")}
    points = [row["points_below_dense"][0] for row in rows]
    found = None if None in points else over_seeds(points)
    shown = [None] if found is None else [found.value, found.low, found.high]
    return {**rows[0], **means, "seeds": len(rows), "bytes": round(means["bytes"] or 0), "points_below_dense": shown}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
