"""A plan as a short text that a person edits, and back; a plan made again after some of its steps were taken.

    text = editable(made, graph)                   # JSON: a line per step, and what every group and layer could be
    made = edited(text, profile, budget)           # checked; costs and predictions worked out anew
    rest = replan(made, 3, fresh, budget)          # three steps taken, then `fresh` curves of what they left
    budget = with_residue(budget, made, 120_400)   # the file weighed more than predicted: ask for so much less next time

Unknown fields, names and impossible widths are refused with their path: `steps[2].widths['conv1']: 40 channels asked, 16 exist`.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from ..costs import cost, file_bits
from ..errors import LamellaError, MismatchError, RecordError, unknown_name, with_context
from ..records import check
from ..schema import Budget, Graph, Plan, Profile, Step, factor_between
from ..schema.plans import TAKES_NO_BITS
from .asking import Predictor, check_precision, dense_ms
from .blocking import check_budget, lossless
from .branches import added_up
from .curves import bits_drop, score_at

FIELDS = ("widths", "bits", "epochs")


def editable(made: Plan, graph: Graph) -> str:
    """The plan's steps as JSON, one line each. `groups` lists dense widths for reference and is not read back."""
    steps = [{k: getattr(s, k) for k in FIELDS if getattr(s, k) or k == "epochs"} for s in made.steps]
    lines = ",\n  ".join(json.dumps(s, ensure_ascii=False) for s in steps)
    groups = json.dumps({g.name: g.width for g in graph.free}, ensure_ascii=False)
    head = f'{{\n "structure": {json.dumps(made.structure)},\n "planner": {json.dumps(made.planner)},\n'
    return f'{head} "groups": {groups},\n "steps": [\n  {lines}\n ]\n}}\n'


def edited(text: str, profile: Profile, budget: Budget | None = None, latency: Predictor | None = None) -> Plan:
    """The plan that an edited text describes, with costs and predictions for what it now says.

    RecordError names line or path of what is wrong, MismatchError another model's plan, BudgetError a plan over the budget.
    """
    graph = profile.graph
    steps, planner = _read(text, graph)
    base = profile.baseline.value
    found, alone, bits, now = [], dict[str, float | None](), dict[str, int](), dict[str, int]()
    for step in steps:
        known = {n: score_at(profile, n, w) for n, w in step.widths.items()}
        alone |= known  # a later cut of a group includes the earlier
        bits |= step.bits
        now |= step.widths
        single = next(iter(known.values())) if len(known) == 1 else None
        expected = profile.possible(base - _lost(profile, alone, now, bits)) if step.widths else None
        found.append(replace(step, predicted=single, expected=expected))
    made = Plan(
        structure=graph.structure,
        planner=planner if planner.endswith(", edited") else f"{planner}, edited",
        steps=tuple(found),
        predicted=cost(graph),
        dense=cost(graph),
        predicted_score=profile.possible(base - _lost(profile, alone, now, bits)),
        dense_score=base,
        notes=(
            "edited by hand; predicted_score adds up the drops of widths and bits measured one at a time",
            *lossless([name for name, score in alone.items() if score is None], "at such widths"),
            *lossless(bits_drop(profile, bits)[1], "at so few bits"),
        ),
    )
    made = replace(made, predicted=cost(graph, made.widths, file_bits(graph, made.bits)))
    if latency is not None:
        check_precision(latency, made.bits)
        ms = latency.predict(graph, made.widths, made.bits)
        made = replace(made, latency_ms=ms, dense_latency_ms=dense_ms(latency, graph))
    check_budget(made, graph, budget or Budget())
    return made


def _lost(
    profile: Profile, alone: Mapping[str, float | None], widths: Mapping[str, int], bits: Mapping[str, int]
) -> float:
    """What groups with these scores alone, and layers with these bits, lose together; what was not measured, nothing."""
    losses = {name: profile.baseline.value - score for name, score in alone.items() if score is not None}
    return added_up(profile.graph, losses, widths) + bits_drop(profile, bits)[0] / 100


def _read(text: str, graph: Graph) -> tuple[list[Step], str]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"line {error.lineno}, column {error.colno}", f"not JSON: {error.msg}") from None
    check(isinstance(data, dict) and isinstance(data.get("steps"), list), "steps", "a list of steps was expected")
    extra = [key for key in data if key not in ("structure", "planner", "groups", "steps")]
    check(not extra, extra[0] if extra else "", "not a field of an editable plan")
    if data.get("structure", graph.structure) != graph.structure:
        raise MismatchError(f"the plan is for structure {data['structure']}, and this model has {graph.structure}.")
    steps = []
    for index, step in enumerate(data["steps"]):
        with with_context(f"steps[{index}]"):
            steps.append(_step(step, graph))
    _check_narrowing(steps)
    return steps, str(data.get("planner", "by hand"))


def _step(data: Any, graph: Graph) -> Step:
    check(isinstance(data, dict), "", "an object with widths, bits and epochs was expected")
    for key in data:
        check(key in FIELDS, str(key), f"not a field of a step: {', '.join(FIELDS)}")
    for field in ("widths", "bits"):
        check(isinstance(data.get(field, {}), dict), field, "an object of names and numbers was expected")
        for name, value in data.get(field, {}).items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            check(whole, f"{field}[{name!r}]", f"{value!r} where a whole number was expected")
    epochs = data.get("epochs", 0)
    check(isinstance(epochs, int) and not isinstance(epochs, bool), "epochs", f"{epochs!r} is not a whole number")
    widths, bits = data.get("widths", {}), data.get("bits", {})
    for name in widths:
        known = name in graph.group_of
        check(known, f"widths[{name!r}]", "" if known else unknown_name("group", name, graph.group_of))
    with with_context("widths"):
        graph.check_widths(widths)
    for name in bits:
        known = name in graph.layer_of
        check(known, f"bits[{name!r}]", "" if known else unknown_name("layer", name, graph.layer_of))
        check(graph.layer_of[name].takes_bits, f"bits[{name!r}]", TAKES_NO_BITS)
    return Step(widths=widths, bits=bits, epochs=epochs)


def _check_narrowing(steps: list[Step]) -> None:
    """A later step cannot give channels back."""
    seen: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name, width in step.widths.items():
            before = seen.get(name, width)
            check(width <= before, f"steps[{index}].widths[{name!r}]", f"{width} channels after a step left {before}")
            seen[name] = width


def replan(made: Plan, taken: int, fresh: Profile, budget: Budget | None = None, **options: Any) -> Plan:
    """The first `taken` steps of a plan, and new ones after them from curves measured on the network they left.

    Groups that those steps have cut are not cut again. `fresh`: a profile of the narrowed (and tuned) network. Shares in the budget are
    of the original dense model, and so are `max_drop` and the threshold that a single cut must keep: what tuning won or lost since
    counts. `options` are those of `plan`.
    """
    from . import plan

    if not 0 <= taken <= len(made.steps):
        raise LamellaError(f"{taken} steps taken: the plan has {len(made.steps)}.")
    done = made.steps[:taken]
    now = {name: width for step in done for name, width in step.widths.items()}
    for name, width in now.items():
        seen = fresh.graph.group_of[name].width if name in fresh.graph.group_of else None
        if seen != width:
            raise MismatchError(
                f"the fresh profile is of another network: group {name!r} has {seen or 'no'} channels there and {width} "
                f"after step {taken}. Profile the network as those steps left it."
            )
    if made.threshold is not None:
        options["factor"] = factor_between(fresh.baseline.value, made.threshold)
    rest = plan(_held(fresh, now), _absolute(budget or Budget(), made, fresh), **options)
    return replace(
        rest,
        structure=made.structure,
        dense_score=made.dense_score,
        planner=f"{rest.planner}, after {taken} steps",
        steps=(*done, *rest.steps),
        dense=made.dense,
        dense_latency_ms=made.dense_latency_ms,
    )


def _held(fresh: Profile, cut: Container[str]) -> Profile:
    """The profile, no channel free of the groups that have been cut."""
    groups = tuple(replace(g, frozen="it has been cut already") if g.name in cut else g for g in fresh.graph.groups)
    return replace(fresh, graph=replace(fresh.graph, groups=groups))


def with_residue(budget: Budget, made: Plan, file_bytes: int) -> Budget:
    """The budget with its bytes lowered by what the plan's file weighs beyond its prediction; as it is where the file fits."""
    limit = budget.limit("bytes", made.dense.bytes)
    if limit is None or file_bytes <= limit:
        return budget
    residue = file_bytes - made.predicted.bytes
    if residue >= limit:
        raise LamellaError(
            f"the file weighs {file_bytes:,} bytes, {residue:,} more than predicted, and only {limit:,.0f} are allowed: what is "
            "not in layers alone is over the budget. Raise it, or check what the exporter wrote."
        )
    return replace(budget, bytes=limit - residue)


def _absolute(budget: Budget, made: Plan, fresh: Profile) -> Budget:
    """The budget in figures of the original network, and the drop that is left from where the walk stands."""
    names = ("bytes", "params", "macs", "memory")
    found: dict[str, Any] = {n: budget.limit(n, getattr(made.dense, n)) for n in names}
    if made.dense_latency_ms is not None:
        found["latency_ms"] = budget.limit("latency_ms", made.dense_latency_ms)
    if budget.max_drop is not None and made.dense_score is not None:
        found["max_drop"] = max(0.0, budget.max_drop - 100 * (made.dense_score - fresh.baseline.value))
    return replace(budget, **found)
