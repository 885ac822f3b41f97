"""lamella trace, lamella demo: a run begins, with its network and its data.

lamella trace RUN --model resnet20 --task cifar10 --data cifar --weights r20.safetensors
lamella trace RUN --model nets.py:make_net --task data.py:make_task --option round_to=8
lamella demo --task mnist --data mnist
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LamellaError, unknown_name
from ..pairs import named_values
from ..reach import reach
from ..records import to_plain
from ..schema import FILES, RunInfo
from ..views import graph_view, table_view
from .shared import AsJson, Quiet, Run, complain, following, options, show, working

if TYPE_CHECKING:
    from ..demo import Settings

MODEL = "A network of the zoo, or a function that makes one: package.module:name or path/file.py:name."
DEMO_MODEL = "resnet14"

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
        return _described(self)


@options(source=Source)
def trace(run: Run, source: Source, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Start a run: find the groups of channels that can leave together, prove them, and say why not where not."""
    from ..sessions import resume, start, untrained
    from ..stages import opened

    info = source.info()
    with working(run, quiet, fresh=info is not None):
        session = resume(run) if info is None else start(run, info)
        graph = opened(session)
        if untrained(session):
            complain(
                "note: these weights are fresh ones, so every score will be an untrained network's. Pass --weights FILE."
            )
    found = reach(graph)
    show(graph_view(found), to_plain(found), quiet=quiet, as_json=as_json, then=following(run, "profile"))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the demo is shown on."""

    task: Annotated[str, typer.Option("--task", help="digits, mnist or cifar10.")] = "digits"
    model: Annotated[str, typer.Option(help=MODEL)] = DEMO_MODEL
    data: Data = None
    weights: Weights = None
    seed: Annotated[int, typer.Option(help="What all random draws follow from.")] = 0
    option: Option = None

    def settings(self) -> "Settings":
        """How its task is shown."""
        from ..demo import SETTINGS

        if self.task not in SETTINGS:
            raise LamellaError(unknown_name("demo task", self.task, SETTINGS))
        return SETTINGS[self.task]

    def info(self, usual: Mapping[str, str]) -> RunInfo:
        """As `run.json` tells it; `usual`: options of the demo's own network."""
        return _described(self, usual if self.model == DEMO_MODEL else {})


def _described(of: Source | Shown, usual: Mapping[str, str] = MappingProxyType({})) -> RunInfo:
    from ..sessions import describe

    return describe(
        model=of.model,
        task=of.task,
        data=of.data,
        weights=of.weights,
        seed=of.seed or 0,
        options={**usual, **dict(named_values(of.option or [], "--option"))},
    )


@options(shown=Shown)
def demo(
    shown: Shown,
    run: Annotated[
        Path | None, typer.Option(help="The run directory [default: runs/TASK-MODEL-SEED].", metavar="RUN")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The main job end to end: train (or load), profile, plan, compress out of order, quantize, measure, explain."""
    from ..demo import demo
    from ..sessions import start

    settings = shown.settings()
    info = shown.info(settings.options)
    directory = run or Path("runs") / f"{shown.task}-{shown.model.rpartition(':')[2]}-{shown.seed}"
    with working(directory, quiet, fresh=True) as progress:
        table = demo(start(directory, info), settings, progress)
    rows = [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in table.rows]
    files = {name: str(directory / FILES[name][0]) for name in ("dense_onnx", "onnx", "int8_onnx", "report")}
    plain = {"rows": rows, "run": str(directory), "files": files, "notes": table.notes}
    show(table_view(table, files), plain, quiet=quiet, as_json=as_json)
