"""lamella compress: walk the run's plan, beside its controls if asked.

lamella compress RUN --recipe lr=0.01 --recipe distil=0.5 --removal soft
lamella compress RUN --replan 4
lamella compress RUN --devices 2 --precision bf16-mixed
lamella compress RUN --control origin --control in_order --seeds 3
"""

from typing import Annotated

import typer

from ..errors import LamellaError
from ..records import to_plain
from ..views import result_view, trials_view
from .shared import AsJson, Quiet, Run, show, working


def compress(
    run: Run,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE of the tuning: lr=0.02, optimizer=adamw, label_smoothing=0.1, distil=0.5, patience=2, ... Repeatable."
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Short for --recipe lr=RATE [default: 0.02].")] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Short for --recipe devices=N: tune on so many GPUs, or CPU processes where there is none. Needs the extra fabric.",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Short for --recipe precision=P: 32-true or bf16-mixed. Needs the extra fabric.")
    ] = None,
    removal: Annotated[
        str,
        typer.Option(
            help="How channels leave: cut (at once), soft or sparse (shrinking while the step's epochs train)."
        ),
    ] = "cut",
    tuning_samples: Annotated[int | None, typer.Option(min=1, help="Samples per tuning epoch [default: all].")] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="Walk this control too, from each seed: origin, in_order, uniform. Repeatable."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, with --control [default: 3].")] = None,
    replan: Annotated[
        int | None,
        typer.Option(min=1, help="After every so many cuts, measure what is left anew and plan the rest anew."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Walk the plan: narrow, tune, measure, step by step. Resumes where it was."""
    from ..compression import TUNING
    from ..sessions import recipe_of, resume
    from ..stages import Way, compressed
    from ..stages.controls import controlled
    from ..stages.replanning import compressed_in_turns

    _check_asked(control, seeds, replan)
    with working(run, quiet) as progress:
        session = resume(run)
        tuning = recipe_of(recipe or [], TUNING, lr=lr, devices=devices, precision=precision)
        way = Way(tuning, tuning_samples, removal)
        if control:
            found = controlled(session, way, control, seeds or 3, progress)
            show(trials_view(found), to_plain(found), quiet=quiet, as_json=as_json)
            return
        if replan is None:
            _, result = compressed(session, way, progress=progress)
        else:
            _, result = compressed_in_turns(session, way, every=replan, progress=progress)
    show(result_view(result), to_plain(result), quiet=quiet, as_json=as_json)


def _check_asked(control: list[str] | None, seeds: int | None, replan: int | None) -> None:
    """LamellaError for options that would be ignored together."""
    if control and replan is not None:
        raise LamellaError(
            f"--control {control[0]} --replan {replan}: controls walk the plan as it stands, and replanning changes it on the way. "
            "Give one of them."
        )
    if seeds is not None and not control:
        raise LamellaError(f"--seeds {seeds}: seeds are of controls. Name one with --control, or leave --seeds out.")
