"""A planner maps measured curves and a budget to an ordered list of steps.

    plan(profile, planner="threshold", factor=0.985)                 every group's largest rate that holds, best score first
    plan(profile, Budget(params="25%"), planner="uniform")           one ratio for all, the smallest that keeps the budget
    reorder(plan, profile, "in_order")                               the same steps, first layer first

`PLANNERS` maps a name to a function (profile, budget, **options) -> choices, one per group that gives something up; `ORDERS` maps
a name to the key choices are sorted by. Planning is arithmetic on records: no torch, no data.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..costs import cost
from ..errors import BudgetError, LamellaError, unknown_name
from ..schema import Budget, Cost, Graph, Plan, Profile, Step
from .order import ORDERS, Choice, reorder, sorted_choices
from .threshold import score_floor, threshold
from .uniform import uniform

Planner = Callable[..., list[Choice]]

PLANNERS: dict[str, Planner] = {"threshold": threshold, "uniform": uniform}


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
    """The planner's choices in order, one step each, with `epochs` of tuning after each step.

    `bits`: a last step that gives every multiplying layer that many. `options` are the planner's own (threshold: `factor`;
    uniform: `pruning_ratio`). Raises BudgetError when the outcome does not keep the budget, naming the nearest it reaches.
    """
    budget = budget or Budget()
    choices = _choose(planner, profile, budget, options)
    ordered = sorted_choices(choices, profile.graph, order)
    steps = [Step(widths={c.group: c.width}, epochs=epochs, predicted=c.score) for c in ordered]
    if bits is not None:
        steps.append(
            Step(bits={layer.name: bits for layer in profile.graph.layers if layer.positions and layer.weight})
        )
    made = _made(profile, f"{planner}, {order}", tuple(steps))
    made = replace(
        made, threshold=score_floor(profile, budget, options.get("factor")) if planner == "threshold" else None
    )
    check_budget(made, profile.graph, budget)
    return made


def _choose(planner: str, profile: Profile, budget: Budget, options: Mapping[str, Any]) -> list[Choice]:
    if planner not in PLANNERS:
        raise LamellaError(unknown_name("planner", planner, PLANNERS))
    known = list(inspect.signature(PLANNERS[planner]).parameters)[2:]
    for name in options:
        if name not in known:
            raise LamellaError(unknown_name(f"option of planner {planner!r}", name, known))
    return PLANNERS[planner](profile, budget, **options)


def _made(profile: Profile, planner: str, steps: tuple[Step, ...]) -> Plan:
    graph = profile.graph
    draft = Plan(structure=graph.structure, planner=planner, steps=steps, predicted=cost(graph), dense=cost(graph))
    lost = sum(profile.baseline.value - s.predicted for s in steps if s.predicted is not None)
    return replace(
        draft,
        predicted=cost(graph, draft.widths, draft.bits),
        predicted_score=max(0.0, profile.baseline.value - lost),
        notes=("predicted_score adds up the drops measured one group at a time, without tuning",),
    )


def check_budget(made: Plan, graph: Graph, budget: Budget) -> None:
    """BudgetError unless the plan keeps every limit that arithmetic can see (params, macs, bytes, memory)."""
    over = [
        (name, limit, getattr(made.predicted, name))
        for name in ("params", "macs", "bytes", "memory")
        if (limit := budget.limit(name, getattr(made.dense, name))) is not None
        and getattr(made.predicted, name) > limit
    ]
    if over:
        raise BudgetError(_unreached(made, graph, over))


def _unreached(made: Plan, graph: Graph, over: list[tuple[str, float, int]]) -> str:
    asked = " and ".join(f"{name} <= {limit:,.0f}" for name, limit, _ in over)
    nearest = ", ".join(f"{name} {reached:,}" for name, _, reached in over)
    floors = sum(made.widths.get(g.name, g.width) <= g.legal(0) for g in graph.free)
    frozen = "; ".join(f"{g.name!r} ({g.frozen})" for g in graph.groups if g.frozen)
    loosest = ", ".join(f"{name}={reached}" for name, _, reached in over)
    return (
        f"no plan by {made.planner!r} reaches {asked} for {graph.model!r}.\n"
        f"  nearest: {nearest}, with {floors} of {len(graph.free)} groups at their floor.\n"
        f"  frozen:  {frozen or 'none'}.\n"
        f"  try:     Budget({loosest}), a smaller factor, a smaller round_to, or bits as well as widths."
    )


__all__ = ["ORDERS", "PLANNERS", "Choice", "Cost", "check_budget", "plan", "reorder"]
