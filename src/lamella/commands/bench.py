"""lamella bench tables: the published schedules in both accountings, beside what this project's own runs came to.

lamella bench tables
lamella bench tables --network alexnet --results benchmarks/results
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import LamellaError, unknown_name
from ..published import LEFT_OUT, SCHEDULES, TRUE, Accounting, account
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
    for path in sorted(directory.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise LamellaError(f"{path}: cannot be read as a result file ({error}). Run its benchmark again.") from None
        runs = content.get("rows") if isinstance(content, dict) else None
        for seed, rows in enumerate(runs if isinstance(runs, list) else []):
            if (
                isinstance(rows, list)
                and rows
                and all(isinstance(r, dict) and {"name", "bytes"} <= set(r) for r in rows)
            ):
                for row in rows[1:]:
                    yield _own_row(path.stem, seed, row, rows[0])


def _own_row(file: str, seed: int, row: dict[str, Any], dense: dict[str, Any]) -> dict[str, Any]:
    drop = row.get("drop")
    return {
        "result": file,
        "run": seed,
        "name": row["name"],
        "bytes": row["bytes"],
        "true_ratio": dense["bytes"] / row["bytes"],
        "macs_ratio": dense["macs"] / row["macs"] if row.get("macs") and dense.get("macs") else None,
        "points_below_dense": None if drop is None else 100 * drop,
    }
