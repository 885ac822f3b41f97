"""The order in which groups give up their channels, as a decision of its own.

    by_score   highest score after its own cut first (Anik, Kelso, Lee 2024, Algorithm 1): the most harmless cut comes first
    in_order   first layer first
    reverse    last layer first
    by_cost    the cut that saves most parameters first
    greedy     the cut that scores highest on top of those before it: measured anew after each step, so it needs `measure`

A row of `ORDERS` is a key that choices are sorted by; `greedy` has none, for its key changes with every step.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..costs import cost
from ..errors import LamellaError, unknown_name
from ..schema import Graph, Plan, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A group's new width, and the score the network had with only that group cut (None where it was not measured).

    `expected`: the score measured with this cut and all before it, where an order measured that.
    """

    group: str
    width: int
    score: float | None
    expected: float | None = None


Key = Callable[[Choice, Graph], float]
Scorer = Callable[[Mapping[str, int], Mapping[str, int]], float]  # (widths, bits) -> score

POOL = 4  # candidates that greedy measures at each step: those with the best scores alone


def _position(choice: Choice, graph: Graph) -> float:
    return [g.name for g in graph.groups].index(choice.group)


def _score(choice: Choice, graph: Graph) -> float:
    return -choice.score if choice.score is not None else math.inf


def _saving(choice: Choice, graph: Graph) -> float:
    return cost(graph, {choice.group: choice.width}).params


ORDERS: dict[str, Key | None] = {
    "by_cost": _saving,
    "by_score": _score,
    "greedy": None,
    "in_order": _position,
    "reverse": lambda choice, graph: -_position(choice, graph),
}


def sorted_choices(choices: list[Choice], graph: Graph, order: str, measure: Scorer | None = None) -> list[Choice]:
    """The choices in that order; equal keys stay in network order. greedy's carry the score expected."""
    if order not in ORDERS:
        raise LamellaError(unknown_name("order", order, ORDERS))
    in_network = sorted(choices, key=lambda c: _position(c, graph))
    key = ORDERS[order]
    if key is not None:
        return sorted(in_network, key=lambda c: key(c, graph))
    if measure is None:
        raise LamellaError("order 'greedy' measures as it goes and needs measure=: a function (widths, bits) -> score.")
    return _greedy(sorted(in_network, key=lambda c: _score(c, graph)), measure)


def _greedy(left: list[Choice], measure: Scorer) -> list[Choice]:
    """At every step the cut that scores highest together with those made, among the `POOL` best alone."""
    made: list[Choice] = []
    while left:
        cut = {c.group: c.width for c in made}
        tried = [replace(c, expected=measure({**cut, c.group: c.width}, {})) for c in left[:POOL]]
        best = max(tried, key=lambda c: c.expected or 0.0)
        made.append(best)
        left = [c for c in left if c.group != best.group]
    return made


def greedy_measurements(cuts: int) -> int:
    """How many candidates `greedy` measures for so many cuts."""
    return sum(min(POOL, left) for left in range(1, cuts + 1))


def reorder(plan: Plan, profile: Profile, order: str, measure: Scorer | None = None) -> Plan:
    """The same cuts in another order; steps without widths (bits) stay last."""
    cuts = [step for step in plan.steps if step.widths]
    if any(len(step.widths) > 1 for step in cuts):
        raise LamellaError("only a plan whose steps cut one group each can be reordered.")
    by_group = {next(iter(s.widths)): s for s in cuts}
    choices = [Choice(group=g, width=s.widths[g], score=s.predicted) for g, s in by_group.items()]
    names = [c.group for c in sorted_choices(choices, profile.graph, order, measure)]
    ordered = [by_group[name] for name in names] + [s for s in plan.steps if not s.widths]
    index = {id(step): i for i, step in enumerate(plan.steps)}
    return plan.reordered([index[id(step)] for step in ordered], f"{plan.planner.split(',')[0]}, {order}")


__all__ = ["ORDERS", "Choice", "greedy_measurements", "reorder", "sorted_choices"]
