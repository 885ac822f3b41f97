"""What a planner is asked, what it answers, and whether the answer keeps the budget.

ask = Ask(profile=profile, budget=Budget(bytes="10%"), bits={"conv1": 8})
limits(ask)                    # {"bytes": 109034.0}
costs(ask, widths, bits)       # {"params": ..., "macs": ..., "bytes": ..., "memory": ...} and latency_ms with a predictor
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..costs import cost, file_bits
from ..errors import LamellaError
from ..schema import Budget, FrontRow, Graph, Layer, Profile, Proof
from ..schema.plans import COSTS, in_integers
from .order import Choice, Scorer


class Predictor(Protocol):
    """Latency as a sum over layers, which is what a program can weigh; `timing.LatencyPredictor` is one.

    One that describes files of one kind alone says so in an attribute `precision`, fp32 or int8, and gets plans of that kind. Shares
    are of the dense network in float: one that does not predict that says it in an attribute `dense_ms`.
    """

    def layer_ms(self, layer: Layer, inputs: int, outputs: int, bits: int) -> float:
        """What one layer with these channels adds."""
        ...

    def predict(self, graph: Graph, widths: Mapping[str, int], bits: Mapping[str, int]) -> float:
        """The whole network."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Curves, a budget, the bits every layer gets whatever the planner decides, and what the caller hands in."""

    profile: Profile
    budget: Budget
    bits: Mapping[str, int] = field(default_factory=dict)
    latency: Predictor | None = None
    measure: Scorer | None = None

    @property
    def graph(self) -> Graph:
        return self.profile.graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A planner's answer. `drop`: its own estimate in points, where it has a better one than the sum of raw drops; `measured`: whether
    it measured that.
    """

    choices: list[Choice]
    bits: dict[str, int] = field(default_factory=dict)
    drop: float | None = None
    measured: bool = False
    proof: Proof | None = None
    threshold: float | None = None
    notes: tuple[str, ...] = ()
    front: tuple[FrontRow, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        return {c.group: c.width for c in self.choices}


def precision_of(latency: Predictor | None) -> str | None:
    """The kind of files that a predictor describes; None where it follows the bits."""
    return getattr(latency, "precision", None)


def dense_ms(latency: Predictor, graph: Graph) -> float:
    """The dense network in float, in milliseconds: what shares of latency are of."""
    said: float | None = getattr(latency, "dense_ms", None)
    return latency.predict(graph, {}, {}) if said is None else said


def check_precision(latency: Predictor | None, bits: Mapping[str, int]) -> None:
    """LamellaError where the milliseconds would be those of the other kind of file."""
    said, rounded = precision_of(latency), bool(in_integers(bits))
    if said is None or (said == "int8") == rounded:
        return
    kind = "int8" if rounded else "fp32"
    raise LamellaError(
        f"the plan is in {'integers' if rounded else 'float'} and the latency predictor describes files in {said}: its milliseconds "
        f"would be those of another file. Give latency= one of {kind} (--measure precision={kind}), or "
        f"{'bits=32 (--bits 32)' if rounded else 'bits=8 (--bits 8), or bits curves for knapsack'}."
    )


def settled_in_file(ask: Ask, choices: Mapping[str, Sequence[Any]]) -> Mapping[str, int]:
    """The bits that layers without a choice have in the file, which is in integers as a whole where the rungs of any choice are."""
    chosen = {name: rungs[0].level for name, rungs in choices.items() if rungs}
    return file_bits(ask.graph, {**ask.bits, **chosen})


def costs(ask: Ask, widths: Mapping[str, int], bits: Mapping[str, int] | None = None) -> dict[str, float]:
    """Every cost by name, at these widths and bits (those of the ask where none are given)."""
    bits = ask.bits if bits is None else bits
    counted = cost(ask.graph, widths, file_bits(ask.graph, bits))
    found: dict[str, float] = {name: getattr(counted, name) for name in COSTS}
    if ask.latency is not None:
        found["latency_ms"] = ask.latency.predict(ask.graph, widths, bits)
    return found


def limits(ask: Ask) -> dict[str, float]:
    """The absolute limit of every cost that the budget speaks of."""
    if ask.budget.latency_ms is not None and ask.latency is None:
        raise LamellaError(
            "a budget in latency_ms needs latency=: a predictor made by lamella.timing from a measured table "
            "(its `fit`), or leave latency_ms out."
        )
    dense = costs(ask, {}, {})
    if ask.latency is not None:
        dense["latency_ms"] = dense_ms(ask.latency, ask.graph)
    return ask.budget.limits(dense)


def keeps(reached: float, limit: float) -> bool:
    """Whether a figure is within a limit: sums of floats that meet it exactly come out a little above it, or below."""
    return reached <= limit * (1 + 1e-12) + 1e-9


def over(
    ask: Ask, limit_of: Mapping[str, float], widths: Mapping[str, int], bits: Mapping[str, int]
) -> dict[str, float]:
    """By how much each broken limit is exceeded, as a share of it."""
    reached: Any = costs(ask, widths, bits)
    return {name: reached[name] / limit - 1 for name, limit in limit_of.items() if not keeps(reached[name], limit)}
