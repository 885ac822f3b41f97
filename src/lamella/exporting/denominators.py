"""Sums that a small constant keeps from zero before something is divided by them or by their root: the denominators of norms that are
written by hand. They stay in float, since a grid of 256 levels makes zero of variances smaller than a step, and of the constant too.

    kept_from_zero(graph)        # {"mean_1", "add_30", "sqrt"}: the names of such tensors, of the float model

`coarsening.denominators` finds the same places.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..ranges import SMALL
from ..timing import Array

SHAPING = ("Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Flatten", "Expand")
MEANS = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool")


def kept_from_zero(graph: Any) -> set[str]:
    """The names of all that such a denominator is made of, from the squares on, and of its reciprocal."""
    look = _Look(graph)
    return {name for node in graph.node for denominator in look.divides(node) for name in look.chain(denominator, node)}


class _Look:
    """A graph's constants, and what makes each of its tensors."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.constants: Mapping[str, Array] = {i.name: numpy_helper.to_array(i) for i in graph.initializer if _small(i)}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def number(self, name: str) -> float | None:
        """The one number that a constant holds."""
        return float(self.constants[name].flat[0]) if name in self.constants else None

    def divides(self, node: Any) -> list[str]:
        """What the node divides by."""
        if node.op_type == "Div":
            return [node.input[1]]
        inverse = node.op_type == "Reciprocal" or (node.op_type == "Pow" and self.number(node.input[1]) == -0.5)
        return [node.input[0]] if inverse else []

    def chain(self, denominator: str, node: Any) -> Iterator[str]:
        """Of a denominator that is kept from zero: itself, what it is made of, and the reciprocal that the node makes of it."""
        names: list[str] = []
        maker = self._maker(denominator, names)
        if maker is not None and self._is_root(maker):
            maker = self._maker(maker.input[0], names)
        kept = self._kept(maker) if maker is not None else None
        if kept is None:
            return
        yield from (*names, *self._sources(kept))
        if node.op_type != "Div" or self.number(node.input[0]) is not None:
            yield from self._shapes_of(node.output[0])

    def _maker(self, name: str, names: list[str]) -> Any:
        """The node that makes what a tensor holds, if one does; all names that this has are added to `names`."""
        names.append(name)
        while name in self.makers and self.makers[name].op_type in SHAPING:
            name = self.makers[name].input[0]
            names.append(name)
        return self.makers.get(name)

    def _is_root(self, node: Any) -> bool:
        return bool(node.op_type == "Sqrt" or (node.op_type == "Pow" and self.number(node.input[1]) == 0.5))

    def _kept(self, node: Any) -> str | None:
        """What a node adds a small constant to, if it does."""
        if node.op_type != "Add":
            return None
        for name, other in (node.input, node.input[::-1]):
            if 0 < (self.number(other) or 0.0) <= SMALL:
                return str(name)
        return None

    def _sources(self, name: str) -> Iterator[str]:
        """A mean, or its root, and the squares that it is one of, and the differences that these are of."""
        means: list[str] = []
        squares: list[str] = []
        maker = self._maker(name, means)
        while maker is not None and (self._is_root(maker) or self._is_scaled(maker)):
            maker = self._maker(maker.input[0], means)
        if maker is None or maker.op_type not in MEANS:
            return
        yield from means
        square = self._maker(maker.input[0], squares)
        if square is not None and self._squares(square):
            yield from squares
            difference = self.makers.get(square.input[0])
            if difference is not None and difference.op_type == "Sub":
                yield square.input[0]

    def _is_scaled(self, node: Any) -> bool:
        """Whether it multiplies by a number, as a variance that counts one sample less."""
        return node.op_type in ("Mul", "Div") and self.number(node.input[1]) is not None

    def _squares(self, node: Any) -> bool:
        is_power = node.op_type == "Pow" and self.number(node.input[1]) == 2
        return bool(is_power or (node.op_type == "Mul" and node.input[0] == node.input[1]))

    def _shapes_of(self, name: str) -> Iterator[str]:
        """A tensor, and the forms in which it is read."""
        yield name
        for node in self.readers.get(name, ()):
            if node.op_type in SHAPING or self._is_scaled(node):
                yield from self._shapes_of(node.output[0])


def _small(constant: Any) -> bool:
    from onnx import TensorProto

    return constant.data_type == TensorProto.FLOAT and int(np.prod(constant.dims, dtype=np.int64)) == 1
