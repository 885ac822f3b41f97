"""lamella trace: a run begins, with its network and its data.

lamella trace RUN --model resnet20 --task cifar10 --data cifar --weights r20.safetensors
lamella trace RUN --model nets.py:make_net --task data.py:make_task --option round_to=8
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from ..errors import LamellaError
from ..pairs import named_values
from ..reach import reach
from ..records import to_plain
from ..schema import RunInfo
from ..views import graph_view
from .shared import AsJson, Quiet, Run, complain, following, options, show, working

MODEL = "A network of the zoo, or a function that makes one: package.module:name or path/file.py:name."

Data = Annotated[
    Path | None, typer.Option(help="For a ready-made task: directory with the data set's official files, or the table.")
]
Weights = Annotated[
    Path | None, typer.Option(help="Trained weights: safetensors, or a torch file that holds a state dict (.pt, .pth).")
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Of the trace: round_to=8 (or measured), floor=4, ignored_layers=fc,head. Of a ready-made task: limit=1000, "
        "batch_size=64, validation=test_even, label=, time=, ignore=. Of a network of the zoo: model.widths=32,64,128. Repeatable.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which network, and what it learned from; nothing of it for a run that is there."""

    model: Annotated[str | None, typer.Option(help=MODEL)] = None
    task: Annotated[
        str | None,
        typer.Option(
            help="digits, mnist, cifar10, cifar100, fraud, table, or a function that returns a lamella.Task, named likewise."
        ),
    ] = None
    data: Data = None
    weights: Weights = None
    seed: Annotated[int | None, typer.Option(help="What all random draws follow from [default: 0].")] = None
    option: Option = None

    def info(self) -> RunInfo | None:
        """As `run.json` tells it; None where no network is named."""
        if self.model is None and self.task is None:
            if self.data or self.weights or self.option or self.seed is not None:
                raise LamellaError(
                    "--data, --weights, --seed and --option belong to a new run: name its --model and --task too."
                )
            return None
        if self.model is None or self.task is None:
            raise LamellaError("a new run needs both --model and --task.")
        return described(self, _judged(self))


def described(source: Source, usual: Mapping[str, str] = MappingProxyType({})) -> RunInfo:
    """A new run of this source; `usual`: options that its own are laid over."""
    from ..sessions import describe

    return describe(
        model=source.model,
        task=source.task,
        data=source.data,
        weights=source.weights,
        seed=source.seed or 0,
        options={**usual, **dict(named_values(source.option or [], "--option"))},
    )


def _judged(source: Source) -> dict[str, str]:
    """A network that a module brings is a trained one, and has perhaps seen every training image: it is judged on others."""
    from ..tasks import TASKS

    brought = ":" in (source.model or "") and source.weights is None
    return {"validation": "test_even"} if brought and source.task in TASKS else {}


@options(source=Source)
def trace(run: Run, source: Source, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Start a run: find the groups of channels that can leave together, prove them, and say why not where not."""
    from ..sessions import check_unchanged, resume, start, untrained
    from ..stages import opened

    info = source.info()
    with working(run, quiet, fresh=info is not None):
        session = resume(run) if info is None else start(run, info)
        if info is not None:
            check_unchanged(session)
        graph = opened(session)
        if untrained(session):
            complain(
                "note: these weights are fresh ones, so every score will be an untrained network's. Pass --weights FILE."
            )
    found = reach(graph)
    then = following(run, "profile") if graph.free else following(run, "quantize")
    show(graph_view(found), to_plain(found), quiet=quiet, as_json=as_json, then=then)
