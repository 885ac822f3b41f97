"""What the run over a graph finds out, and the planes it is found with.

    value = Value(shape, planes)              # a tensor: per plane, the channel each element belongs to
    flow.tie(a, b, where)                     # these ids are the same channel
    flow.fix(ids, reason)                     # these channels cannot leave
    flow.split(ids, parts, where)             # the same number must leave every part
    flow.cut(array, where)                    # one axis became several: the result must stay a box

A plane is an integer tensor of the value's own shape, stretched (stride 0) over the axes that hold no channels.
Id 0 is FIXED: an element that cannot leave.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

FIXED = 0


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor: its shape, its planes, and whether all its elements are one constant."""

    shape: tuple[int, ...]
    planes: tuple[Tensor, ...] = ()
    uniform: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """How a layer uses its weight: the weight's own ids of the axis that makes channels and of the one that consumes them.

    Grouped convolutions keep their columns block by block: `block_ids` (blocks * columns,) are the channels behind them.
    """

    rows: np.ndarray
    columns: np.ndarray
    blocks: int = 1
    block_ids: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """How often a call multiplies over so many samples, dense. Of every array of ids the share that stays is the share that is left."""

    multiplied: int = 0
    samples: int = 1
    ids: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One operator that multiplies by a parameter or normalizes: node, kind, its weight, ids in and out, and its geometry."""

    node: Node
    kind: str
    use: Use
    bias: str | None
    out_ids: np.ndarray
    in_ids: np.ndarray
    positions: int
    work: Work = Work()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    weight: str | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Ids (N,) and the part of each: the same number must leave every part."""

    ids: np.ndarray
    parts: np.ndarray
    where: str


@dataclass(frozen=True, slots=True)
class Literal:
    """An integer of a module that equals the extent of `axis` of `ids`, at an operator that takes extents as numbers."""

    module: str
    name: str
    index: int | None
    ids: np.ndarray
    axis: int


@dataclass(slots=True)
class Flow:
    """Everything the run found out. `axis_start[name][axis]` is the first id of a parameter's axis; ids run on from there."""

    count: int = 1
    axis_start: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ties: list[np.ndarray] = field(default_factory=list)
    fixed: list[tuple[np.ndarray, str]] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    cuts: list[tuple[np.ndarray, str, str]] = field(default_factory=list)
    blocks: dict[int, np.ndarray] = field(default_factory=dict)  # first row of a grouped weight -> what its blocks meet
    pairs: list[np.ndarray] = field(default_factory=list)  # axes of which two must stay
    inner: dict[int, int] = field(default_factory=dict)  # id -> its place in the piece of the last cut it went through
    changes: list[tuple[np.ndarray, str]] = field(default_factory=list)
    suspects: list[tuple[np.ndarray, str]] = field(default_factory=list)
    literals: list[Literal] = field(default_factory=list)
    born: list[np.ndarray] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    trained: list[Call] = field(default_factory=list)  # calls of training only
    inputs: set[Node] = field(default_factory=set)  # the placeholders that are no parameter, buffer or constant
    values: dict[Node, Value] = field(default_factory=dict)
    unknown: list[Node] = field(default_factory=list)

    def fresh(self, n: int) -> np.ndarray:
        """n new ids."""
        start, self.count = self.count, self.count + n
        return np.arange(start, start + n, dtype=np.int32)

    def beside(self) -> "Flow":
        """An empty flow of the same ids, for the same network in training."""
        return Flow(count=self.count, axis_start=self.axis_start, blocks=self.blocks, inner=dict(self.inner))

    def take(self, training: "Flow") -> None:
        """What the network ties, fixes, cuts and reads in training holds too. Channels that it makes only there belong to no group."""
        self.count = training.count
        self.fixed += [(ids, f"in training: {reason}") for ids, reason in training.fixed]
        self.trained += training.calls
        for name in ("ties", "splits", "cuts", "changes", "suspects", "literals", "pairs"):
            getattr(self, name).extend(getattr(training, name))

    def tie(self, a: np.ndarray, b: np.ndarray, where: str) -> None:
        """The ids of a and b, element by element, are the same channel; an id that meets FIXED is fixed."""
        a, b = np.broadcast_arrays(a, b)
        a, b = a.ravel(), b.ravel()
        differ = a != b
        if not differ.any():
            return
        packed = np.unique(a[differ].astype(np.int64) << 32 | b[differ].astype(np.int64))
        pairs = np.stack([packed >> 32, packed & 0xFFFFFFFF], 1).astype(np.int32)
        meets_fixed = (pairs == FIXED).any(1)
        if meets_fixed.any():
            self.fix(pairs[meets_fixed].max(1), f"it meets channels that cannot leave ({where})")
        self.ties.append(pairs[~meets_fixed])

    def fix(self, ids: np.ndarray, reason: str) -> None:
        """These channels cannot leave."""
        ids = np.unique(ids)
        ids = ids[ids != FIXED]
        if len(ids):
            self.fixed.append((ids, reason))

    def split(self, ids: np.ndarray, parts: np.ndarray, where: str) -> None:
        """The same number of channels must leave every part. ids and parts (N,)."""
        live = ids != FIXED
        if live.any():
            self.splits.append(Split(ids[live], parts[live], where))

    def cut(self, array: np.ndarray, where: str, node: str) -> None:
        """One axis of ids became several: what is left must again be a box, of which the last axis shrinks."""
        self.cuts.append((array, where, node))
        last = max(d for d, n in enumerate(array.shape) if n > 1)
        place = np.broadcast_to(
            np.arange(array.shape[last]).reshape([-1 if d == last else 1 for d in range(array.ndim)]), array.shape
        )
        self.inner.update(zip(array.ravel().tolist(), place.ravel().tolist(), strict=True))

    def merge(self, array: np.ndarray, where: str) -> None:
        """Several axes of ids become one: where the axis that shrinks is not the innermost, what shares a place leaves together."""
        places = np.array([self.inner.get(i, -1) for i in array.ravel().tolist()]).reshape(array.shape)
        varied = [d for d, n in enumerate(array.shape) if n > 1]
        shrinking = [d for d in varied if bool((np.diff(places, axis=d) != 0).any())]
        if shrinking and shrinking[0] != varied[-1]:
            self.tie(
                array, array[tuple(slice(0, 1) if d > shrinking[0] else slice(None) for d in range(array.ndim))], where
            )

    def change(self, ids: np.ndarray, text: str) -> None:
        """Removing one of these channels changes what is computed from the others, in the way the text says."""
        ids = np.unique(ids)
        self.changes.append((ids[ids != FIXED], text))

    def suspect(self, ids: np.ndarray, text: str) -> None:
        """A size at which these channels are cut may be a constant; should the proof fail, the reason says so."""
        self.suspects.append((ids, text))


# ---- planes


def varying(plane: Tensor) -> tuple[int, ...]:
    """The axes along which the plane holds different ids."""
    return tuple(d for d in range(plane.dim()) if plane.shape[d] > 1 and plane.stride(d) != 0)


def tidy(plane: Tensor) -> Tensor | None:
    """The plane with every axis along which it is constant stretched; None if it holds no channel at all."""
    shape = plane.shape
    for d in varying(plane):
        first = plane.narrow(d, 0, 1)
        if bool((plane == first).all()):
            plane = first.expand(shape)
    if plane.numel() == 0 or (not varying(plane) and int(plane.reshape(-1)[:1]) == FIXED):
        return None
    return plane


def compact(plane: Tensor) -> np.ndarray:
    """The plane as an array with length 1 along stretched axes."""
    for d in range(plane.dim()):
        if plane.stride(d) == 0 and plane.shape[d] > 1:
            plane = plane.narrow(d, 0, 1)
    return np.asarray(plane.numpy())


def flat(plane: Tensor) -> np.ndarray:
    """The ids of the plane in a row, each as often as it lies along the axes that hold channels."""
    return compact(plane).ravel()


def value_of(shape: Iterable[int], planes: Iterable[Tensor | None]) -> Value:
    """A value with these planes, tidied; planes that hold no channel are dropped."""
    kept = tuple(p for p in (tidy(p) for p in planes if p is not None) if p is not None)
    return Value(tuple(shape), kept)


def along(ids: np.ndarray, axis: int, shape: Sequence[int]) -> Tensor:
    """A plane of this shape that holds ids (C,) along one axis."""
    view = [1] * len(shape)
    view[axis] = len(ids)
    return torch.from_numpy(np.ascontiguousarray(ids)).view(view).expand(tuple(shape))


def axis_ids(value: Value, axis: int, flow: Flow, where: str) -> np.ndarray:
    """The ids along one axis (C,), after tying whatever differs along the others; FIXED where no plane speaks of it."""
    axis %= len(value.shape)
    for plane in value.planes:
        if axis in varying(plane) and plane.numel():
            array = np.moveaxis(compact(plane), axis, 0).reshape(value.shape[axis], -1)
            flow.tie(array, array[:, :1], where)
            return array[:, 0].copy()
    return np.zeros(value.shape[axis], dtype=np.int32)


def keep_whole(value: Value, axes: Iterable[int], flow: Flow, reason: str) -> None:
    """Nothing may leave along these axes by itself: ids that vary along them alone are fixed, ids that also vary elsewhere are tied."""
    axes = {a % len(value.shape) for a in axes} if value.shape else set()
    for plane in value.planes:
        inside = [d for d in varying(plane) if d in axes]
        if not inside:
            continue
        array = compact(plane)
        if set(varying(plane)) <= axes:
            flow.fix(array, reason)
        else:
            first = array[tuple(slice(0, 1) if d in inside else slice(None) for d in range(array.ndim))]
            flow.tie(array, first, reason)


def without(value: Value, axes: Iterable[int], shape: Sequence[int]) -> Value:
    """The planes constant along `axes`, stretched to a new shape of the same rank."""
    drop = {a % len(value.shape) for a in axes}
    planes = []
    for plane in value.planes:
        for d in drop:
            plane = plane.narrow(d, 0, 1)
        planes.append(plane.expand(tuple(shape)))
    return value_of(shape, planes)
