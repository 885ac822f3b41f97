"""A level's graph with slices of the shared weights where its own were."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..timing import Array
from .sharing import NEAR, LevelFile, Place, Share, dequantizer


def rewrite(level: LevelFile, places: Mapping[str, tuple[int, Array]], weights: str, *, integers: bool) -> None:
    """Put slices of the shared weights where the level's own were."""
    graph = level.proto.graph
    writer = GraphWriter(graph)
    for tensor, share in level.shares.items():
        start, array = places[tensor]
        cut = writer.sliced(tensor, array, share.places)
        node = dequantizer(graph, tensor) if integers else None
        if node is not None:
            node.input[1] = writer.constant(share.ratio.astype(np.float32))
            node.input[0] = cut
        else:
            writer.rename(tensor, writer.scaled(cut, array.ndim, share))
        writer.external(tensor, array, weights, start)
    writer.finish()


class GraphWriter:
    """New constants and nodes for a graph, with short names; equal constants are stored once."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.nodes, self.count = graph, list[Any](), 0
        self.known: dict[tuple[Any, ...], str] = {}

    def name(self) -> str:
        self.count += 1
        return f"_{self.count}"

    def constant(self, array: Array) -> str:
        from onnx import numpy_helper

        key = (array.dtype, array.shape, array.tobytes())
        if key not in self.known:
            self.known[key] = self.name()
            self.graph.initializer.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        from onnx import helper

        output = self.name()
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def sliced(self, tensor: str, array: Array, places: tuple[Place, ...]) -> str:
        """The level's positions of a shared tensor: one Slice for evenly spaced ones, a Gather for each axis of others."""
        cut = tensor
        for axis, place in enumerate(places):
            if not isinstance(place, slice):
                cut = self.node("Gather", [cut, self.constant(np.asarray(place, dtype=np.int64))], axis=axis)
        spans = [(axis, p) for axis, p in enumerate(places) if isinstance(p, slice)]
        spans = [(axis, p) for axis, p in spans if (p.start, p.stop, p.step) != (0, array.shape[axis], 1)]
        if spans:
            numbers = zip(*((p.start, p.stop, axis, p.step) for axis, p in spans), strict=True)
            starts, stops, axes, steps = (self.constant(np.array(n, dtype=np.int64)) for n in numbers)
            cut = self.node("Slice", [cut, starts, stops, axes, steps])
        return cut

    def scaled(self, cut: str, rank: int, share: Share) -> str:
        ratio = share.ratio.astype(np.float32)
        if (np.abs(share.ratio - 1) < NEAR).all():
            return cut
        return self.node(
            "Mul", [cut, self.constant(ratio.reshape([-1 if i == share.axis else 1 for i in range(rank)]))]
        )

    def rename(self, old: str, new: str) -> None:
        for node in self.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]

    def external(self, tensor: str, array: Array, location: str, start: int) -> None:
        """The whole shared tensor, by where it lies in the file of weights."""
        from onnx import TensorProto, helper
        from onnx.external_data_helper import set_external_data

        initializer = next(i for i in self.graph.initializer if i.name == tensor)
        initializer.CopyFrom(
            TensorProto(name=tensor, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        )
        initializer.raw_data = b""
        set_external_data(initializer, location, offset=start, length=array.nbytes)
        initializer.ClearField("raw_data")

    def finish(self) -> None:
        old = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self.nodes, *old])
