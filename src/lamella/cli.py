"""The command line: one command per verb, over one run directory.

    lamella demo                                            the main job on digits, end to end
    lamella trace runs/r20 --model resnet20 --task cifar10 --data cifar --weights r20.safetensors
    lamella profile runs/r20; lamella plan runs/r20 --option factor=0.985; lamella compress runs/r20; lamella quantize runs/r20
    lamella report runs/r20

Results go to standard output (`--json`: as JSON), progress to standard error. Bad input prints one paragraph and exits 2.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from .errors import LamellaError, RunError
from .planning import ORDERS, PLANNERS, editable, flat
from .planning import compare as compare_plans
from .reach import reach
from .records import load_record, to_plain
from .schema import FILES, Budget, Graph, Plan, Profile, Result, Table
from .texts import parsed
from .version import __version__
from .views import files_view, front_view, graph_view, plan_view, profile_view, result_view, table_view

CHOOSE_BITS = ("knapsack", "search")
BUDGETS = ("max_drop", "bytes", "params", "macs", "memory")

app = typer.Typer(
    name="lamella",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Layer-wise optimization of neural networks: characterize, plan, compress, quantize, explain.",
)

Run = Annotated[Path, typer.Argument(help="The run directory.", metavar="RUN")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")]
Model = Annotated[str, typer.Option(help="A network of the zoo, or package.module:function.")]
TaskName = Annotated[str, typer.Option("--task", help="digits, mnist, cifar10, cifar100, or package.module:function.")]
Data = Annotated[Path | None, typer.Option(help="Directory with the data set's official files.")]
Weights = Annotated[Path | None, typer.Option(help="Trained weights (safetensors).")]
Seed = Annotated[int, typer.Option(help="What all random draws follow from.")]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="NAME=VALUE: model.widths=32,64,128, validation=test_even, limit=1000, round_to=8. Repeatable."
    ),
]


def main() -> None:
    """The console script: runs the command, prints errors as one paragraph, exits 2 on bad input."""
    try:
        app()
    except LamellaError as error:
        _complain(f"error: {error}")
        sys.exit(2)


def _complain(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(escape(text))


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


@contextmanager
def _working(directory: Path, quiet: bool, *, fresh: bool = False) -> Iterator[Any]:
    """Hold the run directory, which must be there unless `fresh`, and show progress on standard error."""
    from .runs import locked
    from .screens import bars

    if not fresh and not directory.is_dir():
        raise RunError(f"{directory}: no run directory. Start one with `{FILES['run'][1]}`.")
    try:
        with locked(directory), bars(quiet) as progress:
            yield progress
    except KeyboardInterrupt:
        _complain("interrupted: nothing finished is lost, and the same command goes on from here.")
        raise


def _show(view: Any, plain: Any, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))
    elif not quiet:
        wide = None if sys.stdout.isatty() else 120  # a file or a pipe has no width of its own
        Console(highlight=False, width=wide).print(view)


def _info(model: str, task: str, data: Path | None, weights: Path | None, seed: int, option: list[str] | None) -> Any:
    from .sessions import describe, named_values

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
    with _working(directory, quiet, fresh=True) as progress:
        table = demo(start(directory, info), settings, progress)
    rows = [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in table.rows]
    files = {name: str(directory / FILES[name][0]) for name in ("dense_onnx", "onnx", "int8_onnx", "report")}
    plain = {"rows": rows, "run": str(directory), "files": files, "notes": table.notes}
    _show(table_view(table, files), plain, quiet=quiet, as_json=as_json)


@app.command()
def trace(
    run: Run,
    model: Annotated[str | None, typer.Option(help="A network of the zoo, or package.module:function.")] = None,
    task: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10, cifar100, or package.module:function.")
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
    with _working(run, quiet, fresh=fresh):
        session = start(run, _info(model or "", task or "", data, weights, seed or 0, option)) if fresh else resume(run)
        graph = opened(session)
        if untrained(session):
            _complain(
                "note: these weights are fresh ones, so every score will be an untrained network's. Pass --weights FILE."
            )
    found = reach(graph)
    _show(graph_view(found), to_plain(found), quiet=quiet, as_json=as_json)


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
            help="NAME=VALUE of the sweep: recalibrate=1, layers=1, inputs=1, factor=0.99, executor=ray ... Repeatable."
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Take in the journal of another machine. Repeatable.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure what every group (and, with --bits, every layer) costs the network at every level. Resumes where it was."""
    from .profiling import merge as merged
    from .sessions import resume, sweep_of
    from .stages import profiled

    ratios = tuple(_numbers(pruning_ratios, "--pruning-ratios"))
    widths = tuple(int(number) for number in _numbers(bits, "--bits"))
    with _working(run, quiet) as progress:
        session = resume(run)
        if merge:
            merged(merge, session.path("profile_journal"))
        chosen = sweep_of(sweep or [], tuple(points or ("*",)))
        found: Profile = profiled(
            session, pruning_ratios=ratios, bits=widths, method=method, sweep=chosen, progress=progress
        )
    plain = {"baseline": to_plain(found.baseline), "points": to_plain(found.points), "notes": found.notes}
    _show(profile_view(found), plain, quiet=quiet, as_json=as_json)


def _numbers(text: str, option: str) -> list[float]:
    return [_number(part, option) for part in text.split(",") if part]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LamellaError(f"{option}: {text!r} is not a number.") from None


@app.command()
def plan(
    run: Run,
    planner: Annotated[str, typer.Option(help=", ".join(PLANNERS))] = "threshold",
    order: Annotated[str, typer.Option(help=", ".join(ORDERS))] = "by_score",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE of the planner: factor=0.985, pruning_ratio=0.5, by=macs, align=8 ... Repeatable."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="NAME=LIMIT: max_drop=1.0 (points), bytes=10%, params, macs, memory. Repeatable."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of tuning after each step.")] = 1,
    closing_epochs: Annotated[int, typer.Option(min=0, help="Epochs of tuning after the last step.")] = 0,
    bits: Annotated[
        int | None,
        typer.Option(
            help="Bits for every layer in a last step; 32 for none [default: 8, or what the planner chooses]."
        ),
    ] = None,
    pareto: Annotated[
        str | None, typer.Option(help="Print the front over this budget instead of a plan; writes pareto.csv.")
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Print how the run's plan differs from this plan.json.")] = None,
    edit: Annotated[Path | None, typer.Option(help="Take the plan from this edited text (see --text).")] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the run's plan as text to edit.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Decide which group gives up how many channels, and in which order."""
    from .sessions import named_values, resume
    from .stages import fronted, planned, taken

    limits = Budget(**{name: parsed(value) for name, value in named_values(budget or [], "--budget", BUDGETS)})
    own = {name: parsed(value) for name, value in named_values(option or [], "--option")}
    with _working(run, quiet):
        session = resume(run)
        if text or compare:
            _about_plan(session.read("plan", Plan), session.read("graph", Graph), compare, quiet=quiet, as_json=as_json)
            return
        if pareto:
            front = fronted(session, pareto, limits, **own)
            _show(front_view(front), [flat(row) for row in front.rows], quiet=quiet, as_json=as_json)
            return
        if edit:
            made = taken(session, edit, limits)
        else:
            width = (None if planner in CHOOSE_BITS else 8) if bits is None else (None if bits >= 32 else bits)
            own = {"planner": planner, "order": order, "epochs": epochs, "bits": width, **own}
            made = planned(session, limits, closing_epochs=closing_epochs, **own)
        graph, curves = session.read("graph", Graph), session.read("profile", Profile)
    _show(plan_view(made, graph, curves), to_plain(made), quiet=quiet, as_json=as_json)


def _about_plan(made: Plan, graph: Graph, other: Path | None, *, quiet: bool, as_json: bool) -> None:
    """The plan as text to edit, or beside another."""
    if other is None:
        typer.echo(editable(made, graph), nl=False)
        return
    found = compare_plans(made, load_record(other, Plan))
    _show(found.text, to_plain(found), quiet=quiet, as_json=as_json)


@app.command()
def compress(
    run: Run,
    lr: Annotated[float, typer.Option(help="Learning rate of the tuning.")] = 0.02,
    tuning_samples: Annotated[int | None, typer.Option(min=1, help="Samples per tuning epoch [default: all].")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Walk the plan: narrow, tune, measure, step by step. Resumes where it was."""
    from .sessions import resume
    from .stages import compressed
    from .training import Recipe

    with _working(run, quiet) as progress:
        _, result = compressed(resume(run), Recipe(epochs=1, lr=lr), tuning_samples=tuning_samples, progress=progress)
    _show(result_view(result), to_plain(result), quiet=quiet, as_json=as_json)


@app.command()
def quantize(run: Run, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Export the compressed network and its twin in integers (the plan's bits) as ONNX files, and measure both."""
    from .sessions import resume
    from .stages import file_facts, quantized

    with _working(run, quiet):
        session = resume(run)
        coarse, result = quantized(session)
        facts = file_facts(session, coarse, result)
    _show(files_view(facts), facts, quiet=quiet, as_json=as_json)


@app.command()
def export(run: Run, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write the dense and the compressed network as float ONNX files, checked against torch."""
    from .sessions import resume
    from .stages import exported

    with _working(run, quiet):
        paths = [str(path) for path in exported(resume(run))]
    _show("wrote " + " and ".join(paths), {"files": paths}, quiet=quiet, as_json=as_json)


@app.command()
def report(run: Run, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write report.html: the whole run on one self-contained page. Needs no torch, and works on a copied directory."""
    from .reporting import write_report

    path = write_report(run)
    _show(f"wrote {path}", {"report": str(path)}, quiet=quiet, as_json=as_json)


__all__ = ["Result", "Table", "app", "main"]
