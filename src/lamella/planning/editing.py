"""A plan as a short text that a person edits, and back.

    text = editable(made, graph)                   # JSON: a line per step, and what every group and layer could be
    made = edited(text, profile, budget)           # checked; costs and predictions worked out anew

Unknown fields, names and impossible widths are refused with their path: `steps[2].widths['conv1']: 40 channels asked, 16 exist`.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..costs import cost
from ..errors import MismatchError, RecordError, unknown_name, with_context
from ..records import check
from ..schema import Budget, Graph, Plan, Profile, Step
from ..schema.plans import TAKES_NO_BITS
from .asking import Predictor
from .blocking import check_budget, lossless
from .branches import lost
from .curves import bits_drop, score_at
from .plans import priced

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
    made = priced(made, graph, latency)
    check_budget(made, graph, budget or Budget())
    return made


def _lost(
    profile: Profile, alone: Mapping[str, float | None], widths: Mapping[str, int], bits: Mapping[str, int]
) -> float:
    """What groups with these scores alone, and layers with these bits, lose together; what was not measured, nothing."""
    return lost(profile, alone, widths) + bits_drop(profile, bits)[0] / 100


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
