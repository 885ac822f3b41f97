"""What a sweep measures: items, each a target (group or layer), a knob, and the levels it is set to.

    items = planned_items(model, graph, Sweep(), pruning_ratios=(0.5,), bits=(8, 4))
    job = Job(items[0], known=points)                    # an item, and the points of it that are on disk

Ratios that come to the same width are one level; `level` is the fraction that is really removed.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from ..errors import LamellaError
from ..schema import Graph, Group, Knob, Point
from .settings import Sweep


@dataclass(frozen=True, slots=True)
class KnobLevel:
    """One setting of a target: the knob's value, and the channels kept where it is a ratio."""

    value: float
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of work: one target at several levels of one knob, mildest first."""

    target: str
    knob: Knob
    levels: tuple[KnobLevel, ...]

    def __str__(self) -> str:
        return f"{self.target} ({self.knob})"

    def key(self, level: "KnobLevel | Point") -> str:
        """The name of a point in a journal."""
        value = level.value if isinstance(level, KnobLevel) else level.level
        setting = level.width if level.width is not None else int(value)
        return f"{self.target}:{setting}" if self.knob == "pruning_ratio" else f"{self.target}:{self.knob}:{setting}"


def planned_items(
    model: nn.Module, graph: Graph, sweep: Sweep, pruning_ratios: Sequence[float], bits: Sequence[int]
) -> list[Item]:
    """Everything to measure, groups first, then single layers, then bits; in network order."""
    _check_ratios(pruning_ratios, empty=bool(bits) or sweep.whole)
    items = [_group_item(g, pruning_ratios, sweep.whole) for g in graph.free] if pruning_ratios or sweep.whole else []
    if sweep.layers:
        items += [_layer_item(name, width, pruning_ratios) for name, width in maskable(graph).items()]
    if bits:
        items += _bits_items(model, graph, bits, sweep)
    items = [item for item in items if item.levels]
    if not items:
        raise LamellaError(
            "nothing to measure: no group of this network can be narrowed. Measure bits: bits=(8, 4) (--bits 8,4)."
        )
    chosen = [item for item in items if any(fnmatch.fnmatchcase(item.target, p) for p in sweep.points)]
    if not chosen:
        known = ", ".join(dict.fromkeys(item.target for item in items))
        raise LamellaError(f"points {list(sweep.points)} match no target. Known: {known}.")
    return chosen


def _check_ratios(ratios: Sequence[float], empty: bool = False) -> None:
    bad = [p for p in ratios if not 0 <= p < 1]
    if bad or not (ratios or empty):
        raise LamellaError(
            f"pruning_ratios {bad or list(ratios)}: fractions removed, in [0, 1), were expected (0.5, not 50)."
        )


def _widths(width: int, ratios: Iterable[float]) -> set[int]:
    return {int(width * (1 - p) + 1e-9) for p in ratios}


def _group_item(group: Group, ratios: Sequence[float], whole: bool) -> Item:
    """For every ratio P floor(N (1 - P)) channels, then the nearest legal width; last, with `whole`, none."""
    widths = {group.legal(width) for width in _widths(group.width, ratios)} - {group.width}
    widths |= {0} if whole and group.removable else set()
    levels = tuple(KnobLevel(1 - width / group.width, width) for width in sorted(widths, reverse=True))
    return Item(group.name, "pruning_ratio", levels)


def maskable(graph: Graph) -> dict[str, int]:
    """The convolutions whose filters can be masked, with their number of filters."""
    widths = graph.widths
    kinds = ("conv1d", "conv2d", "conv3d")
    plain = [x for x in graph.layers if x.kind in kinds and x.weight == f"{x.name}.weight"]
    return {x.name: x.outputs.at(widths) for x in plain if x.outputs.at(widths) > 1}


def _layer_item(name: str, width: int, ratios: Sequence[float]) -> Item:
    widths = {max(1, kept) for kept in _widths(width, ratios)} - {width}
    return Item(name, "masked_ratio", tuple(KnobLevel(1 - w / width, w) for w in sorted(widths, reverse=True)))


def _bits_items(model: nn.Module, graph: Graph, bits: Sequence[int], sweep: Sweep) -> list[Item]:
    bad = [b for b in bits if not 2 <= b <= 8]
    if bad:
        raise LamellaError(f"bits {bad}: whole numbers from 2 to 8 were expected.")
    # A weight that is computed anew at every call cannot be rounded, nor can one that is gone.
    held = {name for name, weight in model.named_parameters(remove_duplicate=False) if weight.numel()}
    layers = [x.name for x in graph.multiplying if f"{x.name}.weight" in held]
    levels = tuple(KnobLevel(float(b)) for b in sorted(set(bits), reverse=True))
    knobs: tuple[Knob, ...] = ("bits", "bits_both") if sweep.inputs else ("bits",)
    return [Item(name, knob, levels) for knob in knobs for name in layers]


@dataclass(frozen=True, slots=True)
class Job:
    """An item to be measured, and the points of it that are known."""

    item: Item
    known: tuple[Point, ...] = ()

    def __str__(self) -> str:
        return str(self.item)

    @property
    def open(self) -> tuple[KnobLevel, ...]:
        """The levels without a point."""
        done = {point.level for point in self.known}
        return tuple(level for level in self.item.levels if level.value not in done)

    def with_points(self, points: Iterable[Point]) -> "Job":
        """The same job, and more that is known; points in the item's order of levels."""
        places = {level.value: index for index, level in enumerate(self.item.levels)}
        return replace(self, known=tuple(sorted((*self.known, *points), key=lambda p: places[p.level])))
