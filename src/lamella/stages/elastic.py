"""The stage of an elastic network over a run directory: make its levels, train them, write their files, measure them.

family = elasticized(session, drafted(session, None), How("sandwich", Recipe(epochs=3, lr=0.02)))
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..elasticity import How, elasticize, publish, save_elastic
from ..exporting import OnnxModel, remove_family
from ..progress import Progress, silent
from ..records import digest
from ..schema import Family, Level, Score
from ..serving.families import level_file
from ..sessions import Session
from ..statistics import score_interval
from ..training import Loader, Task, evaluate
from .levels import FOLDER
from .verbs import tuning_task


def elasticized(
    session: Session,
    draft: Family,
    how: How,
    *,
    own: Sequence[str] = (),
    tuning_samples: int | None = None,
    progress: Progress = silent,
) -> Family:
    """The draft's levels trained, written, timed and scored on validation and test: `elastic.json`, `elastic.safetensors`, `elastic/`.

    In integers it is the file that is scored.
    """
    directory = session.directory / FOLDER
    levels = list(draft.levels[:-1])
    settings = [(level.name, level.widths, level.bits) for level in levels]
    asked = digest((settings, how.recipe, how.tuning, how.teaching, tuple(own), tuning_samples))
    net = elasticize(
        session.dense(),
        levels,
        tuning_task(session.task, tuning_samples),
        recipe=how.recipe,
        tuning=how.tuning,
        teaching=how.teaching,
        graph=session.graph(),
        own=own,
        seed=session.info.seed,
        directory=directory / "training" / asked,
        progress=progress,
    )
    session.path("elastic").unlink(missing_ok=True)
    remove_family(directory)  # the record would vouch for them, and was not written for them
    net.family = replace(net.family, notes=(*net.family.notes, *draft.notes))
    save_elastic(session.directory, net)  # what was trained is there, whatever becomes of its files
    publish(net, session.task, directory, progress=progress)
    tested = []
    for done, level in enumerate(net.levels):
        progress("score levels", done, len(net.levels), f"{level.name!r} and its file in integers")
        tested.append(_tested(net.view(level.name), level, session.task, directory))
    progress("score levels", len(net.levels), len(net.levels))
    net.family = replace(net.family, levels=tuple(tested))
    return save_elastic(session.directory, net)


def _tested(view: nn.Module, level: Level, task: Task, directory: Path) -> Level:
    def scored(model: nn.Module, batches: Loader) -> Score:
        return score_interval(evaluate(model, batches, task.score).numpy())

    with torch.no_grad():
        like = view(*task.example_inputs)
    coarse = OnnxModel(level_file(directory, level.name, "int8"), like=like)
    return replace(
        level,
        test=scored(view, task.test),
        int8_validation=scored(coarse, task.validation),
        int8_test=scored(coarse, task.test),
    )
