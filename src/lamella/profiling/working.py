"""What a worker does: the points of a job, by one method, one after the other. Made once per worker.

work = Work(subject, method)
for report in work(job): ...        # Report: a point, and notes
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from ..schema import Point, Score, lowered
from ..statistics import score_interval
from .engine import Engine, Scores
from .estimating import estimated
from .points import Item, Job, KnobLevel
from .racing import Racer, next_question
from .recalibrating import recalibrated
from .variants import Subject


@dataclass(frozen=True, slots=True)
class Report:
    """A point, and what there is to say about how it was come by."""

    point: Point
    notes: tuple[str, ...]


class Work:
    """A worker's network, ready to measure items."""

    def __init__(self, subject: Subject, method: str) -> None:
        self.engine, self.method = Engine(subject), method
        self.scores_seconds = 0.0

    @cached_property
    def dense_scores(self) -> Scores:
        """The dense network's score on every sample."""
        _ = self.engine.program  # made once, and no part of what a pass over the samples takes
        started = time.perf_counter()
        scores_N = self.engine.dense()
        self.scores_seconds = time.perf_counter() - started
        return scores_N

    @cached_property
    def baseline(self) -> Score:
        """The dense network's score."""
        return score_interval(self.dense_scores)

    @cached_property
    def _racer(self) -> Racer:
        return Racer(self.engine, self.dense_scores)

    @cached_property
    def _scoring(self) -> Engine:
        """What measures whole curves: where points are only recalibrated, an engine of the recalibrated network."""
        sweep = self.engine.subject.sweep
        if not sweep.recalibrate or sweep.tune_epochs or self.engine.program is None:
            return self.engine
        return recalibrated(self.engine) or self.engine

    def __call__(self, job: Job) -> Iterator[Report]:
        """Measure what is open of a job, point by point."""
        _ = self.dense_scores  # knows what scores look like, and the margins
        told = len(self.engine.notes)
        for point in MEASURES[self.method](self, job):
            notes = self.engine.notes[told:]
            told += len(notes)
            yield Report(point, tuple(notes))

    def open(self, job: Job) -> tuple[KnobLevel, ...]:
        """The levels that may still be measured: a race that is answered measures no more."""
        if self.method == "race" and next_question(job, self.floor) is None:
            return ()
        return job.open

    @property
    def floor(self) -> float:
        """What a raced point must score to hold."""
        return lowered(float(self.dense_scores.mean()), self.engine.subject.sweep.factor)

    def exact(self, job: Job) -> Iterator[Point]:
        """Every level on every sample."""
        started = time.perf_counter()
        for level, scores_N in self._scoring.curve(job.item, job.open):
            now = time.perf_counter()
            yield _point(job.item, level, score_interval(scores_N), now - started)
            started = time.perf_counter()

    def race(self, job: Job) -> Iterator[Point]:
        """As many levels, on as many samples, as the search needs."""
        return self._racer.points(job)

    def estimate(self, job: Job) -> Iterator[Point]:
        """Every level from one backward pass."""
        item, started = job.item, time.perf_counter()
        found = estimated(self.engine, item, self.baseline)
        seconds = (time.perf_counter() - started) / max(1, len(found))
        for level, score in zip(item.levels if found else (), found, strict=True):
            if level in job.open:
                yield _point(item, level, score, seconds)


MEASURES: dict[str, Callable[[Work, Job], Iterator[Point]]] = {
    "exact": Work.exact,
    "race": Work.race,
    "estimate": Work.estimate,
}


def _point(item: Item, level: KnobLevel, score: Score, seconds: float) -> Point:
    return Point(target=item.target, knob=item.knob, level=level.value, width=level.width, score=score, seconds=seconds)


def make_work(subject: Subject, method: str) -> Work:
    """A worker in a process of its own, on one thread: the workers are the parallelism."""
    torch.set_num_threads(1)
    return Work(subject, method)
