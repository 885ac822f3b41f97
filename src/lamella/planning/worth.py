"""What each group and layer is worth, from measured curves; and whether early layers are worth more.

    for each in significance(profile): each.target, each.value          # highest first
    depth_test(profile)                                                 # DepthTest(rho=-0.31, p=0.27, n=14)

**Significance** of a target = points of the score lost / percent of the network's cost given up, both added up over the levels
of its measured curve:

    S = sum_i drop_i / sum_i saved_i,   saved_i = 100 (cost(dense) - cost(level i)) / cost(dense)

with drops made monotone (`curves.monotone`) and the cost in bytes or MACs. A layer of high S should be spared; one of low S
gives much for little.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..costs import cost
from ..errors import LamellaError
from ..schema import Group, Profile
from .curves import Rung, bit_rungs, check_curves, group_rungs

Floats = npt.NDArray[np.float64]
By = Literal["bytes", "macs", "params", "memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Significance:
    """Points lost per percent of the cost given up. `value` is infinite where points are lost and nothing is saved."""

    target: str
    knob: Literal["pruning_ratio", "bits"]
    value: float
    rank: int  # 1: the most significant of its knob


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthTest:
    """Spearman's rank correlation of depth and sensitivity over n groups. Below 0: early groups are the sensitive ones."""

    rho: float
    p: float
    n: int

    @property
    def text(self) -> str:
        """One line for a person."""
        if self.p >= 0.05:
            verdict = "depth does not tell sensitivity here"
        else:
            verdict = "early groups are more sensitive" if self.rho < 0 else "late groups are more sensitive"
        return f"depth against sensitivity: rank correlation {self.rho:+.2f} (p = {self.p:.2g}, {self.n} groups): {verdict}"


def significance(profile: Profile, by: By = "bytes") -> tuple[Significance, ...]:
    """Every measured group's (and for bits every layer's) significance, highest first within its knob."""
    if by not in ("bytes", "macs", "params", "memory"):
        raise LamellaError(f"by={by!r}: bytes, macs, params or memory was expected.")
    graph, dense = profile.graph, getattr(cost(profile.graph), by)

    def share(widths: dict[str, int], bits: dict[str, int]) -> float:
        return 1.0 - float(getattr(cost(graph, widths, bits), by)) / float(dense)

    groups, layers = dict[str, float | None](), dict[str, float | None]()
    for group in graph.free:
        rungs = group_rungs(profile, group)[1:]
        groups[group.name] = _ratio(rungs, [share({group.name: r.level}, {}) for r in rungs])
    for layer in graph.layers:
        rungs = bit_rungs(profile, layer.name, {})[1:]
        layers[layer.name] = _ratio(rungs, [share({}, {layer.name: r.level}) for r in rungs])
    return (*_ranked(groups, "pruning_ratio"), *_ranked(layers, "bits"))


def _ratio(rungs: tuple[Rung, ...], saved: list[float]) -> float | None:
    if not rungs:
        return None
    lost, given = sum(r.drop for r in rungs), 100 * sum(saved)
    if given <= 0:
        return math.inf if lost > 0 else 0.0
    return lost / given


def _ranked(values: dict[str, float | None], knob: Literal["pruning_ratio", "bits"]) -> list[Significance]:
    known = sorted(((v, n) for n, v in values.items() if v is not None), key=lambda each: -each[0])
    return [Significance(target=n, knob=knob, value=v, rank=i) for i, (v, n) in enumerate(known, 1)]


def sensitivity(profile: Profile) -> dict[str, float]:
    """Per measured group, in network order: the mean height of its smoothed curve of drops, in points.

    From nothing pruned to where the shortest curve ends: a race asks every group at levels of its own.
    """
    found = [(group, group_rungs(profile, group)) for group in profile.graph.free]
    reach = min((profile.curve(group.name)[-1].level for group, rungs in found if len(rungs) > 1), default=0.0)
    return {group.name: _height(group, rungs, reach) for group, rungs in found if len(rungs) > 1}


def _height(group: Group, rungs: Sequence[Rung], reach: float) -> float:
    """On straight lines between the widths; beyond the last, where a group is at its floor, that one's drop holds."""
    pruned = [1 - rung.level / group.width for rung in rungs]
    return float(np.interp(np.linspace(0, reach, 101), pruned, [rung.drop for rung in rungs]).mean())


def depth_test(profile: Profile) -> DepthTest:
    """Is the premise "early layers matter most" true of these curves? Needs three groups of unequal sensitivity."""
    check_curves(profile)
    values = list(sensitivity(profile).values())
    if len(values) < 3 or len(set(values)) == 1:
        return DepthTest(rho=0.0, p=1.0, n=len(values))
    rho = float(np.corrcoef(np.arange(len(values)), _ranks(values))[0, 1])
    return DepthTest(rho=rho, p=_two_sided(rho, len(values)), n=len(values))


def _ranks(values: Sequence[float]) -> Floats:
    """Ranks from 1, ties by their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = (last - (counts - 1) / 2)[place]
    return means


def _two_sided(rho: float, n: int) -> float:
    """Student's t for a rank correlation, as scipy.stats.spearmanr has it, by the finite sums of Abramowitz and Stegun (26.7.3, 26.7.4)."""
    if abs(rho) >= 1:
        return 0.0
    freedom = n - 2
    angle = math.atan(abs(rho) / math.sqrt(1 - rho * rho))  # t = tan(angle) x sqrt(freedom)
    sine, cosine, odd = math.sin(angle), math.cos(angle), freedom % 2
    term, total = (cosine, cosine * (freedom > 1)) if odd else (1.0, 1.0)
    for k in range(2 if odd else 1, freedom - 1, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - inside)
