"""lamella accordion: which widths a dense network needs, and whether it is the shape or just the size.

lamella accordion runs/fraud --task fraud --data creditcard.csv
lamella accordion runs/fraud --seeds 10            # the same search over ten seeds: what is not given is the run's
lamella accordion --task mnist --data MNIST --widths 128,64,32,64,128 --budget max_drop=3
lamella accordion --task table --data machines.csv --option label=failed --option ignore=id --method joint
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import LamellaError
from ..pairs import named_values, parsed_values
from ..records import load_record, to_plain
from ..schema import FILES, Accordion, Budget, RunInfo, Search
from ..views import accordion_view
from .shared import AsJson, Quiet, complain, following, options, show, working

if TYPE_CHECKING:
    from ..accordions import Settings

NETWORK, USUAL_TASK = "autoencoder", "fraud"
DEFAULT_WIDTHS = {"mnist": "mnist-baseline", "digits": "32,16,8,16,32"}
WIDER = ("seeds", "passes", "trials")  # with more of these it is the same search


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
    symmetric: Annotated[
        bool | None,
        typer.Option("--symmetric/--asymmetric", help="Layers move with their mirror images, or every layer alone."),
    ] = None

    def given(self) -> dict[str, Any]:
        """As fields of a `Search`; None where nothing is given."""
        named = {"widths": self.widths, "candidates": self.candidates}
        widths = {name: None if text is None else _widths(text, f"--{name}") for name, text in named.items()}
        return {**widths, "symmetric": self.symmetric}


@dataclass(frozen=True, kw_only=True)
class Searching:
    """How the search goes about it."""

    method: Annotated[str | None, typer.Option(help="sequential, joint or prune [default: sequential].")] = None
    metric: Annotated[
        str | None, typer.Option(help="What choices follow on validation [default: the task's first].")
    ] = None
    seeds: Annotated[int | None, typer.Option(help="Networks per shape [default: 5].")] = None
    seed: Annotated[int | None, typer.Option(help="The first of these seeds [default: the run's, or 0].")] = None
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LIMIT",
            help="params=26% or params=400, or max_drop=3 (points, hundredths of the metric); none: without the run's.",
        ),
    ] = None
    passes: Annotated[int | None, typer.Option(help="Times around all pairs [default: 1].")] = None
    trials: Annotated[int | None, typer.Option(help="Shapes of the joint search [default: 64].")] = None
    executor: Annotated[str, typer.Option(help="serial, processes or ray.")] = "serial"

    def given(self) -> dict[str, Any]:
        """As fields of a `Search`; None where nothing is given."""
        names = ("method", "metric", "seeds", "passes", "trials")
        return {**{name: getattr(self, name) for name in names}, "budget": self._budget()}

    def _budget(self) -> Budget | None:
        if not self.budget or self.budget == ["none"]:
            return Budget() if self.budget else None
        return Budget(**parsed_values(self.budget, "--budget", ("max_drop", "params")))


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every network is trained."""

    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every training [default: 40].")] = None
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start [default: 0.003].")] = None
    activation: Annotated[str | None, typer.Option(help="relu, elu or tanh [default: elu].")] = None

    def given(self) -> dict[str, Any]:
        """As fields of a `Search`; None where nothing is given."""
        return {"epochs": self.epochs, "lr": self.lr, "activation": self.activation}


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
    """Search a dense network's widths over seeds, hold the winner against controls, export it. Resumes; what is not given is the run's."""
    from ..accordions import RECIPE
    from ..stages.shaping import begin, shaped, without_first

    directory = run or source.directory
    info = source.info(directory, searching.seed)
    given = {**shapes.given(), **searching.given(), **training.given()}
    before = _before(directory, given["widths"])
    asked = replace(before or _usual(info.task), **{name: value for name, value in given.items() if value is not None})
    settings = _settings(asked, info.seed, searching.executor)
    with working(directory, quiet, fresh=True) as progress:
        session = begin(directory, info)
        if before is not None and not quiet:
            _tell(directory, *(without_first(each, session.task) for each in (before, asked)))
        found = shaped(
            session,
            asked.widths,
            candidates=asked.candidates,
            symmetric=asked.symmetric,
            settings=settings,
            recipe=replace(RECIPE, epochs=asked.epochs, lr=asked.lr),
            progress=progress,
        )
    view = accordion_view(found, str(directory / FILES["accordion"][0]))
    plain = {"run": str(directory), **to_plain(found)}
    show(view, plain, quiet=quiet, as_json=as_json, then=following(directory, "report", "profile"))


def _before(directory: Path, widths: tuple[int, ...] | None) -> Search | None:
    """What the run's search was asked, where there is one. LamellaError where nobody wrote it down and no `widths` are given."""
    path = directory / FILES["search"][0]
    if path.exists():
        return load_record(path, Search)
    record = directory / FILES["accordion"][0]
    if not record.exists() or widths is not None:
        return None
    found = load_record(record, Accordion)
    raise LamellaError(
        f"{record}: holds a search that did not write down all that it was asked ({path.name} is not there). Give again what it was given: "
        f"--widths {','.join(map(str, found.baseline))} --method {found.method} --metric {found.metric} --epochs {found.epochs}, and "
        "--candidates, --asymmetric, --budget, --passes, --trials, --lr and --activation if it had them."
    )


def _usual(task: str) -> Search:
    """What is searched where nothing is given."""
    from ..accordions import BASELINE, RECIPE, Settings
    from ..stages.shaping import search_of

    widths = _widths(DEFAULT_WIDTHS[task], "--widths") if task in DEFAULT_WIDTHS else BASELINE
    return search_of(widths, None, True, Settings(), RECIPE)


def _settings(asked: Search, first_seed: int, executor: str) -> "Settings":
    from ..accordions import Settings

    return Settings(
        method=asked.method,
        metric=asked.metric,
        seeds=asked.seeds,
        first_seed=first_seed,
        budget=asked.budget,
        passes=asked.passes,
        trials=asked.trials,
        activation=asked.activation,
        executor=executor,
    )


def _tell(directory: Path, before: Search, asked: Search) -> None:
    """On standard error, what makes this another search than the run's; more seeds, passes or trials only widen it."""
    was, now = to_plain(before), to_plain(asked)
    facts = [
        f"{name} was {was[name]} and is {now[name]}" for name in was if name not in WIDER and was[name] != now[name]
    ]
    if facts:
        complain(
            f"{directory}: another search than the run's: {'; '.join(facts)}. Its winner takes the place of the one there."
        )


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
