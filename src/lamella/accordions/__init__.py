"""accordion(): which widths a dense network needs, one pair of layers at a time, and whether it is the shape or just the size.

    found = accordion(task, (16, 8, 4, 2, 4, 8, 16))                              # the best by the task's metric
    found = accordion(task, settings=Settings(budget=Budget(params="26%")))       # the best within a quarter of the parameters
    found = accordion(task, settings=Settings(method="joint", trials=64))         # all pairs at once, by Optuna
    found = accordion(task, settings=Settings(method="prune", budget=...))        # start wide, narrow by importance, tune

Every shape is trained from fresh weights over several seeds, all of a round side by side (`stacks`). Choices follow the metric on
validation; test figures are only reported, paired by seed with the baseline's, and every run trains the controls too (`controls`).
`working` keeps what is done, `shapes` counts, `metrics` judges, `searching` and `pruning` choose, `closing` puts side by side.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..digests import data_digest
from ..errors import LamellaError, with_context
from ..progress import Progress, silent
from ..records import to_plain
from ..runs import Journal
from ..schema import Accordion
from ..training import Recipe, Task, learned_from, training_data
from .closing import closed
from .pruning import narrowed, planned, pruned
from .searching import Quest, joint, race, sequential
from .settings import METHODS, RECIPE, Settings
from .shapes import PUBLISHED, Published, Widths, checked, default_candidates, is_symmetric, named, params
from .stacks import Net, Stack, check_together, train
from .working import Bench, Workshop

BASELINE = PUBLISHED["fraud-baseline"].widths


def accordion(
    task: Task,
    widths: Sequence[int] = BASELINE,
    *,
    candidates: Sequence[int] | None = None,
    symmetric: bool = True,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    recipe: Recipe = RECIPE,
    journal: str | Path | None = None,
    progress: Progress = silent,
) -> Accordion:
    """Search hidden widths from `widths`, each among `candidates`, and hold the winner against its controls.

    `candidates`: by default 2, 3, 4, 6, 8, 12 ... up to the widest. `symmetric`: layer i and its mirror image share a width. With a
    `journal`, networks that are done are never trained again. Raises LamellaError for widths that are none and a recipe that
    networks side by side cannot follow, DataError for data that cannot be learned from and a loss that is not finite, BudgetError
    where no candidate is small enough, MismatchError for a journal of other data or another recipe.
    """
    check_together(recipe)
    shapes = _shapes(widths, candidates, symmetric)
    workshop = _workshop(Bench(task, recipe, settings.activation), settings, journal, progress)
    return SEARCHES[settings.method](_quest(workshop, shapes, symmetric))


def networks(
    task: Task,
    found: Accordion,
    *,
    candidates: Sequence[int] | None = None,
    settings: Settings,
    recipe: Recipe,
    journal: str | Path | None = None,
) -> tuple[nn.Module, nn.Module]:
    """The baseline and the winner of a search, trained as they were there: of the seed whose winner did best on validation.

    All else is as `accordion` was given it. LamellaError where it gives a winner of other widths than were found.
    """
    workshop = _workshop(Bench(task, recipe, settings.activation), settings, journal, silent)
    quest = _quest(workshop, _shapes(found.baseline, candidates, False), False)
    values = found.entry("winner").per_seed
    seed = found.seeds[values.index(max(values))]
    baseline = quest.workshop.bench.trained([Net(found.baseline, seed)]).module(0)
    if found.method == "prune":
        return baseline, _checked(narrowed(quest, planned(quest), seed), found.widths)
    return baseline, quest.workshop.bench.trained([Net(found.widths, seed)]).module(0)


def _checked(winner: nn.Module, widths: Widths) -> nn.Module:
    """The winner, where it has the widths that were found."""
    *seen, _ = (layer.out_features for layer in winner.modules() if isinstance(layer, nn.Linear))
    if tuple(seen) != widths:
        raise LamellaError(
            f"the plan gives a winner of widths {named(tuple(seen))}; {named(widths)}, which the search found, were expected. Give the "
            "candidates, the settings, the recipe and the journal that it was given."
        )
    return winner


def _shapes(widths: Sequence[int], candidates: Sequence[int] | None, symmetric: bool) -> tuple[Widths, Widths]:
    """The baseline and the candidates, ascending."""
    baseline = checked(widths)
    with with_context("candidates"):
        chosen = checked(candidates) if candidates is not None else default_candidates(baseline)
    if symmetric and not is_symmetric(baseline):
        raise _asymmetric(baseline)
    return baseline, tuple(sorted(set(chosen)))


def _workshop(bench: Bench, settings: Settings, journal: str | Path | None, progress: Progress) -> Workshop:
    return Workshop(
        bench, settings, Journal(journal, identity(bench), learned_from(bench.task)) if journal else None, progress
    )


def _quest(workshop: Workshop, shapes: tuple[Widths, Widths], symmetric: bool) -> Quest:
    metric = workshop.bench.judge.check(workshop.settings.metric)
    return Quest(workshop, workshop.settings, metric, *shapes, symmetric)


def _asymmetric(widths: Widths) -> LamellaError:
    return LamellaError(
        f"widths {named(widths)} do not read the same from both ends, so their layers form no pairs. Give a symmetric shape, or "
        "symmetric=False (--asymmetric) to move every layer alone."
    )


def identity(bench: Bench) -> dict[str, Any]:
    """What a journal of trained networks belongs to."""
    task = bench.task
    return {
        "training data": training_data(task.train),
        "validation data": data_digest(task.validation),
        "test data": data_digest(task.test),
        "recipe": to_plain(bench.recipe),
        "activation": bench.activation,
        "outputs": bench.outputs,
    }


def _sequential(quest: Quest) -> Accordion:
    sweeps, winner = sequential(quest)
    return closed(quest, winner, sweeps=sweeps, tried=[shape for sweep in sweeps for shape in sweep.shapes])


def _joint(quest: Quest) -> Accordion:
    tried, winner = joint(quest)
    return closed(quest, winner, tried=tried)


def _prune(quest: Quest) -> Accordion:
    race(quest, [quest.baseline], "baseline")
    winner, outcomes = pruned(quest)
    return closed(quest, winner, pruned=outcomes)


SEARCHES: dict[str, Callable[[Quest], Accordion]] = {"joint": _joint, "prune": _prune, "sequential": _sequential}

__all__ = [
    "BASELINE",
    "METHODS",
    "PUBLISHED",
    "RECIPE",
    "Bench",
    "Net",
    "Published",
    "Settings",
    "Stack",
    "accordion",
    "identity",
    "networks",
    "params",
    "train",
]
