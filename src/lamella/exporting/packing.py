"""Weights of fewer than 8 bits, packed in the file and computed as int8 by stock ONNX Runtime.

    pack(proto, {"layer3.0.conv1": 4, "linear": 2})     # in place, after the weights have been put on their grids

An INT4 (or INT2) initializer goes through Cast to int8 and on to its DequantizeLinear. ONNX Runtime folds the cast at load: the
graph it runs, and its speed, are those of int8. Layers of 3 bits lie in 4, those of 5 to 7 in 8.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..costs import stored_bits
from ..timing import Array

OPSETS = {4: 21, 2: 25}  # the first operator sets that know the packed types
IR_VERSIONS = {4: 10, 2: 13}
WIDE = "_8"  # ends the name of a packed weight where it is int8


def pack(proto: Any, bits: Mapping[str, int]) -> None:
    """Rewrite the quantized model in place so that layers of at most 4 bits lie packed in it."""
    readers = {node.input[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    smallest = 8
    for tensor in proto.graph.initializer:
        stored = stored_bits(bits.get(layer_of(tensor.name), 8))
        if stored < 8 and tensor.name in readers:
            _pack_one(proto.graph, tensor, stored, readers[tensor.name])
            smallest = min(smallest, stored)
    if smallest < 8:
        main = next(entry for entry in proto.opset_import if not entry.domain)
        main.version = max(main.version, OPSETS[smallest])
        proto.ir_version = max(proto.ir_version, IR_VERSIONS[smallest])


def layer_of(weight: str) -> str:
    """The layer that a weight's name tells of. A weight that layers share has two names where batch norms were folded into it,
    and a packed one another where it is unpacked.
    """
    return re.sub(rf"^\w+Fusion_W_|\.weight(_token_\d+)?({WIDE})?$", "", weight)


def _pack_one(graph: Any, tensor: Any, bits: int, reader: Any) -> None:
    from onnx import TensorProto, helper, numpy_helper

    values = numpy_helper.to_array(tensor)
    tensor.data_type = {4: TensorProto.INT4, 2: TensorProto.INT2}[bits]
    tensor.raw_data = packed(values, bits).tobytes()
    wide = f"{tensor.name}{WIDE}"
    cast = helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.INT8)
    reader.input[0] = wide
    graph.node.insert(list(graph.node).index(reader), cast)


def packed(values: Array, bits: int) -> Array:
    """Signed integers as bytes, shape (ceil(n bits / 8),): the first value in the lowest bits of the first byte.

    >>> packed(np.array([1, -1, 2], dtype=np.int8), 4).tolist()
    [241, 2]
    """
    each = 8 // bits
    flat = values.reshape(-1).astype(np.uint8) & (2**bits - 1)
    rows = np.pad(flat, (0, -len(flat) % each)).reshape(-1, each).astype(np.uint16)
    joined: Array = (rows << (bits * np.arange(each, dtype=np.uint16))).sum(axis=1).astype(np.uint8)
    return joined
