"""Facts of every layer, beside the curves.

    layer_facts(model, graph, program, table)   {"conv1": {"params": 432, "macs": ..., "receptive_field": 3, "latency_ms": ...}}

Receptive field: r_l = r_(l-1) + (k_l - 1) x product of earlier strides, over the longest path (Richter et al. 2022); a layer whose
input field already exceeds the picture sees nothing new. Effective rank: exp of the entropy of the normalized singular values (Roy,
Vetterli 2007), as a share of the full rank: low means redundant filters.
"""

import math

import torch
from torch import Tensor, nn

from ..costs import layer_cost
from ..replay import Program
from ..schema import Graph
from ..timing import LatencyTable, layer_shape


def layer_facts(
    model: nn.Module, graph: Graph, program: Program | None = None, table: LatencyTable | None = None
) -> dict[str, dict[str, float]]:
    """Per layer: position, params, macs, memory (bytes of activations per sample) and statistics of its weight.

    With a program also its receptive field, the side of the picture, and 1.0 where its input's field already exceeds that. With a
    table also `latency_ms` at batch 1; layers that the table does not know yet are measured and kept there.
    """
    fields = receptive_fields(program) if program else {}
    latencies = layer_latencies(graph, table) if table else {}
    held = dict(model.named_parameters(remove_duplicate=False))
    facts = {}
    for position, layer in enumerate(graph.layers):
        costs = layer_cost(graph, layer.name)
        counts = {"position": position, "params": costs.params, "macs": costs.macs, "memory": costs.memory}
        known = {name: float(value) for name, value in counts.items()}
        weight = held.get(layer.weight or "")
        if weight is not None and layer.positions and weight.dim() > 1 and weight.numel():
            known |= weight_facts(weight)
        if layer.weight in fields:
            before, after, side = fields[layer.weight]
            known |= {"receptive_field": float(after), "input_field_exceeds_picture": float(before > side)}
            known["picture_side"] = float(side)
        if layer.name in latencies:
            known["latency_ms"] = latencies[layer.name]
        facts[layer.name] = known
    return facts


def layer_latencies(graph: Graph, table: LatencyTable) -> dict[str, float]:
    """Milliseconds of every layer that multiplies and has channels, all its calls together, at its dense widths and batch 1."""
    widths = graph.widths
    layers = [layer for layer in graph.multiplying if not layer.is_emptied(widths)]
    shapes = [layer_shape(graph, x, x.inputs.at(widths), x.outputs.at(widths), table.precision) for x in layers]
    table.measure(shapes)
    return {layer.name: layer.calls * table.ms(shape) for layer, shape in zip(layers, shapes, strict=True)}


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
