"""Is calibration data fit to take ranges from, and are the ranges fit to make grids of?

    notes = check_calibration(task, batches=8)        # DataError: no batch, another shape, not finite, prepared otherwise
    seen = observe_places(model, layers, task.calibration)
    notes += unusual(seen.by_reader()) + uneven(seen)
    calibration_inputs(task, 1)                           # what would make no file at all is refused, and nothing else looked at

What cannot work is refused; what works badly is told, with the layer's name and figures.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .coarsening import Seen
from .errors import DataError
from .ranges import MARK, Spread
from .texts import listed
from .training import Loader, Task, empty_loader, inputs_of

FEW = 32  # samples: ranges of fewer miss what one image in ten would show
APART = 3.0  # a spread so many times that of validation data, or a mean so many spreads off, is other data
CROWDED = 32  # of 256 levels: where nearly all values share fewer, outliers have the rest
UNEVEN = 30  # times the reach of the channel in the middle: where one reaches so far, half of the channels have some 8 levels
NOTHING = 1e-30  # what is smaller is printed as 0
SHOWN = 5  # layers named in a note


def check_calibration(task: Task, batches: int) -> list[str]:
    """What is to be said of the task's first `batches` batches for calibration. DataError where ranges of them would be wrong.

    They must have the example inputs' shapes, the batch aside, finite values, and the spread that as many batches of validation
    inputs have.
    """
    seen, judged = defaultdict[int, _Values](_Values), defaultdict[int, _Values](_Values)
    samples = 0
    for inputs in calibration_inputs(task, batches):
        leaves = _tensors(inputs)
        _count(seen, leaves)
        samples += len(leaves[0])
    for index, inputs in _inputs(task.validation, batches):
        leaves = _tensors(inputs)
        for leaf in leaves:
            _check_finite(f"validation batch {index}", leaf)
        _count(judged, leaves)
    several = len(_tensors(task.example_inputs)) > 1
    for number in sorted(judged.keys() & seen.keys()):
        _check_spread(f"input {number}" if several else "input", seen[number], judged[number])
    few = f"ranges come from {samples} samples of calibration data; {FEW} or more were expected. What others reach is cut off."
    return [few] if samples < FEW else []


def calibration_inputs(task: Task, batches: int) -> Iterator[Any]:
    """The inputs of the task's first `batches` batches for calibration, each checked as it comes: of the example inputs' shapes, the
    batch aside, and finite. DataError where one is not, or where there are no samples.
    """
    shapes = [tuple(leaf.shape[1:]) for leaf in _tensors(task.example_inputs)]
    samples = 0
    for index, inputs in _inputs(task.calibration, batches):
        leaves = _tensors(inputs)
        _check_batch(f"calibration batch {index}", leaves, shapes)
        samples += len(leaves[0])
        yield inputs
    if not samples:
        raise DataError(f"calibration: {empty_loader()}")


def _inputs(loader: Loader, batches: int) -> Iterator[tuple[int, Any]]:
    """Each batch's number and inputs."""
    for index, batch in enumerate(islice(loader, batches)):
        yield index, inputs_of(batch, index)


def _tensors(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]


@dataclass
class _Values:
    """How an input's values are spread, counted batch by batch: no batch is kept."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, leaf: Tensor) -> None:
        wide = leaf.double()
        self.count, self.total = self.count + leaf.numel(), self.total + float(wide.sum())
        self.squares += float(wide.square().sum())
        self.low, self.high = min(self.low, float(leaf.min())), max(self.high, float(leaf.max()))

    @property
    def mean(self) -> float:
        return self.total / self.count

    @property
    def spread(self) -> float:
        """Their standard deviation; 0 where all are equal, and of fewer than two."""
        if self.low == self.high or self.count < 2:
            return 0.0
        return math.sqrt(max(0.0, self.squares - self.total * self.mean) / (self.count - 1))

    def __str__(self) -> str:
        return f"lies in [{self.low:.3g}, {self.high:.3g}], mean {self.mean:.3g}, spread {self.spread:.3g}"


def _count(values: defaultdict[int, _Values], leaves: Sequence[Tensor]) -> None:
    """Add a batch's inputs of real numbers, by their place."""
    for number, leaf in enumerate(leaves):
        if leaf.is_floating_point() and leaf.numel():
            values[number].add(leaf)


def _check_batch(place: str, leaves: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> None:
    found = [tuple(leaf.shape[1:]) for leaf in leaves]
    if found != shapes:
        raise DataError(
            f"{place}: a sample's inputs have the shapes {found}; those of the example inputs, {shapes}, were expected. Pass "
            "Task(calibration=...) batches that are prepared as in training."
        )
    for leaf in leaves:
        _check_finite(place, leaf)


def _check_finite(place: str, leaf: Tensor) -> None:
    bad = leaf.numel() - int(torch.isfinite(leaf).sum())
    if bad:
        raise DataError(
            f"{place}: {bad} of {leaf.numel()} values are not finite, and no range can come of them. Clean the data."
        )


def _check_spread(place: str, calibration: _Values, judged: _Values) -> None:
    """DataError unless an input's values are spread about as those of validation data are, if these are spread at all."""
    if min(calibration.count, judged.count) < 2 or not judged.spread:
        return
    off = abs(calibration.mean - judged.mean)
    if judged.spread / APART <= calibration.spread <= judged.spread * APART and off <= APART * judged.spread:
        return
    raise DataError(
        f"calibration data is other data than the network is judged on: its {place} {calibration}; that of validation {judged}. A like "
        "spread was expected, since ranges of activations come from it. Prepare both alike (scaled to 0..1? normalized?)."
    )


def unusual(seen: Mapping[str, Spread]) -> list[str]:
    """What is to be said of values that stay zero, of ranges that outliers stretch, too many of them to be cut off, and of marks."""
    zero = [place for place, s in seen.items() if s.low == s.high == 0]
    marked = [place for place, s in seen.items() if s.marked]
    spread = {place: s for place, s in seen.items() if place not in (*zero, *marked)}
    crowded = {place: s for place, s in spread.items() if s.crowd() * 256 < CROWDED}
    notes = []
    if marked:
        notes.append(
            f"{_named(marked)}: marks such as those of a mask before softmax (infinite, or below {MARK:,.0f}) stay in float, here and "
            "in the file: 256 levels have no room for them."
        )
    if zero:
        notes.append(
            f"inputs of {_named(zero)} are zero throughout the calibration data, and so they are in the file. What comes before is "
            "dead, or the data do not reach it."
        )
    if crowded:
        bulks = {place: s.bulk() for place, s in list(crowded.items())[:SHOWN]}
        figures = [
            f"{place!r} {_between(crowded[place].low, crowded[place].high)}, 99.9 % in {_between(low, high)}"
            for place, (low, high) in bulks.items()
        ]
        more = f" and {len(crowded) - SHOWN} more" if len(crowded) > SHOWN else ""
        notes.append(
            f"outliers stretch the ranges of activations: {'; '.join(figures)}{more}. Fewer than {CROWDED} of 256 levels are left for "
            "nearly all values. Clamp there in the network, or leave such samples out of the calibration data if they are faults."
        )
    return notes


def uneven(seen: Seen) -> list[str]:
    """What is to be said of channels that leave no levels to the others they share a range with."""
    spreads = {layer: spread for layer, spread in seen.by_reader().items() if layer in seen.reaches}
    told = [one for layer, spread in spreads.items() if (one := _stretched(layer, spread, seen.reaches[layer]))]
    if not told:
        return []
    return [
        f"channels share one range and reach unevenly far, in inputs of {listed(told, SHOWN, ';')}: half of them have {256 // UNEVEN} of "
        "256 levels or fewer. `lamella.equalize(model, graph, task)` (`lamella quantize RUN --equalize`) divides such channels where "
        "they are made and multiplies the weights that read them by as much, which leaves the network the same. Where that changes "
        "nothing (a sigmoid or ReLU6 lies between), leave the convolutions that read them in float (scheme dynamic-fc)."
    ]


def _stretched(layer: str, spread: Spread, reach_C: Tensor) -> str | None:
    """Of a layer whose inputs' range one channel stretches: where that stays as wide, and is not `unusual` already."""
    alive_C = reach_C[reach_C > 0]
    if spread.marked or not len(alive_C) or alive_C.max() <= UNEVEN * alive_C.median():
        return None
    end, middle = max(map(abs, spread.ends())), float(alive_C.median())
    if end <= UNEVEN * middle or spread.crowd() * 256 < CROWDED:
        return None
    return f"{layer!r} (channel {int(reach_C.argmax())} to {end:.3g}, half of them to {middle:.3g} at most)"


def _between(low: float, high: float) -> str:
    low, high = (0.0 if abs(end) < NOTHING else end for end in (low, high))
    return f"[{low:.3g}, {high:.3g}]"


def _named(places: list[str]) -> str:
    return listed([repr(place) for place in places], SHOWN)
