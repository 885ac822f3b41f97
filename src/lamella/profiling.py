"""profile(): what every group costs the network at every pruning ratio, one group at a time.

    profile = profile(model, task)                                        # P = 0.1 ... 0.9 on the validation samples
    profile = profile(model, task, journal="runs/r20/profile.jsonl")      # a line per point: a kill loses at most one

A point narrows one group to a width (its least important channels leave), scores every validation sample, and says how sure
that is. Ratios that come to the same legal width are one point; `level` is the ratio that was really removed.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from .digests import data_digest, weights_digest
from .errors import LamellaError
from .progress import Progress, silent
from .records import from_plain, to_plain
from .runs import Journal
from .schema import Graph, Group, Point, Profile, Score
from .statistics import score_interval
from .surgery import narrow
from .tracing import trace
from .training import Task, evaluate

RATIOS = tuple(p / 10 for p in range(1, 10))


def profile(
    model: nn.Module,
    task: Task,
    *,
    graph: Graph | None = None,
    pruning_ratios: Sequence[float] = RATIOS,
    journal: str | Path | None = None,
    progress: Progress = silent,
) -> Profile:
    """Exact curves on `task.validation`. With a `journal`, finished points are kept and never measured again.

    `graph`: the model's Graph, if it is at hand. Raises DataError for scores that are not finite, MismatchError for a
    journal of another model, data or options.
    """
    graph = graph or trace(model, task.example_inputs)
    levels = planned_points(graph, pruning_ratios)
    kept = _Kept(model, task, graph, journal) if journal else None
    measured = []
    progress("profile", 0, len(levels) + 1, "baseline")
    baseline = _once(kept, "baseline", lambda: _baseline(model, task))
    for index, (group, width) in enumerate(levels, 1):
        point = _once(kept, f"{group.name}:{width}", lambda g=group, w=width: _point(model, task, graph, g, w))
        measured.append(point)
        progress("profile", index + 1, len(levels) + 1, f"{group.name} at {point.level:.2f}: {100 * point.score.value:.1f} %")
    return Profile(graph=graph, baseline=baseline.score, points=tuple(measured))


def planned_points(graph: Graph, pruning_ratios: Iterable[float]) -> list[tuple[Group, int]]:
    """The (group, width) pairs a sweep over these ratios measures: floor(N (1 - P)) channels, then the nearest legal width."""
    ratios = sorted(set(pruning_ratios))
    bad = [p for p in ratios if not 0 <= p < 1]
    if bad or not ratios:
        raise LamellaError(f"pruning_ratios {bad or ratios}: fractions removed, in [0, 1), were expected (0.5, not 50).")
    levels = []
    for group in graph.free:
        widths = {group.legal(int(group.width * (1 - p) + 1e-9)) for p in ratios} - {group.width}
        levels += [(group, width) for width in sorted(widths, reverse=True)]
    return levels


def _baseline(model: nn.Module, task: Task) -> Point:
    started = time.perf_counter()
    score = score_interval(evaluate(model, task.validation, task.score).numpy())
    return Point(target="", knob="pruning_ratio", level=0.0, score=score, seconds=time.perf_counter() - started)


def _point(model: nn.Module, task: Task, graph: Graph, group: Group, width: int) -> Point:
    started = time.perf_counter()
    score = _score(narrow(model, graph, {group.name: width}), task)
    level = 1 - width / group.width
    seconds = time.perf_counter() - started
    return Point(target=group.name, knob="pruning_ratio", level=level, width=width, score=score, seconds=seconds)


def _score(model: nn.Module, task: Task) -> Score:
    return score_interval(evaluate(model, task.validation, task.score).numpy())


class _Kept:
    """Points on disk: what is there is read, what is not is measured and written."""

    def __init__(self, model: nn.Module, task: Task, graph: Graph, path: str | Path) -> None:
        identity = {
            "structure": graph.structure,
            "weights": weights_digest(model),
            "data": data_digest(task.validation),
        }
        self.journal = Journal(path, identity)


def _once(kept: "_Kept | None", key: str, measure) -> Point:  # noqa: ANN001
    if kept is None:
        return measure()
    if key not in kept.journal.entries:
        kept.journal.append(key, to_plain(measure()))
    return from_plain(kept.journal.entries[key], Point)
