"""Elastic networks: levels that lie inside one another, and the Family that says what each one costs and is worth."""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import with_context
from ..records import check
from .curves import Score
from .graphs import Graph
from .plans import WEIGHT_BITS

INTEGERS = ".int8"  # what the names of files in integers end in
MEASURES = ("validation", "test", "bytes", "latency_ms", "latency_ratio")  # of a level's file, in either precision
EPOCHS, ENDED = "epochs.jsonl", "end"  # a training's journal of epochs, and the key of the line that closes it
LONGEST = 100  # characters of a level's name: with what is added, a file name holds no more than 255 bytes
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A named setting of an elastic network: widths (groups not named are dense), and the bits of some layers.

    `ranges`: (low, high) of the inputs of layers that have bits. The rest is what the level costs and what was measured of it:
    `bytes` are those of an ONNX file of its own, in float; `latency_ms` that file's in ONNX Runtime, `latency_ratio` as a
    ratio to the largest level's; `int8_...` the same of the file in integers, and what that file scores; `gathered` the bytes
    of weights that had to be copied for it, because they do not lie together.
    """

    name: str
    widths: dict[str, int]
    bits: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    params: int = 0
    macs: int = 0
    memory: int = 0
    gathered: int = 0
    validation: Score | None = None
    test: Score | None = None
    bytes: int | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    int8_validation: Score | None = None
    int8_test: Score | None = None
    int8_bytes: int | None = None
    int8_latency_ms: float | None = None
    int8_latency_ratio: float | None = None

    def __post_init__(self) -> None:
        named = bool(NAME.fullmatch(self.name))
        check(named, "name", f"{self.name!r}: a level's name is made of letters, digits and ._+-, and names its files")
        length = len(self.name)
        check(
            length <= LONGEST, "name", f"{self.name[:20]!r}...: {length} characters, where {LONGEST} at most name files"
        )
        integers = self.name.endswith(INTEGERS)
        check(
            not integers,
            "name",
            f"{self.name!r}: names its files, and {INTEGERS} marks those in integers: choose another",
        )
        for layer, bits in self.bits.items():
            check(bits in WEIGHT_BITS, f"bits[{layer!r}]", f"{bits!r} bits: 2 to 8, or 32 for none, were expected")
        for name in ("params", "macs", "memory", "gathered"):
            check(getattr(self, name) >= 0, name, f"{getattr(self, name)} is negative")
        measures = ("bytes", "latency_ms", "latency_ratio")
        for name in (*measures, *(f"int8_{name}" for name in measures)):
            value = getattr(self, name)
            check(value is None or value > 0, name, f"{value} is not a positive amount")

    def in_integers(self) -> "Level":
        """The same level, what was measured of its files being that of the one in integers."""
        return replace(self, **{name: getattr(self, f"int8_{name}") for name in MEASURES})

    def unmeasured(self) -> "Level":
        """The same level as it is built: without what training moves, or what was measured of it."""
        cleared: dict[str, Any] = dict.fromkeys([*MEASURES, *(f"int8_{name}" for name in MEASURES)])
        return replace(self, **cleared, ranges={}, gathered=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """How an elastic network stood after an epoch of its training.

    `done`: epochs so far, over all stages; `loss`: the mean over the epoch's batches; `scores`: on validation, of the levels that the
    stage trains (none where the epochs are told of at the end alone, as by several devices).
    """

    stage: str
    done: int
    loss: float
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Family:
    """The levels of one elastic network, the smallest first, the dense network last; each lies inside the next.

    `order[group]`: the dense model's channel in every slot of the elastic one, sorted so that a level keeps the first slots (of
    every part, where the group is balanced). `ranks`: for groups that cannot be sorted, the rank of each slot among its part.
    `own`: modules and buffers of which every level has its own copy, beside batch norms; `affine`: layers whose outputs every level
    scales and shifts by numbers of its own, in a network without batch norm. `file_bytes`: the elastic network on disk
    (safetensors); `largest_bytes`: the largest level alone, in the same form. `onnx_bytes`, `int8_bytes`: all levels as ONNX
    files over one file of weights, `weights` and `int8_weights` the digests of these files. `epochs`: passes over the training data.
    `ancestors`: digests of the elastic networks that it was trained further from, the first one first.
    """

    structure: str
    method: str = field(metadata={"was": "recipe"})
    levels: tuple[Level, ...]
    order: dict[str, tuple[int, ...]]
    ranks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    affine: tuple[str, ...] = ()
    epochs: int = 0
    seed: int = 0
    file_bytes: int = 0
    largest_bytes: int = 0
    onnx_bytes: int | None = None
    int8_bytes: int | None = None
    weights: str | None = None
    int8_weights: str | None = None
    ancestors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_levels(self.levels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(level.name for level in self.levels)

    def in_integers(self) -> "Family":
        """The same family, what was measured of its files being that of those in integers."""
        levels = tuple(level.in_integers() for level in self.levels)
        coarse = replace(self, levels=levels, onnx_bytes=self.int8_bytes, weights=self.int8_weights)
        return replace(coarse, int8_bytes=None, int8_weights=None)

    def unmeasured(self) -> "Family":
        """The same family as it is built: without what was measured of its levels and files."""
        levels = tuple(level.unmeasured() for level in self.levels)
        sizes: dict[str, Any] = dict.fromkeys(("onnx_bytes", "int8_bytes", "weights", "int8_weights"))
        return replace(self, levels=levels, file_bytes=0, largest_bytes=0, **sizes)

    def level(self, name: str) -> Level:
        """The level of this name. RecordError where there is none."""
        check(name in self.names, "levels", f"no level {name!r} among {', '.join(self.names)}")
        return self.levels[self.names.index(name)]


def check_levels(levels: tuple[Level, ...], graph: Graph | None = None) -> None:
    """RecordError unless the levels have names of their own, differ, and each lies inside the next one.

    With a graph also that its groups can have these widths, at least at their floor, and its layers bits.
    """
    names = [level.name for level in levels]
    check(bool(levels), "levels", "an elastic network has at least one level")
    for index, name in enumerate(names):
        check(name not in names[:index], f"levels[{index}].name", f"{name!r} is the name of two levels")
        alike = [other for other in names[:index] if other.lower() == name.lower()]
        problem = f"{name!r} differs from {', '.join(alike)} in case alone: some disks would hold one file for both"
        check(not alike, f"levels[{index}].name", problem)
    for index, level in enumerate(levels):
        with with_context(f"levels[{index}] ({level.name!r})"):
            if graph:
                _check_widths(level, graph)
                _check_bits(level, graph)
            if index:
                _check_pair(levels[index - 1], level, graph)


def _check_widths(level: Level, graph: Graph) -> None:
    with with_context("widths"):
        graph.check_widths(level.widths)
        for name, width in level.widths.items():
            floor = min(graph.group_of[name].floor, graph.group_of[name].width)
            known = f"{width} channels, below the group's floor of {floor}: ask for more, or trace with a lower floor"
            check(width >= floor or width == 0, f"[{name!r}]", known)


def _check_bits(level: Level, graph: Graph) -> None:
    # Of those that take bits: weights that a parametrization computes have no tensor of their own that a level could round.
    known = [layer.name for layer in graph.multiplying if layer.weight == f"{layer.name}.weight"]
    for name in level.bits:
        told = f"{', '.join(map(repr, known[:5]))}{' ...' if len(known) > 5 else ''}"
        problem = f"no convolution or linear layer of this model; those that can have bits are {told}"
        check(name in known, f"bits[{name!r}]", problem)


def _check_pair(inner: Level, outer: Level, graph: Graph | None) -> None:
    """The inner level lies inside the outer one, and they are not the same. A group that is not named is dense."""
    small, large = (graph.completed(x.widths) if graph else x.widths for x in (inner, outer))
    for name, width in large.items():
        inside = name in small and small[name] <= width
        seen = f"the {small[name]}" if name in small else "all those"
        check(
            inside,
            f"widths[{name!r}]",
            f"{width} channels, fewer than {seen} of the level before, {inner.name!r}: levels nest. Take channels from "
            f"{inner.name!r} there, or give them to this one",
        )
    same = small == large and inner.bits == outer.bits
    check(
        not same,
        "widths",
        f"equal to those of level {inner.name!r}, and no bits differ: leave one of them out, or trace in finer steps (round_to)",
    )
