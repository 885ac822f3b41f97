"""The stage of an elastic network over a run directory: make its levels, train them, write their files, measure them.

family = elasticized(session, drafted(session, None), session.task, How("sandwich", Recipe(epochs=3, lr=0.02)))
family = trained_further(session, session.task, How("sandwich", Recipe(epochs=3, lr=0.02)))     # from where it stands
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..calibrating import check_calibration
from ..coarsening import CALIBRATION_BATCHES
from ..digests import weights_digest
from ..elasticity import ElasticModel, How, elasticize, load_elastic, publish, save_elastic
from ..errors import LamellaError
from ..exporting import OnnxModel, remove_family
from ..progress import Progress, silent
from ..quantization import drawn_alike
from ..records import digest
from ..schema import FILES, Family, Level
from ..serving.families import level_file
from ..sessions import Session
from ..training import Task, example_outputs, learned_from, scored, training_data
from .levels import FOLDER


def elasticized(
    session: Session,
    draft: Family,
    task: Task,
    how: How,
    *,
    own: Sequence[str] = (),
    progress: Progress = silent,
) -> Family:
    """The draft's levels trained, written, timed and scored on validation and test: `elastic.json`, `elastic.safetensors`, `elastic/`.

    In integers it is the file that is scored; calibration data that ranges cannot come from are refused before the training. `task` is
    the session's, its epochs as long as they shall be.
    """
    _check_calibration(session.task)
    levels = list(draft.levels[:-1])
    settings = [(level.name, level.widths, level.bits) for level in levels]
    net = elasticize(
        session.dense(),
        levels,
        task,
        method=how.method,
        recipe=how.recipe,
        teaching=how.teaching,
        graph=session.graph(),
        own=own,
        seed=session.info.seed,
        directory=_trainings(session) / digest((settings, how, tuple(own), _data(task))),
        progress=progress,
    )
    if weights_digest(net) in (ancestors := _ancestors(session)):
        raise LamellaError(
            f"these levels have been trained so, and further since (trainings: {len(ancestors) + 1}), which this would undo. Go on with "
            f"--further, or remove {session.path('elastic')} to have them back as they were after the first training."
        )
    session.path("elastic").unlink(missing_ok=True)
    if finished := _finished(session):
        shutil.rmtree(finished)  # of the family that is replaced
    remove_family(session.directory / FOLDER)  # the record would vouch for them, and was not written for them
    net.family = replace(net.family, notes=(*net.family.notes, *draft.notes))
    save_elastic(session.directory, net)  # what was trained is there, whatever becomes of its files
    return _shipped(session, net, session.directory, progress)


def _data(task: Task) -> dict[str, str]:
    """What levels are trained on: another one is another training."""
    return {"training data": training_data(task.train), **learned_from(task)}


def _ancestors(session: Session) -> tuple[str, ...]:
    """What the run's family was trained further from, if there is one."""
    return session.read("elastic", Family).ancestors if session.has("elastic") else ()


def trained_further(session: Session, task: Task, how: How, progress: Progress = silent) -> Family:
    """The run's own family, trained from where it stands, and written, timed and scored like a new one.

    The record and the weights are replaced last, by those of the training's folder: after a kill, whenever it was, the same request goes
    on, and is not answered twice.
    """
    asked = digest((how, _data(task)))
    if finished := _finished(session):
        family = _put_in_place(session, finished)
        if finished.name.endswith(asked):
            return family
    session.read("elastic", Family)  # RunError, naming the verb, before there is one
    _check_calibration(session.task)
    before = load_elastic(session.directory, session.dense)
    directory = _trainings(session) / f"{weights_digest(before)}-{asked}"
    net = elasticize(
        session.dense(),
        before,
        task,
        method=how.method,
        recipe=how.recipe,
        teaching=how.teaching,
        seed=session.info.seed,
        directory=directory,
        progress=progress,
    )
    remove_family(session.directory / FOLDER)
    _shipped(session, net, directory, progress)
    return _put_in_place(session, directory)


def _check_calibration(task: Task) -> None:
    """DataError before a training whose files could not be written in integers."""
    with drawn_alike():
        check_calibration(task, CALIBRATION_BATCHES)


def _finished(session: Session) -> Path | None:
    """The folder of a further training whose family is whole, and was not put in its place before a kill."""
    found = _trainings(session).glob(f"*/{FILES['elastic'][0]}")
    return next((record.parent for record in found), None)


def _put_in_place(session: Session, directory: Path) -> Family:
    """The family of a training's folder becomes the run's, its record last; the folder goes, so that more is begun elsewhere."""
    session.path("elastic").unlink(missing_ok=True)  # it belongs to the weights that are replaced now
    for name in ("elastic_model", "graph", "elastic"):
        if (made := directory / FILES[name][0]).exists():
            made.replace(session.path(name))
    shutil.rmtree(directory)
    return session.read("elastic", Family)


def _trainings(session: Session) -> Path:
    """Where trainings in progress lie, a folder each."""
    return session.directory / FOLDER / "training"


def _shipped(session: Session, net: ElasticModel, into: Path, progress: Progress) -> Family:
    """The family's files in the run directory, timed and scored; its record and weights in `into`."""
    directory, tested = session.directory / FOLDER, []
    publish(net, session.task, directory, progress=progress)
    for done, level in enumerate(net.levels):
        progress("score levels", done, len(net.levels), f"{level.name!r} and its file in integers")
        tested.append(_tested(net.view(level.name), level, session.task, directory))
    progress("score levels", len(net.levels), len(net.levels))
    net.family = replace(net.family, levels=tuple(tested))
    return save_elastic(into, net)


def _tested(view: nn.Module, level: Level, task: Task, directory: Path) -> Level:
    coarse = OnnxModel(level_file(directory, level.name, "int8"), like=example_outputs(view, task))
    return replace(
        level,
        test=scored(view, task.test, task),
        int8_validation=scored(coarse, task.validation, task),
        int8_test=scored(coarse, task.test, task),
    )
