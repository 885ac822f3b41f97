"""Where an operator stands, in words a person can look up: its name, the module's path, the line of the model's source.

place(node)    ->  "view in 'layer1.0', net.py:14"
"""

import re

import torch
from torch.fx import Node

POINTWISE = {"dropout", "feature_dropout", "alpha_dropout", "native_dropout", "clone", "contiguous", "detach", "alias", "to",
             "_to_copy", "lift_fresh_copy", "type_as", "hardtanh", "relu6", "selu", "celu", "elu", "leaky_relu", "gelu", "silu",
             "mish", "hardswish", "hardsigmoid", "softplus", "softsign", "logsigmoid", "log_sigmoid", "log_sigmoid_forward", "rsub",
             "rrelu", "threshold", "clamp", "where", "square", "tanh", "sigmoid", "masked_fill", "addcmul", "addcdiv", "lerp",
             "float_power", "copy", "softshrink", "hardshrink"}  # fmt: skip


def operator_name(node: Node) -> str:
    """'conv2d' for aten.conv2d.default, 'relu' for aten.relu_.default."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    return name.removeprefix("aten::").rstrip("_") if name.startswith("aten::") else name


def is_pointwise(node: Node) -> bool:
    """Whether every output element follows from the input elements at its own place."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or operator_name(node) in POINTWISE


def mutates_a_view(node: Node) -> bool:
    """Whether the operator writes into a tensor in a way the ids of other values would have to follow."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and not is_pointwise(node)


def place(node: Node) -> str:
    """Where an operator stands: its name, module path, and the line of the model's source."""
    path = module_path(node)
    where = f"{operator_name(node)} in {path!r}" if path else operator_name(node)
    line = source_line(node.meta.get("stack_trace") or "")
    return f"{where}, {line}" if line else where


def module_path(node: Node) -> str:
    """The path of the innermost module an operator belongs to; '' at the top."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return path.split("@")[0]  # a module called twice is written 'conv@1' the second time


def inside(node: Node, type_name: str) -> str | None:
    """The path of the innermost enclosing module whose class has this qualified name, None if there is none."""
    for path, kind in reversed((node.meta.get("nn_module_stack") or {}).values()):
        if str(kind) == type_name:
            return str(path).split("@")[0]
    return None


def source_line(trace: str) -> str:
    """The innermost line of a stack trace that is not torch's own: 'net.py:14'."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [(f.replace("\\", "/"), n) for f, n in frames]
    own = [(f, n) for f, n in own if "/torch/" not in f]
    return f"{own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]}" if own else ""
