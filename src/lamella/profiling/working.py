"""One piece of work: all levels of an item, measured by one method. Made once per worker.

work = Work(subject, method)
report = work(item)                 # Report: the points, and notes
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from ..schema import Point, Score
from ..statistics import score_interval
from .engine import Engine, Scores
from .estimating import estimated
from .points import Item, Level
from .racing import Racer
from .variants import Subject


@dataclass(frozen=True, slots=True)
class Report:
    """What an item came to."""

    points: tuple[Point, ...]
    notes: tuple[str, ...]


class Work:
    """A worker's network, ready to measure items."""

    def __init__(self, subject: Subject, method: str) -> None:
        self.engine, self.method = Engine(subject), method
        self.scores_seconds = 0.0

    @cached_property
    def dense_scores(self) -> Scores:
        """The dense network's score on every sample."""
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

    def __call__(self, item: Item) -> Report:
        """Measure an item."""
        _ = self.dense_scores  # knows what scores look like, and the margins
        before = len(self.engine.notes)
        points = MEASURES[self.method](self, item)
        return Report(tuple(points), tuple(self.engine.notes[before:]))

    def exact(self, item: Item) -> list[Point]:
        """Every level on every sample."""
        started = time.perf_counter()
        found = self.engine.curve(item)
        seconds = (time.perf_counter() - started) / len(found)
        return [_point(item, level, score_interval(scores_N), seconds) for level, scores_N in found]

    def race(self, item: Item) -> list[Point]:
        """As many levels, on as many samples, as the search needs."""
        return self._racer.measure(item)

    def estimate(self, item: Item) -> list[Point]:
        """Every level from one backward pass."""
        started = time.perf_counter()
        found = estimated(self.engine, item, self.baseline)
        seconds = (time.perf_counter() - started) / len(found)
        return [_point(item, level, score, seconds) for level, score in zip(item.levels, found, strict=True)]


MEASURES: dict[str, Callable[[Work, Item], list[Point]]] = {
    "exact": Work.exact,
    "race": Work.race,
    "estimate": Work.estimate,
}


def _point(item: Item, level: Level, score: Score, seconds: float) -> Point:
    return Point(target=item.target, knob=item.knob, level=level.value, width=level.width, score=score, seconds=seconds)


def make_work(subject: Subject, method: str) -> Work:
    """A worker in a process of its own, on one thread: the workers are the parallelism."""
    torch.set_num_threads(1)
    return Work(subject, method)
