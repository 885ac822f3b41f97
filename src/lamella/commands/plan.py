"""lamella plan: a plan from the run's curves, a front of plans, or a plan read back from a text.

lamella plan RUN --planner knapsack --budget bytes=10% --budget macs=50%
lamella plan RUN --planner knapsack --budget latency_ms=50% --bits 8       # measures this network's latencies first, once
lamella plan RUN --planner search --budget bytes=10% --option trials=40    # measures candidates; resumes
lamella plan RUN --pareto bytes
lamella plan RUN --text > plan.txt; lamella plan RUN --edit plan.txt; lamella plan RUN --compare other/plan.json
"""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LamellaError
from ..pairs import options_of, parsed_values
from ..planning import ORDERS, PLANNERS, editable, flat
from ..planning import compare as compare_plans
from ..records import load_record, to_plain
from ..runs import check_made
from ..schema import FILES, Budget, Graph, Measuring, Plan, Request
from ..schema.plans import BUDGETS
from ..views import front_view, plan_view
from .shared import AsJson, Quiet, Run, following, options, show, working

if TYPE_CHECKING:
    from ..sessions import Session

CHOOSE_BITS = ("knapsack", "search")

Texts = list[str] | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a planner."""

    planner: Annotated[
        str | None, typer.Option(help=f"{', '.join(PLANNERS)} [default: threshold; knapsack for --pareto].")
    ] = None
    order: Annotated[str, typer.Option(help=", ".join(ORDERS))] = "by_score"
    budget: Annotated[
        Texts,
        typer.Option(
            metavar="NAME=LIMIT",
            help="max_drop=1.0 (points, hundredths of the score), bytes=10%, params, macs, memory, latency_ms. Repeatable.",
        ),
    ] = None
    option: Annotated[
        Texts,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the planner: factor=0.985, pruning_ratio=0.5, by=macs, align=8, trials=40 ... Repeatable.",
        ),
    ] = None
    measure: Annotated[
        Texts,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of what planning measures: precision=int8, runtime=openvino, fits=12, holds=8 (latency_ms), recalibrate=1, "
            "tune_epochs=1, tune_samples=5000, lr=0.01 (greedy, search), weigh=0 (do not export the plan's file to weigh it). Repeatable.",
        ),
    ] = None
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of tuning after each step.")] = 1
    closing_epochs: Annotated[int, typer.Option(min=0, help="Epochs of tuning after the last step.")] = 0
    bits_epochs: Annotated[
        int,
        typer.Option(min=0, help="Epochs of tuning with weights on their grids, where layers get fewer than 8 bits."),
    ] = 0
    bits: Annotated[
        int | None,
        typer.Option(
            help="Bits for every layer in a last step; 32 for none [default: 8, or what the planner chooses]."
        ),
    ] = None

    def check_beside(self, instead: "Instead") -> None:
        """LamellaError for what would be passed over: an edited text decides all but the budget, a front has no steps, and a plan
        that is shown is there.
        """
        if not instead.named:
            return
        usual = Asked()
        given = [f.name for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)]
        passed_over = [f"--{name.replace('_', '-')}" for name in given if name not in instead.reads]
        if passed_over:
            why = "the run's own plan is shown"
            if instead.edit or instead.pareto:
                why = "steps, epochs and bits are those of the edited text" if instead.edit else "a front has no steps"
            raise LamellaError(
                f"{instead.named} with {' and '.join(passed_over)}: {why}. Leave out the one or the other."
            )

    @property
    def limits(self) -> list[str]:
        """What a front and a plan of it are asked with alike, as it was given."""
        kinds = {"--budget": self.budget, "--option": self.option, "--measure": self.measure}
        given = [f"{name} {shlex.quote(each)}" for name, values in kinds.items() for each in values or ()]
        return [*given, *([] if self.bits is None else [f"--bits {self.bits}"])]

    def request(self, usual: str) -> Request:
        """As a record; `usual`: the planner where none was named."""
        planner = self.planner or usual
        own = parsed_values(self.option or [], "--option")
        return Request(
            budget=Budget(**parsed_values(self.budget or [], "--budget", BUDGETS)),
            planner=planner,
            order=self.order,
            epochs=self.epochs,
            closing_epochs=self.closing_epochs,
            bits_epochs=self.bits_epochs,
            bits=self.bits if self.bits is not None or planner in CHOOSE_BITS else 8,
            options={"control": True, **own} if planner == "search" else own,
            measuring=options_of(Measuring, self.measure or [], "--measure"),
        )


@dataclass(frozen=True, kw_only=True)
class Instead:
    """What is wanted instead of a new plan: one thing at most."""

    pareto: Annotated[
        str | None,
        typer.Option(help="Instead of a plan, the front over this budget; writes front.json and pareto.csv."),
    ] = None
    compare: Annotated[Path | None, typer.Option(help="Print how the run's plan differs from this plan.json.")] = None
    edit: Annotated[Path | None, typer.Option(help="Take the plan from this edited text (see --text).")] = None
    text: Annotated[bool, typer.Option("--text", help="Print the run's plan as text to edit.")] = False

    def __post_init__(self) -> None:
        if len(self._given) > 1:
            raise LamellaError(f"{self.named} ask for different things: give one of them.")

    @property
    def named(self) -> str:
        """What was given, as a user writes it."""
        return " and ".join(self._given)

    @property
    def reads(self) -> tuple[str, ...]:
        """What of `Asked` is read beside it."""
        if self.pareto:
            return ("planner", "budget", "option", "measure", "bits")
        return ("budget", "measure") if self.edit else ()

    def check_axis(self, budget: Budget) -> None:
        """LamellaError for a limit on what the front is over."""
        if self.pareto and getattr(budget, self.pareto, None) is not None:
            raise LamellaError(
                f"--pareto {self.pareto} with --budget {self.pareto}=: a front goes over limits of its own on its budget. Leave out "
                "the one or the other."
            )

    @property
    def _given(self) -> list[str]:
        return [f"--{f.name}" for f in fields(self) if getattr(self, f.name)]


@options(asked=Asked, instead=Instead)
def plan(run: Run, asked: Asked, instead: Instead, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Decide which group gives up how many channels, and in which order."""
    from ..sessions import resume
    from ..stages.deciding import fronted, planned, taken

    asked.check_beside(instead)
    request = asked.request("knapsack" if instead.pareto else "threshold")
    instead.check_axis(request.budget)
    if instead.text or instead.compare:  # which only read, beside whoever writes there
        _about_plan(resume(run), instead.compare, quiet=quiet, as_json=as_json)
        return
    with working(run, quiet) as progress:
        session = resume(run)
        if instead.pareto:
            front = fronted(session, instead.pareto, request, progress)
            words = " ".join([f"--planner {request.planner}", *asked.limits, f"--budget {front.axis}=LIMIT"])
            then = f"{following(run, 'plan')} {words}, with one of these limits"
            show(
                front_view(front, session.metric),
                [flat(row) for row in front.rows],
                quiet=quiet,
                as_json=as_json,
                then=then,
            )
            return
        made = (
            taken(session, instead.edit, request.budget, request.measuring, progress)
            if instead.edit
            else planned(session, request, progress)
        )
    graph = session.read("graph", Graph)
    curves = session.profile() if session.has("profile") else None
    then = following(run, "compress")
    show(plan_view(made, graph, curves), to_plain(made), quiet=quiet, as_json=as_json, then=then)


def _about_plan(session: "Session", other: Path | None, *, quiet: bool, as_json: bool) -> None:
    """The plan as text to edit, or beside another."""
    made = session.read("plan", Plan)
    if other is None:
        typer.echo(editable(made, session.read("graph", Graph)), nl=False)
        return
    check_made(other, f"{FILES['plan'][1]} RUN")
    found = compare_plans(made, load_record(other, Plan))
    show(found.text, to_plain(found), quiet=quiet, as_json=as_json)
