"""What a layer takes in an exported file: how its bytes follow from its weight's elements, its outputs and its bits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..schema import Graph, Layer, LinearForm, Parameter
from ..schema.plans import FLOAT

# Bytes of an ONNX file beside its numbers, those of the operators around a layer included: read off the files of six networks of 3 to
# 14 layers in float, 8 and 4 bits.
FILE_OVERHEAD = 300
LAYER_OVERHEAD, LINEAR_OVERHEAD = 290, 190
INTEGER_LAYER_OVERHEAD, INTEGER_LINEAR_OVERHEAD = 420, 270
PACKED_OVERHEAD = 55  # more where weights are packed, and unpacked when the file is loaded
BLOCK = 128  # weights of a linear layer that share a scale where it is held in blocks
RECURRENT = re.compile(r"weight_(ih|hh|hr)_l\d+(_reverse)?$")  # how nn.RNN, nn.GRU and nn.LSTM name their weights
STORED_BITS = {2: 2, 3: 4, 4: 4}  # bits of a layer's weights -> bits one takes in the file; 5 to 8 take 8


def stored_bits(bits: int) -> int:
    """How many bits a weight of so many takes in the exported file."""
    return FLOAT if bits >= FLOAT else STORED_BITS.get(bits, 8)


def numel(parameter: Parameter, widths: Mapping[str, int]) -> int:
    """Elements of a parameter at these widths."""
    product = 1
    for axis in parameter.axes:
        product *= axis.size.at(widths) // axis.blocks
    return product


def layer_bytes(
    graph: Graph, layer: Layer, widths: Mapping[str, int], bits: Mapping[str, int], linear: LinearForm = ""
) -> int:
    """A layer's bytes at these widths of all groups.

    A batch norm becomes the bias of the layer before it."""
    weight = numel(graph.parameter_of[layer.weight], widths) if layer.weight else 0
    outputs, width = layer.outputs.at(widths), bits.get(layer.name, FLOAT)
    form = linear if layer.kind == "linear" else ""
    return int(byte_rule(graph, layer, width).bytes(weight, outputs) + beyond(form, width, weight, outputs))


def rounded_unasked(layer: Layer) -> bool:
    """Whether a file in integers holds it in 8 bits though no plan gives it any: tables of embeddings, and weights of functions and of
    `nn.MultiheadAttention`. Recurrent layers stay in float.
    """
    multiplies = layer.multiplies and not layer.takes_bits and not RECURRENT.search(layer.weight or "")
    return layer.kind == "embedding" or multiplies


@dataclass(frozen=True, slots=True)
class ByteRule:
    """How the bytes of a layer follow from its weight's elements and its outputs."""

    stored: int  # bits that an element takes, 0 where it vanishes; whole bytes are filled up
    per_output: int
    constant: int

    def bytes(self, elements: Any, outputs: Any) -> Any:
        """Bytes; of numbers, or of arrays of whole numbers."""
        return -(-elements * self.stored // 8) + self.per_output * outputs + self.constant


def byte_rule(graph: Graph, layer: Layer, bits: int) -> ByteRule:
    """The rule of one layer at these bits."""
    if layer.kind == "batch_norm":
        return ByteRule(0, 0 if _has_bias(graph, layer) else 4, 0)
    rule = plain_rule(bits, layer.kind == "linear")
    return ByteRule(rule.stored, rule.per_output + (4 if layer.bias else 0), rule.constant)


@lru_cache
def plain_rule(bits: int, linear: bool) -> ByteRule:
    """That of a layer without a bias; a quantized layer has a scale per output channel. (Biases stay in float.)"""
    if bits >= FLOAT:
        return ByteRule(FLOAT, 0, LINEAR_OVERHEAD if linear else LAYER_OVERHEAD)
    packed = PACKED_OVERHEAD if stored_bits(bits) < 8 else 0
    return ByteRule(stored_bits(bits), 4, (INTEGER_LINEAR_OVERHEAD if linear else INTEGER_LAYER_OVERHEAD) + packed)


def beyond(form: LinearForm, bits: int, elements: float, outputs: float) -> float:
    """What a linear layer takes beyond the rule of its bits: in blocks, which are filled up, 4 bytes a block and none an output."""
    if form != "blocks" or bits >= FLOAT or not outputs:
        return 0.0
    products = int(elements // outputs)
    length = block_length(products)
    held = outputs * -(-products // length) * (length // 2 + 4) + LINEAR_OVERHEAD
    return float(held - plain_rule(bits, True).bytes(elements, outputs))


def block_length(products: int) -> int:
    """How many neighbouring weights of a linear layer with so many inputs share a scale where it is held in blocks."""
    return min(BLOCK, max(32, 1 << (products - 1).bit_length()))


def _has_bias(graph: Graph, norm: Layer) -> bool:
    return any(graph.layer_of[s].bias for s in norm.sources)
