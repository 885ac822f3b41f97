"""Facts per layer: what each one was, is, weighs and gave. Pictures, tables and sentences all read these.

    facts = layer_facts(graph, plan)       # or a Result, or None for the dense network
    facts[3].dense, facts[3].kept, facts[3].bits, facts[3].bytes_dense, facts[3].order

Everything is arithmetic on records (`costs`); norms and the like have no facts of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..schema import Cost, Graph, Layer, Plan, Result
from .words import percent, size, whole

FULL_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """One layer before and after. `order` holds the numbers of the steps that narrow its channels."""

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

    @property
    def saved(self) -> int:
        """Bytes given up."""
        return self.bytes_dense - self.bytes_kept

    def __str__(self) -> str:
        """The facts in one line, the name aside."""
        width = f"{whole(self.dense)} channels" if self.kept == self.dense else f"{self.kept} of {self.dense} channels"
        weight = f"{size(self.bytes_dense)} ({percent(self.share_dense, 1)} of the network)"
        if self.bytes_kept != self.bytes_dense:
            shares = f"{percent(self.share_dense, 1)} → {percent(self.share_kept, 1)}"
            weight = f"{size(self.bytes_dense)} → {size(self.bytes_kept)} ({shares} of the network)"
        steps = f", step {', '.join(map(str, self.order))}" if self.order else ""
        frozen = f", cannot be narrowed: {self.frozen}" if self.frozen else ""
        return f"{width}, {self.bits} bits, {weight}{steps}{frozen}"


def layer_facts(graph: Graph, value: Plan | Result | None) -> tuple[LayerFacts, ...]:
    """The facts of every layer with a weight matrix, in call order. MismatchError if `value` is of another model."""
    plan = plan_of(value)
    if plan:
        plan.check_fits(graph)
    after = graph.completed(value.widths) if value else graph.widths
    bits = dict(value.bits) if value else {}
    totals = whole_cost(graph, graph.widths, {}).bytes, whole_cost(graph, after, bits).bytes
    steps = steps_of_groups(graph, plan)
    return tuple(_facts(graph, x, after, bits, totals, steps) for x in drawn_layers(graph))


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


def whole_cost(graph: Graph, widths: Mapping[str, int], bits: Mapping[str, int]) -> Cost:
    from ..costs import cost

    return cost(graph, widths, bits)


def _facts(
    graph: Graph,
    layer: Layer,
    after: Mapping[str, int],
    bits: Mapping[str, int],
    totals: tuple[int, int],
    steps: Mapping[str, tuple[int, ...]],
) -> LayerFacts:
    from ..costs import layer_cost

    before, now = layer_cost(graph, layer.name, graph.widths, {}), layer_cost(graph, layer.name, after, bits)
    groups = tuple(g for g, _ in layer.outputs.terms)
    return LayerFacts(
        name=layer.name,
        kind=layer.kind,
        kernel=layer.kernel,
        dense=layer.outputs.at(graph.widths),
        kept=layer.outputs.at(after),
        bits=bits.get(layer.name, FULL_BITS),
        bytes_dense=before.bytes,
        bytes_kept=now.bytes,
        macs_dense=before.macs,
        macs_kept=now.macs,
        share_dense=before.bytes / max(1, totals[0]),
        share_kept=now.bytes / max(1, totals[1]),
        groups=groups,
        order=tuple(sorted({n for g in groups for n in steps.get(g, ())})),
        frozen=_why_frozen(graph, groups),
    )


def _why_frozen(graph: Graph, groups: tuple[str, ...]) -> str | None:
    reasons = [graph.group_of[g].frozen for g in groups]
    if not reasons:
        return "its outputs are the network's"
    return "; ".join(str(r) for r in dict.fromkeys(reasons)) if all(reasons) else None
