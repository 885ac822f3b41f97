"""The command line: one command per verb, over one run directory.

    lamella demo                                            the main job on digits, end to end
    lamella trace runs/r20 --model resnet20 --task cifar10 --data cifar --weights r20.safetensors
    lamella profile runs/r20; lamella plan runs/r20 --option factor=0.985; lamella compress runs/r20; lamella quantize runs/r20
    lamella report runs/r20

Results go to standard output (`--json`: as JSON), progress to standard error. Bad input prints one paragraph and exits 2.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands.accordion import accordion
from .commands.bench import bench
from .commands.compress import compress
from .commands.deploy import export, quantize
from .commands.elastic import elasticize, serve_levels
from .commands.plan import plan
from .commands.report import report
from .commands.shared import AsJson, Quiet, Run, complain, following, show, working
from .errors import LamellaError
from .pairs import named_values, options_of
from .reach import reach
from .records import to_plain
from .schema import FILES, Profile
from .version import __version__
from .views import graph_view, profile_view, table_view

app = typer.Typer(
    name="lamella",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Layer-wise optimization of neural networks: characterize, plan, compress, quantize, explain.",
    epilog="Your own network: lamella trace RUN --model nets.py:make_net --task data.py:make_task; then profile, plan, compress, "
    "quantize, export and report RUN, in this order. Without one: lamella demo.",
)

MODEL = "A network of the zoo, or a function that makes one: package.module:name or path/file.py:name."
Model = Annotated[str, typer.Option(help=MODEL)]
Data = Annotated[
    Path | None, typer.Option(help="For a ready-made task: directory with the data set's official files, or the table.")
]
Weights = Annotated[
    Path | None, typer.Option(help="Trained weights: safetensors, or a torch file that holds a state dict (.pt, .pth).")
]
Seed = Annotated[int, typer.Option(help="What all random draws follow from.")]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Of the trace: round_to=8 (or measured), floor=4, ignored_layers=fc,head. Of a ready-made task: limit=1000, "
        "batch_size=64, validation=test_even, label=, time=, ignore=. Of a network of the zoo: model.widths=32,64,128. Repeatable.",
    ),
]


def main() -> None:
    """The console script: runs the command, prints errors as one paragraph, exits 2 on bad input."""
    try:
        app()
    except LamellaError as error:
        complain(f"error: {error}")
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lamella {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the verb."""


def _info(model: str, task: str, data: Path | None, weights: Path | None, seed: int, option: list[str] | None) -> Any:
    from .sessions import describe

    return describe(
        model=model,
        task=task,
        data=str(data.absolute()) if data else None,
        weights=str(weights.absolute()) if weights else None,
        seed=seed,
        options=dict(named_values(option or [], "--option")),
    )


@app.command()
def demo(
    run: Annotated[
        Path | None, typer.Option(help="The run directory [default: runs/TASK-MODEL-SEED].", metavar="RUN")
    ] = None,
    task: Annotated[str, typer.Option("--task", help="digits, mnist or cifar10.")] = "digits",
    model: Model = "resnet14",
    data: Data = None,
    weights: Weights = None,
    seed: Seed = 0,
    option: Option = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The main job end to end: train (or load), profile, plan, compress out of order, quantize, measure, explain."""
    from .demo import SETTINGS, demo
    from .errors import unknown_name
    from .sessions import start

    if task not in SETTINGS:
        raise LamellaError(unknown_name("demo task", task, SETTINGS))
    settings = SETTINGS[task]
    pairs = [f"{k}={v}" for k, v in settings.options.items() if model == "resnet14"] + (option or [])
    info = _info(model, task, data, weights, seed, pairs)
    directory = run or Path("runs") / f"{task}-{model.rpartition(':')[2]}-{seed}"
    with working(directory, quiet, fresh=True) as progress:
        table = demo(start(directory, info), settings, progress)
    rows = [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in table.rows]
    files = {name: str(directory / FILES[name][0]) for name in ("dense_onnx", "onnx", "int8_onnx", "report")}
    plain = {"rows": rows, "run": str(directory), "files": files, "notes": table.notes}
    show(table_view(table, files), plain, quiet=quiet, as_json=as_json)


@app.command()
def trace(
    run: Run,
    model: Annotated[str | None, typer.Option(help=MODEL)] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="digits, mnist, cifar10, cifar100, fraud, table, or a function that returns a lamella.Task, named likewise."
        ),
    ] = None,
    data: Data = None,
    weights: Weights = None,
    seed: Annotated[int | None, typer.Option(help="What all random draws follow from [default: 0].")] = None,
    option: Option = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Start a run: find the groups of channels that can leave together, prove them, and say why not where not."""
    from .sessions import resume, start, untrained
    from .stages import opened

    fresh = model is not None or task is not None
    if fresh and (model is None or task is None):
        raise LamellaError("a new run needs both --model and --task.")
    if not fresh and (data or weights or option or seed is not None):
        raise LamellaError(
            "--data, --weights, --seed and --option belong to a new run: name its --model and --task too."
        )
    with working(run, quiet, fresh=fresh):
        session = start(run, _info(model or "", task or "", data, weights, seed or 0, option)) if fresh else resume(run)
        graph = opened(session)
        if untrained(session):
            complain(
                "note: these weights are fresh ones, so every score will be an untrained network's. Pass --weights FILE."
            )
    found = reach(graph)
    show(graph_view(found), to_plain(found), quiet=quiet, as_json=as_json, then=following(run, "profile"))


@app.command()
def profile(
    run: Run,
    pruning_ratios: Annotated[
        str, typer.Option(help="Fractions removed, comma separated.")
    ] = ".1,.2,.3,.4,.5,.6,.7,.8,.9",
    bits: Annotated[str, typer.Option(help="Bit widths, comma separated, such as 8,4 [default: none].")] = "",
    method: Annotated[str, typer.Option(help="exact, race or estimate.")] = "exact",
    points: Annotated[list[str] | None, typer.Option(help="Only targets that match this glob. Repeatable.")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the sweep: recalibrate=1, layers=1, inputs=1, factor=0.99, executor=ray ... Repeatable.",
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Take in the journal of another machine. Repeatable.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure what every group (and, with --bits, every layer) costs the network at every level. Resumes where it was."""
    from .profiling import Sweep
    from .sessions import resume
    from .stages import profiled, taken_in

    ratios = tuple(_numbers(pruning_ratios, "--pruning-ratios"))
    widths = tuple(_whole(number, "--bits") for number in _numbers(bits, "--bits"))
    with working(run, quiet) as progress:
        session = resume(run)
        if merge:
            taken_in(session, merge)
        chosen = options_of(Sweep, sweep or [], "--sweep", points=tuple(points or ("*",)))
        found: Profile = profiled(
            session, pruning_ratios=ratios, bits=widths, method=method, sweep=chosen, progress=progress
        )
    plain = {"baseline": to_plain(found.baseline), "points": to_plain(found.points), "notes": found.notes}
    show(profile_view(found), plain, quiet=quiet, as_json=as_json, then=following(run, "plan"))


def _numbers(text: str, option: str) -> list[float]:
    return [_number(part, option) for part in text.split(",") if part]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LamellaError(f"{option}: {text!r} is not a number.") from None


def _whole(number: float, option: str) -> int:
    if not number.is_integer():
        raise LamellaError(f"{option}: {number:g} is not a whole number.")
    return int(number)


# In the order in which they are used, which is that of `lamella --help`.
app.command()(plan)
app.command()(compress)
app.command()(quantize)
app.command()(export)
app.command()(report)
app.command()(elasticize)
app.command(name="serve-levels")(serve_levels)
app.command()(accordion)
app.add_typer(bench, name="bench")

__all__ = ["app", "main"]
