"""What a fingerprint shows of a layer: its curves of losses, its shares of what the network spends, its traits.

    prints = layer_prints(graph, profile)           # a profile or None; call order
    prints[3].pruning, prints[3].bits, prints[3].shares["params"], prints[3].traits["redundancy"]

Shares are of the whole dense network. `redundancy` is 1 - effective rank of the weight as a share of full rank; `field` the
share of the receptive field's width that lies on the picture (Richter 2022: what exceeds it sees nothing new). What was not
measured is absent, never zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...costs import layer_costs
from ...schema import Cost, Graph, Layer, Profile
from ..facts import channels_of, drawn_layers
from ..losses import losses, mean_losses
from ..marks import elide
from ..words import lost_points, lost_rate, percent, ratio

Curve = tuple[tuple[float, float], ...]

SHARES = {"params": "parameters", "macs": "MACs", "memory": "activation memory", "latency": "latency"}
TRAITS = {"redundancy": "redundancy of its weight", "field": "receptive field used"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrint:
    """One layer's measured facts. Curves are (level, fraction of the score lost); `group` is whose curve `pruning` is.

    `masked`: the layer's own filters set to zero, where that was measured too. `sensitivity`: the mean height of `pruning`.
    """

    name: str
    group: str | None
    pruning: Curve
    masked: Curve
    bits: Curve
    shares: dict[str, float]
    traits: dict[str, float]
    sensitivity: float | None
    significance: float | None

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """Every number of the glyph in words: (what, how much)."""
        found = []
        if self.pruning:
            group = "" if self.group == self.name else f" (group {elide(self.group or '', 40)})"
            found.append((f"pruned{group}", ", ".join(f"{ratio(r)}: {lost_points(v)}" for r, v in self.pruning)))
        if self.masked:
            found.append(("filters masked", ", ".join(f"{ratio(r)}: {lost_points(v)}" for r, v in self.masked)))
        if self.bits:
            found.append(("bits", ", ".join(f"{b:g}: {lost_points(v)}" for b, v in self.bits)))
        if self.significance is not None:
            found.append(("significance", f"{lost_rate(self.significance)} per percent of bytes given up"))
        found += [(SHARES[name], percent(share, 1)) for name, share in self.shares.items()]
        return (*found, *((TRAITS[name], percent(value, 0)) for name, value in self.traits.items()))

    def __str__(self) -> str:
        return "; ".join(f"{what} {much}" for what, much in self.lines)


def layer_prints(graph: Graph, profile: Profile | None = None) -> tuple[LayerPrint, ...]:
    """The fingerprint of every layer with a weight matrix, in call order."""
    costs, drawn = layer_costs(graph), drawn_layers(graph)
    means = mean_losses(profile) if profile else {}
    worth = _significance(profile) if profile else {}
    totals = {name: sum(getattr(costs[x.name], name) for x in drawn) for name in ("params", "macs", "memory")}
    facts = profile.facts if profile else {}
    totals["latency"] = sum(facts.get(x.name, {}).get("latency_ms", 0.0) for x in drawn)
    return tuple(
        _print(x, graph.widths, profile, means, worth, _shares(costs[x.name], facts.get(x.name, {}), totals))
        for x in drawn
    )


def _print(
    layer: Layer,
    widths: Mapping[str, int],
    profile: Profile | None,
    means: Mapping[str, float],
    worth: Mapping[str, float],
    shares: dict[str, float],
) -> LayerPrint:
    # A layer that carries channels of several groups is drawn by the one that most of them belong to.
    carried = {g: n for g, n in channels_of(layer, widths).items() if g in means}
    group = max(carried, key=lambda g: carried[g], default=None)
    return LayerPrint(
        name=layer.name,
        group=group,
        pruning=losses(profile, group) if profile and group else (),
        masked=losses(profile, layer.name, "masked_ratio") if profile else (),
        bits=losses(profile, layer.name, "bits") if profile else (),
        shares=shares,
        traits=_traits(profile.facts.get(layer.name, {})) if profile else {},
        sensitivity=means[group] if group else None,
        significance=worth.get(group) if group else None,
    )


def _shares(cost: Cost, known: Mapping[str, float], totals: Mapping[str, float]) -> dict[str, float]:
    amounts = {"params": cost.params, "macs": cost.macs, "memory": cost.memory, "latency": known.get("latency_ms", 0.0)}
    return {name: amounts[name] / totals[name] for name in SHARES if totals[name] > 0}


def _traits(known: Mapping[str, float]) -> dict[str, float]:
    found = {}
    if "effective_rank" in known:
        found["redundancy"] = min(1.0, max(0.0, 1.0 - known["effective_rank"]))
    if known.get("receptive_field") and known.get("picture_side"):
        found["field"] = min(1.0, known["picture_side"] / known["receptive_field"])
    return found


def _significance(profile: Profile) -> dict[str, float]:
    """By group, as planning defines it; a group that saves nothing has none that can be drawn."""
    from ...planning import significance  # 0.06 s: pictures without curves do not wait for planners

    return {s.target: s.value for s in significance(profile) if s.knob == "pruning_ratio" and s.value != float("inf")}
