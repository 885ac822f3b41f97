"""The front of one budget: what each of its levels costs in score. And two plans side by side.

front = pareto(profile, "bytes", points=8)            # a knapsack plan at each of 8 limits
front_csv(front_record(front, "bytes"))               # limit,bytes,...,predicted_score,gap
compare(a, b).text                                    # what differs, group by group
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import BudgetError, LamellaError, MismatchError
from ..schema import Budget, Front, FrontRow, Plan, Profile
from .plans import plan

SHARES = ("90%", "75%", "60%", "50%", "40%", "30%", "25%", "20%", "15%", "10%", "7%", "5%")
DROPS = (10.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.3, 0.2)  # points
AXES = ("bytes", "params", "macs", "memory", "latency_ms", "max_drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One limit and the plan that keeps it."""

    limit: float | str
    plan: Plan

    @property
    def row(self) -> FrontRow:
        """Its figures."""
        made = self.plan
        score, dense = made.predicted_score or 0.0, made.dense_score or 0.0
        gap = None if made.proof is None else made.proof.gap
        return FrontRow(
            limit=self.limit,
            predicted=made.predicted,
            predicted_score=score,
            drop=100 * (dense - score),
            latency_ms=made.latency_ms,
            gap=gap,
        )


def pareto(
    profile: Profile,
    axis: str = "bytes",
    limits: Sequence[float | str] | None = None,
    *,
    budget: Budget | None = None,
    planner: str = "knapsack",
    **options: Any,
) -> tuple[FrontPoint, ...]:
    """A plan per limit of one budget, from loose to tight; the rest of `budget` holds for all. Unreachable limits are left out.

    `limits`: shares of the dense cost, or points of drop, where none are given; with axis max_drop the knapsack minimizes bytes
    unless told otherwise. A point that is no better than a tighter one is left out too, so that the rest is a front. BudgetError
    where no limit can be reached.
    """
    if axis not in AXES:
        raise LamellaError(f"axis {axis!r}: one of {', '.join(AXES)} was expected.")
    if axis == "max_drop" and planner == "knapsack":
        options = {"minimize": "bytes", **options}
    if limits is None:
        limits = DROPS if axis == "max_drop" else SHARES
    found, last = [], None
    for limit in limits:
        try:
            limited: dict[str, Any] = {axis: limit}
            made = plan(profile, replace(budget or Budget(), **limited), planner=planner, **options)
        except BudgetError as error:
            last = error
            continue
        found.append(FrontPoint(limit=limit, plan=made))
    if not found and last is not None:
        raise last
    return _undominated(found, axis)


def _undominated(points: list[FrontPoint], axis: str) -> tuple[FrontPoint, ...]:
    def keys(point: FrontPoint) -> tuple[float, float]:
        return spent(point.row, axis), point.row.drop

    kept: list[FrontPoint] = []
    for point in sorted(points, key=keys):
        if not kept or point.row.drop < kept[-1].row.drop:
            kept.append(point)
    return tuple(kept if axis == "max_drop" else kept[::-1])  # loosest first: most points of drop, or most of the cost


def spent(row: FrontRow, axis: str) -> float:
    """What a row takes of the budget that the front is over (bytes, where that is the drop itself)."""
    if axis == "latency_ms":
        return row.latency_ms or 0.0
    return float(getattr(row.predicted, "bytes" if axis == "max_drop" else axis))


def front_record(front: Sequence[FrontPoint], axis: str) -> Front:
    """The front as a record, for files and pictures."""
    made = front[0].plan
    return front_of(made, axis, tuple(point.row for point in front), made.notes[:1])


def front_of(made: Plan, axis: str, rows: tuple[FrontRow, ...], notes: tuple[str, ...]) -> Front:
    """Rows over one budget beside the dense network that this plan is for."""
    return Front(
        structure=made.structure,
        planner=made.planner,
        axis=axis,
        dense=made.dense,
        dense_score=made.dense_score or 0.0,
        dense_latency_ms=made.dense_latency_ms,
        rows=rows,
        notes=notes,
    )


def flat(row: FrontRow) -> dict[str, Any]:
    """A row as plain figures, one name each; what is not known is None."""
    found = asdict(row)
    return {"limit": found.pop("limit"), **found.pop("predicted"), **found}


def front_csv(front: Front) -> str:
    """limit, bytes, params, macs, memory, predicted_score, drop, latency_ms, gap, measured_score; a line per row, loosest first."""
    rows = [flat(row) for row in front.rows]
    names = [
        "limit",
        "bytes",
        "params",
        "macs",
        "memory",
        "predicted_score",
        "drop",
        "latency_ms",
        "gap",
        "measured_score",
    ]
    lines = [",".join("" if row[n] is None else str(row[n]) for n in names) for row in rows]
    return "\n".join([",".join(names), *lines]) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One group or layer that two plans treat differently; None where a plan leaves it as it is."""

    target: str
    knob: str
    a: int | None
    b: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two plans for one network: where they differ, and what each predicts."""

    differences: tuple[Difference, ...]
    figures: dict[str, tuple[float | None, float | None]]
    same_order: bool

    @property
    def text(self) -> str:
        """A few lines for a person."""
        lines = [f"{n:<16} {_shown(a):>14} {_shown(b):>14}" for n, (a, b) in self.figures.items()]
        lines += [f"{d.target} ({d.knob}): {_shown(d.a)} against {_shown(d.b)}" for d in self.differences]
        order = "the same order" if self.same_order else "another order"
        return "\n".join([*lines, f"{len(self.differences)} differences, {order}."])


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def compare(a: Plan, b: Plan) -> Comparison:
    """What sets two plans apart. MismatchError unless they are for one structure."""
    if a.structure != b.structure:
        raise MismatchError(f"the plans are for two networks: structures {a.structure} and {b.structure}.")
    pairs = (("width", a.widths, b.widths), ("bits", a.bits, b.bits))
    differences = tuple(
        Difference(target=name, knob=knob, a=x.get(name), b=y.get(name))
        for knob, x, y in pairs
        for name in dict.fromkeys([*x, *y])
        if x.get(name) != y.get(name)
    )
    figures: dict[str, tuple[float | None, float | None]] = {
        name: (getattr(a.predicted, name), getattr(b.predicted, name)) for name in ("bytes", "params", "macs", "memory")
    }
    figures["predicted_score"] = (a.predicted_score, b.predicted_score)
    if a.latency_ms is not None or b.latency_ms is not None:
        figures["latency_ms"] = (a.latency_ms, b.latency_ms)
    common = [name for name in a.widths if name in b.widths]
    return Comparison(
        differences=differences, figures=figures, same_order=common == [n for n in b.widths if n in a.widths]
    )
