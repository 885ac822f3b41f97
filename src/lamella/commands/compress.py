"""lamella compress: walk the run's plan, beside its controls if asked.

lamella compress RUN --recipe lr=0.01 --recipe distil=0.5 --removal soft
lamella compress RUN --replan 4
lamella compress RUN --devices 2 --precision bf16-mixed
lamella compress RUN --control origin --control in_order --seeds 3
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LamellaError
from ..pairs import recipe_of
from ..records import to_plain
from ..views import result_view, trials_view
from .shared import AsJson, Devices, Precision, Quiet, Run, following, options, show, working

if TYPE_CHECKING:
    from ..schema import Step
    from ..stages import Way


@dataclass(frozen=True, kw_only=True)
class Walking:
    """How the plan is walked."""

    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the tuning: lr=0.02, optimizer=adamw, label_smoothing=0.1, distil=0.5, patience=2, ... Repeatable.",
        ),
    ] = None
    lr: Annotated[float | None, typer.Option(help="Short for --recipe lr=RATE [default: 0.02].")] = None
    devices: Devices = None
    precision: Precision = None
    removal: Annotated[
        str,
        typer.Option(
            help="How channels leave: cut (at once), soft or sparse (shrinking while the step's epochs train)."
        ),
    ] = "cut"
    tuning_samples: Annotated[int | None, typer.Option(min=1, help="Samples per tuning epoch [default: all].")] = None

    def way(self, steps: Sequence["Step"]) -> "Way":
        """As a record. Epochs are those of the plan's steps: the recipe's are as many as its warm-up takes."""
        from ..compression import TUNING
        from ..stages import Way

        longest = max([TUNING.epochs, *(step.epochs for step in steps)])
        shorthands = {"lr": self.lr, "devices": self.devices, "precision": self.precision}
        recipe = recipe_of(self.recipe or [], "--recipe", replace(TUNING, epochs=longest), **shorthands)
        recipe = replace(recipe, epochs=max(TUNING.epochs, math.ceil(recipe.warmup)))
        return Way(recipe, self.tuning_samples, self.removal)


@dataclass(frozen=True, kw_only=True)
class Otherwise:
    """What the plan is walked beside, or what becomes of it on the way."""

    control: Annotated[
        list[str] | None,
        typer.Option(
            help="Walk this control too, from each seed: origin, in_order, uniform. Repeatable, or with commas."
        ),
    ] = None
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, with --control [default: 3].")] = None
    replan: Annotated[
        int | None,
        typer.Option(min=1, help="After every so many cuts, measure what is left anew and plan the rest anew."),
    ] = None

    @property
    def controls(self) -> list[str]:
        """Their names, one by one."""
        return [name for each in self.control or () for name in each.split(",")]

    def __post_init__(self) -> None:
        if self.control and self.replan is not None:
            raise LamellaError(
                f"--control {self.control[0]} --replan {self.replan}: controls walk the plan as it stands, and replanning changes it "
                "on the way. Give one of them."
            )
        if self.seeds is not None and not self.control:
            raise LamellaError(
                f"--seeds {self.seeds}: seeds are of controls. Name one with --control, or leave --seeds out."
            )


@options(walking=Walking, otherwise=Otherwise)
def compress(run: Run, walking: Walking, otherwise: Otherwise, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Walk the plan: narrow, tune, measure, step by step. Resumes where it was."""
    from ..schema import Plan
    from ..sessions import resume
    from ..stages import compressed
    from ..stages.controls import controlled
    from ..stages.replanning import compressed_in_turns

    with working(run, quiet) as progress:
        session = resume(run)
        way = walking.way(session.read("plan", Plan).steps if session.has("plan") else ())  # options are told first
        if otherwise.control:
            found = controlled(session, way, otherwise.controls, otherwise.seeds or 3, progress)
            show(
                trials_view(found, session.metric),
                to_plain(found),
                quiet=quiet,
                as_json=as_json,
                then=following(run, "report"),
            )
            return
        if otherwise.replan is None:
            _, result = compressed(session, way, progress=progress)
        else:
            _, result = compressed_in_turns(session, way, every=otherwise.replan, progress=progress)
    then = following(run, "quantize", "export")
    show(result_view(result, session.metric), to_plain(result), quiet=quiet, as_json=as_json, then=then)
