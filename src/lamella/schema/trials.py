"""Trials: a plan and its controls, each over several seeds."""

from dataclasses import dataclass

from ..records import check


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One walk: which variant, from which seed, and what came out. Scores on all validation and all test samples."""

    name: str
    seed: int
    validation: float
    test: float
    n_test: int
    params: int
    macs: int

    def __post_init__(self) -> None:
        check(self.n_test > 0, "n_test", "no test samples")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """The run's plan ("plan") and its controls, every one from the same `seeds` seeds. `plan`: the digest of the plan that was walked."""

    structure: str
    seeds: int
    trials: tuple[Trial, ...]
    plan: str = ""

    def __post_init__(self) -> None:
        names = [trial.name for trial in self.trials]
        uneven = sorted({name for name in names if names.count(name) != self.seeds})
        check(not uneven, "trials", f"{', '.join(uneven)}: not {self.seeds} seeds")
        check("plan" in names, "trials", "the plan itself is not among them")

    def of(self, name: str) -> tuple[Trial, ...]:
        """The trials of one variant, by seed."""
        return tuple(sorted((t for t in self.trials if t.name == name), key=lambda t: t.seed))

    @property
    def names(self) -> tuple[str, ...]:
        """The variants, the plan first."""
        return tuple(dict.fromkeys(trial.name for trial in self.trials))
