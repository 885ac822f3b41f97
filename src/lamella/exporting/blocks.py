"""Linear layers of an ONNX file in 4-bit blocks: ONNX Runtime's MatMulNBits, which reads the packed weights as it multiplies.

    hold_in_blocks(proto)        # in place; convolutions stay as they are, float or integers

Every 128 neighbouring inputs of an output share a step (`grids.block_levels`): half a byte a weight, and 4 bytes a block. Inputs are
rounded to int8 at every call (accuracy level 4), so nothing needs to be calibrated. Where memory is read once per sample, at batch 1,
this is the fastest form of a wide layer; at large batches packed INT4 weights of the static form are. Figures: docs/decisions/0016.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..costs import block_length
from ..grids import block_levels
from ..timing import Array
from .nodes import attributes_of, forget_unread

BITS, ZERO = 4, 8  # stored unsigned
LINEAR = ("Gemm", "MatMul")
DOMAIN = "com.microsoft"


def linear_nodes(graph: Any) -> list[Any]:
    """The nodes of linear layers: plain products with a constant matrix."""
    matrices = {i.name for i in graph.initializer if len(i.dims) == 2}
    return [n for n in graph.node if n.op_type in LINEAR and n.input[1] in matrices and _is_plain(n)]


def bias_nodes(graph: Any) -> list[Any]:
    """The nodes that add a bias to a product of `linear_nodes`: of layers whose inputs have more than two axes."""
    products = {node.output[0] for node in linear_nodes(graph)}
    vectors = {i.name for i in graph.initializer if len(i.dims) == 1}
    return [n for n in graph.node if n.op_type == "Add" and products & set(n.input) and vectors & set(n.input)]


def linear_weights(graph: Any) -> dict[str, Array]:
    """The weights of linear layers by name, each (O, K), outputs first."""
    from onnx import numpy_helper

    constants = {i.name: i for i in graph.initializer}
    found = {node.input[1]: node for node in linear_nodes(graph)}
    arrays = {name: numpy_helper.to_array(constants[name]) for name in found}
    return {name: array if attributes_of(found[name]).get("transB") else array.T for name, array in arrays.items()}


def _is_plain(node: Any) -> bool:
    how = attributes_of(node)
    return bool(how.get("alpha", 1.0) == how.get("beta", 1.0) == 1.0 and not how.get("transA"))


def hold_in_blocks(proto: Any) -> None:
    """Replace every linear layer of the model, in place, by its product in blocks and the addition of its bias."""
    from onnx import helper

    graph = proto.graph
    linear = {node.output[0] for node in linear_nodes(graph)}
    held = {name: _hold(graph, name, weight_OK) for name, weight_OK in linear_weights(graph).items()}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_product(node, held[node.input[1]]) if node.output[0] in linear else [node])
    forget_unread(graph)
    if held and DOMAIN not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _hold(graph: Any, name: str, weight_OK: Array) -> dict[str, Any]:
    """The weight as two constants, whole numbers in pairs and steps; what the operator must be told of it."""
    from onnx import numpy_helper

    levels_OBL, scale_OB = block_levels(torch.from_numpy(np.array(weight_OK, dtype=np.float32)), BITS)
    whole = levels_OBL.numpy().astype(np.int8).astype(np.uint8) + np.uint8(ZERO)
    pairs = whole[..., 0::2] & 0x0F | whole[..., 1::2] << 4
    outputs, products = weight_OK.shape
    graph.initializer.append(numpy_helper.from_array(pairs, f"{name}_blocks"))
    graph.initializer.append(numpy_helper.from_array(scale_OB.numpy().flatten(), f"{name}_steps"))
    return {"K": products, "N": outputs, "bits": BITS, "block_size": block_length(products), "accuracy_level": 4}


def _product(node: Any, how: Mapping[str, Any]) -> list[Any]:
    from onnx import helper

    x, weight, *bias = node.input
    product = f"{node.output[0]}_product" if bias else node.output[0]
    inputs = [x, f"{weight}_blocks", f"{weight}_steps"]
    made = [helper.make_node("MatMulNBits", inputs, [product], name=node.name, domain=DOMAIN, **how)]
    return made + [helper.make_node("Add", [product, *bias], node.output)] * len(bias)
