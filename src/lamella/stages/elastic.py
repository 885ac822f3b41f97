"""The stage of an elastic network over a run directory: make its levels, train them, write their files, measure them.

family = elasticized(session, None, "sandwich", Recipe(epochs=3, lr=0.02))
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..elasticity import IN_PLACE, Settings, Teaching, elasticize, publish, save_elastic
from ..errors import LamellaError
from ..progress import Progress, silent
from ..records import digest, load_record
from ..schema import Family, Level, Plan
from ..sessions import Session
from ..statistics import score_interval
from ..training import Recipe, Task, evaluate
from .verbs import tuning_task

FOLDER = "elastic"  # in the run directory: the levels' files, and the training in progress


def elasticized(
    session: Session,
    levels: Settings | None,
    recipe: str,
    tuning: Recipe,
    *,
    teaching: Teaching = IN_PLACE,
    own: Sequence[str] = (),
    tuning_samples: int | None = None,
    progress: Progress = silent,
) -> Family:
    """The levels trained, scored on validation and test, written and timed: `elastic.json`, `elastic.safetensors`, `elastic/`."""
    directory = session.directory / FOLDER
    named = dict(levels) if isinstance(levels, Mapping) else levels and list(levels)
    asked = digest((named, recipe, tuning, teaching, tuple(own), tuning_samples))
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
    publish(net, session.task, directory)
    net.family = replace(net.family, levels=tuple(_tested(net.view(x.name), x, session.task) for x in net.levels))
    return save_elastic(session.directory, net)


def _tested(view: nn.Module, level: Level, task: Task) -> Level:
    return replace(level, test=score_interval(evaluate(view, task.test, task.score).numpy()))


def settings_of(pairs: Sequence[tuple[str, str]]) -> dict[str, float | Plan]:
    """Levels by name from texts: a pruning ratio, or the path of a plan."""
    return {
        name: load_record(text, Plan) if Path(text).suffix == ".json" else _ratio(name, text) for name, text in pairs
    }


def _ratio(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LamellaError(
            f"level {name}={text}: a pruning ratio or the path of a plan (.json) was expected."
        ) from None
