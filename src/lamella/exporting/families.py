"""An elastic network as ONNX files: one graph per level over one file of weights, stored once.

    files = export_family({"core": part, "full": part}, shared, inputs, "runs/r20/elastic", calibration=batches)
    files["core"].path               # runs/r20/elastic/core.onnx; beside it core.int8.onnx, weights.bin, weights.int8.bin

A level's weight is Slice(shared) x scale: the scale is what its batch norm, folded in, multiplies a channel by. ONNX Runtime
computes both once, when it loads the file, and then runs the very graph of a file of the level's own. In integers, a channel's
numbers are the same for all levels too: only their scale differs. What does not follow from the shared weights (a channel whose
scale changes sign, weights rounded to fewer bits) is kept in the level's own file. Why so: docs/decisions/0010.

`sharing` finds what follows from the shared weights, `rewriting` puts it into the graphs.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import LamellaError
from ..lineage import file_digest
from ..making import folder
from ..runs import write_through
from ..schema.plans import few_bits
from ..serving.families import FAMILY_KEY, LEVEL_KEY, SUFFIXES, WEIGHTS, WEIGHTS_KEY, level_file
from ..timing import Array, feeds_of, open_session
from .capturing import TOLERANCE, difference
from .integers import layers_in_float, quantize_onnx
from .likeness import NarrowedExports
from .onnx_file import onnx_bytes, onnx_library
from .rewriting import rewrite
from .sharing import LevelFile, Place, in_integers, shares_of, turned, with_common

WITHIN = {"fp32": TOLERANCE, "int8": 0.25}  # of the largest output: what a file may differ from the level's own
LEFT = {"fp32": "Nothing was written.", "int8": "The float files are written, those in integers are not."}


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
        return few_bits(self.bits)


@dataclass(frozen=True, slots=True)
class Written:
    """A level's float file, and what files of the level's own would weigh, in float and in integers (if any)."""

    path: Path
    alone_bytes: int
    alone_int8_bytes: int | None


def export_family(
    parts: Mapping[str, Part],
    shared: Mapping[str, Tensor],
    inputs: Sequence[Any],
    directory: str | Path,
    *,
    calibration: Iterable[Any] | None = None,
    stamp: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Written]:
    """Write the float files of all levels, and then with `calibration` (batches of inputs) those in integers.

    Every file is checked against one of the level's own before any of its precision appears, and bears the `stamp` (see
    `stamp_of`); level files that an earlier family left in the directory are removed. Returns what was written, by level. Raises
    what `export_onnx` and `quantize_onnx` raise, and LamellaError where a file does not say what the level's own says: before
    anything is written, or, in integers, once the float files are.
    """
    onnx_library("exporting an elastic network")
    directory = Path(directory)
    places = {name: dict(part.places) for name, part in parts.items()}
    batches = list(calibration) if calibration is not None else []
    with folder() as scratch:
        alone = _alone({name: part.module for name, part in parts.items()}, inputs, scratch)
        # After the levels, whose export tells of numbers that no file takes: NumPy has no bfloat16.
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in shared.items()}
        levels = {name: LevelFile(name, path, inputs) for name, path in alone.items()}
        _turn(levels, arrays, places)
        for name, level in levels.items():
            level.shares = shares_of(level.arrays, arrays, places[name])
        whole_floats = with_common(levels.values(), arrays)
        _write(levels, whole_floats, directory, "fp32", stamp)
        remove_family(directory, but=levels)
        whole = {
            name: quantize_onnx(path, path.with_suffix(SUFFIXES["int8"]), batches, bits=parts[name].few)
            for name, path in (alone.items() if batches else ())
        }
        coarse = {name: LevelFile(name, path, inputs) for name, path in whole.items()}
        for name, level in coarse.items():
            few = {f"{layer}.weight" for layer in parts[name].few}
            level.candidates = {t: share for t, share in levels[name].shares.items() if t not in few}
        if coarse:
            integers = in_integers(coarse, whole_floats)
            _write(coarse, with_common(coarse.values(), integers), directory, "int8", stamp)
        return {name: _written(directory, name, alone[name], whole.get(name)) for name in parts}


def _alone(modules: Mapping[str, nn.Module], inputs: Sequence[Any], directory: Path) -> dict[str, Path]:
    """Every level as a file of its own."""
    export = NarrowedExports()
    return {name: export(module, inputs, directory / f"{name}.onnx") for name, module in modules.items()}


def _turn(levels: Mapping[str, LevelFile], arrays: dict[str, Array], places: Mapping[str, dict[str, Any]]) -> None:
    """Transpose, in place, the shared matrices that the files hold transposed: those of linear layers on tokens."""
    for tensor in {t for name, level in levels.items() for t in turned(level.arrays, arrays, places[name])}:
        arrays[tensor] = np.ascontiguousarray(arrays[tensor].T)
        for each in places.values():
            if tensor in each:
                each[tensor] = each[tensor][::-1]


def _written(directory: Path, name: str, alone: Path, whole: Path | None) -> Written:
    return Written(level_file(directory, name), onnx_bytes(alone), onnx_bytes(whole) if whole else None)


def remove_family(directory: str | Path, but: Iterable[str] = ()) -> None:
    """Remove the files of a family's levels, and their weights; `but`: levels whose float files stay, and the weights of these."""
    directory, kept = Path(directory), {level_file(directory, name) for name in but}
    for path in set(directory.glob("*.onnx")) - kept:
        if _is_level(path):
            path.unlink()
    for precision, weights in WEIGHTS.items():
        if not kept or precision != "fp32":
            (directory / weights).unlink(missing_ok=True)


def _is_level(path: Path) -> bool:
    import onnx

    try:
        known = onnx.load(str(path), load_external_data=False).metadata_props
    except Exception:  # whatever it is, it is not ours to remove
        return False
    return any(each.key == LEVEL_KEY for each in known)


def family_bytes(directory: str | Path, names: Iterable[str], precision: str = "fp32") -> int:
    """Bytes on disk of these levels' files of one precision: every graph, and the weights once."""
    files = [Path(directory) / WEIGHTS[precision], *(level_file(directory, name, precision) for name in names)]
    return sum(file.stat().st_size for file in files)


def _write(
    levels: Mapping[str, LevelFile],
    shared: Mapping[str, Array],
    directory: Path,
    precision: str,
    stamp: Mapping[str, str],
) -> None:
    """The files of one precision, all of them once each has been checked."""
    with folder() as made:
        _make(levels, shared, made, precision, stamp)
        for path in sorted(made.iterdir(), key=lambda path: path.suffix):  # weights first: their files name them
            write_through(directory / path.name, partial(shutil.copyfile, path))


def _make(
    levels: Mapping[str, LevelFile],
    shared: Mapping[str, Array],
    made: Path,
    precision: str,
    stamp: Mapping[str, str],
) -> None:
    used = {tensor for level in levels.values() for tensor in level.shares}
    stored = {name: array for name, array in shared.items() if name in used}
    weights = WEIGHTS[precision]
    (made / weights).write_bytes(b"".join(a.tobytes() for a in stored.values()))
    known = {FAMILY_KEY: ""} | dict(stamp) | {WEIGHTS_KEY: file_digest(made / weights)}
    starts = np.cumsum([0, *(a.nbytes for a in stored.values())]).tolist()
    places = {name: (start, array) for (name, array), start in zip(stored.items(), starts, strict=False)}
    for level in levels.values():
        rewrite(level, places, weights, integers=precision == "int8")
        for key, value in (known | {LEVEL_KEY: level.name}).items():
            level.proto.metadata_props.add(key=key, value=value)
        path = level_file(made, level.name, precision)
        path.write_bytes(level.proto.SerializeToString(deterministic=True))
        _check_outputs(level, path, precision)
        if precision == "int8":
            _check_in_float(level, path)


def _check_outputs(level: LevelFile, path: Path, precision: str) -> None:
    feeds = feeds_of(open_session(level.path), list(level.inputs))
    expected = open_session(level.path).run(None, feeds)
    seen = open_session(path).run(None, feeds)
    for a, b in zip(seen, expected, strict=True):
        problem = difference(a, b, WITHIN[precision])
        if problem:
            raise LamellaError(
                f"{path.name}: is not what a file of the level's own gives: {problem}. {LEFT[precision]}"
            )


def _check_in_float(level: LevelFile, path: Path) -> None:
    """That as many layers are computed in integers as in a file of the level's own; their names differ."""
    more = len(layers_in_float(path)) - len(layers_in_float(level.path))
    if more > 0:
        raise LamellaError(
            f"{path.name}: ONNX Runtime would compute {more} layers in float that it computes in integers in a file of the level's own. "
            f"{LEFT['int8']} Export this level by itself: extract(name), export_onnx and quantize_onnx."
        )


__all__ = ["Part", "Place", "Written", "export_family", "family_bytes", "remove_family"]
