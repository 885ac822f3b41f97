"""lamella elasticize and lamella serve-levels: nested levels in one set of weights, and how they serve.

lamella elasticize RUN --method sandwich --epochs 8 --recipe warmup=0.5 --teach teacher=dense
lamella elasticize RUN --further --epochs 4
lamella elasticize RUN --level core=0.5 --level planned=plan.json --level fast=latency_ms=40% --round-to aligned
lamella serve-levels RUN --load 0.7 --precision int8 --picture day.svg
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import LamellaError
from ..pairs import named_values, options_of, recipe_of
from ..progress import Progress
from ..records import to_plain
from ..reporting.charts import chart_svg, day_spec, grounded
from ..runs import write_atomically
from ..schema import Family
from ..views import family_view, serving_view
from .shared import AsJson, Devices, Precision, Quiet, Run, following, options, show, working

if TYPE_CHECKING:
    from ..elasticity import How
    from ..serving import Policy
    from ..sessions import Session


@dataclass(frozen=True, kw_only=True)
class Nesting:
    """Which levels there are."""

    level: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LEVEL",
            help="NAME=RATIO (the fraction of channels that leaves), NAME=PLAN.json, or NAME=COST=AMOUNT for the widest that "
            "keeps it (latency_ms=50%, params, macs, bytes, memory; comma separated). Repeatable [default: three rounds of "
            "20 %]. The dense network is always the last level.",
        ),
    ] = None
    round_to: Annotated[
        str | None,
        typer.Option(
            help="Widths in whole steps: a number, aligned (what CPU runtimes like), or measured (on this machine) [default: as "
            "the run was traced]. A plan keeps its widths."
        ),
    ] = None
    allow_slower: Annotated[
        bool, typer.Option("--allow-slower", help="Accept levels that are slower than a larger one.")
    ] = False
    own: Annotated[
        list[str] | None, typer.Option(help="A module of which every level has its own copy. Repeatable.")
    ] = None
    further: Annotated[
        bool, typer.Option("--further", help="Go on training the levels that the run has, from what they have learned.")
    ] = False

    def check(self) -> None:
        """LamellaError where levels are asked for, and those of the run are to be trained further."""
        asked = {
            "--level": self.level,
            "--round-to": self.round_to,
            "--allow-slower": self.allow_slower,
            "--own": self.own,
        }
        named = [option for option, given in asked.items() if given]
        if self.further and named:
            raise LamellaError(
                f"--further goes on with the levels that the run has, and {' and '.join(named)} asked for others. Leave out one or "
                "the other."
            )

    def drafted(self, session: "Session", progress: Progress) -> Family:
        """The levels, none slower than a larger one unless that is allowed."""
        from ..stages.levels import drafted, settings_of

        levels = settings_of(named_values(self.level, "--level")) if self.level else None
        return drafted(session, levels, round_to=self.round_to, allow_slower=self.allow_slower, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How they are trained."""

    method: Annotated[str, typer.Option(help="sandwich, grow or none.")] = "sandwich"
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of each stage of training (grow: one stage per level).")
    ] = 3
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the training: lr=0.02, warmup=0.5, optimizer=adamw, label_smoothing=0.1, patience=2, ... Repeatable.",
        ),
    ] = None
    lr: Annotated[float | None, typer.Option(help="Short for --recipe lr=RATE [default: 0.02].")] = None
    devices: Devices = None
    precision: Precision = None
    teach: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Repeatable. teacher: largest (the largest level as it is, default) or dense (the network as it "
            "was, which teaches the largest level too); labels: the share of a taught level's loss that is the task's own [0]; "
            "temperature [1]; at_random: middle levels drawn for each step of sandwich [2].",
        ),
    ] = None
    tuning_samples: Annotated[int | None, typer.Option(min=1, help="Samples per epoch [default: all].")] = None

    def how(self) -> "How":
        """As a record."""
        from ..elasticity import METHODS, TUNING, How, Teaching

        for pair in self.recipe or ():
            if pair in METHODS:
                raise LamellaError(
                    f"--recipe {pair}: NAME=VALUE was expected. How levels are trained is --method {pair}."
                )
        shorthands = {"lr": self.lr, "devices": self.devices, "precision": self.precision}
        recipe = recipe_of(self.recipe or (), "--recipe", replace(TUNING, epochs=self.epochs), **shorthands)
        return How(self.method, recipe, options_of(Teaching, self.teach or (), "--teach"))


@options(nesting=Nesting, training=Training)
def elasticize(run: Run, nesting: Nesting, training: Training, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Make nested levels in one set of weights, train them, and write them as ONNX files. Resumes where it was."""
    from ..elasticity import check_request
    from ..sessions import resume
    from ..stages.elastic import elasticized, trained_further
    from ..stages.verbs import tuning_task

    with working(run, quiet) as progress:
        nesting.check()
        session, own, how = resume(run), tuple(nesting.own or ()), training.how()
        task = tuning_task(session.task, training.tuning_samples)
        check_request(session.dense(), task, how, own)
        family: Family = (
            trained_further(session, task, how, progress)
            if nesting.further
            else elasticized(session, nesting.drafted(session, progress), task, how, own=own, progress=progress)
        )
    show(
        family_view(family, session.metric),
        to_plain(family),
        quiet=quiet,
        as_json=as_json,
        then=following(run, "serve-levels", "report"),
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the governor keeps."""

    load: Annotated[
        float | None, typer.Option(help="The share of its time that serving may take, at most 1 [default: 0.7].")
    ] = None
    latency_ms: Annotated[float | None, typer.Option(help="Milliseconds a request may take.")] = None
    memory: Annotated[float | None, typer.Option(help="Bytes of weights and activations a level may take.")] = None

    def policy(self) -> "Policy":
        """As a record; where nothing is asked, the usual load."""
        from ..serving import Policy

        asked: dict[str, Any] = asdict(self)
        return Policy(**asked) if any(limit is not None for limit in asked.values()) else Policy(load=0.7)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How the levels are shown at work."""

    precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "fp32"
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of work that the simulated day is squeezed into.")] = (
        12.0
    )
    threads: Annotated[int, typer.Option(min=1, help="Threads that send requests while levels switch.")] = 2
    picture: Annotated[Path | None, typer.Option(help="Draw the day into this SVG file.")] = None

    def draw(self, day: Mapping[str, Any]) -> None:
        """The picture, where one is asked for."""
        if self.picture:
            drawn = chart_svg(day_spec(day["plot"]), label="A day of changing load", scheme="light")
            write_atomically(self.picture, grounded(drawn, "light"))


@options(limits=Limits, serving=Serving)
def serve_levels(run: Run, limits: Limits, serving: Serving, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Show the levels, switch them under load, and serve a day of changing load with and without a governor."""
    from ..sessions import resume
    from ..stages.serving import served

    policy = limits.policy()
    with working(run, quiet) as progress:
        session = resume(run)
        family = session.read("elastic", Family)
        found = served(
            session,
            policy,
            precision=serving.precision,
            seconds=serving.seconds,
            threads=serving.threads,
            progress=progress,
        )
    then = following(run, "report")
    show(serving_view(family, found, session.metric), to_plain(found), quiet=quiet, as_json=as_json, then=then)
    serving.draw(found["day"])  # last: a picture that cannot be drawn costs nothing that was measured
