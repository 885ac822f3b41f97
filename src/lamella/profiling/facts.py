"""What stands beside the curves: the cost of a sweep before it starts, and facts of every layer.

    forecast(work, orders).text          "171 points, about 2 min 40 s here"
    layer_facts(model, graph, program)   {"conv1": {"params": 432, "macs": ..., "receptive_field": 3, ...}}

Receptive field: r_l = r_(l-1) + (k_l - 1) x product of earlier strides, over the longest path (Richter et al. 2022); a layer whose
input field already exceeds the picture sees nothing new. Effective rank: exp of the entropy of the normalized singular values (Roy,
Vetterli 2007), as a share of the full rank: low means redundant filters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..costs import layer_cost
from ..replay import Program
from ..schema import Graph
from .points import Item, Order
from .working import Work

RACED_SHARE = 0.12  # of an exact sweep, by benchmarks/profile.py


@dataclass(frozen=True, slots=True)
class Forecast:
    """How many points, and how many seconds they should take here."""

    points: int
    seconds: float

    @property
    def text(self) -> str:
        """For a person.

        >>> Forecast(171, 160.0).text
        '171 points, about 2 min 40 s here'
        """
        whole = max(1, round(self.seconds))
        minutes, seconds = divmod(whole, 60)
        length = (
            f"{minutes // 60} h {minutes % 60} min"
            if minutes >= 60
            else f"{minutes} min {seconds} s"
            if minutes
            else f"{seconds} s"
        )
        return f"{self.points} points, about {length} here"


def forecast(work: Work, orders: Sequence[Order]) -> Forecast:
    """Seconds from the timed pass of the dense network, and from how much of it each point runs."""
    engine, sweep = work.engine, work.engine.subject.sweep
    counts = [len(work.open(order)) for order in orders]
    points = sum(counts)
    if work.method == "estimate" or not points:
        return Forecast(points, 0.0)
    program = engine.program
    dense = work.scores_seconds  # the baseline that has just been measured
    if sweep.changes_models:
        tuning = (
            3 * dense * max(1, sweep.tune_epochs)
        )  # a step costs three forward passes; the epoch is taken to be as long
        seconds = points * (2 * dense + tuning)
    elif program is None:
        seconds = points * dense
    else:
        behind, graph = _shares_behind(program), engine.subject.graph
        shares = [_share(graph, order.item, behind) for order in orders]
        seconds = sum(n * share for n, share in zip(counts, shares, strict=True)) * dense + dense
    seconds *= RACED_SHARE if work.method == "race" else 1.0
    return Forecast(points, seconds / (1 if sweep.executor == "serial" else sweep.workers))


def _shares_behind(program: Program) -> dict[str, float]:
    """Per parameter, the share of the network's operators that lie behind it, by the elements they make."""
    total = max(1, sum(op.elements for op in program.listed))
    names = {name for op in program.listed for name in op.names}
    return {n: sum(program.listed[p].elements for p in program.affected({n})) / total for n in names}


def _share(graph: Graph, item: Item, weights: dict[str, float]) -> float:
    """The share of the network that lies behind an item."""
    layers = graph.group_of[item.target].layers if item.knob == "pruning_ratio" else (item.target,)
    return max((weights.get(f"{name}.weight", 1.0) for name in layers), default=1.0)


def layer_facts(model: nn.Module, graph: Graph, program: Program | None = None) -> dict[str, dict[str, float]]:
    """Per layer: position, params, macs, memory (bytes per sample) and statistics of its weight.

    With a program also its receptive field, and 1.0 where that of its input already exceeds the picture.
    """
    fields = receptive_fields(program) if program else {}
    held = dict(model.named_parameters(remove_duplicate=False))
    facts = {}
    for position, layer in enumerate(graph.layers):
        costs = layer_cost(graph, layer.name)
        counts = {"position": position, "params": costs.params, "macs": costs.macs, "memory": costs.memory}
        known = {name: float(value) for name, value in counts.items()}
        weight = held.get(layer.weight or "")
        if weight is not None and layer.positions and weight.dim() > 1:
            known |= weight_facts(weight)
        if layer.weight in fields:
            before, after, side = fields[layer.weight]
            known |= {"receptive_field": float(after), "input_field_exceeds_picture": float(before > side)}
        facts[layer.name] = known
    return facts


def weight_facts(weight: Tensor) -> dict[str, float]:
    """Mean, spread, largest, near-zero share of a weight, and its effective rank as a share of the full one."""
    matrix = weight.detach().float().flatten(1)
    values = torch.linalg.svdvals(matrix) if min(matrix.shape) <= 1024 else None
    facts = {
        "weight_mean": float(matrix.mean()),
        "weight_std": float(matrix.std(correction=0)),
        "weight_largest": float(matrix.abs().max()),
        "weight_near_zero": float((matrix.abs() < 1e-3 * matrix.abs().max()).float().mean()),
    }
    if values is not None and float(values.sum()) > 0:
        shares = (values / values.sum()).clamp_min(1e-12)
        facts["effective_rank"] = math.exp(float(-(shares * shares.log()).sum())) / len(values)
    return facts


def receptive_fields(program: Program) -> dict[str, tuple[int, int, int]]:
    """Per convolution, by its weight: the field of its input, of its output, and the side of the picture; along the longest path."""
    sides = [side for side in program.sides if side]
    seen: dict[int, tuple[int, int]] = {}
    found: dict[str, tuple[int, int, int]] = {}
    for op in program.listed:
        before = max((seen[i][0] for i in op.reads if i in seen), default=1)
        jump = max((seen[i][1] for i in op.reads if i in seen), default=1)
        kernel, stride = program.window(op)
        seen[op.index] = before + (kernel - 1) * jump, jump * stride
        if kernel and sides and (weight := program.kernel_name(op)):
            found.setdefault(weight, (before, seen[op.index][0], max(sides)))
    return found
