"""How a sweep goes about its work, beside what it measures."""

from dataclasses import dataclass

from ..errors import LamellaError, demand, unknown_name
from ..training import Brief

RATIOS = tuple(p / 10 for p in range(1, 10))
SCREENINGS = ("none", "bf16")
METHODS = ("exact", "race", "estimate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Options of `profile`.

    `whole`: groups that are `removable` also without any channel, so that a plan may remove a residual block. `layers`: also a curve
    per layer, its filters masked. `inputs`: for bits, also a curve with the inputs rounded. `points`: globs of the targets to
    measure. `recalibrate`: re-estimate batch-norm statistics before scoring, or match layers where there are none
    (decisions 0005, 0017); `tune_epochs`: tune every point first, as published, on `tune_samples` samples an epoch. `factor`,
    `error`, `indifference`: the race's threshold factor, error rate per target, and the share of the baseline within which either
    answer is right. `executor`: serial, processes or ray, with so many `workers`; `address`: of a Ray cluster. `chunk`: samples
    at a time; `memory`: bytes for kept activations. `screening`: none, or bf16, which scores in bf16 what is beyond doubt, the
    counts being the same; where it cannot be exact or would not pay, the profile says so and does without. `latency`: the
    directory of a LatencyTable, for the layers' milliseconds.
    """

    whole: bool = False
    layers: bool = False
    inputs: bool = False
    points: tuple[str, ...] = ("*",)
    recalibrate: bool = False
    tune_epochs: int = 0
    tune_samples: int | None = None
    lr: float = 0.01
    factor: float = 0.985
    error: float = 0.05
    indifference: float = 0.001
    executor: str = "serial"
    workers: int = 2
    address: str | None = None
    chunk: int = 64
    memory: int = 1_000_000_000
    screening: str = "none"
    latency: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        demand(0 < self.factor <= 1, f"factor {self.factor}: the share of the baseline that must remain, in (0, 1].")
        demand(0 < self.error < 0.5, f"error {self.error}: a rate between 0 and 0.5.")
        demand(self.indifference >= 0, f"indifference {self.indifference} is negative.")
        demand(self.chunk >= 1, f"chunk {self.chunk}: at least one sample at a time.")
        demand(self.workers >= 1, f"workers {self.workers}: at least one.")
        demand(self.screening in SCREENINGS, unknown_name("screening", self.screening, SCREENINGS))
        self.brief  # noqa: B018  (refuses what no tuning can be)

    @property
    def brief(self) -> Brief:
        """How every point is tuned first."""
        return Brief(epochs=self.tune_epochs, samples=self.tune_samples, lr=self.lr, seed=self.seed)

    @property
    def changes_models(self) -> bool:
        """Whether every point is trained or recalibrated before it is scored."""
        return self.recalibrate or self.tune_epochs > 0


def check_method(method: str, sweep: Sweep) -> None:
    """LamellaError for an unknown method, or a race of points that each need tuning."""
    if method not in METHODS:
        raise LamellaError(unknown_name("method", method, METHODS))
    if method != "exact" and sweep.changes_models:
        raise LamellaError(
            f"method {method!r} scores the network as it is; recalibrate and tune_epochs need method='exact'."
        )
