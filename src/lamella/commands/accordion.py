"""lamella accordion: which widths a dense network needs, and whether it is the shape or just the size.

lamella accordion --task fraud --data creditcard.csv
lamella accordion --task mnist --data MNIST --widths 128,64,32,64,128 --budget max_drop=3
lamella accordion --task table --data machines.csv --option label=failed --option ignore=id --method joint
"""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import LamellaError
from ..records import to_plain
from ..schema import FILES, Budget
from ..texts import parsed
from ..views import accordion_view
from .shared import AsJson, Quiet, show, working

DEFAULT_WIDTHS = {"mnist": "mnist-baseline", "digits": "32,16,8,16,32"}


def accordion(
    run: Annotated[
        Path | None, typer.Option(help="The run directory [default: runs/TASK-accordion].", metavar="RUN")
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="fraud, table, mnist, digits, or package.module:function.")
    ] = "fraud",
    data: Annotated[
        Path | None, typer.Option(help="The table (.csv, .parquet, .npz), or the directory of the official files.")
    ] = None,
    widths: Annotated[
        str | None, typer.Option(help="Hidden widths of the baseline, comma separated, or a published shape's name.")
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(help="Widths to try, comma separated [default: 2,3,4,6,8,12 ... up to the widest].")
    ] = None,
    method: Annotated[str, typer.Option(help="sequential, joint or prune.")] = "sequential",
    metric: Annotated[
        str | None, typer.Option(help="What choices follow on validation [default: the task's first].")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks per shape.")] = 5,
    seed: Annotated[int, typer.Option(help="The first of these seeds.")] = 0,
    budget: Annotated[
        list[str] | None, typer.Option(help="NAME=LIMIT: params=26% or params=400, or max_drop=3 (points).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every training [default: 40].")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start [default: 0.003].")] = None,
    activation: Annotated[str, typer.Option(help="relu, elu or tanh.")] = "elu",
    passes: Annotated[int, typer.Option(help="Times around all pairs.")] = 1,
    trials: Annotated[int, typer.Option(help="Shapes of the joint search.")] = 64,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="Move every layer alone.")] = False,
    executor: Annotated[str, typer.Option(help="serial, processes or ray.")] = "serial",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", help="NAME=VALUE of the data: validation=time, label=..., ignore=a,b, limit=1000. Repeatable."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search the widths of a dense network over seeds, hold the winner against its controls, export it. Resumes where it was."""
    from dataclasses import replace

    from ..accordions import BASELINE, RECIPE, Settings
    from ..sessions import describe, named_values
    from ..stages.shaping import begin, shaped

    limits = Budget(**{n: parsed(v) for n, v in named_values(budget or [], "--budget", ("max_drop", "params"))})
    settings = Settings(
        method=method,
        metric=metric,
        seeds=seeds,
        first_seed=seed,
        budget=limits,
        passes=passes,
        trials=trials,
        activation=activation,
        executor=executor,
    )
    recipe = replace(RECIPE, epochs=epochs or RECIPE.epochs, lr=lr or RECIPE.lr)
    baseline = _widths(widths or DEFAULT_WIDTHS.get(task, ""), "--widths") or BASELINE
    chosen = _widths(candidates, "--candidates") if candidates is not None else None
    info = describe(
        model="autoencoder",
        task=task,
        data=str(data.absolute()) if data else None,
        weights=None,
        seed=seed,
        options=dict(named_values(option or [], "--option")),
    )
    directory = run or Path("runs") / f"{task.rpartition(':')[2]}-accordion"
    with working(directory, quiet, fresh=True) as progress:
        found = shaped(
            begin(directory, info),
            baseline,
            candidates=chosen,
            symmetric=not asymmetric,
            settings=settings,
            recipe=recipe,
            progress=progress,
        )
    view = accordion_view(found, str(directory / FILES["accordion"][0]))
    show(view, {"run": str(directory), **to_plain(found)}, quiet=quiet, as_json=as_json)


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
