"""The walk itself: every step cut, rounded, mended, measured and tuned, and kept on disk where that is asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..axes import Kept
from ..errors import LamellaError, unknown_name, with_context
from ..grids import put_on_grids, take_off_grids
from ..harm import scores_of
from ..progress import Progress, silent
from ..schema import Measure, Step
from ..schema.plans import few_bits
from ..statistics import score_interval
from ..surgery import narrow, resolve
from ..texts import told
from ..training import metric_of
from .leaving import REMOVALS
from .record import Record
from .states import State, advanced, counts, has_work, named
from .tuning import RATE_CUT, Tuning, already_cut, fading, least_harmful, mend_step


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
    record = Record(state, steps, tuning, directory) if directory else None
    total = len(before) + len(steps)
    progress("compress", len(before), total)
    yield state
    bits = {name: width for step in before for name, width in few_bits(step.bits).items()}
    for number, step in enumerate(steps, len(before) + 1):
        if not has_work(step):
            progress("compress", number, total)
            continue
        bits = bits | few_bits(step.bits)
        with with_context(f"step {number} of {total} ({', '.join(step.widths) or 'tuning'})"):
            done = record.restored(state, number) if record else None
            if done is None:
                if step.epochs:
                    progress("tune", 0, step.epochs, named(step))
                done = _take(state, number, step, bits, tuning.of(step, progress), record)
        state, measured = done, done.measures[-1]
        score = told(measured.validation.value, metric_of(tuning.task), 1)
        progress("compress", number, total, f"{measured.name}: {score}")
        yield state


def _take(
    state: State, number: int, step: Step, bits: Mapping[str, int], tuning: Tuning, record: Record | None
) -> State:
    """One step: cut, round, mend the statistics, measure, tune, measure again. `bits`: of this step and those before."""
    graph, task = state.graph, tuning.task
    kept: Kept = resolve(state.model, graph, step.widths)
    model = put_on_grids(narrow(state.model, graph, kept), bits)
    if kept or few_bits(step.bits):
        mended = partial(mend_step, model, state.model, graph, kept, number, tuning)
        model = record.begun(model, number, mended) if record and step.epochs else mended()
    before_N = after_N = scores_of(model, task)
    slower, tuned = 0, None
    if step.epochs:
        fades = kept and not bits  # on a grid of few levels nothing can fade
        tunable = (fading(state, number, step, tuning) if fades else None) or already_cut(model, kept, task)
        checkpoint = record.tuning(number) if record else None
        slower, tuned = least_harmful(tunable, number, tuning, checkpoint, before_N)
        model, kept, after_N = tuned or (model, kept, after_N)
    take_off_grids(model.eval(), bits)
    after = advanced(state, model, kept)
    measure = Measure(
        name=named(step) + _of_the_rate(slower, harmful=tuned is None),
        step=number,
        validation=score_interval(after_N),
        predicted=step.predicted,
        before_tuning=score_interval(before_N).value,
        expected=step.expected,
        **counts(after.graph),
    )
    after = replace(after, measures=(*state.measures, measure))
    if record:
        record.keep(after, number, kept)
    return after


def _of_the_rate(cuts: int, *, harmful: bool) -> str:
    """What a step's name says of a rate that had to be cut so often."""
    if not cuts:
        return ""
    rate = f"rate / {RATE_CUT**cuts}"
    return f" (left untuned: it did harm down to {rate})" if harmful else f" ({rate}: before, it did harm)"
