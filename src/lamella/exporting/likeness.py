"""Narrowed networks as files, made from that of the dense one or of each other: other numbers in the same graph.

    dense = export_onnx(model, example_inputs, "dense.onnx")
    export = NarrowedExports("dense.onnx")
    export(narrow(model, graph, widths), example_inputs, "small.onnx")

An export captures and translates a graph that is known already; this takes a fortieth of the time for a ResNet-20, and writes the same
bytes where the exporter would make the same graph (it may make one constant of two, where widths are equal). Of what a graph says about
widths beside its weights, the groups of convolutions and the lengths of flattened samples are rewritten. A file that does not come out
right for anything else (a channel shuffle, a split) is exported after all.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..coarsening import folded
from ..emptied import is_emptied
from ..timing import feeds_of, open_session
from .capturing import check_outputs, on_cpu, outputs_of
from .onnx_file import export_onnx, read_onnx, save_onnx
from .together import write_together

Export = Callable[[nn.Module, Tensor | Sequence[Any], Path], Path]  # a model, its example inputs, where to: that path


class NarrowedExports:
    """Exports of networks that were narrowed from one; `like`: files of such networks, or of that one, which are there already."""

    def __init__(self, *like: str | Path) -> None:
        self.like = [Path(each) for each in like]

    def __call__(self, model: nn.Module, example_inputs: Tensor | Sequence[Any], path: str | Path) -> Path:
        """Write `model` as one ONNX file, with the graph of an earlier file if that fits. Returns the path.

        The file appears only after ONNX Runtime has given the model's outputs on the example inputs. Raises what `export_onnx` raises.
        """
        path = Path(path)
        if not (self.like and self._filled(model, example_inputs, path)):
            self.like.append(export_onnx(model, example_inputs, path))
        return path

    def _filled(self, model: nn.Module, example_inputs: Tensor | Sequence[Any], path: Path) -> bool:
        """Whether the file could be written with the graph of an earlier one. Whatever is in the way, an export is there to tell it."""
        if any(map(is_emptied, model.modules())):  # an export leaves out what earlier graphs hold
            return False
        with suppress(Exception):
            subject, inputs = on_cpu(model, example_inputs)
            cases = [(case, outputs_of(subject, case)) for case in (inputs, _shaken(inputs))]
            write = partial(_write, folded(subject, inputs), cases, path)
            return any(_written(partial(write, like), path) for like in self.like)
        return False


def _written(write: Callable[[Path], object], path: Path) -> bool:
    with suppress(Exception):  # the runtime's own errors have no base
        write_together(path, write)
        return True
    return False


def _write(
    fused: nn.Module, cases: Sequence[tuple[Any, list[Tensor]]], path: Path, like: Path, temporary: Path
) -> None:
    """The network without batch norms in the graph of `like`, if that gives the outputs of every case."""
    save_onnx(_refilled(read_onnx(like), fused), temporary)
    session = open_session(temporary)
    for case, expected in cases:
        tensors = [leaf for leaf in tree_leaves(case) if isinstance(leaf, Tensor)]
        check_outputs(session.run(None, feeds_of(session, tensors)), expected, str(path))


def _shaken(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs with noise as large as their spread, or 1: zeros would tell nothing of weights that were left behind."""
    noise = torch.Generator().manual_seed(0)

    def shake(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
        return tensor + (spread or 1.0) * torch.randn(tensor.shape, generator=noise, dtype=tensor.dtype)

    shaken: tuple[Any, ...] = tree_map_only(Tensor, shake, inputs)
    return shaken


def _refilled(proto: Any, model: nn.Module) -> Any:
    """The graph with the model's numbers in it, by the names of tensors and of the layers that nodes are."""
    from onnx import numpy_helper

    tensors = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}
    modules = dict(model.named_modules())
    makers = {output: node for node in proto.graph.node for output in node.output}
    for node in proto.graph.node:
        tensors |= _of_layer(node, modules.get(node.name), makers)
        for attribute in (a for a in node.attribute if a.name == "group"):
            attribute.i = getattr(modules.get(node.name), "groups", attribute.i)
    for each in (i for i in proto.graph.initializer if i.name in tensors):
        each.CopyFrom(numpy_helper.from_array(tensors[each.name].numpy(), each.name))
    return proto


def _of_layer(node: Any, layer: nn.Module | None, makers: Mapping[str, Any]) -> dict[str, Tensor]:
    """The constants that a layer's node reads under names of the exporter's own."""
    weight, bias = (getattr(layer, name, None) for name in ("weight", "bias"))
    found: dict[str, Tensor] = {}
    if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) == 3 and bias is not None:
        found[node.input[2]] = bias.detach()
    if node.op_type == "MatMul" and weight is not None:
        found[node.input[1]] = weight.detach().T.contiguous()  # inputs first
    before = makers.get(node.input[0]) if node.op_type == "Gemm" else None
    if before is not None and weight is not None and before.op_type == "Reshape":
        found[before.input[1]] = torch.tensor([-1, weight.shape[1]])  # a sample's elements as one axis
    return found
