"""Budgets, costs, and the Plan: steps in order, with what they are expected to cost and keep."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from ..errors import MismatchError, with_context
from ..records import check
from .graphs import Graph
from .timings import Runtime

AS_IS = "as it is"  # the planner of a plan without steps, by which a network is quantized and exported though nobody planned
TAKES_NO_BITS = "no convolution or linear layer: leave it out, or plan anew"
FLOAT = 32  # bits of weights that are left as they are
WEIGHT_BITS = (*range(2, 9), FLOAT)  # what a layer's weights may be given
Amount = float | str | None  # a number is absolute, "10%" is a share of the dense model


def in_integers(bits: Mapping[str, int]) -> dict[str, int]:
    """The layers that are not left in float."""
    return {name: width for name, width in bits.items() if width < FLOAT}


def few_bits(bits: Mapping[str, int]) -> dict[str, int]:
    """The layers of fewer than 8 bits: so few that the other weights have to make up for it."""
    return {name: width for name, width in bits.items() if width < 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a plan must keep. `max_drop` in points of the score (1.0 = one percentage point); the rest absolute, or "10%" of dense."""

    max_drop: float | None = None
    bytes: Amount = None
    params: Amount = None
    macs: Amount = None
    latency_ms: Amount = None
    memory: Amount = None

    def __post_init__(self) -> None:
        for name in LIMITED:
            check_amount(getattr(self, name), name)
        drop = self.max_drop
        known = drop is None or (isinstance(drop, int | float) and math.isfinite(drop))
        check(known, "max_drop", f"{drop!r} where a number of points was expected")
        check(drop is None or drop >= 0, "max_drop", f"{drop} is negative")

    def limit(self, name: str, dense: float) -> float | None:
        """The absolute limit for one cost, given the dense model's cost; None where the budget does not speak of it."""
        amount: Amount = getattr(self, name)
        return dense * float(amount[:-1]) / 100 if isinstance(amount, str) else amount

    def limits(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The absolute limits of all costs that it speaks of, given the dense model's by name."""
        found = {name: self.limit(name, value) for name, value in dense.items()}
        return {name: limit for name, limit in found.items() if limit is not None}


def check_amount(amount: Amount, name: str) -> None:
    """RecordError unless `amount` is None, a positive number, or a share from "0%" (exclusive) to "100%"."""
    if isinstance(amount, str):
        number = amount[:-1] if amount.endswith("%") else ""
        check(_is_number(number), name, f"{amount!r} is neither a number nor a share such as '10%'")
        check(
            0 < float(number) <= 100, name, f"{amount!r} is not a share of the dense model (above 0% and at most 100%)"
        )
    elif amount is not None:
        check(
            isinstance(amount, int | float),
            name,
            f"{amount!r} where one number, or a share such as '10%', was expected",
        )
        check(amount > 0 and math.isfinite(amount), name, f"{amount} is not a positive amount")
        whole = name == "latency_ms" or amount >= 1
        check(whole, name, f"{amount} is less than one; a share of the dense model is written '{100 * amount:g}%'")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """params, MACs per sample, predicted bytes of the ONNX file, and peak activation memory in bytes per sample."""

    params: int
    macs: int
    bytes: int
    memory: int


COSTS = tuple(f.name for f in fields(Cost))
LIMITED = (*COSTS, "latency_ms")  # what a budget limits, absolutely or as a share of dense
BUDGETS = ("max_drop", *LIMITED)  # all that a budget speaks of


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One move: groups to new widths, layers to bits, then `epochs` of tuning.

    `predicted` is the score measured with this move alone, before any tuning; None where nothing was measured. `expected` is
    that after this move and all before it, before `compress` tunes: the drops added up, or measured where the order was measured (greedy).
    """

    widths: dict[str, int] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)
    epochs: int = 0
    predicted: float | None = None
    expected: float | None = None

    def __post_init__(self) -> None:
        check(self.epochs >= 0, "epochs", f"{self.epochs} is negative")
        for layer, bits in self.bits.items():
            check(bits in WEIGHT_BITS, f"bits[{layer!r}]", f"{bits} bits: 2 to 8, or 32 for none, were expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What an exact planner can say of its plan: no plan does better than `bound` in `objective`; this one has `value`.

    `gap` is |value - bound| / |value| (0 where both are 0). `objective`: a cost, or max_drop: what was minimized then, the points of
    the score that cuts and bits lose, those of groups times their `depth_prior`, plus the doubt by which less is preferred where
    drops are equal (up to a tenth of a sample each). So it is not the plan's own drop, but a little more. `status`: optimal within
    the gap asked for, out of time before that, or open where no plan at the bound keeps its limits in exact arithmetic.
    """

    objective: str
    value: float
    bound: float
    gap: float
    status: Literal["optimal", "time limit", "gap open"] = "optimal"

    def __post_init__(self) -> None:
        check(self.gap >= 0, "gap", f"{self.gap} is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An ordered tuple of steps for the model of one structure, which planner made it, and what it expects.

    `threshold` is the lowest score that the planner let a single cut have, where it had such a limit; `proof` what an
    exact planner proved. Latencies are there when the planner was given a predictor. `front`: what a search over score and
    one cost found best, measured.
    """

    structure: str
    planner: str
    steps: tuple[Step, ...]
    predicted: Cost
    dense: Cost
    predicted_score: float | None = None
    threshold: float | None = None
    notes: tuple[str, ...] = ()
    dense_score: float | None = None
    latency_ms: float | None = None
    dense_latency_ms: float | None = None
    proof: Proof | None = None
    front: tuple["FrontRow", ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """The widths after the last step."""
        return _merged(step.widths for step in self.steps)

    @property
    def bits(self) -> dict[str, int]:
        """The bits after the last step."""
        return _merged(step.bits for step in self.steps)

    def reordered(self, order: Iterable[int], planner: str) -> "Plan":
        """The same steps in another order. Predictions per step are dropped: they were made for the old order."""
        steps = tuple(replace(self.steps[i], predicted=None, expected=None) for i in order)
        return replace(self, steps=steps, planner=planner)

    def check_fits(self, graph: Graph) -> None:
        """MismatchError, with the first differences, unless the plan was made for this structure; RecordError on impossible widths."""
        if self.structure != graph.structure:
            raise MismatchError(f"the plan was made for another model: {_differences(self, graph)}")
        for index, step in enumerate(self.steps):
            with with_context(f"steps[{index}].widths"):
                graph.check_widths(step.widths)
            for layer in step.bits:
                path = f"steps[{index}].bits[{layer!r}]"
                check(layer in graph.layer_of, path, "no such layer in this model")
                check(graph.layer_of[layer].takes_bits, path, TAKES_NO_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """How planning measures networks. `precision`, `runtime`, `fits`, `holds`: of latencies (see `latencies`; precision follows from the
    bits).

    `recalibrate`: score candidates with statistics brought back, as `compress` will; `tune_epochs`: tune them first as well, on
    `tune_samples` samples an epoch (None: all), from the rate `lr`. `weigh`: where the budget speaks of bytes, export the plan's file
    and weigh it.
    """

    precision: Literal["fp32", "int8"] | None = None
    runtime: Runtime = "onnxruntime"
    fits: int = 12
    holds: int = 8
    recalibrate: bool = False
    tune_epochs: int = 0
    tune_samples: int | None = None
    lr: float = 0.01
    weigh: bool = True

    def __post_init__(self) -> None:
        check(self.tune_epochs >= 0, "tune_epochs", f"{self.tune_epochs} is negative")
        check(self.tune_samples is None or self.tune_samples >= 1, "tune_samples", f"{self.tune_samples}: at least 1")
        check(self.lr > 0 and math.isfinite(self.lr), "lr", f"{self.lr} is not a positive rate")
        check(self.tune_samples is None or bool(self.tune_epochs), "tune_samples", "says nothing without tune_epochs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a plan was asked for, so that it can be asked for again: after some steps, or for a file that came out too large.

    `epochs` of tuning after each cut, `closing_epochs` after the last, `bits_epochs` with weights on their grids, where a layer has
    fewer than 8 bits. `bits`: for every layer (None: the planner chooses). `options`: the planner's own.
    """

    budget: Budget
    planner: str
    order: str
    epochs: int = 0
    closing_epochs: int = 0
    bits_epochs: int = 0
    bits: int | None = None
    options: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    measuring: Measuring = Measuring()

    @property
    def of_latency(self) -> bool:
        """Whether milliseconds are looked at."""
        return self.budget.latency_ms is not None or self.options.get("minimize") == "latency_ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRow:
    """One plan of a front: the limit that it keeps, what it costs, and what it is expected to score.

    `drop`: points below the dense score. `gap`: how far from the best there is, where that is proved. `measured_score` is
    there where the plan itself was measured, before `compress` tunes.
    """

    limit: float | str
    predicted: Cost
    predicted_score: float
    drop: float
    latency_ms: float | None = None
    gap: float | None = None
    measured_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What each level of one budget (`axis`: a field of Budget) costs in score, loosest first; the dense network beside it."""

    structure: str
    planner: str
    axis: str
    dense: Cost
    dense_score: float
    rows: tuple[FrontRow, ...]
    dense_latency_ms: float | None = None
    notes: tuple[str, ...] = ()


def _merged(maps: Iterable[dict[str, int]]) -> dict[str, int]:
    return {name: value for each in maps for name, value in each.items()}


def _differences(plan: Plan, graph: Graph) -> str:
    unknown = [name for name in plan.widths if name not in graph.group_of][:3]
    wider = [n for n, w in plan.widths.items() if n in graph.group_of and w > graph.group_of[n].width][:3]
    facts = [f"group {name!r} is not in this one" for name in unknown]
    facts += [f"group {n!r} gets {plan.widths[n]} channels and has {graph.group_of[n].width}" for n in wider]
    if not facts:
        facts = [f"structure {plan.structure} against {graph.structure}, equal group names but other shapes or layers"]
    return "; ".join(facts) + ". Make a plan for this model (lamella plan), or load the model that the plan names"
