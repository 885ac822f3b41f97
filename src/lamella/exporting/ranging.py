"""The ranges that a float file's activations take on calibration data, as ONNX Runtime computes them.

    ranges = activation_ranges(proto, feeds)      # {tensor: (low, high)}; feeds: an iterable of named arrays per batch

Tensors are looked at as the simulation looks at them (`coarsening.observe`), so that both come to the same grids: where nothing but a
pool or a change of shape reads a tensor, and hands its grid on, the range is that of what comes out.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..making import folder
from ..ranges import Spread
from ..timing import Array, open_session

AT_ONCE = 2**29  # bytes of activations that are held together
# Operators whose outputs have their input's grid.
PASSING = {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"}

FIXED = {"Softmax": (0.0, 1.0)}  # the one grid on which the runtime's integer operator gives the right numbers

Feeds = dict[str, Array]


def activation_ranges(proto: Any, batches: Iterable[Feeds]) -> dict[str, tuple[float, float]]:
    """The range of every float tensor that is fed or computed, by `least_error`; that of the model's outputs from their lowest to their
    highest value, since the largest are what they are read for. None of one that is marked (`ranges.Spread.marked`).
    """
    graph = proto.graph
    outputs = {value.name for value in graph.output}
    holders = _holders(graph, outputs)
    spreads = _spreads(proto, set(holders.values()), batches)
    numbers = {name: spread for name, spread in spreads.items() if not spread.marked}
    ends = {name: (s.low, s.high) if name in outputs else s.ends() for name, s in numbers.items()}
    fixed = {name: FIXED[node.op_type] for node in graph.node if node.op_type in FIXED for name in node.output}
    return {name: ends[holder] for name, holder in holders.items() if holder in ends} | fixed


def _holders(graph: Any, outputs: Set[str]) -> dict[str, str]:
    """For every tensor the last one that has its grid and that nothing else leads to, mostly itself; for what the model returns, itself."""
    readers: dict[str, list[Any]] = {name: [None] for name in outputs}  # whoever reads the file's outputs
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    held: dict[str, str] = {}
    for node in reversed(graph.node):
        for name in filter(None, node.output):
            held[name] = _holder(name, readers, held)
    fed = {value.name: _holder(value.name, readers, held) for value in graph.input}
    return {**held, **fed}


def _holder(name: str, readers: Mapping[str, Sequence[Any]], held: Mapping[str, str]) -> str:
    alone = readers.get(name, ())
    return held[alone[0].output[0]] if len(alone) == 1 and alone[0] and alone[0].op_type in PASSING else name


def _spreads(proto: Any, wanted: Set[str], batches: Iterable[Feeds]) -> dict[str, Spread]:
    """How the values of the wanted float tensors are spread over the batches."""
    at_once = _samples_at_once(proto.graph)
    spreads: dict[str, Spread] = {}
    with folder() as scratch:
        session = open_session(_telling(proto, wanted, scratch))
        names = [output.name for output in session.get_outputs()]
        for batch in batches:
            samples = len(next(iter(batch.values())))
            for start, part in _parts(batch, at_once):
                found = dict(zip(names, session.run(names, part), strict=True))
                fed = {name: array for name, array in part.items() if name in wanted}
                _count(spreads, {**fed, **found}, Part(start, len(next(iter(part.values()))), samples))
    return spreads


class Part(NamedTuple):
    """So many of a batch's samples, from `start` on."""

    start: int
    samples: int
    of: int


def _count(spreads: dict[str, Spread], found: Feeds, part: Part) -> None:
    for name, array in found.items():
        if array.dtype == np.float32 and array.size:
            each = array.size // part.samples
            spreads.setdefault(name, Spread()).add(array, each * part.of, each * part.start)


def _telling(proto: Any, wanted: Set[str], scratch: Path) -> Path:
    """The model with what is wanted of all that it computes among its outputs, as a file."""
    import onnx

    told = onnx.ModelProto()
    told.CopyFrom(proto)
    known = {value.name for value in told.graph.output}
    made = [name for node in told.graph.node for name in node.output if name in wanted and name not in known]
    told.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)  # the runtime finds out their types
    onnx.save(told, str(scratch / "told.onnx"))
    return scratch / "told.onnx"


def _samples_at_once(graph: Any) -> int | None:
    """How many samples' activations may be held together; None where the file takes its batches whole."""
    firsts = [value.type.tensor_type.shape.dim[0] for value in graph.input if value.type.tensor_type.shape.dim]
    if len(firsts) != len(graph.input) or not all(dim.dim_param for dim in firsts):
        return None
    shapes = [
        [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in (*graph.value_info, *graph.output)
    ]
    return max(1, AT_ONCE // (4 * sum(math.prod(shape) for shape in shapes) or 1))


def _parts(batch: Feeds, at_once: int | None) -> Iterator[tuple[int, Feeds]]:
    """The batch in parts of so many samples, each with the number of its first one."""
    lengths = {len(array) if array.ndim else 1 for array in batch.values()}
    if at_once is None or len(lengths) > 1:
        yield 0, batch
        return
    for start in range(0, lengths.pop(), at_once):
        yield start, {name: array[start : start + at_once] for name, array in batch.items()}
