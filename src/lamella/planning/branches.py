"""Groups one behind the other in a branch: the curve of each says what losing the branch costs, and it can be lost but once.

    added_up(graph, {"conv1": 0.8, "conv2": 0.7, "fc": 0.2}, widths)     # of a bottleneck without its branch: 1.0
    refunds(graph, rungs, {})                                            # what an exact planner takes back of its sums, pair by pair

Drops are added up over groups. Where a group is gone, whatever is made of it alone carries nothing more and may go for nothing: of the
two drops only the larger one counts. In a chain of more each is held against the one before it, so that the sum is never too small.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..schema import Graph, Profile
from .curves import Rung


@dataclass(frozen=True, slots=True)
class Refund:
    """What is counted twice where both groups are without channels: points of the drop, and of what an exact planner minimizes."""

    first: str
    second: str
    drop: float
    weighed: float


def added_up(graph: Graph, losses: Mapping[str, float], widths: Mapping[str, int]) -> float:
    """What all groups lose together, from what each loses alone at its width."""
    gone = [name for name in losses if widths.get(name) == 0]
    return sum(losses.values()) - sum(min(losses[a], losses[b]) for a, b in _behind(graph, gone))


def lost(profile: Profile, alone: Mapping[str, float | None], widths: Mapping[str, int]) -> float:
    """What groups with these scores alone lose together; what was not measured, nothing."""
    losses = {name: profile.baseline.value - score for name, score in alone.items() if score is not None}
    return added_up(profile.graph, losses, widths)


def refunds(graph: Graph, rungs: Mapping[str, Sequence[Rung]], factors: Mapping[str, float]) -> tuple[Refund, ...]:
    """The same of all pairs that may come to it; `factors` weigh the drops of groups, as in `Rung.weighed`."""
    gone = {name: each[-1] for name, each in rungs.items() if len(each) > 1 and each[-1].level == 0}
    weighed = {name: rung.weighed(factors.get(name, 1.0)) for name, rung in gone.items()}
    return tuple(
        Refund(a, b, min(gone[a].drop, gone[b].drop), min(weighed[a], weighed[b])) for a, b in _behind(graph, gone)
    )


def _behind(graph: Graph, names: Collection[str]) -> list[tuple[str, str]]:
    """Of these groups, each one that is made of another alone, after that other."""
    pairs = ((_made_of(graph, name), name) for name in names)
    return [(first, second) for first, second in pairs if first is not None and first in names]


def _made_of(graph: Graph, name: str) -> str | None:
    """The one group that all layers read which make this one; None where there are more, or inputs that always stay."""
    makers = [x for x in graph.multiplying if name in x.outputs.groups and name not in x.inputs.groups]
    read = {group for layer in makers for group in layer.inputs.groups}
    if len(read) != 1 or any(layer.inputs.at(dict.fromkeys(read, 0)) for layer in makers):
        return None
    return read.pop()
