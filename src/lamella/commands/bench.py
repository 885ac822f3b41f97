"""lamella bench tables: the published schedules in both accountings, beside what this project's own runs came to.

lamella bench tables
lamella bench tables --network alexnet --results benchmarks/results
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import LamellaError, unknown_name
from ..published import LEFT_OUT, SCHEDULES, TRUE, Accounting, account
from ..resultfiles import missing_rows, own_rows
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
