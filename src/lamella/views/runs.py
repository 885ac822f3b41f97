"""Records as tables for the terminal. Plain functions from a record to something `rich` prints; no torch.

graph_view(reach(graph)), profile_view(profile), plan_view(plan, graph), result_view(result), table_view(table, files)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group as Stack
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from ..planning import depth_test, significance
from ..published import Accounting
from ..reach import GroupRow, Reach
from ..schema import Accordion, Entry, Front, Graph, Metric, Plan, Point, Profile, Result, Row, Score, Table, Trials
from ..texts import told, told_between, told_drop
from ..trials import Spread, summaries

OWN: Metric = "score"


def graph_view(found: Reach) -> Stack:
    """Layers, groups with what leaves with each, and why the frozen ones stay."""
    layers = _grid("layer", "kind", "channels", "params", "MACs", "makes")
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
    groups = _grid("group", "channels", "made by", "params %", "MACs %", "free")
    for row in found.groups:
        made_by = ", ".join(row.layers[:3]) + (f" and {len(row.layers) - 3} more" if len(row.layers) > 3 else "")
        shares = (f"{100 * row.params:.1f}", f"{100 * row.macs:.1f}")
        groups.add_row(escape(row.name), _widths(row), escape(made_by), *shares, escape(_freedom(row)))
    return Stack(layers, Text(), groups, *map(Text, (_reach_line(found), *(f"note: {each}" for each in found.notes))))


def _widths(row: GroupRow) -> str:
    parts = f" in {row.parts} parts" if row.parts > 1 else ""
    return f"{row.width}{parts}" if row.frozen else f"{row.width} to {row.lowest} by {row.step}{parts}"


def _freedom(row: GroupRow) -> str:
    if row.frozen:
        return f"no: {row.frozen}"
    if row.lowest == row.width:
        return f"no: at its lowest width in steps of {row.step}"
    return f"yes, but {row.changes}" if row.changes else "yes"


def _reach_line(found: Reach) -> str:
    free = sum(row.frozen is None and row.lowest < row.width for row in found.groups)
    return (
        f"{found.model}: {len(found.layers)} layers, {free} of {len(found.groups)} groups free; {found.dense_params:,} params and "
        f"{found.dense_macs:,} MACs, of which {_percent(found.params)} and {_percent(found.macs)} are within reach. "
        "Proven on the example inputs."
    )


def profile_view(profile: Profile) -> Stack:
    """One line per curve with what its group is worth, facts of every layer, and what to know of the figures."""
    worth, metric = worths(profile), profile.metric
    grid = _grid("target", "knob", "significance", "score at each level")
    for target, knob in dict.fromkeys((p.target, p.knob) for p in profile.points):
        curve = "  ".join(f"{_level(p)}: {_brief(p.score.value, metric)}" for p in profile.curve(target, knob))
        grid.add_row(escape(target), knob, worth.get(target, "") if knob == "pruning_ratio" else "", curve)
    base = profile.baseline
    scored = told_between(base.value, base.low, base.high, metric)
    line = f"baseline {scored}, n = {base.n}; {len(profile.points)} points"
    return Stack(grid, Text(), _facts_grid(profile), *map(Text, (line, *_premise(profile), *profile.notes)))


def _brief(score: float, metric: str) -> str:
    """As in a row of many: the percent sign is left out."""
    return told(score, metric, 1).removesuffix(" %")


def _level(point: Point) -> str:
    return f"{point.level:.2f}" if point.knob.endswith("ratio") else f"{point.level:.0f} bits"


def _facts_grid(profile: Profile) -> Grid:
    """The layers with weights. Field: how much of the picture's side one output sees."""
    timed = any("latency_ms" in known for known in profile.facts.values())
    grid = _grid("layer", "params", "MACs", "memory", "weight std", "eff. rank", "field", *["ms"] * timed)
    for name, known in profile.facts.items():
        if "weight_std" not in known:
            continue
        counts = (short(int(known[key])) for key in ("params", "macs", "memory"))
        rank = f"{known['effective_rank']:.2f}" if "effective_rank" in known else ""
        field = f"{known['receptive_field']:.0f}" if "receptive_field" in known else ""
        field += ", input sees all" if known.get("input_field_exceeds_picture") else ""
        latency = [f"{known.get('latency_ms', 0.0):.3f}"] * timed
        grid.add_row(escape(name), *counts, f"{known['weight_std']:.3f}", rank, field, *latency)
    return grid


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
    grid = _grid(*columns, "predicted score", "below dense", "gap")
    for row in front.rows:
        now = row.predicted
        sizes = [short(now.bytes), short(now.params), short(now.macs)]
        sizes += [f"{row.latency_ms or 0:.3g}"] if timed else []
        gap = "" if row.gap is None else _percent(row.gap)
        scores = (told(row.predicted_score, metric), told_drop(row.drop, metric))
        grid.add_row(str(row.limit), *sizes, *scores, gap)
    return Stack(grid, Text("Predicted from curves measured one target at a time, without tuning."))


def plan_view(plan: Plan, graph: Graph, profile: Profile | None = None) -> Stack:
    """The steps in order, and what they are expected to leave; with the curves, also what each group is worth."""
    worth, metric = ({}, "accuracy") if profile is None else (worths(profile), profile.metric)
    grid = _grid("step", "group", "channels", "pruning ratio", "score alone", "expected", "epochs", "significance")
    for number, step in enumerate(plan.steps, 1):
        for name, width in step.widths.items():
            dense = graph.group_of[name].width
            scores = (_known(step.predicted, metric), _known(step.expected, metric))
            cells = (f"{dense} to {width}", f"{1 - width / dense:.2f}", *scores, str(step.epochs))
            grid.add_row(str(number), escape(name), *cells, worth.get(name, ""))
        if step.bits:
            kinds = ", ".join(f"{b} bits" for b in sorted(set(step.bits.values())))
            grid.add_row(str(number), f"{len(step.bits)} layers", kinds, "", "", "", str(step.epochs))
    now, dense_cost = plan.predicted, plan.dense
    line = (
        f"planner {plan.planner}: params {_share(now.params, dense_cost.params)}, MACs {_share(now.macs, dense_cost.macs)}, "
        f"predicted file {_share(now.bytes, dense_cost.bytes)} bytes of dense"
    )
    lines = [line, *_expected(plan, metric), *plan.notes, *(() if profile is None else _premise(profile))]
    if plan.proof is not None:
        lines.append(
            f"proof: within {_percent(plan.proof.gap)} of the best there is in {plan.proof.objective} ({plan.proof.status})"
        )
    return Stack(grid, *map(Text, lines))


def _known(score: float | None, metric: str) -> str:
    return "" if score is None else told(score, metric)


def _expected(plan: Plan, metric: str) -> tuple[str, ...]:
    """What the plan as a whole is expected to score and to take."""
    found = []
    if plan.predicted_score is not None and plan.dense_score is not None:
        drop = told_drop(100 * (plan.dense_score - plan.predicted_score), metric)
        found.append(f"expected {told(plan.predicted_score, metric)} without tuning, {drop} below dense")
    if plan.latency_ms is not None and plan.dense_latency_ms is not None:
        share = 100 * plan.latency_ms / plan.dense_latency_ms
        found.append(f"expected latency {plan.latency_ms:.3g} ms, {share:.1f} % of dense")
    return tuple(found)


def result_view(result: Result, metric: Metric = "accuracy") -> Stack:
    """What was measured after each step, beside what was expected of it."""
    grid = _grid("step", "what", "expected", "before tuning", "validation", "predicted alone", "params", "MACs")
    for m in result.history:
        score = told_between(m.validation.value, m.validation.low, m.validation.high, metric)
        cells = (_known(m.expected, metric), _known(m.before_tuning, metric), score, _known(m.predicted, metric))
        grid.add_row(str(m.step), escape(m.name), *cells, f"{m.params:,}", f"{m.macs:,}")
    return Stack(
        grid, Text("expected: the drops of all steps so far added up, untuned; before tuning: measured after the cut.")
    )


def trials_view(found: Trials, metric: Metric = "accuracy") -> Stack:
    """The plan and its controls: means over seeds with their standard deviation, and how far the plan is ahead."""
    heads = ("valid. %", "test %", "plan ahead by, test points [95 %]") if metric == "accuracy" else TRIALS_IN_NUMBERS
    grid = _grid("", "seeds", *heads, "params", "MACs")
    for each in summaries(found):
        ahead = _ahead(each.ahead, metric) if each.ahead else ""
        scores = (_spread(each.validation, metric), _spread(each.test, metric), ahead)
        grid.add_row(each.name, str(each.seeds), *scores, f"{each.params:,}", f"{each.macs:,}")
    n = found.trials[0].n_test
    return Stack(
        grid, Text(f"- spread: standard deviation over seeds; differences are paired by seed; {n:,} test samples each.")
    )


TRIALS_IN_NUMBERS = ("validation", "test", "plan ahead by, test score [95 %]")


def _spread(of: Spread, metric: Metric) -> str:
    return _number(of.mean, metric) + ("" if of.deviation is None else f" ± {_number(of.deviation, metric)}")


def _ahead(of: Score, metric: Metric) -> str:
    value, low, high = (_number(each, metric, "+") for each in (of.value, of.low, of.high))
    return value if of.n == 1 else f"{value} [{low}, {high}]"


def _number(value: float, metric: Metric, sign: str = "") -> str:
    return f"{100 * value:{sign}.2f}" if metric == "accuracy" else f"{value:{sign}.4g}"


def table_view(table: Table, files: Mapping[str, str]) -> Stack:
    """The closing table of a run, its notes, and where its files lie."""
    grid = _grid("", "valid. %", "test %", "below dense [95 %]", "params", "MACs", "bytes", "smaller", "latency")
    for row in table.rows:
        grid.add_row(*_row_cells(row, table.rows[0]))
    notes = Text(
        "\n".join(
            f"- {note}" for note in (f"n = {table.n_validation:,} validation, {table.n_test:,} test.", *table.notes)
        )
    )
    places = Text("\n".join(f"{name:<11}{path}" for name, path in files.items()))
    return Stack(grid, notes, places)


def _row_cells(row: Row, dense: Row) -> list[str]:
    drop = ""
    if row.drop is not None and row.drop_low is not None and row.drop_high is not None:
        drop = f"{100 * row.drop:+.2f} [{100 * row.drop_low:.1f}, {100 * row.drop_high:.1f}]"
    latency = "" if row.latency_ratio is None else f"{row.latency_ratio:.2f}x"
    scores = (f"{100 * row.validation_accuracy:.2f}", f"{100 * row.test_accuracy:.2f}")
    sizes = (short(row.params), short(row.macs), short(row.bytes), f"{dense.bytes / row.bytes:.1f}x")
    return [row.name, *scores, drop, *sizes, latency]


def accordion_view(found: Accordion, place: str) -> Stack:
    """What every pair was given, the closing table with its controls, the winner against each of them, the files."""
    sweeps = _grid("layers", "chosen", f"{found.metric} on validation at each width")
    for sweep in found.sweeps:
        curve = "  ".join(
            f"{width}: {_figure(shape.validation.value, found.metric)}{'*' if shape.dropped else ''}"
            for width, shape in zip(sweep.candidates, sweep.shapes, strict=True)
        )
        sweeps.add_row(" & ".join(str(i + 1) for i in sweep.layers), str(sweep.width), curve)
    shown = [m for m in found.entries[0].test if m in ("f1", "pr_auc", "roc_auc", "accuracy", "score")]
    shown = [m for m in shown if m != "accuracy" or len(found.entries[0].test) == 1]
    closing = _grid("", "widths", "params", *(f"{m} [95 %]" for m in shown), f"{found.metric} below baseline")
    for entry in found.entries:
        closing.add_row(*_entry_cells(entry, shown, found.metric))
    files = _grid("file", "bytes", "latency", *shown)
    for file in found.files:
        cells = [_figure(file.test[m], m) for m in shown]
        files.add_row(file.name, f"{file.bytes:,}", f"{file.latency_ratio:.2f}x", *cells)
    verdicts = [
        f"against {c.against}: {_difference(c.difference, found.metric, 2, ' points')}, {c.verdict}"
        for c in found.comparisons
    ]
    stopped = (
        ["* stopped early: it had clearly lost."] if any(s.dropped for w in found.sweeps for s in w.shapes) else []
    )
    counts = f"n = {found.n_train:,} training, {found.n_validation:,} validation, {found.n_test:,} test; {len(found.seeds)} seeds."
    notes = [f"- {note}" for note in (counts, *found.notes)]
    head = Text(f"The winner's test {found.metric}:")
    parts: list[Grid | Text] = [sweeps, *map(Text, stopped), Text()] if found.sweeps else []
    return Stack(*parts, closing, Text(), head, *map(Text, verdicts), Text(), files, *map(Text, notes), Text(place))


def _entry_cells(entry: Entry, shown: list[str], metric: str) -> list[str]:
    tests = [(name, entry.test[name]) for name in shown]
    scores = [f"{_figure(s.value, m)} [{_figure(s.low, m)}, {_figure(s.high, m)}]" for m, s in tests]
    below = entry.below.get(metric)
    drop = "" if below is None else _difference(below, metric, 1)
    return [escape(entry.name), "-".join(map(str, entry.widths)), f"{entry.params:,}", *scores, drop]


def _figure(value: float, metric: str) -> str:
    """A metric of an accordion: in hundredths, but for a score of the task's own."""
    return f"{value:.4g}" if metric == OWN else f"{100 * value:.1f}"


def _difference(score: Score, metric: str, digits: int, unit: str = "") -> str:
    if metric == OWN:
        return f"{score.value:+.4g} [{score.low:+.4g}, {score.high:+.4g}]"
    value, low, high = (100 * each for each in (score.value, score.low, score.high))
    return f"{value:+.{digits}f}{unit} [{low:+.{digits}f}, {high:+.{digits}f}]"


def short(number: int) -> str:
    """A count in at most four digits.

    >>> short(685418), short(6507776), short(980)
    ('685 k', '6.51 M', '980')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def files_view(facts: Mapping[str, Any]) -> Stack:
    """What the exported files weigh, score and take."""
    classes = facts["classes"]
    grid = _grid("file", "bytes", "validation", "latency")
    for fact in facts["files"]:
        score = fact["validation_accuracy"]
        cells = (f"{fact['bytes']:,}", told(score, "accuracy" if classes else OWN), _ratio(fact))
        grid.add_row(escape(fact["path"]), *cells)
    alike = "in the same class" if classes else "with the same score"
    same = Text(f"- the file in integers and its simulation: {_percent(facts['agreement'])} of validation {alike}")
    return Stack(grid, same, *(Text(f"- {note}") for note in facts["notes"]))


def _ratio(times: Mapping[str, Any]) -> str:
    if times["ratio"] == times["ratio_low"] == times["ratio_high"]:
        return f"{times['ratio']:.2f}x"
    return f"{times['ratio']:.2f}x [{times['ratio_low']:.2f}, {times['ratio_high']:.2f}]"


def formats_view(files: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> Stack:
    """What the files of every format weigh and take, as a ratio to dense of the same format."""
    grid = _grid("file", "format", "bytes", "smaller", "ms", "latency")
    for file in files:
        dense = next(f for f in files if f["format"] == file["format"] and f["variant"] == "dense")
        sizes = (f"{file['bytes']:,}", f"{dense['bytes'] / file['bytes']:.1f}x")
        grid.add_row(escape(file["path"]), file["format"], *sizes, f"{file['latency_ms']:.3f}", _ratio(file))
    told = "latency: one thread, batch of the example inputs, in the format's own runtime, as a ratio to dense float32 there"
    lines = (f"{told}, with its 95 % interval; the formats' milliseconds are of separate runs.", *notes)
    return Stack(grid, *(Text(f"- {line}") for line in lines))


def _grid(*columns: str) -> Grid:
    grid = Grid(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=index == 0)
    return grid


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / max(1, whole):.1f} %)"


def published_view(rows: Sequence[Accounting], own: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Stack:
    """Published schedules in both accountings, and our own results in true bytes alone."""
    grid = _grid("published", "paper accounting", "true bytes", "MACs", "stored bytes", "filters kept")
    for row in rows:
        ratios = (f"{row.paper_ratio:.2f}x", f"{row.true_ratio:.2f}x", f"{row.macs_ratio:.2f}x")
        grid.add_row(row.name, *ratios, f"{row.stored_bytes:,}", " ".join(map(str, row.filters)))
    parts: list[Any] = [grid]
    if own:
        ours = _grid("our own", "what", "seeds", "true bytes", "MACs", "file bytes", "points below dense [95 %]")
        for each in own:
            macs = "" if each["macs_ratio"] is None else f"{each['macs_ratio']:.2f}x"
            drop, *ends = each["points_below_dense"]
            between = " [{:+.2f}, {:+.2f}]".format(*ends) if ends else ""
            cells = (
                f"{each['true_ratio']:.2f}x",
                macs,
                f"{each['bytes']:,}",
                "" if drop is None else f"{drop:+.2f}{between}",
            )
            ours.add_row(escape(each["result"]), escape(each["name"]), str(each["seeds"]), *cells)
        parts += [Text(), ours]
    return Stack(*parts, *(Text(f"- {note}") for note in notes))
