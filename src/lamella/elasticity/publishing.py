"""publish(): an elastic network as ONNX files, and its levels timed there.

net = publish(net, task, "runs/r20/elastic")      # core.onnx, core.int8.onnx, ..., weights.bin, weights.int8.bin
net.family.levels[0].latency_ms                   # in ONNX Runtime, one thread, batch 1; int8_latency_ms in integers
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..calibrating import calibration_inputs, check_calibration
from ..coarsening import CALIBRATION_BATCHES
from ..emptied import of_what_is_left
from ..exporting import Part, Place, Written, export_family, family_bytes, one_sample
from ..lineage import file_digest
from ..progress import Progress, silent
from ..schema import Level
from ..serving.families import SUFFIXES, WEIGHTS, level_file, stamp_of
from ..timing import Latency, beaten, latency
from ..training import Task, seeded
from .networks import ElasticModel

IN_INTEGERS = "in integers"  # how notes on the files in integers begin


def publish(
    net: ElasticModel, task: Task, directory: str | Path, *, slots: int = 12, progress: Progress = silent
) -> ElasticModel:
    """Write the files of every level, time them on one sample, and put what was found into `net.family`. Returns `net`.

    A level whose file in integers is slower than a larger one's is noted, and calibration data of few samples. Raises what
    `export_family` raises, and DataError for calibration data that ranges cannot come from, as `quantize` does; `slots` rounds of
    timing, see `latency`.
    """
    progress("write and time files", 0, 1 + len(SUFFIXES), f"{2 * len(net.levels)} files")
    odd, batches = _calibration(task)
    parts = {level.name: part_of(net, level) for level in net.levels}
    shared = {name: t for name, t in net.net.named_parameters() if not net.is_own(name)}
    stamp = stamp_of(net.family)
    written = export_family(parts, shared, task.example_inputs, directory, calibration=batches, stamp=stamp)
    one = tree_leaves(one_sample(task.example_inputs))
    times = {}
    for done, precision in enumerate(SUFFIXES, 1):
        progress("write and time files", done, 1 + len(SUFFIXES), f"times in {precision}")
        times[precision] = _times(net, directory, precision, one, slots)
    progress("write and time files", 1 + len(SUFFIXES), 1 + len(SUFFIXES))
    net.family = replace(
        net.family,
        levels=tuple(_measured(x, written[x.name], *(t[x.name] for t in times.values())) for x in net.levels),
        onnx_bytes=family_bytes(directory, net.family.names),
        int8_bytes=family_bytes(directory, net.family.names, "int8"),
        weights=file_digest(Path(directory) / WEIGHTS["fp32"]),
        int8_weights=file_digest(Path(directory) / WEIGHTS["int8"]),
        notes=(
            *(note for note in net.family.notes if not note.startswith(IN_INTEGERS)),
            *(f"{IN_INTEGERS}, {note}" for note in odd),
            *_slower_notes({level.name: times["int8"][level.name] for level in net.levels}),
        ),
    )
    return net


def _calibration(task: Task) -> tuple[list[str], list[Any]]:
    """What is to be said of the calibration data, and the inputs that ranges come from: of the very batches that were looked at."""
    with seeded(0, 0, torch.device("cpu")):
        odd = check_calibration(task, CALIBRATION_BATCHES)
    with seeded(0, 0, torch.device("cpu")):
        return odd, list(calibration_inputs(task, CALIBRATION_BATCHES))


def part_of(net: ElasticModel, level: Level) -> Part:
    """What the exporter must know of a level."""
    places: dict[str, tuple[Place, ...]] = {}
    for name, tensor in net.net.named_parameters():
        cut = net.cut_of(level.name, name)
        if cut is None:
            places[name] = tuple(slice(0, extent, 1) for extent in tensor.shape)
        elif cut.blocks is None:
            places[name] = tuple(p if isinstance(p, slice) else p.cpu().numpy() for p in cut.places)
    module = net.extract(level.name, rounded=False)
    return Part(module, places, of_what_is_left(module, level.bits))


def _times(
    net: ElasticModel, directory: str | Path, precision: str, one: Sequence[Tensor], slots: int
) -> dict[str, Latency]:
    """Every level's time in one precision, the largest being what the others are a ratio of."""
    files = {level.name: level_file(directory, level.name, precision) for level in reversed(net.levels)}
    return latency(files, one, slots=slots)


def _slower_notes(times: Mapping[str, Latency]) -> list[str]:
    """A sentence for every level, of these from the smallest to the largest, whose file in integers a larger one beats."""
    return [
        f"{IN_INTEGERS}, level {name!r} is slower than {larger!r}, which is larger: {times[name].ratio:.2f}x "
        f"[{times[name].ratio_low:.2f}, {times[name].ratio_high:.2f}] of the largest level's time, and {times[larger].ratio:.2f}x. "
        f"Serve {larger!r} instead, or trace with another round_to (--round-to)."
        for name, larger in beaten(times).items()
    ]


def _measured(level: Level, written: Written, whole: Latency, coarse: Latency) -> Level:
    return replace(
        level,
        bytes=written.alone_bytes,
        latency_ms=whole.latency_ms,
        latency_ratio=whole.ratio,
        int8_bytes=written.alone_int8_bytes,
        int8_latency_ms=coarse.latency_ms,
        int8_latency_ratio=coarse.ratio,
    )
