"""A walk on disk, so that it goes on after a kill.

record = Record(state, steps, tuning, "runs/r20/steps")
record.restored(state, 3)                             # the state after step 3, where that was finished before; else None
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..axes import Kept
from ..baselines import check_baseline
from ..digests import data_digest, weights_digest
from ..matching import mended_by
from ..records import digest, from_plain, to_plain
from ..runs import Journal
from ..schema import Measure, Step
from ..storage import read_into, save_tensors
from ..surgery import narrow
from ..training import device_of, training_data
from .states import State, advanced, has_work
from .tuning import Tuning


class Record:
    """A walk on disk: a journal of finished steps, the model after the last one, and the tuning in progress."""

    def __init__(self, state: State, steps: Sequence[Step], tuning: Tuning, directory: str | Path) -> None:
        task = tuning.task
        self.directory = Path(directory)
        identity = {
            "structure": state.graph.structure,
            "weights": weights_digest(state.model),
            "data": data_digest(task.validation),
            "training data": training_data(task.train),
            "steps": digest([step for step in steps if has_work(step)]),
            "recipe": digest(tuning.recipe),
            "removal": tuning.removal,
            "seed": tuning.seed,
        }
        if tuning.teacher not in (None, state.model):
            identity["teacher"] = weights_digest(tuning.teacher)
        journal = self.directory / "steps.jsonl"
        if not journal.exists():  # deleted, to start afresh: what was begun may be another walk's
            _remove(self.directory, "tuning-*")
        self.journal = Journal(journal, identity, mended_by(task, state.graph, tuned=True))
        self.last = max((int(key) for key in self.journal.entries), default=0)
        self._hold_to(state.measures[0])

    def _hold_to(self, dense: Measure) -> None:
        """Bind the journal to what the dense network scores. MismatchError where its finished steps began from another score."""
        if entry := self.journal.entries.get("0"):
            check_baseline(self.journal.path, from_plain(entry["measure"], Measure).validation, dense.validation)
        else:
            self.journal.append("0", {"kept": {}, "measure": to_plain(dense)})

    def restored(self, state: State, number: int) -> State | None:
        """The state after a step that was finished before, else None. Only the last one needs its weights."""
        entry = self.journal.entries.get(str(number))
        if entry is None:
            return None
        kept: Mapping[str, tuple[int, ...]] = {name: tuple(c) for name, c in entry["kept"].items()}
        measure = from_plain(entry["measure"], Measure)
        model = narrow(state.model, state.graph, kept)
        if number == self.last:
            model = read_into(model, self._weights(number)).to(device_of(state.model)).eval()
        after = advanced(state, model, kept)
        return replace(after, measures=(*state.measures, measure))

    def keep(self, after: State, number: int, kept: Kept) -> None:
        save_tensors(self._weights(number), after.model)
        self.journal.append(str(number), {"kept": to_plain(dict(kept)), "measure": to_plain(after.measures[-1])})
        if self.last:
            self._weights(self.last).unlink(missing_ok=True)
        self.last = number
        _remove(self.directory, f"tuning-{number}.*")

    def begun(self, model: nn.Module, number: int, mend: Callable[[], nn.Module]) -> nn.Module:
        """The model as the step's tuning began; where none has begun yet, mended, and kept.

        Statistics may not come out the same twice, as from a loader with a generator of its own, or on another number of threads.
        """
        path = self.directory / f"tuning-{number}.safetensors"
        if path.exists():
            return read_into(model, path).to(device_of(model))
        save_tensors(path, mend())
        return model

    def tuning(self, number: int) -> Path:
        return self.directory / f"tuning-{number}.pt"

    def _weights(self, number: int) -> Path:
        return self.directory / f"step-{number}.safetensors"


def _remove(directory: Path, pattern: str) -> None:
    for path in directory.glob(pattern):
        path.unlink()
