"""Which widths: one pair of layers at a time from the outside in, or all pairs at once.

    sweeps, winner = sequential(quest)             # methods.md's schedule: (0, 6), then (1, 5), (2, 4), the latent layer last
    tried, winner = joint(quest)                   # Optuna proposes whole shapes

Every shape of a round is trained over the same seeds, side by side. After a few seeds those that have clearly lost stop (`clearly_below`).
What a search sees of a shape are the seeds that its own races reached: the journal may hold more, of the controls or of a wider search, and
the same search tells the same again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import BudgetError, needing
from ..schema import PairSweep, Shape
from ..statistics import clearly_below, over_seeds
from .settings import TOGETHER, Settings
from .shapes import Pair, Widths, pairs, singles, with_width
from .stacks import Net
from .working import Workshop

FIRST = 3  # seeds before the first shapes may stop


@dataclass(frozen=True, slots=True)
class Quest:
    """What is sought: widths for a task, from a baseline, among candidates. `reached`: seeds per shape that its races came to."""

    workshop: Workshop
    settings: Settings
    metric: str
    baseline: Widths
    candidates: Widths
    symmetric: bool
    reached: dict[Widths, int] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[Pair, ...]:
        """Layers that move together."""
        return pairs(len(self.baseline)) if self.symmetric else singles(len(self.baseline))

    @property
    def limit(self) -> float:
        """Most parameters a shape may have."""
        dense = self.workshop.bench.params(self.baseline)
        limit = self.settings.budget.limit("params", dense)
        return math.inf if limit is None else limit

    def nets(self, shapes: Sequence[Widths], seeds: int) -> list[Net]:
        return [Net(widths, seed) for widths in shapes for seed in self.settings.all_seeds[:seeds]]

    def values(self, widths: Widths, seeds: int | None = None) -> np.ndarray:
        """The metric on validation per seed, of as many seeds as the races reached (or as asked)."""
        seen = self.settings.all_seeds[: self.reached.get(widths, 0) if seeds is None else seeds]
        return self.workshop.values(widths, seen, self.metric)

    def shape(self, widths: Widths) -> Shape:
        """A shape that is done, as a record."""
        values = self.values(widths)
        dropped = len(values) < self.settings.seeds
        score = over_seeds(values)
        return Shape(widths=widths, params=self.workshop.bench.params(widths), validation=score, dropped=dropped)

    def floor(self, share: float = 1.0) -> float:
        """The lowest metric allowed after this share of the way: the drop is spent evenly over the steps."""
        drop = self.settings.budget.max_drop
        base = float(self.values(self.baseline).mean())
        return -math.inf if drop is None else base - share * drop / 100

    def best(self, shapes: Sequence[Widths], share: float = 1.0) -> Widths:
        """The chosen one: the best, or the smallest at or above the floor. Ties go to fewer parameters."""
        size = self.workshop.bench.params
        whole = [w for w in shapes if len(self.values(w)) == self.settings.seeds]
        mean = {w: float(self.values(w).mean()) for w in whole}
        holding = [w for w in whole if mean[w] >= self.floor(share) - 1e-12]
        if self.settings.budget.max_drop is not None and holding:
            return min(holding, key=lambda w: (size(w), -mean[w], w))
        return max(whole, key=lambda w: (mean[w], -size(w), w))


def race(quest: Quest, shapes: Sequence[Widths], stage: str, share: float = 1.0) -> None:
    """Train shapes over the seeds, stopping those that have clearly lost to the leader (or to the floor, where smallness decides)."""
    looks = looks_of(quest.settings.seeds) if quest.settings.race else [quest.settings.seeds]
    alive = list(dict.fromkeys(shapes))
    total, started = len(alive) * quest.settings.seeds, len(alive)
    for seeds in looks:
        note = f"{len(alive)} of {started} shapes left"
        spared = total - len(alive) * quest.settings.seeds
        quest.workshop.outcomes(quest.nets(alive, seeds), stage, note, total=total, spared=spared)
        quest.reached.update({w: max(seeds, quest.reached.get(w, 0)) for w in alive})
        if seeds < quest.settings.seeds:
            alive = _survivors(quest, alive, seeds, share, quest.settings.error / (len(looks) - 1))


def looks_of(seeds: int) -> list[int]:
    """Seeds trained before each look: 3, 6, 12 ... and all.

    >>> looks_of(5), looks_of(10), looks_of(2)
    ([3, 5], [3, 6, 10], [2])
    """
    looks, n = [], FIRST
    while n < seeds:
        looks.append(n)
        n *= 2
    return [*looks, seeds]


def _survivors(quest: Quest, alive: Sequence[Widths], seeds: int, share: float, error: float) -> list[Widths]:
    table = np.stack([quest.values(w, seeds) for w in alive])
    if quest.settings.budget.max_drop is None:
        lost = clearly_below(table, int(table.mean(1).argmax()), error)
        return [w for w, below in zip(alive, lost, strict=True) if not below]
    floor_S = quest.values(quest.baseline, seeds) - share * quest.settings.budget.max_drop / 100
    lost = clearly_below(np.vstack([floor_S, table]), 0, error)[1:]
    left = [w for w, below in zip(alive, lost, strict=True) if not below]
    return left or [alive[int(table.mean(1).argmax())]]


def sequential(quest: Quest) -> tuple[tuple[PairSweep, ...], Widths]:
    """One group of layers after the other, each at its best before the next is tried."""
    now, sweeps = quest.baseline, []
    order = [(turn, layers) for turn in range(quest.settings.passes) for layers in quest.groups]
    race(quest, [quest.baseline], "baseline")
    for number, (_, layers) in enumerate(order):
        shapes = _within(quest, now, layers, [group for _, group in order[number + 1 :]])
        share = (number + 1) / len(order)
        race(quest, shapes, f"layers {' & '.join(str(i + 1) for i in layers)}", share)
        now = quest.best(shapes, share)
        records = tuple(quest.shape(w) for w in shapes)
        sweeps.append(PairSweep(layers=layers, width=now[layers[0]], shapes=records))
    return tuple(sweeps), now


def _within(quest: Quest, now: Widths, layers: Pair, rest: Sequence[Pair]) -> list[Widths]:
    """The shapes of a sweep from which the budget can still be met. BudgetError, with the smallest there is, if none can."""
    least = min(quest.candidates)
    shapes = [with_width(now, layers, width) for width in sorted({*quest.candidates, now[layers[0]]})]

    def smallest(widths: Widths) -> int:
        for group in rest:
            widths = with_width(widths, group, min(least, widths[group[0]]))
        return quest.workshop.bench.params(widths)

    found = [w for w in shapes if smallest(w) <= quest.limit]
    if not found:
        nearest = min(shapes, key=smallest)
        raise BudgetError(
            f"no shape reaches {quest.limit:,.0f} parameters: with {', '.join(map(str, quest.candidates))} as candidates the smallest has "
            f"{smallest(nearest):,}. Give smaller candidates, or a larger budget."
        )
    return found


def joint(quest: Quest) -> tuple[tuple[Shape, ...], Widths]:
    """Whole shapes, proposed by Optuna (TPE, Bergstra et al. 2011) a handful at a time; those over the budget are never trained."""
    study = _study(quest)
    race(quest, [quest.baseline], "baseline")
    tried: list[Widths] = [quest.baseline] if quest.workshop.bench.params(quest.baseline) <= quest.limit else []
    rounds = math.ceil(quest.settings.trials / TOGETHER)
    for number in range(1, rounds + 1):
        asked = [study.ask() for _ in range(min(TOGETHER, quest.settings.trials - (number - 1) * TOGETHER))]
        shapes = [_proposed(quest, trial) for trial in asked]
        fitting = [w for w in dict.fromkeys(shapes) if quest.workshop.bench.params(w) <= quest.limit]
        leaders = [quest.best(tried)] if tried else []
        if fitting:
            race(quest, [*leaders, *fitting], f"joint, round {number} of {rounds}")
        tried += [w for w in fitting if w not in tried]
        for trial, widths in zip(asked, shapes, strict=True):
            study.tell(trial, _worth(quest, widths))
    if not tried:
        raise BudgetError(
            f"none of {quest.settings.trials} proposals has at most {quest.limit:,.0f} parameters. Give smaller candidates, "
            "more trials, or a larger budget."
        )
    return tuple(quest.shape(w) for w in tried), quest.best(tried)


def _study(quest: Quest):  # type: ignore[no-untyped-def]  # noqa: ANN202 - Optuna's
    with needing("optuna", "search", "the joint search"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=quest.settings.first_seed, n_startup_trials=2 * TOGETHER)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _proposed(quest: Quest, trial) -> Widths:  # type: ignore[no-untyped-def]  # noqa: ANN001 - Optuna's
    widths = quest.baseline
    for layers in quest.groups:
        name = f"layers {' & '.join(str(i + 1) for i in layers)}"
        widths = with_width(widths, layers, trial.suggest_categorical(name, list(quest.candidates)))
    return widths


def _worth(quest: Quest, widths: Widths) -> float:
    """What the proposer maximizes: the metric; smallness above a floor; and less than either for what breaks the budget."""
    size, dense = quest.workshop.bench.params(widths), quest.workshop.bench.params(quest.baseline)
    if size > quest.limit:
        return -size / quest.limit
    mean = float(quest.values(widths).mean())
    if quest.settings.budget.max_drop is None:
        return mean
    return 1 - size / dense if mean >= quest.floor() else mean - quest.floor() - 1


__all__ = ["Quest", "joint", "race", "sequential"]
