"""An elastic network as ONNX files: one graph per level over one file of weights, stored once.

    files = export_family({"core": part, "full": part}, shared, inputs, "runs/r20/elastic", calibration=batches)
    files["core"].path               # runs/r20/elastic/core.onnx; beside it core.int8.onnx, weights.bin, weights.int8.bin

A level's weight is Slice(shared) x scale: the scale is what its batch norm, folded in, multiplies a channel by. ONNX Runtime
computes both once, when it loads the file, and then runs the very graph of a file of the level's own. In integers, a channel's
numbers are the same for all levels too: only their scale differs. What does not follow from the shared weights (a channel whose
scale changes sign, weights rounded to fewer bits) is kept in the level's own file. Why so: docs/decisions/0010.

Legend: O output channels.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import LamellaError
from ..runs import write_through
from ..serving.families import FAMILY_KEY, LEVEL_KEY, SUFFIXES, WEIGHTS, WEIGHTS_KEY, file_digest, level_file
from ..timing import Array, feeds_of, open_session
from .capturing import TOLERANCE, difference
from .integers import layers_in_float, quantize_onnx
from .onnx_file import export_onnx, onnx_bytes, onnx_library

Place = slice | Array  # of one axis: evenly spaced positions, or their indices

WORTH_SHARING = 512  # bytes; the nodes that cut a smaller tensor out would take more than it does
WITHIN = {"float32": TOLERANCE, "int8": 0.25}  # of the largest output: what a file may differ from the level's own
NEAR = 2e-6  # of a tensor's largest value: what folding a norm in float32 may change


@dataclass(frozen=True, slots=True)
class Part:
    """A level to write: its module, and the positions, axis by axis, that it takes of every shared tensor it shares.

    `bits` of each layer's weights in the integer file; 8 where it is silent.
    """

    module: nn.Module
    places: Mapping[str, tuple[Place, ...]]
    bits: Mapping[str, int] = field(default_factory=dict)

    @property
    def few(self) -> dict[str, int]:
        """The layers of fewer than 8 bits: their weights lie on a grid of their own, and in the level's own file."""
        return {layer: bits for layer, bits in self.bits.items() if bits < 8}


@dataclass(frozen=True, slots=True)
class Written:
    """A level's files: the float one and the one in integers (if any), and what files of the level's own would weigh."""

    path: Path
    int8_path: Path | None
    alone_bytes: int
    alone_int8_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Share:
    """A weight of a level's file as `slice of the shared one x ratio along an axis`."""

    places: tuple[Place, ...]
    axis: int
    ratio: Array


def export_family(
    parts: Mapping[str, Part],
    shared: Mapping[str, Tensor],
    inputs: Sequence[Any],
    directory: str | Path,
    *,
    calibration: Iterable[Any] | None = None,
    stamp: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Written]:
    """Write the float files of all levels, and with `calibration` (batches of inputs) also those in integers.

    Every file is checked against one of the level's own before any appears, and bears the `stamp` (see `stamp_of`); level
    files of other stamps or names that lay in the directory are removed. Returns what was written, by level. Raises what
    `export_onnx` and `quantize_onnx` raise, and LamellaError where a file does not say what the level's own says, before anything
    is written.
    """
    onnx_library("exporting an elastic network")
    directory = Path(directory)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in shared.items()}
    batches = list(calibration) if calibration is not None else []
    with tempfile.TemporaryDirectory(prefix="lamella.") as scratch:
        alone = {name: export_onnx(p.module, inputs, Path(scratch) / f"{name}.onnx") for name, p in parts.items()}
        levels = {name: _Level(name, path, inputs) for name, path in alone.items()}
        for name, level in levels.items():
            level.shares = _shares(level.arrays, arrays, parts[name].places)
        whole = {
            name: quantize_onnx(path, path.with_suffix(SUFFIXES["int8"]), batches, bits=parts[name].few)
            for name, path in (alone.items() if batches else ())
        }
        coarse = {name: _Level(name, path, inputs) for name, path in whole.items()}
        for name, level in coarse.items():
            few = {f"{layer}.weight" for layer in parts[name].few}
            level.candidates = {t: share for t, share in levels[name].shares.items() if t not in few}
        integers = _in_integers(coarse, arrays)
        made = Path(scratch) / "made"
        made.mkdir()
        _write(levels, arrays, made, "float32", stamp)
        if coarse:
            _write(coarse, integers, made, "int8", stamp)
        for path in sorted(made.iterdir(), key=lambda path: path.suffix):  # weights first: their files name them
            write_through(directory / path.name, partial(shutil.copyfile, path))
        written = {name: _written(directory, name, alone[name], whole.get(name)) for name in parts}
    _remove_others(directory, written.values())
    return written


def _written(directory: Path, name: str, alone: Path, whole: Path | None) -> Written:
    coarse = level_file(directory, name, "int8") if whole else None
    return Written(level_file(directory, name), coarse, onnx_bytes(alone), onnx_bytes(whole) if whole else None)


def _remove_others(directory: Path, written: Collection[Written]) -> None:
    """Level files that an earlier family left here, and weights that no level reads."""
    kept = {path for each in written for path in (each.path, each.int8_path)}
    for path in set(directory.glob("*.onnx")) - kept:
        if _is_level(path):
            path.unlink()
    if all(each.int8_path is None for each in written):
        (directory / WEIGHTS["int8"]).unlink(missing_ok=True)


def _is_level(path: Path) -> bool:
    import onnx

    try:
        known = onnx.load(str(path), load_external_data=False).metadata_props
    except Exception:  # whatever it is, it is not ours to remove
        return False
    return any(each.key == LEVEL_KEY for each in known)


def family_bytes(directory: str | Path, names: Iterable[str], precision: str = "float32") -> int:
    """Bytes on disk of these levels' files of one precision: every graph, and the weights once."""
    files = [Path(directory) / WEIGHTS[precision], *(level_file(directory, name, precision) for name in names)]
    return sum(file.stat().st_size for file in files)


class _Level:
    """A level's own file, loaded, and which of its weights follow from the shared ones."""

    def __init__(self, name: str, path: Path, inputs: Sequence[Any]) -> None:
        import onnx

        self.name, self.path, self.inputs = name, path, inputs
        self.proto = onnx.load(str(path))
        self.arrays = {i.name: onnx.numpy_helper.to_array(i) for i in self.proto.graph.initializer}
        self.shares: dict[str, _Share] = {}
        self.candidates: dict[str, _Share] = {}  # of an integer file: what the float one shares, on the grid of 8 bits


def _shares(own: Mapping[str, Array], shared: Mapping[str, Array], places: Mapping[str, Any]) -> dict[str, _Share]:
    found = {}
    for name, array in own.items():
        if name in shared and name in places and shared[name].nbytes >= WORTH_SHARING:
            share = _share(array, _taken(shared[name], places[name]), places[name])
            if share is not None:
                found[name] = share
    return found


def _taken(array: Array, places: tuple[Place, ...]) -> Array:
    for axis, place in enumerate(places):
        array = array[(slice(None),) * axis + (place,)]
    return array


def _share(own: Array, taken: Array, places: tuple[Place, ...]) -> _Share | None:
    """How `own` follows from what the level takes of the shared tensor, or None where it does not."""
    if own.shape != taken.shape:
        return None
    for axis in range(min(2, own.ndim)):
        a, b = (np.moveaxis(x, axis, 0).reshape(own.shape[axis], -1).astype(np.float64) for x in (own, taken))
        norm_O = (b * b).sum(1)
        ratio = np.where(norm_O > 0, (a * b).sum(1) / np.where(norm_O > 0, norm_O, 1), 1.0)
        if np.abs(a - ratio[:, None] * b).max(initial=0) <= NEAR * np.abs(a).max(initial=0):
            return _Share(places, axis, ratio)
    return None


def _in_integers(coarse: Mapping[str, _Level], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The shared weights in int8, and the shares of the integer files, whose ratio is the scale of every channel.

    A channel's shared scale is the largest that any level needs, so no sum of two products overflows in any of them.
    """
    scales: dict[str, Array] = {}
    for level in coarse.values():
        for tensor, share in level.candidates.items():
            scale_O = _scale_of(level, tensor, share)
            if scale_O is not None:
                wanted = scales.setdefault(tensor, np.zeros(arrays[tensor].shape[share.axis]))
                rows = np.arange(len(wanted))[share.places[share.axis]]
                wanted[rows] = np.maximum(wanted[rows], scale_O / share.ratio)
                level.shares[tensor] = share
    made = {}
    for tensor, scale_O in scales.items():
        axes = {level.shares[tensor].axis for level in coarse.values() if tensor in level.shares}
        axis = axes.pop()
        whole = np.where(scale_O > 0, scale_O, 1.0)
        along = whole.reshape([-1 if i == axis else 1 for i in range(arrays[tensor].ndim)])
        made[tensor] = np.clip(np.rint(arrays[tensor] / along), -127, 127).astype(np.int8)
        for level in coarse.values():
            if tensor in level.shares:
                share = level.shares[tensor]
                level.shares[tensor] = _Share(share.places, axis, share.ratio * whole[share.places[axis]])
    return made


def _scale_of(level: _Level, tensor: str, share: _Share) -> Array | None:
    """The scale of every channel in the level's own integer file, where it has one per channel of the share's axis."""
    node = _reader(level.proto.graph, tensor)
    if node is None or (share.ratio <= 0).any():
        return None
    scale: Array = level.arrays[node.input[1]]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    fits = scale.ndim == 1 and axis == share.axis and scale.shape == share.ratio.shape
    return scale.astype(np.float64) if fits else None


def _reader(graph: Any, tensor: str) -> Any:
    """The node that turns an integer weight back into floats."""
    return next((n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == tensor), None)


def _write(
    levels: Mapping[str, _Level], shared: Mapping[str, Array], directory: Path, precision: str, stamp: Mapping[str, str]
) -> None:
    used = {tensor for level in levels.values() for tensor in level.shares}
    stored = {name: array for name, array in shared.items() if name in used}
    weights = WEIGHTS[precision]
    (directory / weights).write_bytes(b"".join(a.tobytes() for a in stored.values()))
    known = {FAMILY_KEY: ""} | dict(stamp) | {WEIGHTS_KEY: file_digest(directory / weights)}
    starts = np.cumsum([0, *(a.nbytes for a in stored.values())]).tolist()
    places = {name: (start, array) for (name, array), start in zip(stored.items(), starts, strict=False)}
    for level in levels.values():
        _rewrite(level, places, weights, integers=precision == "int8")
        for key, value in (known | {LEVEL_KEY: level.name}).items():
            level.proto.metadata_props.add(key=key, value=value)
        _save(level, level_file(directory, level.name, precision), precision)


def _save(level: _Level, path: Path, precision: str) -> None:
    path.write_bytes(level.proto.SerializeToString(deterministic=True))
    feeds = feeds_of(open_session(level.path), list(level.inputs))
    expected = open_session(level.path).run(None, feeds)
    seen = open_session(path).run(None, feeds)
    tolerance = WITHIN[precision]
    for a, b in zip(seen, expected, strict=True):
        problem = difference(a, b, tolerance)
        if problem:
            raise LamellaError(
                f"{path.name}: is not what a file of the level's own gives: {problem}. Nothing was written."
            )
    if precision == "int8" and layers_in_float(path) != layers_in_float(level.path):
        raise LamellaError(f"{path.name}: ONNX Runtime would compute {layers_in_float(path)[0]!r} in float.")


def _rewrite(level: _Level, places: Mapping[str, tuple[int, Array]], weights: str, *, integers: bool) -> None:
    """Put slices of the shared weights where the level's own were."""
    graph = level.proto.graph
    writer = _Writer(graph)
    for tensor, share in level.shares.items():
        start, array = places[tensor]
        cut = writer.sliced(tensor, array, share.places)
        if integers:
            node = _reader(graph, tensor)
            node.input[1] = writer.constant(share.ratio.astype(np.float32))
            node.input[0] = cut
        else:
            writer.rename(tensor, writer.scaled(cut, array.ndim, share))
        writer.external(tensor, array, weights, start)
    writer.finish()


class _Writer:
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

    def scaled(self, cut: str, rank: int, share: _Share) -> str:
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


__all__ = ["Part", "Place", "Written", "export_family", "family_bytes"]
