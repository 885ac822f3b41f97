"""Networks trained and measured in packs, here or elsewhere, each written down when its pack is done.

    bench = Bench(task, recipe, inputs=29, outputs=29)
    found = Workshop(bench, settings, journal).outcomes([Net((4, 2, 4), 0), Net((4, 2, 4), 1)])

A pack is a stack that is worth training at once: shapes of like size, over all the seeds that are asked for. A kill loses the
pack in progress.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from ..executors import execute, portable
from ..progress import Progress, silent
from ..runs import Journal
from ..training import Batches, Loader, Portion, Recipe, Task
from .metrics import Judge, Metrics
from .settings import Settings
from .shapes import Widths, named, params
from .stacks import Net, Stack, flattened, scores, train

WASTE = 2.0  # padding may make a pack's arithmetic this much more than its networks' own
OVERHEAD = 3_000  # parameters whose arithmetic takes about as long as the calls of a step take per network
LARGEST = 64  # networks in a pack


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one network came to."""

    net: Net
    validation: Metrics
    test: Metrics
    seconds: float = 0.0


class Bench:
    """What networks are trained and judged on. It goes to the workers."""

    def __init__(self, task: Task, recipe: Recipe, activation: str = "relu") -> None:
        self.task, self.recipe, self.activation = task, recipe, activation
        self.judge = Judge.of(task)
        self.inputs, self.outputs = sizes(task)

    def params(self, widths: Widths) -> int:
        return params(widths, self.inputs, self.outputs)

    def trained(self, nets: Sequence[Net]) -> Stack:
        """These networks, trained."""
        stack = Stack(nets, self.inputs, self.outputs, self.activation)
        train(stack, self.task, self.recipe)
        return stack

    def __call__(self, nets: Sequence[Net]) -> Iterator[list[Outcome]]:
        """Train and measure a pack; it comes in one part."""
        yield self.measured(nets)

    def measured(self, nets: Sequence[Net]) -> list[Outcome]:
        """The outcomes of a pack."""
        started = time.perf_counter()
        stack = self.trained(nets)
        held, test = (scores(stack, part, self.task.score).numpy() for part in (self.task.validation, self.task.test))
        seconds = (time.perf_counter() - started) / len(nets)
        return [self.outcome(net, held[i], test[i], seconds) for i, net in enumerate(nets)]

    def outcome(self, net: Net, held_N: Any, test_N: Any, seconds: float = 0.0) -> Outcome:
        """The metrics that a network's scores come to."""
        return Outcome(net, self.judge.validation(held_N), self.judge.test(held_N, test_N), seconds)


def sizes(task: Task) -> tuple[int, int]:
    """Inputs and outputs of the task's networks: as many outputs as classes, or as inputs where rows are copied."""
    inputs, targets = next(iter(task.validation))
    width = flattened(inputs).shape[1]
    if isinstance(targets, torch.Tensor) and targets.ndim == 1 and not targets.is_floating_point():
        return width, 1 + max(map(_highest, (task.train, task.validation, task.calibration)))
    rows = targets["rows"] if isinstance(targets, dict) and "rows" in targets else targets
    if not isinstance(rows, torch.Tensor) or rows.ndim < 2 or rows.flatten(1).shape[1] != width:
        seen = f"{rows.dtype}, {tuple(rows.shape)}" if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise DataError(
            f"task {task.name!r}: the targets ({seen}) are neither class numbers (N,) nor rows as wide as the {width} inputs; an accordion "
            "classifies or copies. Give classes as targets.long(), or the inputs as targets."
        )
    return width, width


def _highest(loader: Loader) -> int:
    """The highest class number, of all samples where an epoch draws some of them."""
    batches = loader.loader if isinstance(loader, Portion) else loader
    if isinstance(batches, Batches):
        return int(batches.targets.max())
    return max(int(targets.max()) for _, targets in batches)


def make_bench(task: Task, recipe: Recipe, activation: str) -> Bench:
    """A worker in a process of its own, on one thread: the workers are the parallelism."""
    torch.set_num_threads(1)
    return Bench(task, recipe, activation)


class Workshop:
    """Outcomes by network: from the journal, or trained now."""

    def __init__(
        self, bench: Bench, settings: Settings, journal: Journal | None = None, progress: Progress = silent
    ) -> None:
        self.bench, self.settings, self.journal, self.progress = bench, settings, journal, progress
        self.notes: list[str] = []
        self.done: dict[Net, Outcome] = {}
        for key, value in (journal.entries if journal else {}).items():
            net = _net_of(key)
            if net is None:
                continue
            self.done[net] = Outcome(net, value["validation"], value["test"], value["seconds"])

    def outcomes(
        self, nets: Iterable[Net], stage: str, note: str = "", *, total: int | None = None, spared: int = 0
    ) -> dict[Net, Outcome]:
        """The outcome of every network, trained where it has none yet.

        `total` and `spared`: of a race, how many networks it may come to, and how many of them are not needed any more.
        """
        wanted = list(dict.fromkeys(nets))
        total = total or len(wanted)
        packs = packed([net for net in wanted if net not in self.done], self.bench, self._largest(len(wanted)))
        finished = spared + len(wanted) - sum(map(len, packs))
        self.progress(stage, finished, total, note)
        for pack in self._executed(packs):
            for outcome in pack:
                self._keep(outcome)
            finished += len(pack)
            self.progress(stage, finished, total, note)
        return {net: self.done[net] for net in wanted}

    def values(self, widths: Widths, seeds: Sequence[int], metric: str) -> np.ndarray:
        """A metric on validation, per seed, of a shape that is done."""
        return np.array([self.done[Net(widths, seed)].validation[metric] for seed in seeds])

    def _keep(self, outcome: Outcome) -> None:
        self.done[outcome.net] = outcome
        if self.journal is not None:
            value = {"validation": outcome.validation, "test": outcome.test, "seconds": round(outcome.seconds, 4)}
            self.journal.append(_key(outcome.net), value)

    def _largest(self, nets: int) -> int:
        """Networks in a pack: workers elsewhere share them."""
        return LARGEST if self.settings.executor == "serial" else min(LARGEST, -(-nets // self.settings.workers))

    def _executed(self, packs: Sequence[Sequence[Net]]) -> Iterable[list[Outcome]]:
        setup = partial(make_bench, self.bench.task, self.bench.recipe, self.bench.activation)
        how = self.settings.executor
        if how != "serial" and (reason := portable(setup)) is not None:
            self.notes.append(f"ran in this process: the task cannot be sent to another one ({reason})")
            how = "serial"
        if how == "serial" or len(packs) < 2:
            how = "serial"
            setup = lambda: self.bench  # type: ignore[assignment]
        ran = execute(packs, setup, executor=how, workers=self.settings.workers, address=self.settings.address)
        return (result for _, result in ran)


def packed(nets: Sequence[Net], bench: Bench, largest: int = LARGEST) -> list[list[Net]]:
    """Networks in packs: of equal depth, by rising size, while padding wastes little."""
    packs: list[list[Net]] = []
    for net in sorted(nets, key=lambda net: (len(net.widths), bench.params(net.widths), net.widths, net.seed)):
        if packs and len(packs[-1]) < largest and _fits(packs[-1], net, bench):
            packs[-1].append(net)
        else:
            packs.append([net])
    return packs


def _fits(pack: Sequence[Net], net: Net, bench: Bench) -> bool:
    together = [*pack, net]
    if len(net.widths) != len(pack[0].widths):
        return False
    padded = bench.params(tuple(max(column) for column in zip(*(n.widths for n in together), strict=True)))
    own = sum(bench.params(n.widths) + OVERHEAD for n in together)
    return len(together) * (padded + OVERHEAD) <= WASTE * own


def _key(net: Net) -> str:
    return f"{named(net.widths)} seed {net.seed}"


def _net_of(key: str) -> Net | None:
    """The network a line is about; None for lines of the pruned ones."""
    found = re.fullmatch(r"(\d+(?:-\d+)*) seed (\d+)", key)
    return Net(tuple(int(w) for w in found[1].split("-")), int(found[2])) if found else None
