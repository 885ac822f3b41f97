"""Graph, curves, plans and their outcomes as tables for the terminal. No torch here.

graph_view(reach(graph)), profile_view(profile), plan_view(plan, graph), result_view(result), trials_view(trials)
"""

from rich.console import Group as Stack
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from ..planning import depth_test, significance
from ..reach import GroupRow, Reach
from ..schema import Front, Graph, Metric, Plan, Point, Profile, Result, Score, Trials
from ..texts import figure, listed, percent, short, told, told_between, told_bits, told_drop
from ..trials import Spread, remarks, summaries
from .grids import grid


def graph_view(found: Reach) -> Stack:
    """Layers, groups with what leaves with each, and why the frozen ones stay."""
    layers = grid("layer", "kind", "channels", "params", "MACs", "makes")
    for layer in found.layers:
        if layer.params and not layer.kind.endswith("norm"):
            channels = f"{layer.inputs} to {layer.outputs}"
            layers.add_row(
                escape(layer.name),
                layer.kind,
                channels,
                short(layer.params),
                short(layer.macs),
                escape(", ".join(layer.makes)),
            )
    groups = grid("group", "channels", "made by", "params %", "MACs %", "free")
    for row in found.groups:
        shares = (f"{100 * row.params:.1f}", f"{100 * row.macs:.1f}")
        groups.add_row(escape(row.name), _widths(row), escape(listed(row.layers, 3)), *shares, escape(_freedom(row)))
    return Stack(layers, Text(), groups, *map(Text, (_reach_line(found), *(f"note: {each}" for each in found.notes))))


def _widths(row: GroupRow) -> str:
    parts = f" in {row.parts} parts" if row.parts > 1 else ""
    return f"{row.width}{parts}" if row.frozen else f"{row.width} to {row.lowest} by {row.step}{parts}"


def _freedom(row: GroupRow) -> str:
    if row.frozen:
        return f"no: {row.frozen}"
    if row.lowest == row.width:
        return f"no: at its lowest width in steps of {row.step}"
    if row.changes:
        return f"yes, but {row.changes}"
    return "yes, or all of it" if row.removable else "yes"


def _reach_line(found: Reach) -> str:
    free = sum(row.frozen is None and row.lowest < row.width for row in found.groups)
    return (
        f"{found.model}: {len(found.layers)} layers, {free} of {len(found.groups)} groups free; {found.dense_params:,} params and "
        f"{found.dense_macs:,} MACs, of which {percent(found.params)} and {percent(found.macs)} are within reach. "
        "Proven on the example inputs."
    )


def profile_view(profile: Profile) -> Stack:
    """One line per curve with what its group is worth, facts of every layer, and what to know of the figures."""
    worth, metric = worths(profile), profile.metric
    table = grid("target", "knob", "significance", "score at each level")
    for target, knob in dict.fromkeys((p.target, p.knob) for p in profile.points):
        curve = "  ".join(f"{_level(p)}: {_brief(p.score.value, metric)}" for p in profile.curve(target, knob))
        table.add_row(escape(target), knob, worth.get(target, "") if knob == "pruning_ratio" else "", curve)
    base = profile.baseline
    scored = told_between(base.value, base.low, base.high, metric)
    line = f"baseline {scored}, n = {base.n}; {len(profile.points)} points"
    return Stack(table, Text(), _facts_grid(profile), *map(Text, (line, *_premise(profile), *profile.notes)))


def _brief(score: float, metric: str) -> str:
    """As in a row of many: the percent sign is left out."""
    return told(score, metric, 1).removesuffix(" %")


def _level(point: Point) -> str:
    return f"{point.level:.2f}" if point.knob.endswith("ratio") else f"{point.level:.0f} bits"


def _facts_grid(profile: Profile) -> Grid:
    """The layers with weights. Field: how much of the picture's side one output sees."""
    timed = any("latency_ms" in known for known in profile.facts.values())
    table = grid("layer", "params", "MACs", "memory", "weight std", "eff. rank", "field", *["ms"] * timed)
    for name, known in profile.facts.items():
        if "weight_std" not in known:
            continue
        counts = (short(int(known[key])) for key in ("params", "macs", "memory"))
        rank = f"{known['effective_rank']:.2f}" if "effective_rank" in known else ""
        field = f"{known['receptive_field']:.0f}" if "receptive_field" in known else ""
        field += ", input sees all" if known.get("input_field_exceeds_picture") else ""
        latency = [f"{known.get('latency_ms', 0.0):.3f}"] * timed
        table.add_row(escape(name), *counts, f"{known['weight_std']:.3f}", rank, field, *latency)
    return table


def worths(profile: Profile) -> dict[str, str]:
    """The significance of every measured group, as a cell: points lost per percent of bytes given up, and the rank."""
    return {
        each.target: f"{each.value:.3g} (#{each.rank})"
        for each in significance(profile)
        if each.knob == "pruning_ratio"
    }


def _premise(profile: Profile) -> tuple[str, ...]:
    """What the curves say of "early layers matter most", and what significance means; nothing without curves."""
    if not any(p.knob == "pruning_ratio" for p in profile.points):
        return ()
    meaning = "significance: points lost per percent of the file's bytes given up, over the measured levels (#1 is to be spared)"
    return depth_test(profile).text, meaning


def front_view(front: Front, metric: Metric = "accuracy") -> Stack:
    """One line per limit: what the plan that keeps it costs and is expected to score."""
    timed = any(row.latency_ms is not None for row in front.rows)
    columns = ["limit", "bytes", "params", "MACs", *(["latency, ms"] if timed else [])]
    table = grid(*columns, "predicted score", "below dense", "gap")
    for row in front.rows:
        now = row.predicted
        sizes = [short(now.bytes), short(now.params), short(now.macs)]
        sizes += [f"{row.latency_ms or 0:.3g}"] if timed else []
        gap = "" if row.gap is None else percent(row.gap)
        scores = (told(row.predicted_score, metric), told_drop(row.drop, metric))
        table.add_row(str(row.limit), *sizes, *scores, gap)
    return Stack(table, Text("Predicted from curves measured one target at a time, before compress tunes."))


def plan_view(plan: Plan, graph: Graph, profile: Profile | None = None) -> Stack:
    """The steps in order, and what they are expected to leave; with the curves, also what each group is worth."""
    worth, metric = ({}, "accuracy") if profile is None else (worths(profile), profile.metric)
    table = grid("step", "group", "channels", "pruning ratio", "score alone", "expected", "epochs", "significance")
    for number, step in enumerate(plan.steps, 1):
        for name, width in step.widths.items():
            dense = graph.group_of[name].width
            scores = (_known(step.predicted, metric), _known(step.expected, metric))
            cells = (f"{dense} to {width}", f"{1 - width / dense:.2f}", *scores, str(step.epochs))
            table.add_row(str(number), escape(name), *cells, worth.get(name, ""))
        if step.bits:
            table.add_row(
                str(number), f"{len(step.bits)} layers", told_bits(step.bits.values()), "", "", "", str(step.epochs)
            )
    now, dense_cost = plan.predicted, plan.dense
    line = (
        f"planner {plan.planner}: params {_share(now.params, dense_cost.params)}, MACs {_share(now.macs, dense_cost.macs)}, "
        f"predicted bytes of the file {_share(now.bytes, dense_cost.bytes)}; shares of dense"
    )
    lines = [line, *_expected(plan, metric), *plan.notes, *(() if profile is None else _premise(profile))]
    if plan.proof is not None:
        lines.append(
            f"proof: within {percent(plan.proof.gap)} of the best there is in {plan.proof.objective} ({plan.proof.status})"
        )
    return Stack(table, *map(Text, lines))


def _known(score: float | None, metric: str) -> str:
    return "" if score is None else told(score, metric)


def _expected(plan: Plan, metric: str) -> tuple[str, ...]:
    """What the plan as a whole is expected to score and to take."""
    found = []
    if plan.predicted_score is not None and plan.dense_score is not None:
        drop = told_drop(100 * (plan.dense_score - plan.predicted_score), metric)
        found.append(f"expected {told(plan.predicted_score, metric)} before compress tunes, {drop} below dense")
    if plan.latency_ms is not None and plan.dense_latency_ms is not None:
        share = 100 * plan.latency_ms / plan.dense_latency_ms
        found.append(f"expected latency {plan.latency_ms:.3g} ms, {share:.1f} % of dense")
    return tuple(found)


def result_view(result: Result, metric: Metric = "accuracy") -> Stack:
    """What was measured after each step, beside what was expected of it."""
    table = grid("step", "what", "expected", "before tuning", "validation", "predicted alone", "params", "MACs")
    for m in result.history:
        score = told_between(m.validation.value, m.validation.low, m.validation.high, metric)
        cells = (_known(m.expected, metric), _known(m.before_tuning, metric), score, _known(m.predicted, metric))
        table.add_row(str(m.step), escape(m.name), *cells, f"{m.params:,}", f"{m.macs:,}")
    lines = ["expected: the drops of all steps so far added up, as profiled; before tuning: measured after the cut."]
    return Stack(table, *map(Text, lines + _of_bits(result, metric)))


def _of_bits(result: Result, metric: Metric) -> list[str]:
    """Which of the scores is that of a simulation, and what the file itself scores."""
    if result.simulated is None:
        return []
    found = result.file_score
    itself = told_between(found.value, found.low, found.high, metric) if found else "not measured here"
    return [f"{result.simulated.name}: of the simulation; the file itself: {itself}."]


def trials_view(found: Trials, metric: Metric = "accuracy") -> Stack:
    """The plan and its controls: means over seeds with their standard deviation, and how far the plan is ahead."""
    heads = ("valid. %", "test %", "plan ahead by, test points [95 %]") if metric == "accuracy" else TRIALS_IN_NUMBERS
    table = grid("", "seeds", *heads, "params", "MACs")
    for each in summaries(found):
        ahead = _ahead(each.ahead, metric) if each.ahead else ""
        scores = (_spread(each.validation, metric), _spread(each.test, metric), ahead)
        table.add_row(each.name, str(each.seeds), *scores, f"{each.params:,}", f"{each.macs:,}")
    n = found.trials[0].n_test
    spread = f"spread: standard deviation over seeds; differences are paired by seed; {n:,} test samples each."
    return Stack(table, *(Text(f"- {line}") for line in (spread, *remarks(found))))


TRIALS_IN_NUMBERS = ("validation", "test", "plan ahead by, test score [95 %]")


def _spread(of: Spread, metric: Metric) -> str:
    return figure(of.mean, metric) + ("" if of.deviation is None else f" ± {figure(of.deviation, metric)}")


def _ahead(of: Score, metric: Metric) -> str:
    value, low, high = (figure(each, metric, sign="+") for each in (of.value, of.low, of.high))
    return f"{value} [{low}, {high}]" if of.has_width else value


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / max(1, whole):.1f} %)"
