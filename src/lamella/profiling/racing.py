"""Which levels hold? Samples are drawn until that is known, and milder levels are taken to hold where a harsher one does.

    for point in Racer(engine, dense_N).points(job): ...         # one per level that is asked

The floor is `sweep.factor` x the dense score on all samples. Samples are put into strata by the margin of the dense network's two best
outputs, shuffled within each, and cut into chunks; every candidate draws chunks in an order of its own. See statistics.Race.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import with_context
from ..schema import Point, Score, lowered
from ..statistics import MOST, Race, climb, strata_of
from ..training import mixed
from .checks import Scores, is_out_of_memory
from .engine import Engine, ReadyLevel
from .points import Item, Job, KnobLevel
from .samples import Chunk, picked

CHUNK = 64


class _Asked(Exception):  # noqa: N818 - not an error: the search wants to know about a level
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def next_question(job: Job, floor: float) -> KnobLevel | None:
    """The level whose point a race needs next; None where the known points answer it."""
    known = {point.level: point.score.value >= floor - 1e-12 for point in job.known}

    def holds(index: int) -> bool:
        level = job.item.levels[index]
        if level.value not in known:
            raise _Asked(index)
        return known[level.value]

    try:
        climb(len(job.item.levels), holds)
    except _Asked as asked:
        return job.item.levels[asked.index]
    return None


class Racer:
    """One engine's samples, sorted for racing."""

    def __init__(self, engine: Engine, dense_N: Scores) -> None:
        self.engine, self.dense_N, self.sweep = engine, dense_N, engine.subject.sweep
        self.floor = lowered(float(dense_N.mean()), self.sweep.factor)
        whole = engine.samples.whole()
        engine.forget()
        generator = np.random.default_rng(self.sweep.seed)
        self.strata = [generator.permutation(part) for part in strata_of(engine.margins, len(dense_N))]
        self.chunks: list[list[tuple[Chunk, NDArray[np.int64]]]] = []
        number = 0
        for part in self.strata:
            rows = [part[i : i + CHUNK] for i in range(0, len(part), CHUNK)]
            self.chunks.append([(picked(whole, r, number + i), r) for i, r in enumerate(rows)])
            number += len(rows)

    def points(self, job: Job) -> Iterator[Point]:
        """A point for every level that the search asks about and that is not known."""
        while (level := next_question(job, self.floor)) is not None:
            point = self._point(job.item, level)
            job = job.with_points([point])
            yield point

    def _point(self, item: Item, level: KnobLevel) -> Point:
        started = time.perf_counter()
        with with_context(str(item)):
            ready = self.engine.maker(item)(level)
            with torch.inference_mode():
                race = self._raced(ready, _stream(self.sweep.seed, item, level), len(item.levels))
        score = self._score(race)
        seconds = time.perf_counter() - started
        return Point(
            target=item.target, knob=item.knob, level=level.value, width=level.width, score=score, seconds=seconds
        )

    def _raced(self, ready: ReadyLevel, seed: int, levels: int) -> Race:
        """Draw until the verdict. The error is shared between the questions that a search over the levels asks."""
        questions = max(1, math.ceil(math.log2(levels + 1)))
        floor = (self.sweep.factor - 1) * abs(float(self.dense_N.mean()))
        indifference = self.sweep.indifference * abs(float(self.dense_N.mean()))
        sizes, variance = [len(part) for part in self.strata], self._variance()
        race = Race(sizes, floor, self.sweep.error / questions, indifference, variance=variance)
        generator = np.random.default_rng(seed)
        queues = [[chunks[i] for i in generator.permutation(len(chunks))] for chunks in self.chunks]
        for look in range(race.looks):
            for stratum, wanted in enumerate(race.wanted(look)):
                while race.counts[stratum] < wanted:
                    chunk, rows = queues[stratum].pop()
                    race.add(stratum, self._scores(ready, chunk) - self.dense_N[rows])
            if race.verdict() is not None:
                break
        return race

    def _variance(self) -> float:
        """Of a sample, before any is seen: that of the dense network's scores, in the task's own unit."""
        return MOST if self.engine.binary else float(self.dense_N.var())

    def _scores(self, ready: ReadyLevel, chunk: Chunk) -> Scores:
        """Out of memory: no walk is kept any more, and this chunk is run in halves."""
        try:
            return self.engine.final_scores(ready, [chunk], [self.engine.glance(ready, chunk)])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(chunk) == 1:
                raise
        self.engine.keep_nothing()
        rows = np.arange(len(chunk))
        halves = [picked(chunk, part) for part in np.array_split(rows, 2)]
        return np.concatenate([self._scores(ready, half) for half in halves])

    def _score(self, race: Race) -> Score:
        """The estimate with a 95 % interval: the spread of the draw, and that of the validation samples themselves."""
        difference, error = race.estimate()
        value = float(self.dense_N.mean()) + difference
        spread = value * (1 - value) if self.engine.binary else float(self.dense_N.var())
        reach = 1.96 * math.sqrt(error**2 + max(0.0, spread) / len(self.dense_N))
        low, high = value - reach, value + reach
        if self.engine.binary:
            value = min(max(value, 0.0), 1.0)
            low, high = max(0.0, low), min(1.0, high)
        return Score(value=value, low=min(low, value), high=max(high, value), n=int(race.counts.sum()))


def _stream(seed: int, item: Item, level: KnobLevel) -> int:
    """The seed of a candidate's own order of draws."""
    return mixed(seed, round(1e6 * level.value), *item.target.encode(), *item.knob.encode())


__all__ = ["CHUNK", "Racer", "next_question"]
