"""The walk every stage shares: narrow, recalibrate, tune, measure, checkpoint; step by step, resumable after a kill.

    for state in walk(start, steps, Tuning(task, recipe, seed=0), directory="runs/r20/steps"):
        ...                                       # state.model, state.graph, state.kept, state.measures

A step's checkpoint is one safetensors file beside a line in a journal, and tuning checkpoints every epoch, so a kill loses at
most the epoch in progress. `kept` always counts channels as the dense model does.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from .axes import Kept
from .baselines import check_baseline
from .costs import cost
from .digests import data_digest, weights_digest
from .errors import DivergedError, LamellaError, ScoreError, unknown_name, with_context
from .grids import put_on_grids, take_off_grids
from .harm import Scores, harmed, scores_of, watch
from .leaving import REMOVALS, Removal
from .matching import MATCHED, has_batch_norm, match_outputs
from .progress import Progress, silent
from .records import digest, from_plain, to_plain
from .runs import Journal
from .schema import Graph, Measure, Score, Step
from .statistics import score_interval
from .storage import read_into, save_tensors
from .surgery import copied, narrow, resolve, retraced
from .texts import told
from .training import (
    Batches,
    Loader,
    Portion,
    Recipe,
    Task,
    device_of,
    first_inputs,
    fit,
    metric_of,
    mixed,
    recalibrate_bn,
    seeded,
)

RATE_CUTS = 3  # how often a tuning that does harm is tried anew, each time at a rate lower by
RATE_CUT = 4

Tuned = tuple[nn.Module, Kept, Scores]  # the network, the channels it kept, its scores


@dataclass(frozen=True, slots=True)
class State:
    """Where a walk stands: the model, its graph, the channels kept so far (dense numbering), and what was measured."""

    model: nn.Module
    graph: Graph
    kept: Kept
    measures: tuple[Measure, ...] = ()


def start(model: nn.Module, graph: Graph, task: Task) -> State:
    """The dense model, measured."""
    measure = Measure(name="dense", step=0, validation=measured(model, task), **_counts(graph))
    return State(model, graph, {}, (measure,))


def measured(model: nn.Module, task: Task) -> Score:
    """The model's score on the validation samples."""
    return score_interval(scores_of(model, task))


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
            progress("tune", done, step.epochs, f"{_named(step)}: loss {loss:.3f}")

        warmup = min(self.recipe.warmup, step.epochs)
        return replace(self, recipe=replace(self.recipe, epochs=step.epochs, warmup=warmup), heard=heard)


def walk(
    state: State,
    steps: Sequence[Step],
    tuning: Tuning,
    *,
    directory: str | Path | None = None,
    progress: Progress = silent,
    before: Sequence[Step] = (),
) -> Iterator[State]:
    """The state at the start and after every step with work in it, whose own epochs replace the recipe's. No given model is changed.

    `before`: the steps that led to `state`; numbers, chance and few bits go on from there. Steps without work here (8 bits and
    more are for `quantize`) are counted as the plan counts them, and passed over.
    """
    if tuning.removal not in REMOVALS:
        raise LamellaError(unknown_name("removal", tuning.removal, REMOVALS))
    tuning = tuning.taught(state.model)
    record = _Record(state, steps, tuning, directory) if directory else None
    total = len(before) + len(steps)
    progress("compress", len(before), total)
    yield state
    bits = {name: width for step in before for name, width in few_bits(step).items()}
    for number, step in enumerate(steps, len(before) + 1):
        if not has_work(step):
            progress("compress", number, total)
            continue
        bits = bits | few_bits(step)
        with with_context(f"step {number} of {total} ({', '.join(step.widths) or 'tuning'})"):
            done = record.restored(state, number) if record else None
            if done is None:
                if step.epochs:
                    progress("tune", 0, step.epochs, _named(step))
                done = _take(state, number, step, bits, tuning.of(step, progress), record)
        state, last = done, done.measures[-1]
        score = told(last.validation.value, metric_of(tuning.task), 1)
        progress("compress", number, total, f"{last.name}: {score}")
        yield state


def has_work(step: Step) -> bool:
    """Whether a walk has anything to do there."""
    return bool(step.widths or step.epochs or few_bits(step))


def few_bits(step: Step) -> dict[str, int]:
    """The layers to which a step gives fewer than 8 bits: so few that the other weights have to make up for it."""
    return {name: bits for name, bits in step.bits.items() if bits < 8}


def _take(
    state: State, number: int, step: Step, bits: Mapping[str, int], tuning: Tuning, record: "_Record | None"
) -> State:
    """One step: cut, round, mend the statistics, measure, tune, measure again. `bits`: of this step and those before."""
    graph, task = state.graph, tuning.task
    kept: Kept = resolve(state.model, graph, step.widths)
    model = put_on_grids(narrow(state.model, graph, kept), bits)
    if kept or few_bits(step):
        mend = partial(_mend, model, state.model, graph, kept, number, tuning)
        model = record.begun(model, number, mend) if record and step.epochs else mend()
    before_N = after_N = scores_of(model, task)
    slower = 0
    if step.epochs:
        fades = kept and not bits  # on a grid of few levels nothing can fade
        tunable = (_fading(state, number, step, tuning) if fades else None) or _cut(model, kept, task)
        checkpoint = record.tuning(number) if record else None
        slower, (model, kept, after_N) = _least_harmful(tunable, number, tuning, checkpoint, before_N)
    take_off_grids(model.eval(), bits)
    after = _advanced(state, model, kept)
    measure = Measure(
        name=_named(step) + (f" (rate / {RATE_CUT**slower}: before, it did harm)" if slower else ""),
        step=number,
        validation=score_interval(after_N),
        predicted=step.predicted,
        before_tuning=score_interval(before_N).value,
        expected=step.expected,
        **_counts(after.graph),
    )
    after = replace(after, measures=(*state.measures, measure))
    if record:
        record.keep(after, number, kept)
    return after


def _mend(model: nn.Module, before: nn.Module, graph: Graph, kept: Kept, number: int, tuning: Tuning) -> nn.Module:
    """Bring the statistics back, in place, to what they were: of batch norms, or of all layers where there is none."""
    with seeded(tuning.seed, number, device_of(model)):
        if has_batch_norm(graph):
            return recalibrate_bn(model, tuning.task.train)  # as training saw it: augmentation shapes statistics
        return match_outputs(model, before, graph, kept, first_inputs(tuning.task.calibration, MATCHED))


@dataclass(frozen=True, slots=True)
class _Tunable:
    """What a step tunes in place, what it comes to once it is tuned, and what is to happen after every batch."""

    model: nn.Module
    ended: Callable[[], Tuned]
    leave: Removal | None = None


def _cut(model: nn.Module, kept: Kept, task: Task) -> _Tunable:
    """A network whose channels have left."""
    return _Tunable(model, lambda: (model, kept, scores_of(model.eval(), task)))


def _fading(state: State, number: int, step: Step, tuning: Tuning) -> _Tunable | None:
    """The network as it was before the step, whose channels leave while it trains; None where they are cut at once."""
    if (removal := REMOVALS[tuning.removal]) is None:
        return None
    wide, graph = copied(state.model, {}), state.graph
    leave = removal(wide, graph, step.widths)

    def ended() -> Tuned:
        kept = leave.kept()
        small = _mend(narrow(wide, graph, kept), wide, graph, kept, number, tuning)
        return small, kept, scores_of(small, tuning.task)

    return _Tunable(wide, ended, leave)


def _least_harmful(
    tunable: _Tunable, number: int, tuning: Tuning, checkpoint: Path | None, before_N: Scores
) -> tuple[int, Tuned]:
    """Tune from the step's start, each time at a lower rate, until it does no harm: how often the rate was cut, and what came of it.

    It does harm too where the loss is lost, the scores or the network; DivergedError where they are at the lowest rate as well.
    """
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
            if cuts == RATE_CUTS:
                raise DivergedError(
                    f"{error} That was the last of {cuts + 1} tries: the step began at lr={tuning.recipe.lr:g}, and each try after it at a "
                    f"rate {RATE_CUT} times lower, down to {recipe.lr:g}."
                ) from error
            continue
        if not harmed(before_N, tuned[-1]):
            break
    return cuts, tuned


def _named(step: Step) -> str:
    widths = [f"{group} to {width}" for group, width in step.widths.items()]
    few = Counter(few_bits(step).values())
    alike = len(set(step.bits.values())) == 1
    bits = [f"{b} bits" if alike else f"{b} bits in {few[b]} of {len(step.bits)} layers" for b in sorted(few)]
    return ", ".join([*widths, *bits]) or "tuned"


def _advanced(state: State, model: nn.Module, kept: Kept) -> State:
    return State(model, retraced(state.graph, kept), composed(state.kept, kept), state.measures)


def composed(before: Kept, now: Kept) -> dict[str, tuple[int, ...]]:
    """Channels kept after two cuts, in dense numbering: `now` counts within what `before` left."""
    result = {name: tuple(channels) for name, channels in before.items()}
    for name, channels in now.items():
        result[name] = tuple(result[name][c] for c in channels) if name in result else tuple(channels)
    return result


def _counts(graph: Graph) -> dict[str, int]:
    now = cost(graph)
    return {"params": now.params, "macs": now.macs}


def training_data(loader: Loader) -> str:
    """What can be said of training data without drawing from it: the targets and how many samples an epoch takes."""
    if isinstance(loader, Portion):
        return f"{loader.samples} of {training_data(loader.batches)}"
    if not isinstance(loader, Batches):
        return type(loader).__name__
    return f"{loader.samples} samples, targets {data_digest([loader.targets])}"


def _learned_from(task: Task) -> dict[str, str]:
    """What else a tuning depends on, as far as it can be told: the inputs, and the names of the loss and of what makes inputs ready.

    An edited function of the same name is not seen.
    """
    batches = task.train.batches if isinstance(task.train, Portion) else task.train
    facts = {"loss": _name(task.loss)}
    if isinstance(batches, Batches):
        facts |= {"training inputs": data_digest([batches.inputs]), "transform": _name(batches.transform)}
    return facts


def _name(function: object) -> str:
    """A function's own; of a partial one, that of the function within; of an object that is called, its type's."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))


class _Record:
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
        self.journal = Journal(journal, identity, _learned_from(task))
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
        after = _advanced(state, model, kept)
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
