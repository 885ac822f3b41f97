"""The stage of an elastic network over a run directory: make its levels, train them, write their files, measure them.

family = elasticized(session, drafted(session, None), "sandwich", Recipe(epochs=3, lr=0.02))
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..elasticity import IN_PLACE, Teaching, elasticize, publish, save_elastic
from ..progress import Progress, silent
from ..records import digest
from ..schema import Family, Level
from ..sessions import Session
from ..statistics import score_interval
from ..training import Recipe, Task, evaluate
from .levels import FOLDER
from .verbs import tuning_task


def elasticized(
    session: Session,
    draft: Family,
    recipe: str,
    tuning: Recipe,
    *,
    teaching: Teaching = IN_PLACE,
    own: Sequence[str] = (),
    tuning_samples: int | None = None,
    progress: Progress = silent,
) -> Family:
    """The draft's levels trained, scored on validation and test, written and timed: `elastic.json`, `elastic.safetensors`, `elastic/`."""
    directory = session.directory / FOLDER
    levels = list(draft.levels[:-1])
    asked = digest((levels, recipe, tuning, teaching, tuple(own), tuning_samples))
    net = elasticize(
        session.dense(),
        levels,
        tuning_task(session.task, tuning_samples),
        recipe=recipe,
        tuning=tuning,
        teaching=teaching,
        graph=session.graph(),
        own=own,
        seed=session.info.seed,
        directory=directory / "training" / asked,
        progress=progress,
    )
    session.path("elastic").unlink(missing_ok=True)  # it would vouch for files that it was not written for
    publish(net, session.task, directory)
    tested = tuple(_tested(net.view(x.name), x, session.task) for x in net.levels)
    net.family = replace(net.family, levels=tested, notes=(*net.family.notes, *draft.notes))
    return save_elastic(session.directory, net)


def _tested(view: nn.Module, level: Level, task: Task) -> Level:
    return replace(level, test=score_interval(evaluate(view, task.test, task.score).numpy()))
