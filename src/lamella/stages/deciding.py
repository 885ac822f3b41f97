"""The planning stage over a run directory: what a plan needs measured is measured, and its file is weighed before anyone tunes.

    planned(session, Request(budget=Budget(latency_ms="50%"), planner="knapsack", order="by_score"))
    planned(session, Request(budget=Budget(bytes="10%"), planner="search", order="by_score", options={"trials": 40}))
    fronted(session, "bytes", request); taken(session, path, budget, Measuring())
    heavier(session, "int8_onnx")        # a file over its byte budget: a new plan, and what to say of it

A budget in latency_ms has the network's plans timed (`latencies`), once per run, precision and runtime; order `greedy` and planner `search`
measure candidates (`candidates`), journalled. A budget in bytes is held to the file itself: it is exported untuned and weighed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..candidates import Candidates
from ..digests import weights_digest
from ..errors import BudgetError, LamellaError, MissingExtra, in_file
from ..exporting import NarrowedExports, onnx_bytes
from ..latencies import Timing, is_of_this_rule, latency_fit, predictor, written
from ..making import folder
from ..planning import (
    ADDED_UP,
    PLANNERS,
    edited,
    front_csv,
    front_of,
    front_record,
    greedy_measurements,
    pareto,
    with_residue,
    without_bits,
)
from ..planning import plan as make_plan
from ..progress import Progress, silent
from ..records import digest
from ..runs import read_text, write_atomically
from ..schema import Budget, Front, Graph, LatencyFit, Measuring, Plan, Profile, Request, Result, Step
from ..schema.plans import FLOAT, few_bits, in_integers
from ..sessions import Session
from ..surgery import narrow
from ..texts import counted
from ..timing import Precision
from ..timing.tables import machine
from ..training import Brief, scored
from .verbs import overtaken

CURVELESS = ("shares", "uniform")  # planners that look at no curve
WEIGHINGS = 4  # of one request's plans; the residue hardly changes from one to the next


def planned(session: Session, request: Request, progress: Progress = silent) -> Plan:
    """The plan from the run's curves, `plan.json` and `request.json`; with `trade` in the options also the measured front.

    A planner that looks at no curve plans without a profile too; then nothing is expected of its steps.
    """
    _check_measuring(request)
    profile, handed = curves(session, request.planner), _handed(session, request, progress)
    notes = tuple(found.text for found in handed.pop("fits", ()))
    measure: Any = handed.get("measure")

    def again(budget: Budget) -> Plan:
        return make_plan(profile, budget, **_asked(request), **handed)

    made = again(request.budget)
    if request.measuring.weigh:
        made = _weighed(session, made, request.budget, again)
    if measure is not None:
        getattr(measure, "__self__", measure).finished()
    if not profile.points and request.order != "greedy":
        made = _unexpected(made)
    if measure is not None and request.measuring.tune_epochs:
        notes = (f"candidates were measured {_tuning_told(request)}", *notes)
    made = _tuned(replace(made, notes=(*made.notes, *notes)), request)
    keep(session, made, request)
    return made


def _check_measuring(request: Request) -> None:
    """LamellaError for a tuning that nothing would be measured after, and a runtime that nothing would be timed in."""
    if request.measuring.runtime != "onnxruntime" and not request.of_latency:
        raise LamellaError(
            f"runtime={request.measuring.runtime} is where milliseconds are measured, and none were asked for. Give a budget of "
            "latency_ms as well, or leave it out."
        )
    if request.measuring.tune_epochs and request.planner != "search" and request.order != "greedy":
        raise LamellaError(
            f"tune_epochs={request.measuring.tune_epochs} tunes the candidates that planner 'search' and order 'greedy' measure, and "
            f"neither was asked for. Plan with one of them, or leave it out: compress tunes by the epochs of the plan's steps."
        )


def curves(session: Session, planner: str) -> Profile:
    """The run's profile; where there is none and the planner needs none, the dense network's score alone."""
    if session.has("profile") or planner not in CURVELESS:
        return session.profile()
    baseline = scored(session.dense(), session.task.validation, session.task)
    return Profile(graph=session.graph(), baseline=baseline, points=(), metric=session.metric)


def _unexpected(made: Plan) -> Plan:
    """Of a plan that rests on no measurement: without the score that taking every cut to lose nothing would give."""
    steps = tuple(replace(step, expected=None) for step in made.steps)
    return replace(made, steps=steps, predicted_score=None, notes=tuple(n for n in made.notes if n != ADDED_UP))


def keep(session: Session, made: Plan, request: Request) -> None:
    """`plan.json`, `request.json`, and a measured front where the plan has one."""
    session.write("request", request)
    session.write("plan", made)
    if made.front:
        axis = str(request.options["trade"])
        _keep_front(session, front_of(made, axis, made.front, (f"every row was measured, {_tuning_told(request)}",)))


def _tuning_told(request: Request) -> str:
    asked = request.measuring
    if not asked.tune_epochs:
        return "untuned"
    of = "" if asked.tune_samples is None else f" of {asked.tune_samples:,} samples"
    return f"tuned for {counted(asked.tune_epochs, 'epoch')}{of} at {asked.lr:g}"


def _asked(request: Request) -> dict[str, Any]:
    """What `plan` takes of a request."""
    names = ("planner", "order", "epochs", "bits")
    return {**{name: getattr(request, name) for name in names}, **request.options}


def _tuned(made: Plan, request: Request) -> Plan:
    """With a last step of tuning alone, after all cuts, and tuning in few bits."""
    steps = made.steps
    if request.closing_epochs:
        cuts, rest = ([s for s in steps if bool(s.widths) == cuts] for cuts in (True, False))
        steps = (*cuts, Step(epochs=request.closing_epochs), *rest)
    steps = tuned_on_grids(steps, request)
    idle = request.bits_epochs and not any(map(_few_bits_alone, steps))
    notes = (
        ("no layer has fewer than 8 bits, so there is no grid to tune on: bits_epochs changes nothing",) if idle else ()
    )
    return replace(made, steps=steps, notes=(*made.notes, *notes))


def tuned_on_grids(steps: Sequence[Step], request: Request) -> tuple[Step, ...]:
    """The steps, those of few bits with the epochs that the request has for them."""
    if not request.bits_epochs:
        return tuple(steps)
    return tuple(replace(s, epochs=request.bits_epochs) if _few_bits_alone(s) else s for s in steps)


def _few_bits_alone(step: Step) -> bool:
    return not step.widths and bool(few_bits(step.bits))


def fronted(
    session: Session,
    axis: str,
    request: Request,
    progress: Progress = silent,
) -> Front:
    """The front over one budget, `front.json` and `pareto.csv`. Bytes are predicted here: no file is weighed."""
    profile = session.profile()
    budget = replace(request.budget, latency_ms="100%") if axis == "latency_ms" else request.budget
    asked = replace(request, budget=budget)
    _check_measuring(asked)
    handed = _handed(session, asked, progress)
    notes = tuple(found.text for found in handed.pop("fits", ()))
    options = {"planner": request.planner, "bits": request.bits, **request.options, **handed}
    points = pareto(profile, axis, budget=request.budget, **options)
    front = front_record(points, axis)
    front = replace(front, notes=(*front.notes, *notes))
    _keep_front(session, front)
    return front


def _keep_front(session: Session, front: Front) -> None:
    write_atomically(session.path("front_csv"), front_csv(front))
    session.write("front", front)


def taken(session: Session, path: Path, budget: Budget, measuring: Measuring, progress: Progress = silent) -> Plan:
    """The plan that an edited text describes, its file weighed where the budget speaks of bytes, and `plan.json`."""
    text, profile = read_text(path, "lamella plan RUN --text"), session.profile()
    with in_file(path):
        rounded = in_integers(edited(text, profile).bits)
    measuring = replace(measuring, precision="int8" if rounded else "fp32")
    request = Request(budget=budget, planner="by hand", order="by hand", measuring=measuring)
    _check_measuring(request)
    handed = _handed(session, request, progress)
    made = edited(text, profile, budget, handed.get("latency"))
    if measuring.weigh:
        made = _weighed(session, made, budget)
    keep(session, made, request)
    return made


# -- what is handed in --------------------------------------------------------------------------------------------------------


def _handed(session: Session, request: Request, progress: Progress) -> dict[str, Any]:
    """What `measured_by` gives for the dense network, and under `fits` what a predictor rests on."""
    found = measured_by(session, request, progress, session.dense(), session.graph())
    if "latency" in found:
        found["fits"] = (session.read(_record(_timing(session, request)), LatencyFit),)
    return found


def measured_by(
    session: Session, request: Request, progress: Progress, model: nn.Module, graph: Graph
) -> dict[str, Any]:
    """A predictor where the budget speaks of latency, a way to measure this network where something measures."""
    found: dict[str, Any] = {}
    if request.of_latency:
        fit = timed(session, _timing(session, request), progress)
        found["latency"] = predictor(fit, graph)
    if request.planner == "search" or request.order == "greedy":
        found |= _measuring(session, request, progress, model, graph)
    return found


def _timing(session: Session, request: Request) -> Timing:
    """In integers where the plan will have bits: a file is in integers as a whole."""
    measuring = request.measuring
    bits = request.bits is not None and request.bits < FLOAT
    chosen = request.bits is None and request.planner in ("knapsack", "search") and _has_bits(session, request)
    precision = measuring.precision or ("int8" if bits or chosen else "fp32")
    known = session.profile().points if session.has("profile") else ()
    whole = any(point.width == 0 for point in known)
    return Timing(
        precision=precision,
        runtime=measuring.runtime,
        fits=measuring.fits,
        holds=measuring.holds,
        seed=session.info.seed,
        whole=whole,
    )


def _has_bits(session: Session, request: Request) -> bool:
    """Whether bits are a choice: every layer that takes them has a curve, or is given drops."""
    profile = session.profile()
    return bool(request.options.get("bit_drops")) or (
        any(p.knob == "bits" for p in profile.points) and not without_bits(profile)
    )


def timed(session: Session, timing: Timing, progress: Progress = silent) -> LatencyFit:
    """The run's fit of this precision and runtime: read where it was made on this runtime and CPU of these plans, made where not."""
    name = _record(timing)
    if session.has(name):
        found = session.read(name, LatencyFit)
        if _is_as_asked(found, session.graph(), timing) and is_of_this_rule(found, session.graph(), session.task):
            return found
    scratch = session.directory / f"{name.replace('_', '-')}-{timing.fits}-{timing.holds}{'-whole' * timing.whole}"
    found = latency_fit(session.dense(), session.graph(), session.task, timing, scratch, progress)
    session.write(name, found)
    return found


def _record(timing: Timing) -> str:
    """What the run calls the fit."""
    return f"latency_{timing.precision}" + ("" if timing.runtime == "onnxruntime" else f"_{timing.runtime}")


def _is_as_asked(found: LatencyFit, graph: Graph, timing: Timing) -> bool:
    """Whether the fit is of this network on this machine, and of the plans that would be drawn: small networks have few."""
    plans = timing.plans(graph)
    drawn = [(widths, i < timing.fits) for i, widths in enumerate(plans)]
    same = (found.machine, found.structure) == (machine(timing.runtime), graph.structure)
    told = found.precision == "fp32" or found.dense_ms is not None
    return same and told and found.block > 0 and [(p.widths, p.fitted) for p in found.plans] == drawn


def _brief(session: Session, request: Request) -> Brief | None:
    """How candidates are tuned before they are scored; None where they are not."""
    asked = request.measuring
    if not asked.tune_epochs:
        return None
    return Brief(epochs=asked.tune_epochs, samples=asked.tune_samples, lr=asked.lr, seed=session.info.seed)


def _trials(request: Request) -> int:
    """How many measurements a search may take."""
    asked = request.options.get("trials", 30)
    if not isinstance(asked, int) or asked < 1:
        raise LamellaError(
            f"option 'trials' of planner 'search': {asked!r} where a whole number from 1 on was expected."
        )
    return asked


def _measuring(
    session: Session, request: Request, progress: Progress, model: nn.Module, graph: Graph
) -> dict[str, Any]:
    """Candidates of this network, journalled under what it is and how they are measured: scores of another way answer another question."""
    brief, recalibrate = _brief(session, request), request.measuring.recalibrate
    way = digest((weights_digest(model), recalibrate, *([str(brief)] if brief else [])))
    searching = request.planner == "search"
    total = greedy_measurements(len(graph.free)) if request.order == "greedy" else 0
    if searching:
        total += _trials(request) * (2 if request.options.get("control") else 1)
    candidates = Candidates(
        model,
        graph,
        session.task,
        recalibrate=recalibrate,
        brief=brief,
        journal=session.directory / f"candidates-{way}.jsonl",
        total=total,
        progress=progress,
    )
    found: dict[str, Any] = {"measure": candidates.stream if request.order != "greedy" else candidates}
    if searching and "storage" not in request.options:
        found["storage"] = session.directory / f"search-{way}.journal"
    return found


# -- files over their bytes ---------------------------------------------------------------------------------------------------


def _weighed(session: Session, made: Plan, budget: Budget, again: Callable[[Budget], Plan] | None = None) -> Plan:
    """The plan if its file keeps the byte budget, else one made `again` with the residue; its notes say what was weighed."""
    limit = budget.limit("bytes", made.dense.bytes)
    if limit is None:
        return made
    weighed: list[int] = []
    while True:
        try:
            file_bytes = _file_bytes(session, made)
        except MissingExtra as error:
            return replace(made, notes=(*made.notes, f"its file was not weighed: {error}"))
        known = f"its file weighs {file_bytes:,} bytes, predicted {made.predicted.bytes:,}, allowed {limit:,.0f}"
        if file_bytes <= limit:
            return replace(made, notes=(*made.notes, known))
        weighed.append(file_bytes)
        lighter = _lighter(made, budget, file_bytes, again) if again and len(weighed) < WEIGHINGS else None
        if lighter is None:
            break
        over = (
            f"planned again: the file of plan {len(weighed)} weighed {file_bytes:,} bytes, and {limit:,.0f} are allowed"
        )
        made = replace(lighter, notes=(*lighter.notes, over))
    lightest = min(weighed)
    raise BudgetError(
        f"no plan's file keeps bytes <= {limit:,.0f}: the file of plan {weighed.index(lightest) + 1} weighs {lightest:,}.\n"
        f"  try:     a budget of bytes={lightest}, or a smaller round_to."
    )


def _lighter(made: Plan, budget: Budget, file_bytes: int, again: Callable[[Budget], Plan]) -> Plan | None:
    """A plan with the residue off its bytes; where none is so small, the smallest there is; None where that is this one."""
    try:
        return again(with_residue(budget, made, file_bytes))
    except BudgetError as error:  # speaks of the limit less the residue, which nobody asked for
        if error.nearest.keys() != {"bytes"}:
            return None
        smallest = again(replace(budget, bytes=error.nearest["bytes"]))
        return None if (smallest.widths, smallest.bits) == (made.widths, made.bits) else smallest


def _file_bytes(session: Session, made: Plan) -> int:
    """What the plan's file weighs. Weights do not change it, so the dense network's will do, untuned."""
    bits = in_integers(made.bits)
    small = narrow(session.dense(), session.graph(), made.widths)
    with folder() as scratch:
        path = scratch / "model.onnx"
        export = NarrowedExports(session.path("dense_onnx"))
        kind: Precision = "int8" if bits else "fp32"
        return onnx_bytes(written(small, session.task, kind, path, bits=bits or None, export=export))


def heavier(session: Session, name: str) -> list[str]:
    """Where the exported file of the run's plan is over its budget: a new plan is made with the residue, and a note says so.

    Nothing of a file that follows an earlier plan.
    """
    if not (session.has("request") and session.has("plan")) or overtaken(session, session.read("result", Result)):
        return []
    request, made = session.read("request", Request), session.read("plan", Plan)
    kind = "int8_onnx" if in_integers(made.bits) else "onnx"
    limit, weighs = request.budget.limit("bytes", made.dense.bytes), onnx_bytes(session.path(name))
    if kind != name or limit is None or weighs <= limit or request.planner not in PLANNERS:
        return []
    known = f"{session.path(name)} weighs {weighs:,} bytes, over its budget of {limit:,.0f}"
    unweighed = replace(request.measuring, weigh=False)
    residue = weighs - made.predicted.bytes
    try:
        planned(session, replace(request, budget=with_residue(request.budget, made, weighs), measuring=unweighed))
    except BudgetError:  # speaks of the limit less the residue, which nobody asked for
        told = f"{residue:,} bytes are missing in the prediction, and no plan is so much smaller"
        return [f"{known}: {told}. Plan with a budget of bytes={weighs}, or a smaller round_to"]
    session.write("request", request)
    again = f"planned again with the {residue:,} bytes that the prediction missed: run `lamella compress {session.directory}`"
    return [f"{known}: {again}"]


__all__ = ["fronted", "heavier", "planned", "taken", "timed"]
