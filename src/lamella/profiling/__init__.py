"""profile(): what every group costs the network at every pruning ratio, and every layer at every bit width, one at a time.

    found = profile(model, task)                                          # P = 0.1 ... 0.9 on the validation samples
    found = profile(model, task, bits=(8, 4), journal="profile.jsonl")    # and bits; a line per point: a kill loses at most one
    found = profile(model, task, method="race", sweep=Sweep(factor=0.99)) # only which ratios hold, 25 times faster
    found = profile(model, task, sweep=Sweep(layers=True))                # also a curve per layer, its filters masked, as published
    found = profile(model, task, sweep=Sweep(recalibrate=True))           # scored after batch norms have settled, as tuning would start

A point sets one target to one level, scores every validation sample, and says how sure that is. `exact` runs only what changes and
gives the counts of the plain loop; `race` stops a point when its answer is known; `estimate` predicts from one backward pass.
Ratios that come to the same legal width are one point; `level` is the ratio that was really removed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..digests import weights_digest
from ..executors import execute, portable
from ..matching import mended_by
from ..progress import Progress, silent
from ..records import from_plain, to_plain
from ..runs import Journal
from ..schema import Graph, Metric, Point, Profile, Tuned
from ..texts import told
from ..timing import LatencyTable
from ..tracing import trace
from ..training import Task, metric_of, training_data
from .estimating import rank_agreement
from .facts import layer_facts
from .forecasting import Forecast, forecast
from .keeping import hold_to, identity_of, keeping, merge
from .points import Item, Job, KnobLevel, planned_items
from .settings import METHODS, RATIOS, Sweep, check_method
from .variants import Subject
from .working import Report, Work, make_work


def profile(
    model: nn.Module,
    task: Task,
    *,
    graph: Graph | None = None,
    pruning_ratios: Sequence[float] = RATIOS,
    bits: Sequence[int] = (),
    method: str = "exact",
    sweep: Sweep = Sweep(),  # noqa: B008 - frozen
    journal: str | Path | None = None,
    progress: Progress = silent,
) -> Profile:
    """Curves on `task.validation`. With a `journal`, finished points are kept and never measured again.

    `graph`: the model's Graph, if it is at hand. Raises DataError for scores that are not finite and for a loader that changes,
    MismatchError for a journal of another model, data, score or options, RunError for one that another process is writing.
    """
    check_method(method, sweep)
    graph = graph or trace(model, task.example_inputs)
    work = Work(Subject(model, graph, task, sweep), method)
    items = _measurable(planned_items(model, graph, sweep, pruning_ratios, bits), work)
    table = LatencyTable(sweep.latency) if sweep.latency is not None else None
    total = 1 + sum(len(item.levels) for item in items)
    with keeping(journal, _identity(work), _learned(work)) if journal else nullcontext(None) as kept:
        progress("profile", 0, total, "baseline")
        baseline = work.baseline
        if kept is not None:
            hold_to(kept, baseline)
        jobs = [Job(item, _known(item, method, kept)) for item in items]
        left = sum(len(work.open(job)) for job in jobs)
        progress("profile", total - left, total, forecast(work, jobs).text)
        for index, report in _reports(work, jobs):
            point, job = report.point, jobs[index]
            if kept is not None:
                kept.append(_key(job.item, method, point), to_plain(point))
            jobs[index] = job.with_points([point])
            left -= len(work.open(job)) - len(work.open(jobs[index]))
            progress("profile", total - left, total, _told(point, metric_of(task)))
    points = tuple(point for job in jobs for point in job.known)
    facts = layer_facts(model, graph, work.engine.program, table)
    notes = (*NOTES[method], *_adjusted(sweep), *_without_removable(graph, sweep), *dict.fromkeys(work.engine.notes))
    about: dict[str, Any] = {"method": method, "notes": notes, "facts": facts, "recalibrated": sweep.changes_models}
    about["tuned"] = Tuned(**asdict(sweep.brief)) if sweep.tune_epochs else None
    return Profile(graph=graph, baseline=baseline, points=points, metric=metric_of(task), **about)


def _adjusted(sweep: Sweep) -> tuple[str, ...]:
    """What was done to every point before it was scored."""
    tuned = f", then tuned (tune_epochs={sweep.tune_epochs})" if sweep.tune_epochs else ""
    settled = "every point was recalibrated before it was scored (without batch norms: its layers' outputs matched)"
    return (settled + tuned,) if sweep.changes_models else ()


def _without_removable(graph: Graph, sweep: Sweep) -> tuple[str, ...]:
    """What to say where whole groups were asked for and there are none."""
    lacking = sweep.whole and not any(group.removable for group in graph.free)
    return (WITHOUT_REMOVABLE,) if lacking else ()


def _measurable(items: Sequence[Item], work: Work) -> list[Item]:
    """Without those that round the inputs of a layer whose inputs nobody sees; the notes name them."""
    seen = work.engine.subject.ranges if any(item.knob == "bits_both" for item in items) else {}
    blind = [item.target for item in items if item.knob == "bits_both" and item.target not in seen]
    work.engine.notes += [
        f"{name}: no curve with its inputs rounded, for it is not called as a module, or with marks" for name in blind
    ]
    return [item for item in items if item.knob != "bits_both" or item.target in seen]


WITHOUT_REMOVABLE = (
    "whole=1 measured nothing more: no free group is known that something leads around (a run that was traced before there were such "
    "is to be traced anew)"
)
NOTES: dict[str, tuple[str, ...]] = {
    "exact": (),
    "race": (
        "raced: points were drawn until it was known whether they hold; a level milder than one that holds was not measured, and "
        "nor was one harsher than one that fails",
    ),
    "estimate": ("estimated from gradients, not measured: for ranking, not for thresholds",),
}


def _identity(work: Work) -> dict[str, Any]:
    """What a journal belongs to. Options that no point depends on (chunk, executor ...) are left out."""
    subject = work.engine.subject
    sweep = subject.sweep
    identity: dict[str, Any] = {
        "structure": subject.graph.structure,
        "weights": weights_digest(subject.model),
        "data": work.engine.samples.digest,
    }
    if sweep.changes_models:
        identity["training data"] = training_data(subject.task.train)
        options = ("recalibrate", "tune_epochs", "tune_samples", "lr", "seed")
        identity["sweep"] = {name: getattr(sweep, name) for name in options}
    if work.method == "race":
        identity["method"] = (
            f"race: factor {sweep.factor:g}, error {sweep.error:g}, indifference {sweep.indifference:g}, seed {sweep.seed}"
        )
    elif work.method != "exact":
        identity["method"] = work.method
    return identity


def _learned(work: Work) -> dict[str, str]:
    """What the points depend on beside that, which older journals do not name."""
    subject, sweep = work.engine.subject, work.engine.subject.sweep
    return mended_by(subject.task, subject.graph, tuned=sweep.tune_epochs > 0) if sweep.changes_models else {}


def _known(item: Item, method: str, kept: Journal | None) -> tuple[Point, ...]:
    """The points of an item that are on disk."""
    entries = kept.entries if kept is not None else {}
    keys = [_key(item, method, level) for level in item.levels]
    return tuple(from_plain(entries[key], Point) for key in keys if key in entries)


def _key(item: Item, method: str, level: KnobLevel | Point) -> str:
    """The name of a point in a journal. A raced one shares its error rate with the other questions of its ladder."""
    return f"{item.key(level)} of {len(item.levels)}" if method == "race" else item.key(level)


def _told(point: Point, metric: Metric) -> str:
    level = f"{point.level:.2f}" if point.knob.endswith("ratio") else f"{point.level:.0f} bits"
    return f"{point.target} at {level}: {told(point.score.value, metric, 1)}"


def _reports(work: Work, jobs: Sequence[Job]) -> Iterator[tuple[int, Report]]:
    """Every point with the index of its job, as they are finished."""
    sweep = work.engine.subject.sweep
    setup: Callable[[], Work] = partial(make_work, work.engine.subject, work.method)
    if sweep.executor != "serial" and (reason := portable(setup)) is not None:
        work.engine.notes.append(f"ran in this process: the model or the task cannot be sent to another one ({reason})")
        sweep = replace(sweep, executor="serial")
    if sweep.executor == "serial":
        setup = lambda: work
    indices = [index for index, job in enumerate(jobs) if work.open(job)]
    chosen = [jobs[index] for index in indices]
    found = execute(chosen, setup, left=_rest, executor=sweep.executor, workers=sweep.workers, address=sweep.address)
    for place, report in found:
        if sweep.executor != "serial":
            work.engine.notes.extend(report.notes)
        yield indices[place], report


def journal_identity(
    model: nn.Module, task: Task, graph: Graph, method: str, sweep: Sweep
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the journal of such a profile belongs to, and what of that an older one does not name.

    `merge` takes in what others with the same have measured.
    """
    check_method(method, sweep)
    work = Work(Subject(model, graph, task, sweep), method)
    return _identity(work), _learned(work)


def _rest(job: Job, reports: Sequence[Report]) -> Job:
    return job.with_points(report.point for report in reports)


__all__ = [
    "METHODS",
    "RATIOS",
    "Forecast",
    "Sweep",
    "identity_of",
    "journal_identity",
    "layer_facts",
    "merge",
    "profile",
    "rank_agreement",
]
