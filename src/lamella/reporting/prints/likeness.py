"""Which layers are alike: clusters of fingerprints, and an order that lays like beside like.

    kin = likeness(prints)
    kin.order           # positions of the prints, clusters one after the other
    kin.letters         # ("A", "A", "B", ...) in the order of the prints

Average-linkage clustering (Sokal, Michener 1958) of the heights that the glyphs show, so that what looks alike is alike. The
tree is cut into two to seven clusters, where they stand best apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..losses import loss_at
from .facts import SHARES, TRAITS, LayerPrint
from .glyph import Scale, scale_of

Floats = npt.NDArray[np.float64]

LEVELS = tuple(k / 10 for k in range(1, 10))
MOST = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    order: tuple[int, ...]
    letters: tuple[str, ...]


def likeness(prints: Sequence[LayerPrint]) -> Likeness:
    """The clusters, the most sensitive first."""
    if not prints:
        return Likeness(order=(), letters=())
    scale = scale_of(prints)
    features = np.array([_heights(p, scale) for p in prints])
    clusters = _clusters(_distances(features))
    clusters.sort(key=lambda members: -max(prints[i].sensitivity or 0.0 for i in members))
    letters = [""] * len(prints)
    for letter, members in zip("ABCDEFG", clusters, strict=False):
        for i in members:
            letters[i] = letter
    return Likeness(order=tuple(i for members in clusters for i in members), letters=tuple(letters))


def _heights(found: LayerPrint, scale: Scale) -> list[float]:
    """What the eye sees, each kind of fact with equal weight; NaN where nothing was measured."""
    hill = [_height(loss_at(found.pruning, r) if found.pruning else None, scale) / len(LEVELS) ** 0.5 for r in LEVELS]
    lost = dict(found.bits)
    bars = [_height(lost.get(b), scale) / max(1, len(scale.bits)) ** 0.5 for b in scale.bits]
    columns = [(found.shares[n] / scale.share) ** 0.5 if n in found.shares else np.nan for n in SHARES]
    return [
        *hill,
        *bars,
        *(c / len(SHARES) ** 0.5 for c in columns),
        *(found.traits.get(n, np.nan) / 2 for n in TRAITS),
    ]


def _height(loss: float | None, scale: Scale) -> float:
    return np.nan if loss is None else scale.height(loss)


def _distances(features: Floats) -> Floats:
    """Euclidean over what both have; the mean of all layers stands for what one lacks."""
    known = ~np.isnan(features)
    means = np.where(known, features, 0).sum(0) / np.maximum(1, known.sum(0))
    filled = np.where(known, features, means)
    apart: Floats = np.sqrt(((filled[:, None] - filled[None]) ** 2).sum(2))
    return apart


def _clusters(distances: Floats) -> list[list[int]]:
    """Members of each cluster, as the tree orders its leaves."""
    members = [[i] for i in range(len(distances))]
    apart, history = distances.copy(), [list(members)]
    np.fill_diagonal(apart, np.inf)
    while len(members) > 1:
        a, b = divmod(int(apart.argmin()), len(apart))
        a, b = min(a, b), max(a, b)
        na, nb = len(members[a]), len(members[b])
        merged = (na * apart[a] + nb * apart[b]) / (na + nb)
        apart[a], apart[:, a], apart[a, a] = merged, merged, np.inf
        apart = np.delete(np.delete(apart, b, 0), b, 1)
        members = [*members[:a], members[a] + members[b], *members[a + 1 : b], *members[b + 1 :]]
        history.append(list(members))
    return _cut(history, distances)


def _cut(history: list[list[list[int]]], distances: Floats) -> list[list[int]]:
    """The stage whose clusters stand best apart: the highest mean silhouette (Rousseeuw 1987)."""
    stages = [stage for stage in history if 2 <= len(stage) <= MOST]
    return max(stages, key=lambda stage: _silhouette(stage, distances), default=history[-1])


def _silhouette(clusters: list[list[int]], distances: Floats) -> float:
    """Mean of (b - a) / max(a, b): a the mean distance to the own cluster, b to the nearest other; 0 for one that is alone."""
    total = 0.0
    for members in clusters:
        for i in members if len(members) > 1 else ():
            own = float(distances[i, members].sum()) / (len(members) - 1)
            other = min(float(distances[i, c].mean()) for c in clusters if c is not members)
            total += (other - own) / max(own, other, 1e-12)
    return total / len(distances)
