"""How a step is tuned: until it does no harm, from the step's start each time, at lower and lower rates.

tunable = fading(state, number, step, tuning) or already_cut(model, kept, task)    # channels leave while it trains, or have left
cuts, (model, kept, scores_N) = least_harmful(tunable, number, tuning, checkpoint, before_N)
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from .. import matching
from ..axes import Kept
from ..errors import DivergedError, ScoreError
from ..harm import Scores, harmed, scores_of, watch
from ..progress import Progress
from ..runs import write_atomically
from ..schema import Graph, Step
from ..surgery import copied, narrow
from ..training import Recipe, Task, device_of, fit, mixed, seeded, weights_after
from .leaving import REMOVALS, Removal
from .states import State, named

RATE_CUTS = 3  # how often a tuning that does harm is tried anew, each time at a rate lower by
RATE_CUT = 4

Tuned = tuple[nn.Module, Kept, Scores]  # the network, the channels it kept, its scores


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a walk mends what it cuts.

    `removal` says how channels leave (`leaving`). `teacher`: where the recipe distils; the network of the start where it is None.
    `heard` is told of every epoch of a step, with the mean loss.
    """

    task: Task
    recipe: Recipe
    seed: int = 0
    removal: str = "cut"
    teacher: nn.Module | None = None
    heard: Callable[[int, float], object] | None = None

    def taught(self, dense: nn.Module) -> "Tuning":
        """With a teacher, this one unless there is another, if the recipe distils; else with none."""
        return replace(self, teacher=(self.teacher or dense) if self.recipe.distil else None)

    def of(self, step: Step, progress: Progress) -> "Tuning":
        """With the step's own epochs, each of which `progress` hears of, and no more of them for warming up."""

        def heard(done: int, loss: float) -> None:
            progress("tune", done, step.epochs, f"{named(step)}: loss {loss:.3f}")

        warmup = min(self.recipe.warmup, step.epochs)
        return replace(self, recipe=replace(self.recipe, epochs=step.epochs, warmup=warmup), heard=heard)


def mend_step(model: nn.Module, before: nn.Module, graph: Graph, kept: Kept, number: int, tuning: Tuning) -> nn.Module:
    """Bring the statistics back, in place, by the chance of this step."""
    with seeded(tuning.seed, number, device_of(model)):
        return matching.mend(model, before, graph, kept, tuning.task)


@dataclass(frozen=True, slots=True)
class Tunable:
    """What a step tunes in place, what it comes to once it is tuned, and what is to happen after every batch."""

    model: nn.Module
    ended: Callable[[], Tuned]
    leave: Removal | None = None


def already_cut(model: nn.Module, kept: Kept, task: Task) -> Tunable:
    """A network whose channels have left."""
    return Tunable(model, lambda: (model, kept, scores_of(model.eval(), task)))


def fading(state: State, number: int, step: Step, tuning: Tuning) -> Tunable | None:
    """The network as it was before the step, whose channels leave while it trains; None where they are cut at once."""
    if (removal := REMOVALS[tuning.removal]) is None:
        return None
    wide, graph = copied(state.model, {}), state.graph
    leave = removal(wide, graph, step.widths)

    def ended() -> Tuned:
        kept = leave.kept()
        small = mend_step(narrow(wide, graph, kept), wide, graph, kept, number, tuning)
        return small, kept, scores_of(small, tuning.task)

    return Tunable(wide, ended, leave)


def least_harmful(
    tunable: Tunable, number: int, tuning: Tuning, checkpoint: Path | None, before_N: Scores
) -> tuple[int, Tuned | None]:
    """Tune from the step's start, each time at a lower rate, until it does no harm: how often the rate was cut, and what came of it.

    None where every rate did harm: the model stands as the step found it. It does harm too where the loss is lost, the scores or the
    network; DivergedError where they are at every rate: nothing was trained, and the data may hold the reason. With a `checkpoint` each
    try has one of its own, and goes on from there; what lost a try lies beside it.
    """
    diverged = 0
    model = tunable.model
    start, look = copy.deepcopy(model.state_dict()), watch(model, tuning.task, before_N)

    def after_epoch(done: int, loss: float) -> None:
        look(done, loss)
        if tuning.heard:
            tuning.heard(done, loss)

    for cuts in range(RATE_CUTS + 1):
        if cuts:
            model.load_state_dict(start)
        recipe = replace(tuning.recipe, lr=tuning.recipe.lr / RATE_CUT**cuts)
        path = checkpoint and checkpoint.with_suffix(f".{cuts}.pt" if cuts else ".pt")
        try:
            with _lost_for_good(path):
                if path and path.exists() and recipe.devices in (None, 1):  # from several all comes at the end
                    _look_back(model, start, path, look)
                fit(
                    model,
                    tuning.task,
                    recipe,
                    seed=mixed(tuning.seed, number),
                    checkpoint=path,
                    on_epoch=after_epoch,
                    after_batch=tunable.leave,
                    teacher=tuning.teacher,
                )
                tuned = tunable.ended()
        except (DivergedError, ScoreError) as error:
            diverged += 1
            if diverged > RATE_CUTS:
                raise _given_up(error, tuning.recipe.lr, checkpoint) from error
            continue
        if not harmed(before_N, tuned[-1]):
            return cuts, tuned
    model.load_state_dict(start)
    return RATE_CUTS, None


@contextmanager
def _lost_for_good(checkpoint: Path | None) -> Iterator[None]:
    """What loses a try is kept beside its checkpoint; from then on it is raised again, and nothing of the try is done once more."""
    verdict = checkpoint and checkpoint.with_suffix(".lost")
    if verdict and verdict.exists():
        raise DivergedError(verdict.read_text(encoding="utf-8"))
    try:
        yield
    except (DivergedError, ScoreError) as error:
        if verdict:
            write_atomically(verdict, str(error))
        raise


def _look_back(
    model: nn.Module, start: Mapping[str, Tensor], checkpoint: Path, look: Callable[[int, float], None]
) -> None:
    """Look at what the last epoch left: a kill may have come between its checkpoint and the look at it."""
    done, weights = weights_after(checkpoint)
    model.load_state_dict(weights)
    look(done, math.nan)
    model.load_state_dict(start)


def _given_up(error: Exception, rate: float, checkpoint: Path | None) -> DivergedError:
    """The last try's error, what was tried, and how to try anew: a mended function of the same name is not seen."""
    again = ""
    if checkpoint:
        again = (
            f" To have them made again, after a change of the loss or the score, delete {checkpoint.with_suffix('.*')}."
        )
    return DivergedError(
        f"{error} That was the last of {RATE_CUTS + 1} tries: the step began at lr={rate:g}, and each try after it at a rate {RATE_CUT} "
        f"times lower, down to {rate / RATE_CUT**RATE_CUTS:g}.{again}"
    )
