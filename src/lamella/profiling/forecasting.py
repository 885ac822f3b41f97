"""The cost of a sweep before it starts.

forecast(work, jobs).text             "171 points, about 2 min 40 s here"
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..replay import Program
from ..schema import Graph
from .points import Item, Job
from .recalibrating import BATCHES
from .working import Work

RACED_SHARE = 0.12  # of an exact sweep, by benchmarks/profile.py


@dataclass(frozen=True, slots=True)
class Forecast:
    """How many points, and how many seconds they should take here."""

    points: int
    seconds: float

    @property
    def text(self) -> str:
        """For a person.

        >>> Forecast(171, 160.0).text
        '171 points, about 2 min 40 s here'
        """
        whole = max(1, round(self.seconds))
        minutes, seconds = divmod(whole, 60)
        length = (
            f"{minutes // 60} h {minutes % 60} min"
            if minutes >= 60
            else f"{minutes} min {seconds} s"
            if minutes
            else f"{seconds} s"
        )
        return f"{self.points} points, about {length} here"


def forecast(work: Work, jobs: Sequence[Job]) -> Forecast:
    """Seconds from the timed pass of the dense network, and from how much of it each point runs."""
    engine, sweep = work.engine, work.engine.subject.sweep
    counts = [len(work.open(job)) for job in jobs]
    points = sum(counts)
    if work.method == "estimate" or not points:
        return Forecast(points, 0.0)
    program = engine.program
    dense = work.scores_seconds  # the baseline that has just been measured
    if sweep.tune_epochs:
        # a step costs three forward passes; where it is not known, an epoch is taken to be as long as a pass over the validation samples
        known = sweep.brief.count(engine.subject.task)
        epochs = sweep.tune_epochs if known is None else known / engine.samples.count
        seconds = points * dense * (2 + 3 * epochs)
    elif program is None:
        seconds = points * dense
    else:
        behind, graph = _shares_behind(program), engine.subject.graph
        shares = [_share(graph, job.item, behind) for job in jobs]
        seconds = sum(n * share for n, share in zip(counts, shares, strict=True)) * dense + dense
    seconds *= RACED_SHARE if work.method == "race" else 1.0
    seconds *= _recalibration(work) if sweep.recalibrate and not sweep.tune_epochs else 1.0
    return Forecast(points, seconds / (1 if sweep.executor == "serial" else sweep.workers))


def _recalibration(work: Work) -> float:
    """How many times as long a point takes when it is recalibrated first: its batches run without folding, half as fast again."""
    batch = getattr(work.engine.subject.task.train, "batch_size", None) or work.engine.samples.chunk
    return 1 + 1.5 * BATCHES * int(batch) / work.engine.samples.count


def _shares_behind(program: Program) -> dict[str, float]:
    """Per parameter, the share of the network's operators that lie behind it, by the elements they make."""
    total = max(1, sum(op.elements for op in program.listed))
    names = {name for op in program.listed for name in op.names}
    return {n: sum(program.listed[p].elements for p in program.affected({n})) / total for n in names}


def _share(graph: Graph, item: Item, weights: dict[str, float]) -> float:
    """The share of the network that lies behind an item."""
    layers = graph.group_of[item.target].layers if item.knob == "pruning_ratio" else (item.target,)
    return max((weights.get(f"{name}.weight", 1.0) for name in layers), default=1.0)
