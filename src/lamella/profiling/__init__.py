"""profile(): what every group costs the network at every pruning ratio, and every layer at every bit width, one at a time.

    found = profile(model, task)                                          # P = 0.1 ... 0.9 on the validation samples
    found = profile(model, task, bits=(8, 4), journal="profile.jsonl")    # and bits; a line per point: a kill loses at most one target
    found = profile(model, task, method="race", sweep=Sweep(factor=0.99)) # only which ratios hold, 25 times faster
    found = profile(model, task, sweep=Sweep(layers=True))                # also a curve per layer, its filters masked, as published

A point sets one target to one level, scores every validation sample, and says how sure that is. `exact` runs only what changes and
gives the counts of the plain loop; `race` stops a point when its answer is known; `estimate` predicts from one backward pass.
Ratios that come to the same legal width are one point; `level` is the ratio that was really removed.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ..digests import weights_digest
from ..progress import Progress, silent
from ..records import digest, from_plain, to_plain
from ..runs import Journal
from ..schema import Graph, Point, Profile
from ..statistics import score_interval
from ..tracing import trace
from ..training import Task
from .engine import Engine
from .keeping import keeping, merge
from .points import BITS, Item, Level, planned_items, planned_points, split
from .settings import METHODS, RATIOS, Sweep, check_method
from .variants import Subject

Work = Callable[[Item], list[Point]]


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
    engine = Engine(Subject(model, graph, task, sweep))
    identity = _identity(model, graph, engine, method, sweep)
    with keeping(journal, identity) if journal else nullcontext(None) as kept:
        progress("profile", 0, sum(len(i.levels) for i in items) + 1, "baseline")
        baseline = _baseline(engine, kept)
        points = _measured(items, _exact(engine), kept, progress)
    return Profile(graph=graph, baseline=baseline.score, points=points, method=method, notes=tuple(engine.notes))


def _identity(model: nn.Module, graph: Graph, engine: Engine, method: str, sweep: Sweep) -> dict[str, str]:
    """What a journal belongs to. Options that no point depends on (chunk, executor ...) are left out."""
    identity = {"structure": graph.structure, "weights": weights_digest(model), "data": engine.samples.digest}
    if sweep.changes_models:
        options = (sweep.recalibrate, sweep.tune_epochs, sweep.tune_samples, sweep.lr, sweep.seed)
        identity["options"] = digest(options)
    if method == "race":
        identity["method"] = f"race at {sweep.factor:g}, error {sweep.error:g}, seed {sweep.seed}"
    return identity


def _baseline(engine: Engine, kept: Journal | None) -> Point:
    started = time.perf_counter()
    dense_N = engine.dense()
    score = score_interval(dense_N)
    point = Point(target="", knob="pruning_ratio", level=0.0, score=score, seconds=time.perf_counter() - started)
    if kept is not None and "baseline" not in kept.entries:
        kept.append("baseline", to_plain(point))
    return point


def _exact(engine: Engine) -> Work:
    def measure(item: Item) -> list[Point]:
        started = time.perf_counter()
        found = engine.curve(item)
        seconds = (time.perf_counter() - started) / len(found)
        return [_point(item, level, scores_N, seconds) for level, scores_N in found]

    return measure


def _point(item: Item, level: Level, scores_N: Any, seconds: float) -> Point:
    score = score_interval(scores_N)
    return Point(target=item.target, knob=item.knob, level=level.value, width=level.width, score=score, seconds=seconds)


def _measured(items: Sequence[Item], work: Work, kept: Journal | None, progress: Progress) -> tuple[Point, ...]:
    """All points in planned order: those on disk are read, the others measured and written, item by item."""
    done: dict[str, Any] = dict(kept.entries) if kept else {}
    found = {
        item.key(v): from_plain(done[item.key(v)], Point) for item in items for v in item.levels if item.key(v) in done
    }
    total = sum(len(item.levels) for item in items) + 1
    progress("profile", 1 + len(found), total)
    for item in split(items, found):
        for level, point in zip(item.levels, work(item), strict=True):
            found[item.key(level)] = point
            if kept is not None:
                kept.append(item.key(level), to_plain(point))
            note = f"{item.target} at {level.value:.2f}: {100 * point.score.value:.1f} %"
            progress("profile", 1 + len(found), total, note)
    return tuple(found[item.key(level)] for item in items for level in item.levels)


__all__ = ["BITS", "METHODS", "RATIOS", "Sweep", "merge", "planned_points", "profile"]
