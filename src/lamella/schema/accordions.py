"""The outcome of a width search for a dense network: what was tried, what was chosen, and what its controls say.

Every figure is a `Score` over seeds: the mean of the metric, its 95 % interval (Student's t), and n, the number of seeds. Widths run
along depth, hidden layers only; a *pair* is the hidden layers that share a width, (0, 6) the outermost of seven.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from ..records import check
from .curves import Score
from .plans import Budget

Role = Literal["baseline", "candidate", "winner", "control", "published"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Hidden widths, trained over seeds. `validation` is the metric that choices follow; `dropped`: stopped before its last seed."""

    widths: tuple[int, ...]
    params: int
    validation: Score
    dropped: bool = False

    def __post_init__(self) -> None:
        check(min(self.widths, default=0) > 0, "widths", f"{self.widths}: at least one width, all from 1 on")
        check(self.params > 0, "params", f"{self.params} is not a count of parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSweep:
    """One pair of layers at every candidate width, all other widths as they were then; `shapes` by rising width of the pair."""

    layers: tuple[int, ...]
    width: int
    shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        check(bool(self.layers), "layers", "a sweep of no layer")
        check(self.width in self.candidates, "width", f"{self.width} is not among the candidates {self.candidates}")

    @property
    def candidates(self) -> tuple[int, ...]:
        """The pair's width in every shape."""
        return tuple(shape.widths[self.layers[0]] for shape in self.shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of the closing table: test metrics by name, over seeds. `widths` is empty for what is no network (PCA, a forest).

    `below` is the baseline's test metric minus this one's, paired by seed, for every metric; empty for the baseline itself.
    `per_seed`: the validation metric of every seed.
    """

    name: str
    role: Role
    widths: tuple[int, ...] = ()
    params: int
    validation: Score
    test: dict[str, Score]
    below: dict[str, Score] = field(default_factory=dict)
    per_seed: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The winner's test metric minus that of another entry, paired by seed."""

    against: str
    metric: str
    difference: Score

    @property
    def verdict(self) -> Literal["better", "worse", "open"]:
        """What the interval says of the winner; open where there is none."""
        if not self.difference.has_width:
            return "open"
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """An ONNX file of one seed's network: bytes on disk, test metrics of the file itself, latency as a ratio to the first file's."""

    name: str
    file: str
    bytes: int
    latency_ms: float
    latency_ratio: float
    test: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardization:
    """How rows of a table become a network's inputs: (value - mean) / std of these columns, in this order, then float32.

    `thresholds`: for every file beside `accordion/inputs.json`, the highest score that is an alarm, as validation chose it. The score of
    a row is 1 / (1 + d), d the mean absolute difference between the file's outputs and its inputs.
    """

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    thresholds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            check(len(values) == len(self.columns), name, f"{len(values)} numbers for {len(self.columns)} columns")
        for name, std in zip(self.columns, self.std, strict=True):
            check(0 < std < math.inf, "std", f"{std} of column {name!r} is not a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """`search.json`: what a run's search was asked, so that it can be asked again, or wider.

    `candidates`: None for the usual ladder up to the widest; `metric`: None for the task's first.
    """

    widths: tuple[int, ...]
    candidates: tuple[int, ...] | None = None
    symmetric: bool = True
    method: str
    metric: str | None = None
    seeds: int
    budget: Budget
    passes: int
    trials: int
    epochs: int
    lr: float
    activation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accordion:
    """`accordion.json`. Choices follow `metric` on validation; the entries' test figures are only reported.

    `sweeps`: one per pair, in the order they were made (none for methods that move all pairs at once). `tried`: every shape trained in the
    search. `entries`: baseline, winner, controls, and published shapes. `seeds` are those of initial weights and batch order.
    """

    task: str
    metric: str
    method: str
    inputs: int
    outputs: int
    baseline: tuple[int, ...]
    widths: tuple[int, ...]
    sweeps: tuple[PairSweep, ...] = ()
    tried: tuple[Shape, ...]
    entries: tuple[Entry, ...]
    comparisons: tuple[Comparison, ...] = ()
    files: tuple[ExportedFile, ...] = ()
    seeds: tuple[int, ...]
    epochs: int
    n_train: int
    n_validation: int
    n_test: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        roles = [entry.role for entry in self.entries]
        check(roles.count("baseline") == 1, "entries", "exactly one baseline was expected")
        check(roles.count("winner") == 1, "entries", "exactly one winner was expected")

    def entry(self, role: Role) -> Entry:
        """The first entry with this role: baseline and winner are always there."""
        return next(entry for entry in self.entries if entry.role == role)
