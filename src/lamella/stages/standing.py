"""What a run's result stands for: the validation data of its scores, and whether a later walk was begun and not finished.

check_data(session, result)                                 # MismatchError where the task gives other validation data by now
compress(..., progress=begins(directory, way, progress))    # an earlier result in `directory` tells of it until the walk is done
begun_notes(session, result)                                # ["`lamella compress RUN --removal soft` was begun and not ..."]
"""

from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..baselines import check_baseline
from ..compression import TUNING
from ..digests import data_digest
from ..errors import LamellaError, MismatchError
from ..pairs import ELSEWHERE
from ..progress import Progress
from ..records import load_record, save_record
from ..schema import FILES, Result
from ..sessions import Session
from ..texts import unfinished
from ..training import Recipe, scored

RUN = " RUN"  # a run directory, where a command is kept that may move with it


@dataclass(frozen=True, slots=True)
class Way:
    """How `lamella compress` walks a plan: the recipe, samples per tuning epoch (None: all), and how channels leave."""

    recipe: Recipe
    tuning_samples: int | None = None
    removal: str = "cut"

    def command(self, every: int | None = None) -> str:
        """What asks for it; `every`: so many cuts between two plans."""
        chosen = {f.name: getattr(self.recipe, f.name) for f in fields(Recipe) if f.name not in ELSEWHERE}
        asked = [f"--recipe {name}={value}" for name, value in chosen.items() if value != getattr(TUNING, name)]
        asked += [f"--removal {self.removal}"] if self.removal != "cut" else []
        asked += [f"--tuning-samples {self.tuning_samples}"] if self.tuning_samples else []
        asked += [f"--replan {every}"] if every else []
        return " ".join([f"lamella compress{RUN}", *asked])


def begins(directory: Path, command: str, progress: Progress) -> Progress:
    """`progress`, at whose first word the result of an earlier walk in `directory` is told by which command another was begun.

    A walk says its first word once nothing refuses it; its own result takes the other's place. What cannot be read is passed over.
    """
    path, heard = directory / FILES["result"][0], False

    def hearing(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal heard
        if not heard and path.exists():
            with suppress(LamellaError):
                save_record(path, replace(load_record(path, Result), begun=command))
        heard = True
        progress(stage, done, total, note)

    return hearing


def begun_notes(session: Session, result: Result) -> list[str]:
    """That a later walk was begun, and this result is not its own, where that is so."""
    return [unfinished(result.begun.replace(RUN, f" {session.directory}", 1))] if result.begun else []


def check_data(session: Session, result: Result) -> None:
    """MismatchError where the scores of the result are of other validation data than the task gives now.

    Of a loader that shuffles, whose order tells nothing, the dense network's score does. Older results name no data.
    """
    loader = session.task.validation
    if result.data in ("", now := data_digest(loader)):
        return
    if data_digest(loader) != now:
        dense = scored(session.dense(), loader, session.task)
        check_baseline(session.path("result"), result.history[0].validation, dense)
        return
    raise MismatchError(
        f"{session.path('result')}: its scores were measured on other validation data: its digest was {result.data!r} and is {now!r}. "
        "Scores of two data sets do not stand side by side: change the data back, or name another run directory."
    )
