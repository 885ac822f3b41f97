"""A plan made again: after some of its steps were taken, or for a file that came out too large.

rest = replan(made, 3, fresh, budget)          # three steps taken, then `fresh` curves of what they left
budget = with_residue(budget, made, 120_400)   # the file weighed more than predicted: ask for so much less next time
"""

from collections.abc import Container
from dataclasses import replace
from typing import Any

from ..errors import BudgetError, LamellaError, MismatchError
from ..schema import Budget, Plan, Profile, factor_between
from ..schema.plans import COSTS
from .plans import plan


def replan(made: Plan, taken: int, fresh: Profile, budget: Budget | None = None, **options: Any) -> Plan:
    """The first `taken` steps of a plan, and new ones after them from curves measured on the network they left.

    Groups that those steps have cut are not cut again. `fresh`: a profile of the narrowed (and tuned) network. Shares in the budget are
    of the original dense model, and so are `max_drop` and the threshold that a single cut must keep: what tuning won or lost since
    counts. `options` are those of `plan`.
    """
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
    """The budget with its bytes lowered by what the plan's file weighs beyond its prediction; as it is where the file fits.

    BudgetError where that alone is over the budget.
    """
    limit = budget.limit("bytes", made.dense.bytes)
    if limit is None or file_bytes <= limit:
        return budget
    residue = file_bytes - made.predicted.bytes
    if residue >= limit:
        raise BudgetError(
            f"the file weighs {file_bytes:,} bytes, {residue:,} more than predicted, and only {limit:,.0f} are allowed: what is "
            "not in layers alone is over the budget. Raise it, or check what the exporter wrote."
        )
    return replace(budget, bytes=limit - residue)


def _absolute(budget: Budget, made: Plan, fresh: Profile) -> Budget:
    """The budget in figures of the original network, and the drop that is left from where the walk stands."""
    found: dict[str, Any] = {n: budget.limit(n, getattr(made.dense, n)) for n in COSTS}
    if made.dense_latency_ms is not None:
        found["latency_ms"] = budget.limit("latency_ms", made.dense_latency_ms)
    if budget.max_drop is not None and made.dense_score is not None:
        found["max_drop"] = max(0.0, budget.max_drop - 100 * (made.dense_score - fresh.baseline.value))
    return replace(budget, **found)
