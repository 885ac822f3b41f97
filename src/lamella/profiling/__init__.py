"""profile(): what every group costs the network at every pruning ratio, and every layer at every bit width, one at a time.

    found = profile(model, task)                                          # P = 0.1 ... 0.9 on the validation samples
    found = profile(model, task, bits=(8, 4), journal="profile.jsonl")    # and bits; a line per point: a kill loses at most one target
    found = profile(model, task, method="race", sweep=Sweep(factor=0.99)) # only which ratios hold, 25 times faster
    found = profile(model, task, sweep=Sweep(layers=True))                # also a curve per layer, its filters masked, as published

A point sets one target to one level, scores every validation sample, and says how sure that is. `exact` runs only what changes and
gives the counts of the plain loop; `race` stops a point when its answer is known; `estimate` predicts from one backward pass.
Ratios that come to the same legal width are one point; `level` is the ratio that was really removed.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..digests import weights_digest
from ..executors import execute, portable
from ..progress import Progress, silent
from ..records import digest, from_plain, to_plain
from ..runs import Journal
from ..schema import Graph, Point, Profile
from ..tracing import trace
from ..training import Task
from .estimating import rank_agreement
from .facts import Forecast, forecast, layer_facts
from .keeping import keeping, merge
from .points import BITS, Item, planned_items, planned_points, split
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
    MismatchError for a journal of another model, data or options, RunError for one that another process is writing.
    """
    check_method(method, sweep)
    graph = graph or trace(model, task.example_inputs)
    items = planned_items(model, graph, sweep, pruning_ratios, bits)
    work = Work(Subject(model, graph, task, sweep), method)
    total = 1 + sum(len(item.levels) for item in items)
    with keeping(journal, _identity(work)) if journal else nullcontext(None) as kept:
        progress("profile", 0, total, "baseline")
        baseline = work.baseline
        done = _kept_points(items, kept)
        left = items_left(items, done, method)
        progress("profile", total - sum(len(item.levels) for item in left), total, forecast(work, left).text)
        for item, report in _reports(work, left):
            done[item.target, item.knob] = _together(done.get((item.target, item.knob), ()), report.points)
            if kept is not None:
                _keep(kept, item, report, method)
            remaining = sum(len(i.levels) for i in items_left(items, done, method))
            progress("profile", total - remaining, total, _told(report))
    points = tuple(point for item in items for point in done.get((item.target, item.knob), ()))
    facts = layer_facts(model, graph, work.engine.program)
    notes = (*NOTES[method], *dict.fromkeys(work.engine.notes))
    return Profile(graph=graph, baseline=baseline, points=points, method=method, notes=notes, facts=facts)


Done = dict[tuple[str, str], tuple[Point, ...]]

NOTES: dict[str, tuple[str, ...]] = {
    "exact": (),
    "race": (
        "raced: points were drawn until it was known whether they hold; a level milder than one that holds was not measured, and "
        "nor was one harsher than one that fails",
    ),
    "estimate": ("estimated from gradients, not measured: for ranking, not for thresholds",),
}


def items_left(items: Sequence[Item], done: Done, method: str) -> list[Item]:
    """What is still to be measured. A raced item is done as a whole: it does not measure every level."""
    if method == "race":
        return [item for item in items if (item.target, item.knob) not in done]
    keys = [item.key(level) for item in items for level in item.levels if level.value in _levels(done, item)]
    return split(items, keys)


def _levels(done: Done, item: Item) -> set[float]:
    return {point.level for point in done.get((item.target, item.knob), ())}


def _together(before: Sequence[Point], new: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(sorted((*before, *new), key=lambda p: p.level if p.knob.endswith("ratio") else -p.level))


def _identity(work: Work) -> dict[str, str]:
    """What a journal belongs to. Options that no point depends on (chunk, executor ...) are left out."""
    subject = work.engine.subject
    sweep = subject.sweep
    identity = {
        "structure": subject.graph.structure,
        "weights": weights_digest(subject.model),
        "data": work.engine.samples.digest,
    }
    if sweep.changes_models:
        identity["options"] = digest((sweep.recalibrate, sweep.tune_epochs, sweep.tune_samples, sweep.lr, sweep.seed))
    if work.method == "race":
        identity["method"] = (
            f"race: factor {sweep.factor:g}, error {sweep.error:g}, indifference {sweep.indifference:g}, seed {sweep.seed}"
        )
    elif work.method != "exact":
        identity["method"] = work.method
    return identity


def _kept_points(items: Sequence[Item], kept: Journal | None) -> Done:
    """The points on disk that these items ask for."""
    entries: dict[str, Any] = dict(kept.entries) if kept is not None else {}
    done: Done = {}
    for item in items:
        rows = entries.get(_raced_key(item)) or [entries[k] for v in item.levels if (k := item.key(v)) in entries]
        if rows:
            done[item.target, item.knob] = tuple(from_plain(row, Point) for row in rows)
    return done


def _raced_key(item: Item) -> str:
    return f"race {item.target}:{item.knob}"


def _keep(kept: Journal, item: Item, report: Report, method: str) -> None:
    """A line per point, or one for all that a race asked of a target."""
    if method == "race":
        kept.append(_raced_key(item), to_plain(report.points))
        return
    for level, point in zip(item.levels, report.points, strict=True):
        kept.append(item.key(level), to_plain(point))


def _told(report: Report) -> str:
    last = report.points[-1]
    return f"{last.target} at {last.level:.2f}: {100 * last.score.value:.1f} %"


def _reports(work: Work, items: Sequence[Item]) -> Any:
    """Every item with its report, as they are finished."""
    sweep = work.engine.subject.sweep
    setup = partial(make_work, work.engine.subject, work.method)
    if sweep.executor != "serial" and (reason := portable(setup)) is not None:
        work.engine.notes.append(f"ran in this process: the model or the task cannot be sent to another one ({reason})")
        sweep = replace(sweep, executor="serial")
    if sweep.executor == "serial":
        setup = lambda: work  # type: ignore[assignment]
    for index, report in execute(items, setup, executor=sweep.executor, workers=sweep.workers, address=sweep.address):
        if sweep.executor != "serial":
            work.engine.notes.extend(report.notes)
        yield items[index], report


__all__ = [
    "BITS",
    "METHODS",
    "RATIOS",
    "Forecast",
    "Sweep",
    "layer_facts",
    "merge",
    "planned_points",
    "profile",
    "rank_agreement",
]
