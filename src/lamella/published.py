"""The schedules published for AlexNet and VGG-16, in the paper's accounting and in true bytes. Arithmetic on a Graph; no torch.

    row = account(graph, SCHEDULES["alexnet-c10"])     # graph: the network with its 1000 classes at 224 px, round_to=1
    row.paper_ratio, row.true_ratio, row.macs_ratio    # 47.28, 3.82, 1.51

Anik, Kelso, Lee 2024 (doi 10.35940/ijsce.E3650.14051124) prune convolutions in an order of their own, keep floor(N(1 - P)) filters, never
prune the last one, and put the linear layers in int8. Their ratio divides the 1000-class float network by the float parameters of the
pruned convolutions, both in MiB to two decimals: linear layers count as nothing, and the classes that were cut count as compression.
The true ratio divides the float network of the task's own classes by all that has to be stored: float convolutions, one byte per
weight of a linear layer, four per bias. `account` gives both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

from .costs import cost, numel
from .records import check
from .schema import Graph, Layer

MIB = 2**20
LEFT_OUT = (
    "paper accounting: 1000-class float32 network / float32 convolutions of the pruned one, in MiB to two decimals. It leaves out all "
    "linear layers, int8 as they are, and counts the change to fewer classes as compression."
)
TRUE = "true bytes: float32 network of the same classes / convolutions in float32 + linear layers with int8 weights and float32 biases."


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which convolution gives up which share of its filters, in order. Rates as printed, so that floors are exact."""

    model: str
    classes: int
    order: tuple[int, ...]
    rates: tuple[str, ...]
    factor: float
    epochs: int

    def __post_init__(self) -> None:
        check(len(self.order) == len(self.rates), "rates", f"{len(self.rates)} rates for {len(self.order)} layers")


def _schedule(model: str, classes: int, order: str, rates: str, factor: float, epochs: int) -> Schedule:
    return Schedule(
        model=model,
        classes=classes,
        order=tuple(map(int, order.split(","))),
        rates=tuple(rates.split()),
        factor=factor,
        epochs=epochs,
    )


SCHEDULES: dict[str, Schedule] = {
    "alexnet-c10": _schedule("alexnet", 10, "3,1,0,2", ".4 .1 .1 .4", 0.985, 20),
    "alexnet-c100": _schedule("alexnet", 100, "3,2,1,0", ".2 .3 .3 .1", 0.985, 20),
    "vgg16-c10": _schedule("vgg16", 10, "0,1,9,11,6,4,5,8,2,3,7,10", ".8 .5 .4 .6 .5 .8 .6 .5 .8 .5 .5 .5", 0.99, 5),
    "vgg16-c100": _schedule("vgg16", 100, "6,1,2,0,4,8,9,11,7,3,5,10", ".3 .5 .7 .8 .4 .3 .1 .3 .5 .7 .5 .4", 0.997, 5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What a schedule comes to: filters kept, bytes stored, and the three ratios."""

    name: str
    filters: tuple[int, ...]
    dense_bytes: int
    stored_bytes: int
    paper_ratio: float
    true_ratio: float
    macs_ratio: float


def account(graph: Graph, schedule: Schedule, name: str = "") -> Accounting:
    """Both accountings of a schedule on the traced network (1000 classes, 224 px).

    RecordError where the network has fewer convolutions than the schedule prunes.
    """
    graph = _classes_free(graph)
    widths = widths_of(graph, schedule)
    classes = {_output(graph): schedule.classes}
    small = {**graph.widths, **widths, **classes}
    convolutions = sum(_params(graph, layer, small) for layer in convolutions_of(graph))
    dense, pruned = cost(graph, classes), cost(graph, small)
    linear = [layer for layer in graph.layers if layer.kind == "linear"]
    stored = 4 * convolutions + sum(_weights(graph, layer, small) for layer in linear)
    stored += 4 * sum(_params(graph, layer, small) - _weights(graph, layer, small) for layer in linear)
    return Accounting(
        name=name,
        filters=tuple(small[_group(graph, layer)] for layer in convolutions_of(graph)),
        dense_bytes=4 * dense.params,
        stored_bytes=stored,
        paper_ratio=_mib(4 * cost(graph).params) / _mib(4 * convolutions),
        true_ratio=4 * dense.params / stored,
        macs_ratio=dense.macs / pruned.macs,
    )


def widths_of(graph: Graph, schedule: Schedule) -> dict[str, int]:
    """The width of every group the schedule prunes: floor(N(1 - P)) filters, in the schedule's order."""
    layers = convolutions_of(graph)
    check(
        max(schedule.order) < len(layers) - 1,
        "order",
        f"convolution {max(schedule.order)} of {len(layers)}; the last one stays",
    )
    chosen = {}
    for index, rate in zip(schedule.order, schedule.rates, strict=True):
        group = _group(graph, layers[index])
        chosen[group] = floor(graph.group_of[group].width * (1 - Fraction(rate)))
    return chosen


def convolutions_of(graph: Graph) -> list[Layer]:
    """The convolutions, in call order."""
    return [layer for layer in graph.layers if layer.kind.startswith("conv")]


def _group(graph: Graph, layer: Layer) -> str:
    return next(g.name for g in graph.groups if layer.name in g.layers)


def _output(graph: Graph) -> str:
    """The group of the classes: what the last linear layer makes."""
    return _group(graph, [layer for layer in graph.layers if layer.kind == "linear"][-1])


def _classes_free(graph: Graph) -> Graph:
    """The graph with a number of classes that may be chosen; only costs are asked of it."""
    output = _output(graph)
    return replace(graph, groups=tuple(replace(g, frozen=None) if g.name == output else g for g in graph.groups))


def _weights(graph: Graph, layer: Layer, widths: Mapping[str, int]) -> int:
    return numel(graph.parameter_of[layer.weight], graph.completed(widths)) if layer.weight else 0


def _params(graph: Graph, layer: Layer, widths: Mapping[str, int]) -> int:
    bias = numel(graph.parameter_of[layer.bias], graph.completed(widths)) if layer.bias else 0
    return _weights(graph, layer, widths) + bias


def _mib(count: int) -> float:
    return round(count / MIB, 2)
