"""Every value that crosses from one stage to another, and the names of the files they lie in.

    Graph      what can be narrowed: layers in call order, parameters with their axes, tensors, groups
    Profile    the Graph, a baseline, and points: what a target scores at a level of a knob
    Budget     what a plan must keep
    Plan       steps in order; each gives widths to groups and bits to layers
    Result     what a plan did: kept channels, measured history
    Level      a named width setting of an elastic network

A *width* is the number of channels a group keeps. Every size in a network is a `Size`: fixed + sum(times x width(group)).
All records are frozen, keyword-only and checked at birth; `records` writes and reads them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from .errors import MismatchError, with_context
from .records import check, digest

FILES = {  # what lies in a run directory, and the verb that makes it
    "run": ("run.json", "lamella trace"),
    "weights": ("dense.safetensors", "lamella trace"),
    "graph": ("graph.json", "lamella trace"),
    "profile": ("profile.json", "lamella profile"),
    "profile_journal": ("profile.jsonl", "lamella profile"),
    "plan": ("plan.json", "lamella plan"),
    "result": ("result.json", "lamella compress"),
    "model": ("model.safetensors", "lamella compress"),
    "dense_onnx": ("dense.onnx", "lamella export"),
    "onnx": ("model.onnx", "lamella export"),
    "int8_onnx": ("model.int8.onnx", "lamella quantize"),
    "table": ("table.json", "lamella demo"),
    "report": ("report.html", "lamella report"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`times` the channels that lie in some parts of a balanced group: width * numerator / denominator.

    Where the parts differ in size, `table` holds the number for every possible width.
    """

    group: str
    times: int = 1
    numerator: int = 1
    denominator: int = 1
    table: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check(self.times > 0, "times", "a share enters a size at least once")
        check(0 < self.numerator <= self.denominator, "numerator", f"{self.numerator} of {self.denominator} parts")

    def at(self, width: int) -> int:
        """The number when the group has this width."""
        if self.table:
            return self.times * dict(self.table)[width]
        return self.times * (width * self.numerator // self.denominator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """fixed + sum(times x width(group)) + shares: the extent of an axis, or the elements of a tensor (per sample)."""

    fixed: int = 0
    terms: tuple[tuple[str, int], ...] = ()
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        check(self.fixed >= 0, "fixed", f"{self.fixed} is negative")
        check(all(times > 0 for _, times in self.terms), "terms", "a group enters a size at least once")

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that this size follows."""
        return (*(group for group, _ in self.terms), *dict.fromkeys(share.group for share in self.shares))

    def at(self, widths: Mapping[str, int]) -> int:
        """The number this size has when the groups have these widths."""
        linear = sum(times * widths[group] for group, times in self.terms)
        return self.fixed + linear + sum(share.at(widths[share.group]) for share in self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stretch of an axis: channels start .. start + count of a group, each `repeat` times in a row; group None is fixed."""

    group: str | None
    start: int = 0
    count: int = 1
    repeat: int = 1

    def __post_init__(self) -> None:
        check(self.start >= 0, "start", f"{self.start} is negative")
        check(self.count > 0 and self.repeat > 0, "count", "an empty run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a parameter.

    `role`: "out" makes channels, "in" consumes them, "each" has one entry per channel, "fixed" holds none.
    `blocks` > 1: the input axis of a grouped convolution. Its runs list the columns of every block in turn, and each
    block keeps its own. `shares`: for groups of which the axis holds some parts only.
    """

    role: Literal["out", "in", "each", "fixed"]
    runs: tuple[Run, ...]
    blocks: int = 1
    shares: tuple[Share, ...] = ()

    @property
    def size(self) -> Size:
        """Extent as a sum over groups (of all blocks together). Every channel of a group lies on an axis equally often."""
        fixed, first, times = 0, dict[str, int](), dict[str, int]()
        partly = {share.group for share in self.shares}
        for run in self.runs:
            if run.group in partly:
                continue
            if run.group is None:
                fixed += run.count * run.repeat
                continue
            channel = first.setdefault(run.group, run.start)
            if run.start <= channel < run.start + run.count:
                times[run.group] = times.get(run.group, 0) + run.repeat
        return Size(fixed=fixed, terms=tuple(times.items()), shares=self.shares)


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

    `positions`: MACs per weight element and sample, all calls together (1 for a linear layer on a vector).
    `sources`: the layers whose outputs reach it with no other layer in between. `outputs`, `inputs`: channels out and in.
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
    `layers`: the layers that make these channels. `changes`: what removing a channel changes for the ones that stay, if anything
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

    def __post_init__(self) -> None:
        check(self.width > 0, "width", f"{self.width}: a group has at least one channel")
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
        """The nearest width this group may have: a multiple of `round_to` and of its parts, at least the floor, at most dense."""
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
        check(1 <= width <= self.width, "", f"{width} channels asked, {self.width} exist")
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
    """What can be narrowed in a model, and everything its costs follow from."""

    model: str
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    tensors: tuple[Tensor, ...]
    groups: tuple[Group, ...]
    attributes: tuple[Attribute, ...] = ()

    def __post_init__(self) -> None:
        names = [g.name for g in self.groups]
        check(len(set(names)) == len(names), "groups", "two groups of one name")

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
        for name, width in widths.items():
            check(name in self.group_of, f"[{name!r}]", "no such group in this model")
            with with_context(f"[{name!r}]"):
                self.group_of[name].check_width(width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A mean score over n samples with its 95 % interval. Scores are fractions: 0.98 is 98 %."""

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        check(self.n > 0, "n", "a score over no samples")
        check(self.low <= self.value <= self.high, "value", f"{self.value} lies outside [{self.low}, {self.high}]")


# pruning_ratio: channels of a group leave. masked_ratio: the filters of one layer give zero, as in the published sweeps; a plan cannot
# remove those alone. bits: a layer's weights are rounded. bits_both: its weights and its inputs.
Knob = Literal["pruning_ratio", "masked_ratio", "bits", "bits_both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What the network scores when one target (a group, or a layer for bits) is set to a level of one knob."""

    target: str
    knob: Knob
    level: float
    width: int | None = None
    score: Score
    seconds: float = 0.0

    def __post_init__(self) -> None:
        ratio = not self.knob.endswith("ratio") or 0 <= self.level < 1
        check(ratio, "level", f"{self.level} is not in [0, 1): a pruning_ratio is the fraction removed")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Measured curves: what every target costs the network at every level, one target at a time.

    `method`: exact, race or estimate; `notes` say what a reader of the figures must know. `facts`: per layer, numbers beside the curves.
    """

    graph: Graph
    baseline: Score
    points: tuple[Point, ...]
    method: str = "exact"
    notes: tuple[str, ...] = ()
    facts: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def structure(self) -> str:
        return self.graph.structure

    def curve(self, target: str, knob: Knob = "pruning_ratio") -> tuple[Point, ...]:
        """The points of one target by rising level (for bits: falling)."""
        points = (p for p in self.points if p.target == target and p.knob == knob)
        return tuple(sorted(points, key=lambda p: p.level if knob.endswith("ratio") else -p.level))


Amount = float | str | None  # a number is absolute, "10%" is a share of the dense model


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a plan must keep. `max_drop` in points of the score (1.0 = one percentage point); the rest absolute, or "10%" of dense."""

    max_drop: float | None = None
    bytes: Amount = None
    params: Amount = None
    macs: Amount = None
    latency_ms: Amount = None
    memory: Amount = None

    def __post_init__(self) -> None:
        for name in ("bytes", "params", "macs", "latency_ms", "memory"):
            check_amount(getattr(self, name), name)
        check(self.max_drop is None or self.max_drop >= 0, "max_drop", f"{self.max_drop} is negative")

    def limit(self, name: str, dense: float) -> float | None:
        """The absolute limit for one cost, given the dense model's cost; None where the budget does not speak of it."""
        amount: Amount = getattr(self, name)
        return dense * float(amount[:-1]) / 100 if isinstance(amount, str) else amount


def check_amount(amount: Amount, name: str) -> None:
    """RecordError unless `amount` is None, a positive number, or a share from "0%" (exclusive) to "100%"."""
    if isinstance(amount, str):
        number = amount[:-1] if amount.endswith("%") else ""
        check(_is_number(number), name, f"{amount!r} is neither a number nor a share such as '10%'")
        check(
            0 < float(number) <= 100, name, f"{amount!r} is not a share of the dense model (above 0% and at most 100%)"
        )
    elif amount is not None:
        check(amount > 0 and math.isfinite(amount), name, f"{amount} is not a positive amount")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """params, MACs per sample, predicted bytes of the ONNX file, and peak activation memory in bytes per sample."""

    params: int
    macs: int
    bytes: int
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One move: groups to new widths, layers to bits, then `epochs` of tuning.

    `predicted` is the score measured with this move alone, before any tuning; None where nothing was measured. `expected` is
    that after this move and all before it, untuned: the drops added up, or measured where the order was measured (greedy).
    """

    widths: dict[str, int] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)
    epochs: int = 0
    predicted: float | None = None
    expected: float | None = None

    def __post_init__(self) -> None:
        check(self.epochs >= 0, "epochs", f"{self.epochs} is negative")
        for layer, bits in self.bits.items():
            check(2 <= bits <= 32, f"bits[{layer!r}]", f"{bits} bits: from 2 to 8, or 32 for none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What an exact planner can say of its plan: no plan does better than `bound` in `objective`; this one has `value`.

    `gap` is |value - bound| / |value| (0 where both are 0). `objective`: max_drop (points of the score) or a cost.
    """

    objective: str
    value: float
    bound: float
    gap: float
    status: Literal["optimal", "time limit"] = "optimal"

    def __post_init__(self) -> None:
        check(self.gap >= 0, "gap", f"{self.gap} is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An ordered tuple of steps for the model of one structure, which planner made it, and what it expects.

    `threshold` is the lowest score that the planner let a single cut have, where it had such a limit; `proof` what an
    exact planner proved. Latencies are there when the planner was given a predictor.
    """

    structure: str
    planner: str
    steps: tuple[Step, ...]
    predicted: Cost
    dense: Cost
    predicted_score: float | None = None
    threshold: float | None = None
    notes: tuple[str, ...] = ()
    dense_score: float | None = None
    latency_ms: float | None = None
    dense_latency_ms: float | None = None
    proof: Proof | None = None

    @property
    def widths(self) -> dict[str, int]:
        """The widths after the last step."""
        return _merged(step.widths for step in self.steps)

    @property
    def bits(self) -> dict[str, int]:
        """The bits after the last step."""
        return _merged(step.bits for step in self.steps)

    def reordered(self, order: Iterable[int], planner: str) -> "Plan":
        """The same steps in another order. Predictions per step are dropped: they were made for the old order."""
        steps = tuple(replace(self.steps[i], predicted=None, expected=None) for i in order)
        return replace(self, steps=steps, planner=planner)

    def check_fits(self, graph: Graph) -> None:
        """MismatchError, with the first differences, unless the plan was made for this structure; RecordError on impossible widths."""
        if self.structure != graph.structure:
            raise MismatchError(f"the plan was made for another model: {_differences(self, graph)}")
        for index, step in enumerate(self.steps):
            with with_context(f"steps[{index}].widths"):
                graph.check_widths(step.widths)


def _merged(maps: Iterable[dict[str, int]]) -> dict[str, int]:
    return {name: value for each in maps for name, value in each.items()}


def _differences(plan: Plan, graph: Graph) -> str:
    unknown = [name for name in plan.widths if name not in graph.group_of][:3]
    wider = [n for n, w in plan.widths.items() if n in graph.group_of and w > graph.group_of[n].width][:3]
    facts = [f"group {name!r} is not in this one" for name in unknown]
    facts += [f"group {n!r} gets {plan.widths[n]} channels and has {graph.group_of[n].width}" for n in wider]
    if not facts:
        facts = [f"structure {plan.structure} against {graph.structure}, equal group names but other shapes or layers"]
    return "; ".join(facts) + ". Make a plan for this model (lamella plan), or load the model that the plan names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What was measured after a step (or of the dense model: step 0), and `before_tuning`. `predicted` is that of the step."""

    name: str
    step: int
    validation: Score
    params: int
    macs: int
    predicted: float | None = None
    before_tuning: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a plan did to a model: the channels each group kept (dense numbering) and the measured history.

    `integers` of modules that narrowing set. After `quantize` also the bits of every layer and the range (low, high) of its input.
    """

    plan: Plan
    kept: dict[str, tuple[int, ...]]
    history: tuple[Measure, ...]
    bits: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    integers: tuple[Integer, ...] = ()
    seed: int = 0

    @property
    def structure(self) -> str:
        return self.plan.structure

    @property
    def widths(self) -> dict[str, int]:
        return {name: len(channels) for name, channels in self.kept.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A named width setting of an elastic network."""

    name: str
    widths: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the closing table. Accuracies are fractions; `drop` is test accuracy below dense, paired, with its interval."""

    name: str
    validation_accuracy: float
    test_accuracy: float
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    params: int
    macs: int
    bytes: int
    latency_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The closing table of a run: what each variant scores, weighs and takes, measured on `n_validation` and `n_test` samples."""

    rows: tuple[Row, ...]
    n_validation: int
    n_test: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """`run.json`: what later verbs need to go on from the directory alone, and the provenance the report prints."""

    model: str
    task: str
    data: str | None = None
    weights: str | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    options: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    started: str = ""
