"""Means over windows that hang over the border (`ceil_mode`): ONNX Runtime's integer operator divides their sums wrongly (1.31), unless
it is told to leave padding out.

    leave_padding_out(graph)        # in place: the means where nothing is padded, which are the same ones so
    hanging_means(graph)            # the nodes that have to stay in float
"""

from typing import Any

from .nodes import attributes_of


def leave_padding_out(graph: Any) -> None:
    """Have means over hanging windows count no padding, in place, where there is none to count."""
    for node in hanging_means(graph):
        if not any(attributes_of(node).get("pads", ())):
            next(a for a in node.attribute if a.name == "count_include_pad").i = 0


def hanging_means(graph: Any) -> list[Any]:
    """The nodes of means over windows that may hang over the border, padding counted in."""
    pools = (node for node in graph.node if node.op_type == "AveragePool")
    return [n for n in pools if all(attributes_of(n).get(name) for name in ("ceil_mode", "count_include_pad"))]
