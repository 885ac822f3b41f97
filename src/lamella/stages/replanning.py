"""A walk that plans anew on the way: after every so many cuts, fresh curves of the groups that are left, and a plan from them.

    small, result = compressed_in_turns(session, Way(recipe), every=4)

Curves of the dense network grow old as the network is cut and tuned. `result.plan` holds the steps that were taken, `result.history`
what each was expected to leave and left. Walks, curves and tuning resume; where the rest of a budget cannot be kept any more the
old steps stay, and a note says so.
"""

import glob
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..compression import outcome
from ..digests import data_digest
from ..errors import BudgetError, LamellaError
from ..planning import PLANNERS, replan
from ..profiling import Sweep, profile
from ..progress import Progress, silent
from ..records import digest
from ..schema import Plan, Profile, Request, Result, Step
from ..sessions import Session
from ..storage import save
from ..texts import told
from ..walking import State, Tuning, last, start, walk
from .deciding import measured_by, tuned_on_grids
from .standing import Way, begins
from .verbs import tuning_task


def compressed_in_turns(
    session: Session, way: Way, *, every: int, progress: Progress = silent
) -> tuple[nn.Module, Result]:
    """The plan's first `every` cuts, fresh curves, a new plan for the rest, and so on; `model.safetensors` and `result.json`."""
    if every < 1:
        raise LamellaError(f"replan={every}: at least one step between two plans was expected.")
    plan, graph, request = session.read("plan", Plan), session.graph(), session.read("request", Request)
    plan.check_fits(graph)
    if request.planner not in PLANNERS:
        raise LamellaError(
            f"replan={every}: this plan was made {request.planner}, and a planner would plan the rest of it. Walk it as it stands, or "
            "make a plan by one (`lamella plan --planner`)."
        )
    asked, progress = digest(plan), begins(session.directory, way.command(every), progress)
    dense = session.dense()
    tuning = Tuning(tuning_task(session.task, way.tuning_samples), way.recipe, session.info.seed, way.removal, dense)
    state, taken = start(dense, graph, session.task), 0
    while True:
        cuts = sum(bool(step.widths) for step in plan.steps[taken:])
        turn = _next(plan.steps[taken:], every) if cuts > every else plan.steps[taken:]
        before = plan.steps[:taken]
        folder = session.directory / "steps" / digest((before, turn, way))
        state = last(walk(state, turn, tuning, directory=folder, progress=progress, before=before))
        taken += len(turn)
        if taken >= len(plan.steps):
            break
        plan = _planned_anew(session, plan, taken, state, request, progress)
    data = data_digest(session.task.validation)
    result = replace(outcome(state, plan, graph, session.info.seed), asked=asked, data=data)
    save(session.directory, state.model, result)
    return state.model, result


def _next(steps: Sequence[Step], every: int) -> tuple[Step, ...]:
    """The steps up to and with the cut of this number."""
    ends = [i for i, step in enumerate(steps, 1) if step.widths]
    return tuple(steps[: ends[every - 1]])


def _planned_anew(session: Session, plan: Plan, taken: int, state: State, request: Request, progress: Progress) -> Plan:
    """The steps taken, and new ones for the groups not cut yet."""
    cut = {name for step in plan.steps[:taken] for name in step.widths}
    left = tuple(g.name for g in state.graph.free if g.name not in cut)
    fresh = _curves(session, taken, state, left, plan, progress)
    named = f"{session.info.model} after {taken} steps"
    handed = measured_by(session, request, progress, state.model, replace(state.graph, model=named))
    options = {"planner": request.planner, "order": request.order, "epochs": request.epochs, "bits": request.bits}
    try:
        made = replan(plan, taken, fresh, request.budget, **options, **request.options, **handed)
    except BudgetError as error:
        first = str(error).splitlines()[0]
        return replace(plan, notes=(*plan.notes, f"after {taken} steps the old plan was kept: {first}"))
    closing = [step for step in plan.steps[taken:] if not step.widths and not step.bits]
    done, rest = made.steps[:taken], made.steps[taken:]
    cuts, bits = ([s for s in rest if bool(s.bits) == rounding] for rounding in (False, True))
    now = f"baseline then {told(fresh.baseline.value, fresh.metric)}"
    note = f"after {taken} steps the rest was planned anew from {len(fresh.points)} fresh points; {now}"
    return replace(made, steps=(*done, *cuts, *closing, *tuned_on_grids(bits, request)), notes=(*plan.notes, note))


def _curves(
    session: Session, taken: int, state: State, left: tuple[str, ...], plan: Plan, progress: Progress
) -> Profile:
    """Curves of the groups that are left (and bits of every layer, where the run's profile has them), measured as it stands."""
    before = session.profile()
    bits = tuple(sorted({int(p.level) for p in before.points if p.knob == "bits"}, reverse=True))
    curves = [before.curve(group.name) for group in before.graph.free]
    some = [tuple(point.level for point in curve if point.level < 1) for curve in curves]
    ratios = max(some, key=len, default=())  # every group has levels near these
    whole = any(point.width == 0 for curve in curves for point in curve)
    layers = tuple(layer.name for layer in state.graph.layers) if bits else ()
    wanted = tuple(glob.escape(name) for name in (*left, *layers))
    folder = session.directory / "replan"
    folder.mkdir(exist_ok=True)
    return profile(
        state.model,
        session.task,
        graph=state.graph,
        pruning_ratios=ratios,
        bits=bits,
        sweep=Sweep(points=wanted, recalibrate=before.recalibrated, whole=whole, **_tuning(before)),
        journal=folder / f"profile-{digest((plan.steps[:taken],))}.jsonl",
        progress=lambda stage, done, total, note="": progress(f"profile after step {taken}", done, total, note),
    )


def _tuning(before: Profile) -> dict[str, Any]:
    """How a sweep tunes its points as this profile's were."""
    tuned = before.tuned
    if tuned is None:
        return {}
    return {"tune_epochs": tuned.epochs, "tune_samples": tuned.samples, "lr": tuned.lr, "seed": tuned.seed}
