"""The levels of a run's family before anything trains: widths from what was asked for, their files timed in ONNX Runtime.

    draft = drafted(session, settings_of([("fast", "latency_ms=50%"), ("core", "0.5")]))
    draft.levels, draft.notes                      # kept in the run: asked again, the same levels come back

A target in milliseconds is met by prediction first (decision 0007) and then by the file itself. A level that is slower than a larger
one is refused while nothing is lost (`slower`; docs/decisions/0015).
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..elasticity import FULL, Settings, make_levels, widths_at
from ..errors import BudgetError, LamellaError
from ..latencies import Timing, predictor
from ..pairs import parsed_values
from ..progress import Progress, silent
from ..records import digest, load_record, save_record
from ..schema import Budget, Family, Graph, Level, Plan
from ..schema.plans import LIMITED
from ..sessions import Session
from ..timing import Latency, LatencyPredictor
from ..timing.predicting import shapes_of
from ..timing.shapes import LayerShape
from .deciding import timed
from .slower import best_steps, refusal, slower_levels, stepped, timed_files

FOLDER = "elastic"  # in the run directory: the levels' files, and the training in progress
ATTEMPTS = 4  # at a target that the file misses although its prediction keeps it


def settings_of(pairs: Sequence[tuple[str, str]]) -> dict[str, float | Plan | Budget]:
    """Levels by name from texts: a pruning ratio, the path of a plan, or costs to keep (`latency_ms=50%,params=30%`)."""
    found: dict[str, float | Plan | Budget] = {}
    for name, text in pairs:
        if name in found:
            raise LamellaError(f"--level {name}={text}: {name!r} is the name of two levels. Rename one of them.")
        found[name] = _setting(name, text)
    return found


def _setting(name: str, text: str) -> float | Plan | Budget:
    if Path(text).suffix == ".json":
        return load_record(text, Plan)
    if "=" in text:
        return Budget(**parsed_values(text.split(","), f"--level {name}", LIMITED))
    with suppress(ValueError):
        if math.isfinite(ratio := float(text)):
            return ratio
    raise LamellaError(
        f"level {name}={text}: a pruning ratio, the path of a plan (.json) or a cost such as latency_ms=50% was expected."
    )


def drafted(
    session: Session,
    settings: Settings | None,
    *,
    round_to: str | None = None,
    allow_slower: bool = False,
    progress: Progress = silent,
) -> Family:
    """The levels asked for, untrained: a Family without order. LamellaError where one is slower than a larger one.

    `round_to`: the step of all groups' widths, `aligned` for the rule of decision 0002, `measured` for what the runtime shows;
    None for the steps the run was traced with. Where nothing was asked for and a level would be slower, other steps are taken.
    """
    named = dict(settings) if isinstance(settings, Mapping) else settings and list(settings)
    path = session.directory / FOLDER / f"levels-{digest((named, round_to, allow_slower))}.json"
    if path.exists():
        found = load_record(path, Family)
        if found.structure == session.graph().structure:
            return found
    graph, other = session.graph(), tuple[str, ...]()
    levels, notes = _chosen(session, stepped(graph, round_to), settings, progress)
    slower = slower_levels(session, levels, progress)
    # Where nothing was asked for, other steps will do.
    if slower and settings is None and round_to is None and not allow_slower:
        best = best_steps(slower)
        levels, notes = _chosen(session, stepped(graph, best), None, progress)
        other = (f"widths are in steps of --round-to {best}: {slower[0].text} at widths as traced",)
        slower = slower_levels(session, levels, progress)
    if slower and not allow_slower:
        raise LamellaError(refusal(slower))
    notes += (*other, *_between_steps(stepped(graph, round_to), settings), *(each.text for each in slower))
    draft = Family(structure=graph.structure, method="none", levels=levels, order={}, notes=notes)
    save_record(path, draft)
    return draft


def _between_steps(graph: Graph, settings: Settings | None) -> tuple[str, ...]:
    """A note for every plan whose widths are not in the graph's steps: a plan says its widths itself."""
    plans = {name: x for name, x in settings.items() if isinstance(x, Plan)} if isinstance(settings, Mapping) else {}
    notes = []
    for name, plan in plans.items():
        odd = {g: w for g, w in plan.widths.items() if w < graph.group_of[g].width and w % graph.group_of[g].round_to}
        if odd:
            group, width = next(iter(odd.items()))
            notes.append(
                f"level {name!r} keeps the widths of its plan: {len(odd)} are not in steps of --round-to, {group!r} with {width} "
                "among them"
            )
    return tuple(notes)


# -- widths from targets ------------------------------------------------------------------------------------------------------


def _chosen(
    session: Session, graph: Graph, settings: Settings | None, progress: Progress
) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """The levels with their costs, and what was found of those that have a target in milliseconds."""
    if not isinstance(settings, Mapping) or not any(_has_target(s) for s in settings.values()):
        return make_levels(graph, settings), ()
    fit = timed(session, Timing(seed=session.info.seed), progress)
    predicting = predictor(fit, graph)
    predicting.table.measure(_all_shapes(predicting, graph), progress)
    levels, notes = dict(settings), [fit.text]
    for name, setting in settings.items():
        if isinstance(setting, Budget) and _has_target(setting):
            levels[name], note = _on_target(session, graph, name, setting, predicting)
            notes.append(note)
    return make_levels(graph, levels), tuple(notes)


def _has_target(setting: object) -> bool:
    return isinstance(setting, Budget) and setting.latency_ms is not None


def _all_shapes(predicting: LatencyPredictor, graph: Graph) -> list[LayerShape]:
    widths = {tuple(sorted(widths_at(graph, step / 200).items())) for step in range(200)}
    return [shape for each in widths for shape in shapes_of(predicting.table, graph, dict(each))]


def _on_target(
    session: Session, graph: Graph, name: str, budget: Budget, predicting: LatencyPredictor
) -> tuple[Level, str]:
    """The widest level whose file keeps the target, and what it took."""
    asked = budget
    for _ in range(ATTEMPTS):
        level = make_levels(graph, {name: asked}, predicting)[0]
        times = timed_files(session, {FULL: {}, name: level.widths})
        over = _over(budget, times[name])
        took = f"{times[name].latency_ms:.3f} ms, {times[name].ratio:.2f}x of {FULL!r}"
        if over <= 1:
            return level, f"level {name!r}: latency_ms={budget.latency_ms} asked; its file takes {took}"
        predicted = predicting.predict(graph, level.widths, {})
        asked = replace(asked, latency_ms=predicted * min(1 / over, 0.999))
    raise BudgetError(
        f"level {name!r}: after {ATTEMPTS} tries its file still takes {took}, where latency_ms={budget.latency_ms} is asked. "
        "Ask for more, or name a pruning ratio."
    )


def _over(budget: Budget, small: Latency) -> float:
    """By what factor the file is beyond the target: shares by the ratio, which other work on the machine does not change."""
    target = budget.latency_ms
    return (
        small.ratio / (float(target[:-1]) / 100) if isinstance(target, str) else small.latency_ms / float(target or 1)
    )


__all__ = ["FOLDER", "drafted", "settings_of"]
