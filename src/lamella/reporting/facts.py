"""Facts per layer: what each one was, is, weighs, gave, and is worth. Pictures, tables and sentences all read these.

    facts = layer_facts(graph, plan, profile)       # or a Result, or None for the dense network; a profile or None
    facts[3].dense, facts[3].kept, facts[3].bits, facts[3].bytes_dense, facts[3].order, facts[3].half_losses

Costs are arithmetic on records (`costs`), worth is read off measured curves; norms and the like have no facts of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..costs import cost, file_bits, layer_costs
from ..schema import SCHEMES, Cost, Graph, Layer, LinearForm, Plan, Profile, Result
from ..schema.plans import FLOAT
from .losses import half_losses
from .words import lost_points, percent, short, size, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """One layer before and after.

    `kept` is 0 of a layer that has nothing left to make or to read. `order` holds the numbers of the steps that narrow its channels;
    `half_losses` per group the layer's channels in it and the fraction of the score that is lost when half of that group
    leaves; `latency_ms` that of the dense layer, where known.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    dense: int
    kept: int
    bits: int
    bytes_dense: int
    bytes_kept: int
    macs_dense: int
    macs_kept: int
    share_dense: float
    share_kept: float
    groups: tuple[str, ...]
    order: tuple[int, ...]
    frozen: str | None
    half_losses: tuple[tuple[str, int, float], ...] = ()
    latency_ms: float | None = None

    @property
    def saved(self) -> int:
        """Bytes given up."""
        return self.bytes_dense - self.bytes_kept

    def __str__(self) -> str:
        """The facts in one line, the name aside."""
        width = f"{whole(self.dense)} channels" if self.kept == self.dense else f"{self.kept} of {self.dense} channels"
        steps = f"step {', '.join(map(str, self.order))}" if self.order else ""
        worst = max((loss for _, _, loss in self.half_losses), default=None)
        worth = "" if worst is None else f"without half its channels {lost_points(worst)}"
        frozen = f"cannot be narrowed: {self.frozen}" if self.frozen else ""
        held = f"{self.bits} bits" if self.kept else ""
        parts = (width, held, self._weight, self._work, worth, steps, frozen)
        return ", ".join(part for part in parts if part)

    @property
    def _weight(self) -> str:
        if self.bytes_kept == self.bytes_dense:
            return f"{size(self.bytes_dense)} ({percent(self.share_dense, 1)} of the network)"
        shares = f"{percent(self.share_dense, 1)} → {percent(self.share_kept, 1)}"
        return f"{size(self.bytes_dense)} → {size(self.bytes_kept)} ({shares} of the network)"

    @property
    def _work(self) -> str:
        if self.macs_kept == self.macs_dense:
            return f"{short(self.macs_dense)} MACs"
        return f"{short(self.macs_dense)} → {short(self.macs_kept)} MACs"


def layer_facts(
    graph: Graph, value: Plan | Result | None = None, profile: Profile | None = None
) -> tuple[LayerFacts, ...]:
    """The facts of every layer with a weight matrix, in call order. MismatchError if `value` is of another model."""
    plan = plan_of(value)
    if plan:
        plan.check_fits(graph)
    widths, bits = (value.widths, value.bits) if value else ({}, {})
    return facts_at(graph, widths, bits, profile, plan, linear_form(value))


def facts_at(
    graph: Graph,
    widths: Mapping[str, int],
    bits: Mapping[str, int],
    profile: Profile | None = None,
    plan: Plan | None = None,
    linear: LinearForm = "",
) -> tuple[LayerFacts, ...]:
    """The facts at these widths (groups not named are dense) and bits, whatever they come from; `linear` as in `costs`."""
    after = graph.completed(widths)
    before, now = layer_costs(graph, graph.widths, {}), layer_costs(graph, after, _held(graph, bits, linear), linear)
    totals = whole_cost(graph, graph.widths, {}).bytes, whole_cost(graph, after, bits, linear).bytes
    steps, losses = steps_of_groups(graph, plan), half_losses(profile) if profile else {}
    return tuple(
        LayerFacts(
            name=x.name,
            kind=x.kind,
            kernel=x.kernel,
            dense=x.outputs.at(graph.widths),
            kept=0 if x.is_emptied(after) else x.outputs.at(after),
            bits=bits.get(x.name, FLOAT),
            bytes_dense=before[x.name].bytes,
            bytes_kept=now[x.name].bytes,
            macs_dense=before[x.name].macs,
            macs_kept=now[x.name].macs,
            share_dense=before[x.name].bytes / max(1, totals[0]),
            share_kept=now[x.name].bytes / max(1, totals[1]),
            groups=x.outputs.groups,
            order=tuple(sorted({n for g in x.outputs.groups for n in steps.get(g, ())})),
            frozen=_why_frozen(graph, x.outputs.groups),
            half_losses=tuple((g, n, losses[g]) for g, n in channels_of(x, graph.widths).items() if g in losses),
            latency_ms=(profile.facts.get(x.name, {}) if profile else {}).get("latency_ms"),
        )
        for x in drawn_layers(graph)
    )


def plan_of(value: Plan | Result | None) -> Plan | None:
    """The plan itself, or the plan a result came from."""
    return value.plan if isinstance(value, Result) else value


def drawn_layers(graph: Graph) -> tuple[Layer, ...]:
    """The layers whose weight has at least two axes; all layers where there is none."""
    parameters = graph.parameter_of
    drawn = tuple(x for x in graph.layers if x.weight in parameters and len(parameters[str(x.weight)].axes) > 1)
    return drawn or graph.layers


def steps_of_groups(graph: Graph, plan: Plan | None) -> dict[str, tuple[int, ...]]:
    """For each group that leaves channels, the numbers of the steps (from 1) that narrow it."""
    found: dict[str, tuple[int, ...]] = {}
    now = graph.widths
    for number, step in enumerate(plan.steps if plan else (), 1):
        narrower = [g for g, width in step.widths.items() if width < now[g]]
        found |= {g: (*found.get(g, ()), number) for g in narrower}
        now |= step.widths
    return found


def channels_of(layer: Layer, widths: Mapping[str, int]) -> dict[str, int]:
    """How many of a layer's output channels follow each group."""
    found = dict.fromkeys(layer.outputs.groups, 0)
    for group, times in layer.outputs.terms:
        found[group] += times * widths[group]
    for share in layer.outputs.shares:
        found[share.group] += share.at(widths[share.group])
    return found


def linear_form(value: Plan | Result | None) -> LinearForm:
    """How the file holds the linear layers that have bits: a matter of the scheme that `quantize` followed."""
    return SCHEMES[value.scheme].linear if isinstance(value, Result) else ""


def whole_cost(graph: Graph, widths: Mapping[str, int], bits: Mapping[str, int], linear: LinearForm = "") -> Cost:
    return cost(graph, widths, _held(graph, bits, linear), linear)


def _held(graph: Graph, bits: Mapping[str, int], linear: LinearForm) -> Mapping[str, int]:
    """The bits that the file has; where linear layers have a form of their own, the rest may be in float."""
    return bits if linear else file_bits(graph, bits)


def _why_frozen(graph: Graph, groups: tuple[str, ...]) -> str | None:
    reasons = [graph.group_of[g].frozen for g in groups]
    if not reasons:
        return "its outputs are the network's"
    return "; ".join(str(r) for r in dict.fromkeys(reasons)) if all(reasons) else None
