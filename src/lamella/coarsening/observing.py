"""The ranges of activations, seen on data: the inputs of layers, and all that a file of integers rounds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..grids import channel_axis
from ..ranges import Spread
from ..training import call, device_of, hooked, inputs_of, modes_kept, on_device
from .operators import FIXED
from .places import at_places
from .watching import GIVEN, OUTPUT, Read

Ranges = Mapping[str, tuple[float, float]]

CALIBRATION_BATCHES = 8  # from which ranges are taken, unless another number is asked for


@dataclass
class Seen:
    """How values are spread, by the place where they are made; where that is made which each layer that is called reads, and `OUTPUT`;
    and how far each channel of what a layer reads reaches from zero, (C,).
    """

    spreads: dict[str, Spread] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)
    reaches: dict[str, Tensor] = field(default_factory=dict)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of every place, and of the inputs of every layer: the ends that leave the least error; of the model's outputs from their lowest
        to their highest value, since the largest are what they are read for. None of places that are marked (`Spread.marked`).
        """
        ends = {place: self._ends(place) for place, spread in self.spreads.items() if not spread.marked}
        found = {layer: [ends[place] for place in places if place in ends] for layer, places in self.inputs.items()}
        return ends | {
            layer: (min(low), max(high)) for layer, e in found.items() if e for low, high in [zip(*e, strict=True)]
        }

    def by_reader(self) -> dict[str, Spread]:
        """The spreads by the layer that reads them, where one does; of the rest nothing that is made of no input."""
        layers = {place: layer for layer, places in reversed(self.inputs.items()) for place in places}
        told = [place for place in self.spreads if place in layers or not place.startswith(GIVEN)]
        return {layers.get(place, place): self.spreads[place] for place in told}

    def _ends(self, place: str) -> tuple[float, float]:
        spread, operator = self.spreads[place], place.partition(".")[0]
        if operator in FIXED:
            return FIXED[operator]
        return (spread.low, spread.high) if place in self.inputs.get(OUTPUT, ()) else spread.ends()


def observe(
    model: nn.Module, layers: Iterable[str], loader: Iterable[Any], count: int = CALIBRATION_BATCHES
) -> dict[str, Spread]:
    """How inputs of each layer are spread over `count` batches; nothing of a layer that is not called, or called with whole numbers."""
    seen: dict[str, Spread] = {}
    hooks = [model.get_submodule(name).register_forward_pre_hook(_observer(seen, name)) for name in layers]
    with hooked(hooks):
        _feed(model, loader, count)
    return seen


def observe_ranges(model: nn.Module, layers: Iterable[str], loader: Iterable[Any]) -> dict[str, tuple[float, float]]:
    """The range of each layer's inputs over the first batches, that of the least error; none of marked ones (`Spread.marked`)."""
    return {name: spread.ends() for name, spread in observe(model, layers, loader).items() if not spread.marked}


def observe_places(
    model: nn.Module,
    layers: Iterable[str],
    loader: Iterable[Any],
    count: int = CALIBRATION_BATCHES,
    *,
    linear: bool = True,
) -> Seen:
    """How all that a file of integers rounds is spread over `count` batches; `linear` as in `places.at_places`."""
    seen, axes = Seen(), {name: channel_axis(model.get_submodule(name)) for name in layers}
    in_float: set[str] = set()

    def look(read: Read) -> Tensor:
        if read.wanted:
            _widen(seen.spreads, read.place, read.whole)
        if read.reader in axes:
            _reach(seen.reaches, read.reader, read.x, axes[read.reader])
        places = seen.inputs.setdefault(read.reader, []) if read.reader else [read.place]
        if read.place not in places:
            places.append(read.place)
        return read.x

    with hooked(at_places(model, look, axes, linear=linear, leave=in_float.add)):
        _feed(model, loader, count)
    seen.spreads = {place: spread for place, spread in seen.spreads.items() if place not in in_float}
    return seen


def observe_reaches(model: nn.Module, layers: Iterable[str], loader: Iterable[Any]) -> dict[str, Tensor]:
    """How far each channel of these layers' inputs reaches over the first batches, (C,); of layers that are called."""
    seen: dict[str, Tensor] = {}

    def look(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        _reach(seen, name, inputs[0], channel_axis(layer))

    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(look, name)) for name in layers]
    with hooked(hooks):
        _feed(model, loader, CALIBRATION_BATCHES)
    return seen


def _reach(reaches: dict[str, Tensor], layer: str, x: Tensor, axis: int) -> None:
    if x.numel():
        others = [number for number in range(-x.dim() - 1, 0) if number != axis]
        wide = x.detach()[None]
        found_C = torch.maximum(wide.amax(others), -wide.amin(others)).cpu().float()
        reaches[layer] = torch.maximum(reaches.get(layer, found_C), found_C)


def _feed(model: nn.Module, loader: Iterable[Any], count: int) -> None:
    with modes_kept(model), torch.no_grad():
        model.eval()
        for index, batch in enumerate(islice(loader, count)):
            call(model, on_device(inputs_of(batch, index), device_of(model)))


def _observer(seen: dict[str, Spread], name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def observe(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and inputs[0].is_floating_point():
            _widen(seen, name, inputs[0])

    return observe


def _widen(seen: dict[str, Spread], place: str, x: Tensor) -> None:
    if x.numel():  # a shortcut may be padded by no channels
        seen.setdefault(place, Spread()).add(x.detach().cpu().float().numpy())
