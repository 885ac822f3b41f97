"""Which levels hold? Samples are drawn until that is known, and milder levels are taken to hold where a harsher one does.

    points = Racer(engine, sweep).measure(item)           # of the levels that were asked

The floor is `sweep.factor` x the dense score on all samples. Samples are put into strata by the margin of the dense network's two best
outputs, shuffled within each, and cut into chunks; every candidate draws chunks in an order of its own. See statistics.Race.
"""

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..errors import with_context
from ..replay import Branch
from ..schema import Point, Score
from ..statistics import Race, climb, strata_of
from ..training import mixed
from .engine import Engine, Run, Scores
from .points import Item, Level
from .samples import Chunk
from .settings import Sweep

CHUNK = 32


class Racer:
    """One engine's samples, sorted for racing."""

    def __init__(self, engine: Engine, dense_N: Scores) -> None:
        self.engine, self.dense_N, self.sweep = engine, dense_N, engine.subject.sweep
        whole = engine.samples.whole()
        engine.forget()
        generator = np.random.default_rng(self.sweep.seed)
        self.strata = [generator.permutation(part) for part in strata_of(engine.margins, len(dense_N))]
        self.chunks: list[list[tuple[Chunk, NDArray[np.int64]]]] = []
        number = 0
        for part in self.strata:
            rows = [part[i : i + CHUNK] for i in range(0, len(part), CHUNK)]
            self.chunks.append([(_rows_of(whole, number + i, r), r) for i, r in enumerate(rows)])
            number += len(rows)
        self._last: dict[str, float] = {}

    def measure(self, item: Item) -> list[Point]:
        """A point for every level that was asked."""
        with with_context(f"{item.target} ({item.knob})"), torch.inference_mode():
            make = self.engine.maker(item)
            branches: dict[int, Branch | None] = {}
            asked: dict[int, Point] = {}

            def holds(index: int) -> bool:
                run, started = make(item.levels[index]), time.perf_counter()
                race = self._raced(run, branches, _stream(self.sweep.seed, item, index), len(item.levels))
                asked[index] = self._point(item, item.levels[index], race, time.perf_counter() - started)
                return bool(race.verdict())

            climb(len(item.levels), holds)
        return [asked[index] for index in sorted(asked)]

    def _raced(self, run: Run, branches: dict[int, Branch | None], seed: int, levels: int) -> Race:
        """Draw until the verdict. The error is shared between the questions that a search over the levels asks."""
        questions = max(1, math.ceil(math.log2(levels + 1)))
        floor = (self.sweep.factor - 1) * float(self.dense_N.mean())
        indifference = self.sweep.indifference * abs(float(self.dense_N.mean()))
        race = Race([len(part) for part in self.strata], floor, self.sweep.error / questions, indifference)
        generator = np.random.default_rng(seed)
        queues = [[chunks[i] for i in generator.permutation(len(chunks))] for chunks in self.chunks]
        for look in range(race.looks):
            for stratum, wanted in enumerate(race.wanted(look)):
                while race.counts[stratum] < wanted:
                    chunk, rows = queues[stratum].pop()
                    race.add(stratum, self._scores(run, chunk, branches) - self.dense_N[rows])
            if race.verdict() is not None:
                break
        return race

    def _scores(self, run: Run, chunk: Chunk, branches: dict[int, Branch | None]) -> Scores:
        if chunk.number not in branches:
            branches[chunk.number] = self.engine.branch(run, chunk)
        return self.engine.scored(self.engine.output(run, chunk, branches[chunk.number]), chunk)

    def _point(self, item: Item, level: Level, race: Race, seconds: float) -> Point:
        """The estimate with a 95 % interval: the spread of the draw, and that of the validation samples themselves."""
        difference, error = race.estimate()
        value = float(self.dense_N.mean()) + difference
        spread = value * (1 - value) if self.engine.binary else float(self.dense_N.var())
        reach = 1.96 * math.sqrt(error**2 + max(0.0, spread) / len(self.dense_N))
        low, high = value - reach, value + reach
        if self.engine.binary:
            value = min(max(value, 0.0), 1.0)
            low, high = max(0.0, low), min(1.0, high)
        score = Score(value=value, low=min(low, value), high=max(high, value), n=int(race.counts.sum()))
        return Point(
            target=item.target, knob=item.knob, level=level.value, width=level.width, score=score, seconds=seconds
        )


def _stream(seed: int, item: Item, index: int) -> int:
    """The seed of a candidate's own order of draws."""
    return mixed(seed, index, *item.target.encode(), *item.knob.encode())


def _rows_of(whole: Chunk, number: int, rows: NDArray[np.int64]) -> Chunk:
    index = torch.from_numpy(rows)
    picked = tree_map_only(Tensor, lambda leaf: leaf[index.to(leaf.device)], (whole.inputs, whole.targets))
    return Chunk(number, *picked)


__all__ = ["CHUNK", "Racer", "Sweep"]
