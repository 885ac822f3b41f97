"""What stands between a budget and the nearest plan, as a BudgetError that says what to do.

BudgetError: no plan by 'knapsack' reaches bytes <= 20,000 for 'resnet20'.
  nearest: bytes 41,873, a drop of 81.2 points, with 13 of 14 groups at their floor.
  frozen:  'linear' (model output).
  try:     a budget of bytes=41873, lower widths or bits in the profile (pruning_ratios, bits), or a smaller round_to.
"""

from collections.abc import Mapping, Sequence

from ..errors import BudgetError
from ..schema import Budget, Graph, Plan
from ..schema.plans import COSTS
from ..texts import listed
from .asking import keeps


def check_budget(made: Plan, graph: Graph, budget: Budget) -> None:
    """BudgetError unless the plan keeps every limit: costs exactly, latency and drop as predicted.

    A plan that was made by threshold reads `max_drop` as the limit of every single cut, as published, and has kept it.
    """
    reached = reached_by(made)
    asked = limits_for(made, budget)
    broken = {name: limit for name, limit in asked.items() if not keeps(reached.get(name, 0.0), limit)}
    if broken:
        floors = {g.name: g.legal(0) for g in graph.free}
        raise unreached(made.planner, graph, broken, reached, made.widths, floors)


def reached_by(made: Plan) -> dict[str, float]:
    """Every predicted figure of a plan by the name it has in a Budget."""
    found: dict[str, float] = {name: getattr(made.predicted, name) for name in COSTS}
    if made.latency_ms is not None:
        found["latency_ms"] = made.latency_ms
    if made.dense_score is not None and made.predicted_score is not None and made.threshold is None:
        found["max_drop"] = 100 * (made.dense_score - made.predicted_score)
    return found


def limits_for(made: Plan, budget: Budget) -> dict[str, float]:
    """The absolute limits of a budget, given the plan's dense costs."""
    dense: dict[str, float] = {name: getattr(made.dense, name) for name in COSTS}
    if made.dense_latency_ms is not None:
        dense["latency_ms"] = made.dense_latency_ms
    return budget.limits(dense) | ({} if budget.max_drop is None else {"max_drop": budget.max_drop})


def unreached(
    planner: str,
    graph: Graph,
    broken: Mapping[str, float],
    reached: Mapping[str, float],
    widths: Mapping[str, int],
    floors: Mapping[str, int],
    unmeasured: tuple[str, ...] = (),
) -> BudgetError:
    """The error: what was asked, the nearest plan, what blocks it, what to do. `floors`: the lowest width of every free group."""
    asked = " and ".join(f"{name} <= {_amount(name, limit)}" for name, limit in broken.items())
    nearest = ", ".join(_figure(name, reached[name]) for name in broken)
    low = sum(widths.get(name, graph.group_of[name].width) <= floor for name, floor in floors.items())
    frozen = [f"{g.name!r} ({g.frozen})" for g in graph.groups if g.frozen]
    lines = [
        f"no plan by {planner!r} reaches {asked} for {graph.model!r}.",
        f"  nearest: {nearest}, with {low} of {len(floors)} groups at their floor.",
        f"  frozen:  {listed(frozen, 4, ';') or 'none'}.",
    ]
    if unmeasured:
        lines.append(f"  no curve, so left dense: {listed([repr(n) for n in unmeasured], 4, ';')}.")
    loosest = " and ".join(f"{name}={_rounded_up(name, reached[name])}" for name in broken)
    text = "\n".join([*lines, f"  try:     a budget of {loosest}, {_advice(planner, broken)}."])
    return BudgetError(text, {name: reached[name] for name in broken})


def _advice(planner: str, broken: Mapping[str, float]) -> str:
    if planner.startswith("threshold"):
        return "a smaller factor, a smaller round_to, or bits as well as widths"
    if "max_drop" in broken:
        return "one budget less, bits as well as widths, or a finer sweep of pruning_ratios"
    if broken.keys() <= {"params", "macs"}:  # which bits do not change
        return "lower widths in the profile (pruning_ratios), or a smaller round_to"
    return "lower widths or bits in the profile (pruning_ratios, bits), or a smaller round_to"


def lossless(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The note on groups or layers that were not measured as they are planned; none without such."""
    return (f"not measured {where}, and taken to lose nothing: {listed(names, 4, ';')}",) if names else ()


def _amount(name: str, value: float) -> str:
    return f"{value:,.0f}" if name in COSTS else f"{value:.3g}"


def _figure(name: str, value: float) -> str:
    return f"a drop of {value:.1f} points" if name == "max_drop" else f"{name} {_amount(name, value)}"


def _rounded_up(name: str, value: float) -> str:
    """A figure that, given as a budget, is kept."""
    if name in COSTS:
        return f"{value:.0f}"
    digits = 1 if name == "max_drop" else 3
    return f"{value + 0.5 * 10**-digits:.{digits}f}"
