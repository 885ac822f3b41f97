"""The plan itself: a planner's draft in order, as steps, with what they cost and what they are expected to keep.

made = plan(profile, Budget(bytes="10%"), planner="knapsack")   # the draft of one row of `PLANNERS`
priced(made, graph, latency)                                    # its costs anew, after its steps were changed
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from ..costs import cost, file_bits
from ..errors import LamellaError, demand, unknown_name, with_context
from ..records import from_plain
from ..schema import Budget, Graph, Plan, Profile, Step
from ..schema.plans import WEIGHT_BITS, in_integers
from .asking import Ask, Draft, Predictor, check_precision, dense_ms
from .blocking import check_budget, lossless
from .branches import lost
from .curves import bits_drop
from .knapsack import knapsack
from .order import Choice, sorted_choices
from .ratios import shares, uniform
from .searching import search
from .threshold import threshold

Planner = Callable[..., Draft]

ADDED_UP = "predicted_score adds up the drops measured one group at a time, before compress tunes"

PLANNERS: dict[str, Planner] = {
    "knapsack": knapsack,
    "search": search,
    "shares": shares,
    "threshold": threshold,
    "uniform": uniform,
}


def plan(
    profile: Profile,
    budget: Budget | None = None,
    *,
    planner: str = "threshold",
    order: str = "by_score",
    epochs: int = 0,
    bits: int | None = None,
    **options: Any,
) -> Plan:
    """The planner's choices in order, one step each, with `epochs` of tuning after each step, then one step for bits.

    `bits`: a number for every multiplying layer, whatever the planner (32: none gets fewer). `latency=`: a predictor, for
    budgets in latency_ms. `measure=`: a function (widths, bits) -> score, for what measures as it goes. Other `options` are the
    planner's own (threshold: `factor`; uniform, shares: `pruning_ratio`; shares: `by`; knapsack: see there). Raises BudgetError
    when the outcome does not keep the budget, naming the nearest it reaches.
    """
    demand(
        isinstance(budget, Budget | None),
        f"budget={budget!r}: a Budget was expected, such as Budget(macs='50%', max_drop=1.0).",
    )
    handed = {name: options.pop(name) for name in ("latency", "measure") if name in options}
    given = settled_bits(profile.graph, bits)
    ask = Ask(profile=profile, budget=budget or Budget(), bits=given, **handed)
    draft = _drafted(planner, ask, options)
    choices = sorted_choices(draft.choices, ask.graph, order, ask.measure)
    steps = _steps(choices, {**given, **draft.bits}, profile, epochs)
    made = _made(ask, draft, f"{planner}, {order}", steps)
    check_budget(made, ask.graph, ask.budget)
    return made


def settled_bits(graph: Graph, bits: int | None) -> dict[str, int]:
    """The same bits for every layer that takes any. LamellaError for a number that weights cannot have."""
    if bits is None:
        return {}
    if bits not in WEIGHT_BITS:
        raise LamellaError(f"bits {bits}: from 2 to 8, or 32 for none, was expected.")
    return {layer.name: bits for layer in graph.layers if layer.takes_bits}


def _drafted(planner: str, ask: Ask, options: Mapping[str, Any]) -> Draft:
    if planner not in PLANNERS:
        raise LamellaError(unknown_name("planner", planner, PLANNERS))
    known = list(inspect.signature(PLANNERS[planner]).parameters)[1:]
    for name in options:
        if name not in known:
            raise LamellaError(unknown_name(f"option of planner {planner!r}", name, known))
    _check_kinds(planner, options)
    return PLANNERS[planner](ask, **options)


def _check_kinds(planner: str, options: Mapping[str, Any]) -> None:
    """RecordError for an option that is no number, or no name, where the planner takes one."""
    hints = get_type_hints(PLANNERS[planner])
    for name, value in options.items():
        if {int, float, str, NoneType} >= set(get_args(hints[name]) or {hints[name]}):
            with with_context(f"option {name!r} of planner {planner!r}"):
                from_plain(value, hints[name])


def _steps(choices: list[Choice], bits: dict[str, int], profile: Profile, epochs: int) -> tuple[Step, ...]:
    """One step per choice, with the score expected so far: the drops added up, where nothing better was measured."""
    steps, baseline = [], profile.baseline.value
    for count, c in enumerate(choices, 1):
        expected = profile.possible(baseline - _lost(profile, choices[:count])) if c.expected is None else c.expected
        steps.append(Step(widths={c.group: c.width}, epochs=epochs, predicted=c.score, expected=expected))
    widths, layers = profile.graph.completed({c.group: c.width for c in choices}), profile.graph.layer_of
    left = {name: width for name, width in in_integers(bits).items() if not layers[name].is_emptied(widths)}
    return (*steps, Step(bits=left)) if left else tuple(steps)


def _lost(profile: Profile, choices: Sequence[Choice]) -> float:
    return lost(profile, {c.group: c.score for c in choices}, {c.group: c.width for c in choices})


def _made(ask: Ask, draft: Draft, planner: str, steps: tuple[Step, ...]) -> Plan:
    graph, baseline = ask.graph, ask.profile.baseline.value
    made = Plan(structure=graph.structure, planner=planner, steps=steps, predicted=cost(graph), dense=cost(graph))
    drop = _lost(ask.profile, draft.choices) if draft.drop is None else draft.drop / 100
    notes = draft.notes
    if not draft.measured:
        settled, unknown = bits_drop(ask.profile, ask.bits)
        drop += settled / 100
        notes = (ADDED_UP, *notes, *lossless(unknown, "at so few bits"))
    made = replace(
        made,
        predicted_score=ask.profile.possible(baseline - drop),
        dense_score=baseline,
        threshold=draft.threshold,
        proof=draft.proof,
        front=draft.front,
        notes=notes,
    )
    return priced(made, graph, ask.latency)


def priced(made: Plan, graph: Graph, latency: Predictor | None) -> Plan:
    """The plan with what its widths and bits cost in the file, and in milliseconds where there is a predictor."""
    made = replace(made, predicted=cost(graph, made.widths, file_bits(graph, made.bits)))
    if latency is None:
        return made
    check_precision(latency, made.bits)
    ms = latency.predict(graph, made.widths, made.bits)
    return replace(made, latency_ms=ms, dense_latency_ms=dense_ms(latency, graph))
