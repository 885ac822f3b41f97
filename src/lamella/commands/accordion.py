"""lamella accordion: which widths a dense network needs, and whether it is the shape or just the size.

lamella accordion runs/fraud --task fraud --data creditcard.csv
lamella accordion runs/fraud --seeds 10
lamella accordion --task mnist --data MNIST --widths 128,64,32,64,128 --budget max_drop=3
lamella accordion --task table --data machines.csv --option label=failed --option ignore=id --method joint
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LamellaError
from ..pairs import named_values, parsed_values
from ..records import load_record, to_plain
from ..schema import FILES, Budget, RunInfo
from ..views import accordion_view
from .shared import AsJson, Quiet, following, options, show, working

if TYPE_CHECKING:
    from ..accordions import Settings
    from ..training import Recipe

NETWORK, USUAL_TASK = "autoencoder", "fraud"
DEFAULT_WIDTHS = {"mnist": "mnist-baseline", "digits": "32,16,8,16,32"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is learned."""

    task: Annotated[
        str | None,
        typer.Option(
            help="fraud, table, mnist, digits, or a function: package.module:name, file.py:name [default: the run's, or fraud]."
        ),
    ] = None
    data: Annotated[
        Path | None, typer.Option(help="The table (.csv, .parquet, .npz), or the directory of the official files.")
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Of the data: label=COLUMN, time=COLUMN, ignore=COLUMN,COLUMN, validation=time, limit=1000, batch_size=64. "
            "Repeatable.",
        ),
    ] = None

    @property
    def directory(self) -> Path:
        """The run directory where none is named."""
        return Path("runs") / f"{(self.task or USUAL_TASK).rpartition(':')[2]}-accordion"

    def info(self, directory: Path, seed: int | None) -> RunInfo:
        """As `run.json` tells it; of a run that is there and where nothing is named, what it learns."""
        from ..sessions import describe

        path = directory / FILES["run"][0]
        if path.exists() and not (self.task or self.data or self.option):
            there = load_record(path, RunInfo)
            return replace(there, model=NETWORK, weights=None, seed=there.seed if seed is None else seed)

        options = dict(named_values(self.option or [], "--option"))
        for name in options:
            if name.startswith("model."):
                raise LamellaError(
                    f"--option {name}: the network is what is searched. Give --widths and --activation instead."
                )
        return describe(
            model=NETWORK,
            task=self.task or USUAL_TASK,
            data=self.data,
            seed=seed or 0,
            options=options,
        )


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Which widths are tried."""

    widths: Annotated[
        str | None, typer.Option(help="Hidden widths of the baseline, comma separated, or a published shape's name.")
    ] = None
    candidates: Annotated[
        str | None, typer.Option(help="Widths to try, comma separated [default: 2,3,4,6,8,12 ... up to the widest].")
    ] = None
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="Move every layer alone.")] = False

    def baseline(self, task: str) -> tuple[int, ...]:
        """The widths the search starts from."""
        from ..accordions import BASELINE

        usual = DEFAULT_WIDTHS.get(task)
        return BASELINE if self.widths is None and usual is None else _widths(self.widths or usual or "", "--widths")

    def chosen(self) -> tuple[int, ...] | None:
        """The widths to try, where they are named."""
        return None if self.candidates is None else _widths(self.candidates, "--candidates")


@dataclass(frozen=True, kw_only=True)
class Searching:
    """How the search goes about it."""

    method: Annotated[str, typer.Option(help="sequential, joint or prune.")] = "sequential"
    metric: Annotated[
        str | None, typer.Option(help="What choices follow on validation [default: the task's first].")
    ] = None
    seeds: Annotated[int, typer.Option(help="Networks per shape.")] = 5
    seed: Annotated[int | None, typer.Option(help="The first of these seeds [default: the run's, or 0].")] = None
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LIMIT", help="params=26% or params=400, or max_drop=3 (points, hundredths of the metric)."
        ),
    ] = None
    passes: Annotated[int, typer.Option(help="Times around all pairs.")] = 1
    trials: Annotated[int, typer.Option(help="Shapes of the joint search.")] = 64
    executor: Annotated[str, typer.Option(help="serial, processes or ray.")] = "serial"

    def settings(self, first_seed: int, activation: str) -> "Settings":
        """As a record."""
        from ..accordions import Settings

        return Settings(
            method=self.method,
            metric=self.metric,
            seeds=self.seeds,
            first_seed=first_seed,
            budget=Budget(**parsed_values(self.budget or [], "--budget", ("max_drop", "params"))),
            passes=self.passes,
            trials=self.trials,
            activation=activation,
            executor=self.executor,
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every network is trained."""

    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every training [default: 40].")] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start [default: 0.003].")] = None
    activation: Annotated[str, typer.Option(help="relu, elu or tanh.")] = "elu"

    def recipe(self) -> "Recipe":
        """As a record."""
        from ..accordions import RECIPE

        epochs = RECIPE.epochs if self.epochs is None else self.epochs
        return replace(RECIPE, epochs=epochs, lr=RECIPE.lr if self.lr is None else self.lr)


@options(source=Source, shapes=Shapes, searching=Searching, training=Training)
def accordion(
    source: Source,
    shapes: Shapes,
    searching: Searching,
    training: Training,
    run: Annotated[
        Path | None, typer.Argument(help="The run directory [default: runs/TASK-accordion].", metavar="RUN")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search the widths of a dense network over seeds, hold the winner against its controls, export it. Resumes where it was."""
    from ..stages.shaping import begin, shaped

    directory = run or source.directory
    info = source.info(directory, searching.seed)
    settings, recipe = searching.settings(info.seed, training.activation), training.recipe()
    baseline, chosen = shapes.baseline(info.task), shapes.chosen()
    with working(directory, quiet, fresh=True) as progress:
        found = shaped(
            begin(directory, info),
            baseline,
            candidates=chosen,
            symmetric=not shapes.asymmetric,
            settings=settings,
            recipe=recipe,
            progress=progress,
        )
    view = accordion_view(found, str(directory / FILES["accordion"][0]))
    plain = {"run": str(directory), **to_plain(found)}
    show(view, plain, quiet=quiet, as_json=as_json, then=following(directory, "report", "profile"))


def _widths(text: str, option: str) -> tuple[int, ...]:
    """Numbers from a text, or those of a published shape."""
    from ..accordions import PUBLISHED
    from ..errors import unknown_name

    if text in PUBLISHED:
        return PUBLISHED[text].widths
    parts = [part.strip() for part in text.replace("-", ",").split(",") if part.strip()]
    if any(not part.isdigit() for part in parts):
        raise LamellaError(
            f"{option} {text!r}: numbers such as 16,8,4,8,16 were expected. {unknown_name('shape', text, PUBLISHED)}"
        )
    return tuple(int(part) for part in parts)
