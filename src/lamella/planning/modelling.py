"""The integer program of a budget: one row per limit, what is minimized, and alignment.

program, network, objective = modelled(ask, setting, "max_drop", {"bytes": 109034})
solution = program.minimize(objective, seconds=10, gap=1e-3)
solution.taken(network.width["conv1"])                              # 12
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..schema import Graph, Size
from .asking import Ask
from .curves import Rung
from .products import Network
from .programs import Linear, Program

Rungs = Mapping[str, tuple[Rung, ...]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a group and a layer may become, and how the search is run."""

    widths: Rungs
    bits: Rungs
    factors: Mapping[str, float]
    align: int
    seconds: float
    gap: float


def modelled(
    ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float], slack: bool = False
) -> tuple[Program, Network, Linear]:
    """The program, and what it minimizes. With `slack`, the largest share by which a limit is broken instead of the goal."""
    program = Program()
    network = Network(program, ask, setting.widths, setting.bits)
    drop = network.goal(setting.factors)
    excess = Linear({program.column(upper=1e6): 1.0}) if slack else Linear()
    for name, limit in with_drop(ask, limit_of).items():
        unit = max(1.0, limit) if name == "max_drop" else limit
        for sum_ in _sums(network, name):
            program.at_most(sum_ + (-unit) * excess, limit)
    if setting.align > 1:
        _aligned(program, network, setting.align)
    if slack:
        return program, network, excess
    return program, network, drop if goal == "max_drop" else _peak(program, network, goal)


def with_drop(ask: Ask, limit_of: Mapping[str, float]) -> dict[str, float]:
    """These limits and, unless they say it, that on the drop, which is never quite 0: rows are scaled by their limits."""
    most = ask.budget.max_drop
    return ({} if most is None else {"max_drop": max(most, 1e-6)}) | dict(limit_of)


def sizes_seen(graph: Graph) -> tuple[Size, ...]:
    """Every total of channels that a layer with a weight reads or makes."""
    return tuple(dict.fromkeys(s for layer in graph.layers if layer.weight for s in (layer.inputs, layer.outputs)))


def _sums(network: Network, name: str) -> list[Linear]:
    if name == "max_drop":
        return [network.drop()]
    if name == "memory":
        return network.moments()
    return [network.latency() if name == "latency_ms" else network.cost(name)]


def _peak(program: Program, network: Network, name: str) -> Linear:
    """A cost as one sum: memory is the largest of several."""
    sums = _sums(network, name)
    if len(sums) == 1:
        return sums[0]
    dense = network.ask.graph
    top = max(1.0, float(sum(t.size.at(dense.widths) for t in dense.tensors)) * 4)
    peak = Linear({program.column(upper=1.0): top})
    for sum_ in sums:
        program.at_most((1 / top) * sum_ + (-1 / top) * peak + Linear(constant=1.0), 1.0)
    return peak


def _aligned(program: Program, network: Network, step: int) -> None:
    """Every total that layers see is a multiple of the step, or dense (where the dense one is none)."""
    for size in sizes_seen(network.graph):
        total = network.total(size)
        dense = size.at(network.graph.widths)
        for taken, value in zip(total.each(), total.options, strict=True):
            if value % step and value != dense:
                program.row(taken, 0, 0)
