"""The order in which groups give up their channels, as a decision of its own.

by_score   highest score after its own cut first (Anik, Kelso, Lee 2024, Algorithm 1): the most harmless cut comes first
in_order   first layer first
reverse    last layer first
by_cost    the cut that saves most parameters first
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..costs import cost
from ..errors import LamellaError, unknown_name
from ..schema import Graph, Plan, Profile, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A group's new width, and the score the network had with only that group cut (None where it was not measured)."""

    group: str
    width: int
    score: float | None


Key = Callable[[Choice, Graph], float]


def _position(choice: Choice, graph: Graph) -> float:
    return [g.name for g in graph.groups].index(choice.group)


def _score(choice: Choice, graph: Graph) -> float:
    return -choice.score if choice.score is not None else 0.0


def _saving(choice: Choice, graph: Graph) -> float:
    return cost(graph, {choice.group: choice.width}).params


ORDERS: dict[str, Key] = {
    "by_score": _score,
    "in_order": _position,
    "reverse": lambda choice, graph: -_position(choice, graph),
    "by_cost": _saving,
}


def sorted_choices(choices: list[Choice], graph: Graph, order: str) -> list[Choice]:
    """The choices in that order; equal keys stay in network order."""
    if order not in ORDERS:
        raise LamellaError(unknown_name("order", order, ORDERS))
    in_network = sorted(choices, key=lambda c: _position(c, graph))
    return sorted(in_network, key=lambda c: ORDERS[order](c, graph))


def reorder(plan: Plan, profile: Profile, order: str) -> Plan:
    """The same cuts in another order; steps without widths (bits) stay last."""
    cuts = [step for step in plan.steps if step.widths]
    if any(len(step.widths) > 1 for step in cuts):
        raise LamellaError("only a plan whose steps cut one group each can be reordered.")
    by_group = {next(iter(s.widths)): s for s in cuts}
    choices = [Choice(group=g, width=s.widths[g], score=s.predicted) for g, s in by_group.items()]
    names = [c.group for c in sorted_choices(choices, profile.graph, order)]
    ordered = [by_group[name] for name in names] + [s for s in plan.steps if not s.widths]
    index = {id(step): i for i, step in enumerate(plan.steps)}
    return plan.reordered([index[id(step)] for step in ordered], f"{plan.planner.split(',')[0]}, {order}")


__all__ = ["ORDERS", "Choice", "Step", "reorder", "sorted_choices"]
