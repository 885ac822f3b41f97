"""What was measured of a network, one target at a time: scores with intervals, points, and the Profile that holds them."""

from dataclasses import dataclass, field
from typing import Literal

from ..records import check
from .graphs import Graph

# accuracy: the share of samples that are right, told in percent. score: a task's own, told as the number it is.
Metric = Literal["accuracy", "score"]

ROUNDING = 1e-9  # of a score, or of a difference of two
BASELINE = "baseline"  # the key of the dense network's score in a journal of points


def lowered(score: float, factor: float) -> float:
    """What a factor such as 0.985 leaves of a score; one below 0 gets as much lower.

    >>> lowered(0.5, 0.98), lowered(-0.5, 0.98)
    (0.49, -0.51)
    """
    return factor * score if score >= 0 else (2 - factor) * score


def factor_between(score: float, low: float) -> float:
    """The factor by which `lowered(score)` gives `low`; 1 where that is not lower."""
    if not score:
        return 1.0
    return min(1.0, low / score if score > 0 else 2 - low / score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A mean score over n samples with its 95 % interval. Accuracies are fractions: 0.98 is 98 %."""

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        check(self.n > 0, "n", "a score over no samples")
        check(self.low <= self.value <= self.high, "value", f"{self.value} lies outside [{self.low}, {self.high}]")

    @property
    def has_width(self) -> bool:
        """Whether there is an interval to tell. One seed, and seeds that all say the same, give none: it would look like certainty."""
        return self.high - self.low > ROUNDING


# pruning_ratio: channels of a group leave. masked_ratio: the filters of one layer give zero, as in the published sweeps; a plan cannot
# remove those alone. bits: a layer's weights are rounded. bits_both: its weights and its inputs.


Knob = Literal["pruning_ratio", "masked_ratio", "bits", "bits_both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What the network scores when one target (a group, or a layer for bits) is set to a level of one knob."""

    target: str
    knob: Knob
    level: float
    width: int | None = None
    score: Score
    seconds: float = 0.0

    def __post_init__(self) -> None:
        ratio = not self.knob.endswith("ratio") or 0 <= self.level < 1 or (self.level == 1 and self.width == 0)
        check(ratio, "level", f"{self.level} is not in [0, 1): a pruning_ratio is the fraction removed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A brief tuning before a score: so many epochs, of so many samples each (None: all), from the rate `lr`."""

    epochs: int
    samples: int | None = None
    lr: float
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measured curves: what every target costs the network at every level, one target at a time.

    `method`: exact, race or estimate; `notes` say what a reader of the figures must know. `facts`: per layer, numbers beside the curves.
    `recalibrated`: points were scored with batch-norm statistics re-estimated, or layers matched where there are none (decisions 0005
    and 0017); `tuned`: how they were tuned as well, if they were. `metric`: what the scores are.
    """

    graph: Graph
    baseline: Score
    points: tuple[Point, ...]
    method: str = "exact"
    notes: tuple[str, ...] = ()
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    recalibrated: bool = False
    tuned: Tuned | None = None
    metric: Metric = "accuracy"

    def __repr__(self) -> str:
        return (
            f"Profile({self.graph.model}: {len(self.points)} points, {self.method}, baseline {self.baseline.value:.4g})"
        )

    @property
    def structure(self) -> str:
        return self.graph.structure

    def possible(self, score: float) -> float:
        """A score that drops were added up to, or the nearest that there is: an accuracy lies in [0, 1]."""
        return min(1.0, max(0.0, score)) if self.metric == "accuracy" else score

    def curve(self, target: str, knob: Knob = "pruning_ratio") -> tuple[Point, ...]:
        """The points of one target by rising level (for bits: falling)."""
        points = (p for p in self.points if p.target == target and p.knob == knob)
        return tuple(sorted(points, key=lambda p: p.level if knob.endswith("ratio") else -p.level))
