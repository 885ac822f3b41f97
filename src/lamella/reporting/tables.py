"""The tables of the page as plain rows of text: heat map, steps of the plan, its controls, frozen groups.

heat = heat_map(profile, "pruning_ratio", chosen={"conv1": 0.4}, threshold=0.965)
heat.rows[0].cells[3]                   # Cell(text="97.1", warmth=2, ...)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..schema import Graph, Knob, Measure, Plan, Point, Profile, Score, Step, Trials
from ..trials import Spread, summaries
from .words import counted, hundredths, members, points, ratio, scored, short
from .words import score as told_score

WARMEST = 9
MOST_COLUMNS = 12
TENTHS = tuple(k / 10 for k in range(1, 10))


class Cell(NamedTuple):
    text: str
    warmth: int  # 0: nothing lost; 9: the most that any cell lost
    chosen: bool
    holds: bool  # at or above the threshold
    title: str


class HeatRow(NamedTuple):
    target: str
    cells: tuple[Cell | None, ...]


class Heat(NamedTuple):
    heads: tuple[str, ...]
    rows: tuple[HeatRow, ...]


class StepRow(NamedTuple):
    number: int
    what: tuple[tuple[str, str], ...]  # name, change
    predicted: str
    expected: str
    before: str  # before tuning
    measured: str
    interval: str
    gap: str
    params: str
    macs: str


class TrialRow(NamedTuple):
    """A plan or a control over its seeds; `ahead`: the plan's test score less this one's, in points."""

    name: str
    seeds: int
    validation: str
    test: str
    ahead: str
    interval: str
    params: str
    macs: str


class FrozenRow(NamedTuple):
    name: str
    width: int
    layers: str
    reason: str


def heat_map(profile: Profile, knob: Knob, chosen: Mapping[str, float], threshold: float | None) -> Heat:
    """Targets down, levels across, in the order of the curves; a level that was not measured is None.

    Groups round a ratio to widths of their own. Where that gives too many levels a column takes what comes nearest to it.
    """
    found = [p for p in profile.points if p.knob == knob]
    levels = _columns(found, knob)
    worst = max((profile.baseline.value - p.score.value for p in found), default=0.0)
    targets: dict[str, dict[float, Point]] = {p.target: {} for p in found}
    for point in found:
        column, row = min(levels, key=lambda v: abs(v - point.level)), targets[point.target]
        picked = chosen.get(point.target) == point.level
        if column not in row or picked or abs(point.level - column) < abs(row[column].level - column):
            row[column] = point
    rows = tuple(
        HeatRow(
            target,
            tuple(
                _cell(at[v], profile.baseline.value, worst, chosen.get(target), threshold) if v in at else None
                for v in levels
            ),
        )
        for target, at in targets.items()
    )
    near = "" if knob.startswith("bits") or len(levels) != len(TENTHS) else "≈ "
    heads = tuple(f"{v:g} bits" if knob.startswith("bits") else near + ratio(v) for v in levels)
    return Heat(heads, rows)


def _columns(points: Iterable[Point], knob: Knob) -> list[float]:
    levels = sorted({p.level for p in points}, reverse=knob.startswith("bits"))
    return levels if len(levels) <= MOST_COLUMNS or knob.startswith("bits") else list(TENTHS)


def _cell(point: Point, baseline: float, worst: float, chosen: float | None, threshold: float | None) -> Cell:
    lost = max(0.0, baseline - point.score.value)
    warmth = round(WARMEST * (lost / worst) ** 0.5) if worst > 0 else 0
    holds = threshold is not None and point.score.value >= threshold
    picked = chosen is not None and abs(chosen - point.level) < 1e-6
    level = f"{point.level:g} bits: " if point.knob.startswith("bits") else f"{ratio(point.level)}: "
    title = (
        level + scored(point.score) + ("; at or above the threshold" if holds else "") + ("; chosen" if picked else "")
    )
    return Cell(told_score(point.score.value, 1).removesuffix(" %"), warmth, picked, holds, title)


def step_rows(graph: Graph, plan: Plan, history: Sequence[Measure]) -> tuple[StepRow, ...]:
    """The plan in its order, with what was measured after each step."""
    measured = {m.step: m for m in history}
    now, rows = graph.widths, []
    for number, step in enumerate(plan.steps, 1):
        rows.append(_step_row(number, _changes(step, now), step, measured.get(number)))
        now = {**now, **step.widths}
    later = [m for m in measured.values() if m.step > len(plan.steps)]  # quantization, after the plan's own steps
    return (*rows, *(_step_row(m.step, ((m.name, ""),), m, m) for m in later))


def _changes(step: Step, now: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """What a step touches, and how."""
    what = [(g, f"{now[g]} → {w} channels ({ratio(1 - w / now[g])} pruned)") for g, w in step.widths.items()]
    for bits in sorted(set(step.bits.values())):
        names = [layer for layer, b in step.bits.items() if b == bits]
        what.append((names[0] if len(names) == 1 else counted(len(names), "layer"), f"→ {bits} bits"))
    if not what and step.epochs:
        what.append(("tuning", counted(step.epochs, "epoch")))
    return tuple(what)


def _step_row(number: int, what: tuple[tuple[str, str], ...], told: Step | Measure, measure: Measure | None) -> StepRow:
    """`told`: what was predicted, by the plan or by the measure of a step that is not in it."""
    score = measure.validation if measure else None
    before = measure.before_tuning if measure else None
    return StepRow(
        number=number,
        what=what,
        predicted="" if told.predicted is None else told_score(told.predicted),
        expected="" if told.expected is None else told_score(told.expected),
        before="" if before is None else told_score(before),
        measured=told_score(score.value) if score else "",
        interval=f"{hundredths(score.low)} to {hundredths(score.high)}" if score else "",
        gap=points(score.value - told.predicted) if score and told.predicted is not None else "",
        params=short(measure.params) if measure else "",
        macs=short(measure.macs) if measure else "",
    )


def trial_rows(found: Trials) -> tuple[TrialRow, ...]:
    """The plan and its controls: means over seeds with their standard deviation, differences paired by seed."""
    return tuple(
        TrialRow(
            name=each.name,
            seeds=each.seeds,
            validation=_spread(each.validation),
            test=_spread(each.test),
            ahead=points(each.ahead.value) if each.ahead else "",
            interval=_interval(each.ahead) if each.ahead and each.ahead.has_width else "",
            params=short(each.params),
            macs=short(each.macs),
        )
        for each in summaries(found)
    )


def _spread(of: Spread) -> str:
    return told_score(of.mean) + ("" if of.deviation is None else f" ± {hundredths(of.deviation)}")


def _interval(of: Score) -> str:
    return f"{points(of.low)} to {points(of.high)}"


def frozen_rows(graph: Graph) -> tuple[FrozenRow, ...]:
    """The groups that cannot be narrowed, and why."""
    return tuple(FrozenRow(g.name, g.width, ", ".join(members(graph, g)), g.frozen) for g in graph.groups if g.frozen)
