"""The Graph: layers in call order, parameters with their axes, activations, groups, and integers of modules that repeat a size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import with_context
from ..records import check, digest
from .sizes import Axis, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter (or buffer: `trained` False) by its first name in the model, and its axes in order."""

    name: str
    axes: tuple[Axis, ...] = ()
    itemsize: int = 4
    trained: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer that multiplies or normalizes, by module path, in the order of its first call.

    `positions`: where it makes an output per sample, dense, all calls together (1 for a linear layer on a vector). Its MACs are its
    weight's elements times these, where no `Product` says otherwise.
    `sources`: the layers whose outputs reach it with no other layer in between. `outputs`, `inputs`: channels out and in.
    `stride`: one for each axis of the kernel, or one for all.
    """

    name: str
    kind: str
    weight: str | None
    bias: str | None = None
    outputs: Size
    inputs: Size
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    positions: int = 1
    calls: int = 1
    sources: tuple[str, ...] = ()

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies by a weight; a norm does not."""
        return bool(self.weight and self.positions)

    @property
    def takes_bits(self) -> bool:
        """Whether a plan may give it bits: it multiplies, and a module holds its weight. (Those of recurrent layers, of
        `nn.MultiheadAttention` and of functions have a parameter's name, and files hold them as they can.)"""
        return self.multiplies and str(self.weight).startswith(f"{self.name}.")

    def is_emptied(self, widths: Mapping[str, int]) -> bool:
        """Whether these widths leave it nothing to make, or nothing to read."""
        return any(size.groups and size.at(widths) == 0 for size in (self.outputs, self.inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """MACs of a layer per sample: times x sizes / divisor. The MACs of a layer that has some are the sum of its own.

    Layers have them whose MACs are not their weight's elements x their positions: where positions are channels themselves (an
    MLP-Mixer's linear layers), and where a call takes a part of a weight.
    """

    layer: str
    times: int = 1
    sizes: tuple[Size, ...] = ()
    divisor: int = 1

    def __post_init__(self) -> None:
        check(self.times > 0, "times", f"{self.times} is below 1")
        check(self.divisor > 0, "divisor", f"{self.divisor} is below 1")

    def at(self, widths: Mapping[str, int]) -> int:
        """The number when the groups have these widths."""
        return self.times * math.prod(size.at(widths) for size in self.sizes) // self.divisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An activation: its elements per sample, the operator that makes it and the last one that reads it."""

    size: Size
    producer: int
    last_reader: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Channels that leave together, one from every axis they touch. `frozen` is the reason why none may leave, else None.

    `parts`: the part of each channel when the group is balanced (the same number leaves every part), else empty.
    `ladder`: where parts differ in size, the possible widths ascending, each as the numbers kept of every part; else empty.
    `layers`: the layers that make these channels. `removable`: none need stay, for something leads around the layers that would be left
    without channels (the inner ones of a residual block). `changes`: what removing a channel changes for the ones that stay, if anything
    (a layer norm takes its statistics over those that are left), so that narrowed and masked agree only on those terms.
    """

    name: str
    width: int
    layers: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()
    floor: int = 1
    round_to: int = 1
    frozen: str | None = None
    ladder: tuple[tuple[int, ...], ...] = ()
    changes: str | None = None
    removable: bool = False

    def __post_init__(self) -> None:
        some = self.width > 0 or (self.width == 0 and self.frozen is not None)
        check(some, "width", f"{self.width}: a group has at least one channel, or is frozen without any")
        check(
            not self.parts or len(self.parts) == self.width, "parts", f"{len(self.parts)} labels, {self.width} channels"
        )
        check(self.floor >= 1, "floor", f"{self.floor} is below 1")
        check(self.round_to >= 1, "round_to", f"{self.round_to} is below 1")
        for i, rung in enumerate(self.ladder):
            check(bool(self.parts) and len(rung) > max(self.parts), f"ladder[{i}]", "a number for every part")
            check(min(rung) >= 0, f"ladder[{i}]", "a negative number of channels")

    @property
    def part_count(self) -> int:
        return len(set(self.parts)) or 1

    def legal(self, width: float) -> int:
        """The nearest width this group may have: a multiple of `round_to` and of its parts, at least the floor, at most dense.

        Never 0: that a group goes altogether is said, and no matter of rounding.
        """
        if self.frozen:
            return self.width
        if self.ladder:
            return self._nearest_rung(width)
        step = math.lcm(self.round_to, self.part_count)
        if step > self.width:
            step = self.part_count
        lowest = math.ceil(max(self.floor, 1) / step) * step
        return min(self.width, max(lowest, step * math.floor(width / step + 0.5)))

    def _nearest_rung(self, width: float) -> int:
        rungs = [sum(rung) for rung in self.ladder]
        allowed = [n for n in rungs if n >= self.floor] or [self.width]
        return min([n for n in allowed if n % self.round_to == 0] or allowed, key=lambda n: (abs(n - width), -n))

    def counts(self, width: int) -> tuple[int, ...]:
        """How many channels each part keeps at this width, by part number (one part: the width itself)."""
        if self.ladder:
            return next(rung for rung in self.ladder if sum(rung) == width)
        return (width // self.part_count,) * (max(self.parts, default=0) + 1)

    def check_width(self, width: int) -> None:
        """Raise RecordError unless narrowing to `width` is possible (legal multiples are the planner's concern, not this one's)."""
        check(0 <= width <= self.width, "", f"{width} channels asked, {self.width} exist")
        check(width > 0 or self.removable, "", "0 channels asked, and nothing leads around these layers: one must stay")
        if self.ladder:
            rungs = [sum(rung) for rung in self.ladder]
            check(width in rungs, "", f"{width} is not one of the widths at which its parts balance: {rungs}")
        check(
            bool(self.ladder) or width % self.part_count == 0,
            "",
            f"{width} is not a multiple of {self.part_count}, the balanced parts",
        )
        frozen = self.frozen is not None and width != self.width
        check(not frozen, "", f"the group is frozen at {self.width}: {self.frozen}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An integer of a module that repeats a size, such as a number of heads: narrowing sets it to size // blocks.

    `index` is its place where the attribute is a tuple or list.
    """

    module: str
    name: str
    index: int | None = None
    size: Size
    blocks: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """The value an `Attribute` got: what a saved model needs beside its tensors."""

    module: str
    name: str
    index: int | None = None
    value: int


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What can be narrowed in a model, and everything its costs follow from. `notes`: what was not followed, and what to do."""

    model: str
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    tensors: tuple[Tensor, ...]
    groups: tuple[Group, ...]
    attributes: tuple[Attribute, ...] = ()
    notes: tuple[str, ...] = ()
    products: tuple[Product, ...] = ()

    def __repr__(self) -> str:
        return f"Graph({self.model}: {len(self.layers)} layers, {len(self.groups)} groups, {len(self.free)} free)"

    def __post_init__(self) -> None:
        names = [g.name for g in self.groups]
        check(len(set(names)) == len(names), "groups", "two groups of one name")
        for i, product in enumerate(self.products):
            check(product.layer in self.layer_of, f"products[{i}].layer", f"{product.layer!r} is not a layer")

    @cached_property
    def structure(self) -> str:
        """Identity of the structure: layers, parameters and groups; not the weights, not rounding, not the reasons."""
        groups = tuple((g.name, g.width, g.parts, g.frozen is None) for g in self.groups)
        return digest((self.layers, self.parameters, groups))

    @cached_property
    def group_of(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    @cached_property
    def layer_of(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def parameter_of(self) -> dict[str, Parameter]:
        return {p.name: p for p in self.parameters}

    @cached_property
    def multiplying(self) -> tuple[Layer, ...]:
        """The layers that multiply."""
        return tuple(layer for layer in self.layers if layer.multiplies)

    @cached_property
    def products_of(self) -> dict[str, tuple[Product, ...]]:
        """The products of every layer that has some."""
        found: dict[str, tuple[Product, ...]] = {}
        for product in self.products:
            found[product.layer] = (*found.get(product.layer, ()), product)
        return found

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that can be narrowed."""
        return tuple(g for g in self.groups if g.frozen is None)

    @property
    def widths(self) -> dict[str, int]:
        """The dense width of every group."""
        return {g.name: g.width for g in self.groups}

    def completed(self, widths: Mapping[str, int]) -> dict[str, int]:
        """These widths, and the dense width for every group not named. RecordError for an unknown group or an impossible width."""
        self.check_widths(widths)
        return {**self.widths, **widths}

    def check_widths(self, widths: Mapping[str, int]) -> None:
        """RecordError, with its path, for an unknown group or a width that it cannot have."""
        for name, width in widths.items():
            check(name in self.group_of, f"[{name!r}]", "no such group in this model")
            if width != self.group_of[name].width:
                with with_context(f"[{name!r}]"):
                    self.group_of[name].check_width(width)
