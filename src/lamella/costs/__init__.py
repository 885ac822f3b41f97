"""What a network of given widths and bits costs, by arithmetic on the Graph: no torch, microseconds, exact.

    cost(graph)                                     the dense model
    cost(graph, {"layer1.0.conv1": 8}, bits)        narrowed, with bits per layer
    cost(graph, widths, bits, "blocks")             linear layers that have bits in blocks: the `linear` of a row of schema.SCHEMES
    layer_cost(graph, "conv1", widths, bits)        one layer's share
    layer_costs(graph, widths, bits)                every layer's share, by name

params and MACs equal what counting the narrowed model gives (a law, tested): the MACs of a layer are its weight's elements x its
positions, or the sum of its `schema.Product`s; products of two activations are not counted. `bytes` predicts the exported ONNX
file: batch norm folded, integers packed, a calibrated overhead per layer; the file itself is the truth. `memory` is the peak of
live activations.
`files` says what a layer takes in a file, `arrays` makes a graph into them, so that a plan costs microseconds.
"""

from collections.abc import Mapping

from ..schema import Cost, Graph, Layer, LinearForm
from .arrays import compiled, file_bits
from .files import FILE_OVERHEAD, ByteRule, block_length, byte_rule, layer_bytes, numel, stored_bits


def cost(
    graph: Graph,
    widths: Mapping[str, int] | None = None,
    bits: Mapping[str, int] | None = None,
    linear: LinearForm = "",
) -> Cost:
    """The cost at these widths (groups not named are dense) and bits per layer (32 where not named)."""
    model = compiled(graph)
    sizes, outputs, memory = model.at(model.vector(widths or {}))
    return Cost(
        params=int(sizes @ model.trained),
        macs=int(sizes @ model.times),
        bytes=int(model.file.bytes(sizes, outputs, bits or {}, linear)),
        memory=4 * int(memory.max(initial=0)),
    )


def layer_cost(
    graph: Graph, name: str, widths: Mapping[str, int] | None = None, bits: Mapping[str, int] | None = None
) -> Cost:
    """One layer's params, MACs and bytes; `memory` is that of its output per sample."""
    return _layer_cost(graph, graph.layer_of[name], graph.completed(widths or {}), bits or {}, "")


def layer_costs(
    graph: Graph,
    widths: Mapping[str, int] | None = None,
    bits: Mapping[str, int] | None = None,
    linear: LinearForm = "",
) -> dict[str, Cost]:
    """Every layer's cost, as `layer_cost` gives it."""
    full = graph.completed(widths or {})
    return {layer.name: _layer_cost(graph, layer, full, bits or {}, linear) for layer in graph.layers}


def _layer_cost(
    graph: Graph, layer: Layer, full: Mapping[str, int], bits: Mapping[str, int], linear: LinearForm
) -> Cost:
    own = [graph.parameter_of[p] for p in (layer.weight, layer.bias) if p]
    params = sum(numel(p, full) for p in own if p.trained)
    positions = max(1, layer.positions // max(1, layer.calls))
    memory = 4 * layer.outputs.at(full) * positions
    return Cost(
        params=params,
        macs=_macs(graph, layer, full),
        bytes=layer_bytes(graph, layer, full, bits, linear),
        memory=memory,
    )


def _macs(graph: Graph, layer: Layer, full: Mapping[str, int]) -> int:
    if layer.name in graph.products_of:
        return sum(product.at(full) for product in graph.products_of[layer.name])
    return numel(graph.parameter_of[layer.weight], full) * layer.positions if layer.weight else 0


__all__ = [
    "FILE_OVERHEAD",
    "ByteRule",
    "block_length",
    "byte_rule",
    "cost",
    "file_bits",
    "layer_bytes",
    "layer_cost",
    "layer_costs",
    "numel",
    "stored_bits",
]
