"""What a run directory holds so far, read from copies of its files; the questions a page asks of it.

stages = read_stages("runs/r20")        # RunError where there is nothing to tell; RecordError names a damaged file
stages.graph, stages.profile, stages.plan, stages.result, stages.table, stages.run      # None where a stage has not run
stages.front, stages.family, stages.accordion
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from ..errors import MismatchError, RecordError, RunError, in_file
from ..lineage import is_made_from, weights_beside
from ..records import digest, from_envelope, from_plain
from ..schema import (
    FILES,
    Accordion,
    Epoch,
    Family,
    Front,
    Graph,
    Measure,
    Metric,
    Plan,
    Point,
    Profile,
    Result,
    RunInfo,
    Score,
    Table,
    Trials,
)
from ..schema.curves import BASELINE
from ..schema.families import ENDED, EPOCHS
from ..schema.schemes import file_key
from .words import metric_of

R = TypeVar("R")

STAND_IN = (
    "begun by an older version, which did not write down the dense network's score: the best point so far stands for it"
)
WALKS, TRAININGS = "steps/*/steps.jsonl", f"elastic/training/*/{EPOCHS}"  # journals, beside those that FILES names
KINDS: dict[str, type[Any]] = {
    "run": RunInfo,
    "graph": Graph,
    "profile": Profile,
    "plan": Plan,
    "front": Front,
    "result": Result,
    "table": Table,
    "trials": Trials,
    "elastic": Family,
    "accordion": Accordion,
}


class Training(NamedTuple):
    """An elastic network's training that goes on: the epochs so far, of `total`, and the names of its levels, the smallest first.

    `ended`: all epochs are done, and the levels' files are being made.
    """

    method: str
    names: tuple[str, ...]
    total: int
    epochs: tuple[Epoch, ...]
    ended: bool


class Tried(NamedTuple):
    """Hidden widths that a search in progress has trained, and each metric on validation for every seed so far."""

    widths: str
    metrics: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """`graph` is None only where nothing but a width search has run. `measuring`: the profile is still being measured.

    `walking`: the steps finished so far of a walk that goes on; `training` and `trying`: an elastic network, and a width search,
    in the making.
    """

    graph: Graph | None
    profile: Profile | None = None
    plan: Plan | None = None
    result: Result | None = None
    table: Table | None = None
    trials: Trials | None = None
    run: RunInfo | None = None
    front: Front | None = None
    family: Family | None = None
    accordion: Accordion | None = None
    measuring: bool = False
    walking: tuple[Measure, ...] = ()
    training: Training | None = None
    trying: tuple[Tried, ...] = ()
    files: Mapping[str, str]  # file name -> compact JSON
    # Bytes of the ONNX files, where they are there: of the dense network, and of this one.
    weighed: tuple[int, int] | None = None

    @property
    def metric(self) -> Metric:
        """What the scores are: as the profile says; without one, numbers where any of them is no fraction."""
        if self.profile and not self.measuring:
            return self.profile.metric
        return metric_of(score.value for score in self._scores())

    def _scores(self) -> Iterator[Score]:
        if self.profile:
            yield self.profile.baseline
            yield from (point.score for point in self.profile.points)
        yield from (measure.validation for measure in self.history)
        if self.result and self.result.file_score:
            yield self.result.file_score
        yield from scores_of_levels(self.family) if self.family else ()
        for epoch in self.training.epochs if self.training else ():
            yield from epoch.scores.values()

    @property
    def outcome(self) -> Plan | Result | None:
        """The furthest stage that gives widths."""
        return self.result or self.plan

    @property
    def history(self) -> tuple[Measure, ...]:
        """What was measured step by step, of a walk that is done or goes on; a simulation's score by the name of one."""
        if self.result is None:
            return self.walking
        last, found = self.result.simulated, self.result.history
        return (*found[:-1], replace(last, name=f"{last.name}, simulated")) if last else found

    @property
    def threshold(self) -> float | None:
        """The lowest score the plan let a single cut have; None where it had no such limit."""
        return self.plan.threshold if self.plan else None


def read_stages(directory: str | Path) -> Stages:
    """All that a run directory tells so far. RunError where that is nothing, RecordError for a damaged file, MismatchError where one
    belongs to another model.
    """
    directory = Path(directory)
    files = _Files(directory)
    found = {key: files.read(key, kind) for key, kind in KINDS.items()}
    graph = found["graph"] or (found["profile"].graph if found["profile"] else None)
    trying = () if found["accordion"] else partial_search(directory)
    if graph is None and found["accordion"] is None and not trying:
        name, verb = FILES["graph"]
        raise RunError(
            f"{directory}: no {name} here, so there is nothing to report. It is made by `{verb}`; run that first."
        )
    if graph is not None:
        _check_together(graph, {key: found[key] for key in ("profile", "plan", "front", "result", "elastic", "trials")})
    profile, measuring = found["profile"], False
    if profile is None and graph is not None:
        profile, measuring = partial_profile(directory, graph), True
    result, table, plan, trials = found["result"], found["table"], found["plan"], found["trials"]
    if result and result.as_is and plan:
        result = None  # of a network that nobody had planned for yet
    walking: tuple[Measure, ...] = ()
    if result is None and plan is not None and graph is not None:
        walking = partial_history(directory, graph)
    if table and result and not _measured_on(table, result):
        table = None  # of an earlier network
    if result and not result.as_is:
        plan = result.plan  # what was measured stands beside the plan it was measured for
    if trials and plan and trials.plan not in ("", digest(plan)):
        trials = None
    return Stages(
        graph=graph,
        profile=profile,
        plan=plan,
        result=result,
        walking=walking,
        training=partial_training(directory, graph) if graph else None,
        trying=trying,
        table=table,
        trials=trials,
        run=found["run"],
        front=found["front"],
        family=found["elastic"],
        accordion=found["accordion"],
        measuring=measuring and profile is not None,
        files=files.texts,
        weighed=weighed(directory, result) if result else None,
    )


def _measured_on(table: Table, result: Result) -> bool:
    """Whether the table is of this very network. Older ones say the plan alone, or nothing, and are taken at their word."""
    return table.plan in ("", digest(result.plan)) and table.walk in ("", result.walk)


def weighed(directory: Path, result: Result) -> tuple[int, int] | None:
    """Bytes on disk of the dense network's ONNX file and of the furthest one of this network; None where either is not there, or
    was made from something else.
    """
    made = ["dense_onnx", "model", "onnx"]
    if result.bits:
        made.append(file_key(result.scheme))
    paths = [directory / FILES[name][0] for name in made]
    if not all(path.exists() for path in paths):
        return None
    last = all(is_made_from(source, target) for source, target in pairwise(paths[1:]))
    return (_file_bytes(paths[0]), _file_bytes(paths[-1])) if last else None


def _file_bytes(path: Path) -> int:
    """With the weights that lie beside it, where they do (`lineage.weights_beside`)."""
    beside = weights_beside(path)
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def scores_of_levels(family: Family) -> Iterator[Score]:
    """What was measured of the levels, on validation and on test data."""
    for level in family.levels:
        yield from (score for score in (level.validation, level.test) if score)


def chosen_level(points: Iterable[Point], width: int) -> float | None:
    """The level of a curve at which a group has this width."""
    return next((p.level for p in points if p.width == width), None)


class _Files:
    """The record files of a directory, each parsed once; what they hold as compact text."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.texts: dict[str, str] = {}
        self._graph: tuple[Any, Graph] | None = None  # as it was written, and read

    def read(self, key: str, kind: type[R]) -> R | None:
        """The record, if its file is there."""
        path = self.directory / FILES[key][0]
        if not path.exists():
            return None
        try:
            envelope = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordError(str(path), f"cannot be read ({error}): damaged or cut short; make it again") from None
        with in_file(path):
            record = from_envelope(envelope, kind, self._given(envelope))
        if isinstance(record, Graph):
            self._graph = envelope["value"], record
        self.texts[path.name] = json.dumps(envelope, separators=(",", ":"), ensure_ascii=False)
        return record

    def _given(self, envelope: Any) -> dict[str, Graph] | None:
        """A profile repeats the graph, which takes longer to read than all else in it."""
        value = envelope.get("value") if isinstance(envelope, dict) else None
        same = self._graph and isinstance(value, dict) and value.get("graph") == self._graph[0]
        return {"graph": self._graph[1]} if self._graph and same else None


def _check_together(graph: Graph, others: Mapping[str, Any]) -> None:
    for key, other in others.items():
        if other and other.structure != graph.structure:
            name, verb = FILES[key]
            raise MismatchError(
                f"{name} belongs to another model (structure {other.structure}, and the graph's is {graph.structure}). "
                f"Make it again with `{verb}`, or name another run directory."
            )


def partial_profile(directory: Path, graph: Graph) -> Profile | None:
    """The points that a sweep has written down so far; None before the first.

    Journals of older versions do not tell the dense network's score: the best point seen stands for it, and a note says so.
    """
    _, entries = _journal(directory / FILES["profile_journal"][0], graph)
    dense = entries.pop(BASELINE, None)
    try:
        points = tuple(from_plain(value, Point) for value in entries.values())
        baseline = from_plain(dense, Score) if dense else None
    except RecordError:
        return None
    if not points:
        return None
    best = baseline or max((p.score for p in points), key=lambda score: score.value)
    return Profile(graph=graph, baseline=best, points=points, notes=() if baseline else (STAND_IN,))


def partial_history(directory: Path, graph: Graph) -> tuple[Measure, ...]:
    """The steps that the walk written to last has finished so far."""
    journal = _newest(directory, WALKS)
    _, entries = _journal(journal, graph) if journal else ({}, {})
    try:
        measures = [from_plain(value["measure"], Measure) for value in entries.values()]
    except (KeyError, TypeError, RecordError):
        return ()
    return tuple(measure for measure in measures if measure.step)  # the dense network's is no step


def partial_training(directory: Path, graph: Graph) -> Training | None:
    """The training of an elastic network that is newer than the run's family; None where there is none."""
    journal, family = _newest(directory, TRAININGS), directory / FILES["elastic"][0]
    identity, entries = _journal(journal, graph) if journal else ({}, {})
    ended = entries.pop(ENDED, None) is not None
    made = family.exists() and (ended or journal is None or _age(family) >= _age(journal))
    if made or not identity:
        return None
    try:
        epochs = tuple(from_plain(value, Epoch) for value in entries.values())
        return Training(identity["method"], tuple(identity["names"]), identity["epochs"], epochs, ended)
    except (KeyError, TypeError, RecordError):
        return None


def partial_search(directory: Path) -> tuple[Tried, ...]:
    """The shapes that a width search has trained so far, the best by its first metric first."""
    _, entries = _journal(directory / FILES["accordion_journal"][0])
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for key, value in entries.items():
        widths, seed = key.partition(" seed ")[::2]
        metrics = value.get("validation") if isinstance(value, dict) and seed else None
        for name, figure in metrics.items() if isinstance(metrics, dict) else ():
            if isinstance(figure, float | int):
                shape = found.setdefault(widths, {})
                shape[name] = (*shape.get(name, ()), float(figure))
    tried = [Tried(widths, metrics) for widths, metrics in found.items()]
    return tuple(sorted(tried, key=lambda shape: -fmean(next(iter(shape.metrics.values())))))


def _newest(directory: Path, pattern: str) -> Path | None:
    return max(directory.glob(pattern), key=_age, default=None)


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def _journal(path: Path, graph: Graph | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a journal belongs to, and its whole lines by key, read without touching it; nothing of another model, or of one that is
    damaged.

    A journal in use may end in half a line. It is read for looking only, so what cannot be read is not an error here.
    """
    if not path.exists():
        return {}, {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    try:
        first, *others = (json.loads(line) for line in lines)
        identity = dict(first["identity"])
        ours = graph is None or identity.get("structure") == graph.structure
        return (identity, {line["key"]: line["value"] for line in others}) if ours else ({}, {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
