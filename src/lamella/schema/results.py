"""What was done and measured: the Result of a plan, the closing table, and what a run is about."""

from dataclasses import dataclass, field

from ..records import check, digest
from .curves import Score
from .graphs import Integer
from .plans import AS_IS, Plan
from .schemes import SCHEMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What was measured after a step (or of the dense model: step 0), and `before_tuning`.

    `predicted` is the score of the step alone, `expected` that of the step and all before it, before any tuning, with drops added up:
    beside `before_tuning` it shows how far drops add up (tuning between steps raises the latter).
    """

    name: str
    step: int
    validation: Score
    params: int
    macs: int
    predicted: float | None = None
    before_tuning: float | None = None
    expected: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a plan did to a model: the channels each group kept (dense numbering) and the measured history.

    `asked`: the digest of the plan that the walk began with, where steps were planned anew on the way and `plan` is what came of it.
    `data`: the digest of the validation data of these scores; older results have none. `begun`: the command of a later walk in the same
    run directory that is not finished.
    `integers` of modules that narrowing set. After `quantize` also the bits of every layer, the range (low, high) of its input, and the
    `scheme` by which files hold them, and `notes` on the data that the ranges come from. After a file was written by them also
    `agreement`: the share of validation samples of the same class in the file and in its simulation (None: scores of a task's own), and
    `file_score`: the file's own score on validation. The last measure of `history` is then that of the simulation.
    """

    plan: Plan
    kept: dict[str, tuple[int, ...]]
    history: tuple[Measure, ...]
    bits: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    integers: tuple[Integer, ...] = ()
    seed: int = 0
    asked: str = ""
    scheme: str = "static"
    notes: tuple[str, ...] = ()
    data: str = ""
    begun: str = ""
    agreement: Score | None = None
    file_score: Score | None = None

    def __post_init__(self) -> None:
        check(self.scheme in SCHEMES, "scheme", f"{self.scheme!r} is not one of {', '.join(SCHEMES)}")

    @property
    def structure(self) -> str:
        return self.plan.structure

    @property
    def as_is(self) -> bool:
        """Whether nobody planned, and the dense network stands for the compressed one."""
        return self.plan.planner == AS_IS

    @property
    def simulated(self) -> Measure | None:
        """What was measured of the eager simulation of its bits; None before `quantize`."""
        return self.history[-1] if self.bits and self.history else None

    @property
    def walk(self) -> str:
        """The digest of the walk and of what came of it. It outlives `quantize`, which adds one measure and its own fields."""
        history = self.history[:-1] if self.bits else self.history
        return digest((self.plan, self.kept, self.seed, history))

    @property
    def widths(self) -> dict[str, int]:
        return {name: len(channels) for name, channels in self.kept.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the closing table. Accuracies are fractions; `drop` is test accuracy below dense, paired, with its interval."""

    name: str
    validation_accuracy: float
    test_accuracy: float
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    params: int
    macs: int
    bytes: int
    latency_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The closing table of a run: what each variant scores, weighs and takes, measured on `n_validation` and `n_test` samples.

    `plan` is the digest of the plan the compressed rows follow, `walk` that of the walk that led to them (`Result.walk`); older tables
    have none.
    """

    rows: tuple[Row, ...]
    n_validation: int
    n_test: int
    plan: str = ""
    walk: str = ""
    notes: tuple[str, ...] = ()


SEEDS = 2**63  # what torch's generators take


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """`run.json`: what later verbs need to go on from the directory alone, and the provenance the report prints."""

    model: str
    task: str
    data: str | None = None
    weights: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    options: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    started: str = ""

    def __post_init__(self) -> None:
        check(-SEEDS <= self.seed < SEEDS, "seed", f"{self.seed}: a whole number of at most 63 bits was expected")
