"""The levels of a run's family before anything trains: widths from what was asked for, their files timed in ONNX Runtime.

    draft = drafted(session, settings_of([("fast", "latency_ms=50%"), ("core", "0.5")]))
    draft.levels, draft.notes                      # kept in the run: asked again, the same levels come back

A target in milliseconds is met by prediction first (decision 0007) and then by the file itself. A level that is slower than a larger
one is refused while nothing is lost: what makes it so are widths that the runtime does not like. Why: docs/decisions/0015.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..elasticity import FULL, Settings, make_levels, widths_at
from ..errors import BudgetError, LamellaError
from ..latencies import Timing, measured_steps, predictor, written
from ..progress import Progress, silent
from ..records import digest, load_record, save_record
from ..schema import Budget, Family, Graph, Level, Plan
from ..sessions import Session, named_values
from ..surgery import narrow
from ..texts import parsed
from ..timing import Latency, LatencyPredictor, latency
from ..timing.predicting import shapes_of
from ..timing.shapes import LayerShape
from ..tracing import aligned
from .deciding import timed
from .deployment import TOLERATED

COSTS = ("latency_ms", "params", "macs", "bytes", "memory")
FOLDER = "elastic"  # in the run directory: the levels' files, and the training in progress
ATTEMPTS = 4  # at a target that the file misses although its prediction keeps it
SHOWN = 6  # groups named in a refusal

Widths = Mapping[str, int]


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
        amounts = named_values(text.split(","), f"--level {name}", COSTS)
        return Budget(**{cost: parsed(amount) for cost, amount in amounts})
    try:
        return float(text)
    except ValueError:
        raise LamellaError(
            f"level {name}={text}: a pruning ratio, the path of a plan (.json) or a cost such as latency_ms=50% was expected."
        ) from None


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
    None for the steps the run was traced with.
    """
    named = dict(settings) if isinstance(settings, Mapping) else settings and list(settings)
    path = session.directory / FOLDER / f"levels-{digest((named, round_to, allow_slower))}.json"
    if path.exists():
        found = load_record(path, Family)
        if found.structure == session.graph().structure:
            return found
    graph = stepped(session.graph(), round_to)
    levels, notes = _chosen(session, graph, settings, progress)
    slower = _slower(session, levels, progress)
    if slower and not allow_slower:
        raise LamellaError(_refusal(session, slower))
    notes += tuple(each.text for each in slower)
    draft = Family(structure=graph.structure, recipe="none", levels=levels, order={}, notes=notes)
    save_record(path, draft)
    return draft


def stepped(graph: Graph, round_to: str | None) -> Graph:
    """The graph with other steps for the widths of its groups."""
    if round_to is None:
        return graph
    if round_to == "measured":
        steps = measured_steps(graph)
    elif round_to == "aligned":
        steps = {g.name: aligned(g.width) for g in graph.groups}
    elif round_to.isdigit() and int(round_to) > 0:
        steps = {g.name: int(round_to) for g in graph.groups}
    else:
        raise LamellaError(f"--round-to {round_to}: a whole number from 1 on, aligned or measured was expected.")
    return replace(graph, groups=tuple(replace(g, round_to=steps.get(g.name, 1)) for g in graph.groups))


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
        over = _over(budget, times[name], times[FULL])
        took = f"{times[name].latency_ms:.3f} ms, {times[name].ratio:.2f}x of {FULL!r}"
        if over <= 1:
            return level, f"level {name!r}: latency_ms={budget.latency_ms} asked; its file takes {took}"
        predicted = predicting.predict(graph, level.widths, {})
        asked = replace(asked, latency_ms=predicted * min(1 / over, 0.999))
    raise BudgetError(
        f"level {name!r}: after {ATTEMPTS} tries its file still takes {took}, where latency_ms={budget.latency_ms} is asked. "
        "Ask for more, or name a pruning ratio."
    )


def _over(budget: Budget, small: Latency, dense: Latency) -> float:
    """By what factor the file is beyond the target: shares by the ratio, which other work on the machine does not change."""
    target = budget.latency_ms
    return (
        small.ratio / (float(target[:-1]) / 100) if isinstance(target, str) else small.latency_ms / float(target or 1)
    )


def timed_files(session: Session, widths: Mapping[str, Widths]) -> dict[str, Latency]:
    """Files of untrained weights at these widths, timed side by side on one sample; ratios are to the first."""
    one = [t[:1] for t in session.task.example_inputs]
    model, graph = session.dense(), session.graph()
    with tempfile.TemporaryDirectory(prefix="lamella.") as scratch:
        files = {
            name: written(narrow(model, graph, each), session.task, "fp32", Path(scratch) / f"{i}.onnx")
            for i, (name, each) in enumerate(widths.items())
        }
        return latency(files, one)


# -- levels that are slower than larger ones ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slower:
    """A level whose file is slower than that of a larger one, and the widths in whole steps that would do instead."""

    level: Level
    time: Latency
    larger: str
    larger_time: Latency
    better: dict[str, int]
    better_time: Latency | None

    @property
    def text(self) -> str:
        """The finding in one sentence."""
        times = self.time
        return (
            f"level {self.level.name!r} is slower than {self.larger!r}, which is larger: in ONNX Runtime it takes {times.ratio:.2f}x "
            f"[{times.ratio_low:.2f}, {times.ratio_high:.2f}] of the dense network's time, {self.larger!r} {self.larger_time.ratio:.2f}x"
        )


def _slower(session: Session, levels: Sequence[Level], progress: Progress) -> list[Slower]:
    """The levels that a larger one beats, by all of the interval; each beside its widths in whole steps, measured too."""
    progress("time the levels", 0, len(levels))
    times = timed_files(session, {level.name: level.widths for level in reversed(levels)})
    progress("time the levels", len(levels), len(levels))
    beaten = {}
    for index, level in enumerate(levels[:-1]):
        fastest = min((x.name for x in levels[index + 1 :]), key=lambda name: times[name].ratio)
        bound = max(TOLERATED * times[fastest].ratio, times[fastest].ratio_high)
        if times[level.name].ratio_low > bound:
            beaten[level.name] = fastest
    slow = [level for level in levels if level.name in beaten]
    whole = {level.name: in_steps(session.graph(), level.widths) for level in slow}
    others = {
        name: widths for name, widths in whole.items() if widths != next(x.widths for x in slow if x.name == name)
    }
    again = timed_files(session, {FULL: {}, **others}) if others else {}
    return [
        Slower(x, times[x.name], beaten[x.name], times[beaten[x.name]], whole[x.name], again.get(x.name)) for x in slow
    ]


def in_steps(graph: Graph, widths: Widths) -> dict[str, int]:
    """These widths rounded to whole steps of what CPU runtimes like."""
    groups = {name: graph.group_of[name] for name in widths}
    return {name: replace(g, round_to=aligned(g.width)).legal(widths[name]) for name, g in groups.items()}


def _refusal(session: Session, slower: Sequence[Slower]) -> str:
    """The paragraph: which levels, by how much, which widths would be faster, and what to do."""
    lines = []
    for each in slower:
        lines.append(f"{each.text}.")
        odd = {n: w for n, w in each.better.items() if w != each.level.widths[n]}
        if each.better_time is None:
            lines.append(
                "  its widths are whole steps: so few operations are left that calling the layers takes the time."
            )
            continue
        named = ", ".join(f"{n!r} {each.level.widths[n]} -> {w}" for n, w in list(odd.items())[:SHOWN])
        more = f" and {len(odd) - SHOWN} more groups" if len(odd) > SHOWN else ""
        lines.append(f"  in whole steps of channels it takes {each.better_time.ratio:.2f}x: {named}{more}.")
    lines.append(
        "  try: --round-to aligned, or --round-to measured for this machine's own steps. Nothing has been trained; --allow-slower "
        "keeps these levels."
    )
    return "\n".join(lines)


__all__ = ["FOLDER", "drafted", "settings_of", "stepped", "timed_files"]
