"""What single layers take on this machine, measured once and kept.

    table = LatencyTable("runs/latency", precision="int8")
    table.measure(shapes)                   # those not known yet, side by side; kept on disk
    table.ms(shape)                         # measured now if it is not there
    free_step(table, shape)                 # 16: rounding up to a multiple of 16 channels costs nothing here

A file holds one runtime, version, CPU and precision: figures of another machine are never read. The least time over slots that
take turns, in several passes over a chunk of shapes, is the figure (other programs only ever add to it). A figure that is kept
stays: several processes may fill one file.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
import torch

from ..errors import LamellaError, RecordError, unknown_name
from ..making import folder
from ..processors import processor
from ..progress import Progress, silent
from ..records import check
from ..runs import write_atomically
from ..schema.timings import Runtime
from .calls import require
from .files import Call
from .shapes import LayerShape, Precision, input_sizes, write_layer

TOGETHER = 24  # shapes that take turns
CHUNK = 8 * TOGETHER  # shapes that are measured, then kept
PASSES = 4  # over a chunk: a neighbour's busy second meets a quarter of a shape's slots, and not all of them
STEPS = (1, 2, 4, 8, 16, 32)
FREE = 0.02  # by which a layer of more outputs may be slower and still count as no slower


class LatencyTable:
    """Milliseconds per layer shape. `directory` None: nothing is kept."""

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        precision: Precision = "fp32",
        runtime: Runtime = "onnxruntime",
        slots: int = 8,
        seconds: float = 0.004,
    ) -> None:
        if precision not in ("fp32", "int8"):
            raise RecordError("precision", unknown_name("precision", precision, ("fp32", "int8")))
        check(slots >= 1 and seconds > 0, "slots", "at least one slot of some length")
        self.precision, self.runtime, self.slots, self.seconds = precision, runtime, slots, seconds
        self.path = None if directory is None else Path(directory) / f"{machine(runtime)}-{precision}.json"
        self.known: dict[str, float] = self._kept()

    def ms(self, shape: LayerShape) -> float:
        """Milliseconds of one call."""
        if shape.key not in self.known:
            self.measure([shape])
        return self.known[shape.key]

    def measure(self, shapes: Iterable[LayerShape], progress: Progress = silent) -> None:
        """Measure those that are not in the table yet; a kill loses at most the last chunk."""
        new = list({s.key: s for s in shapes if s.key not in self.known}.values())
        for start in range(0, len(new), CHUNK):
            chunk = new[start : start + CHUNK]
            told = lambda done, start=start: progress("latency table", start + done, len(new))
            self._keep(self._least(chunk, told))
        progress("latency table", len(new), len(new))

    def _least(self, chunk: Sequence[LayerShape], told: Callable[[int], None]) -> dict[str, float]:
        """The least milliseconds of every shape over all passes; `told` how many shapes' worth of time has been spent."""
        seen = {s.key: math.inf for s in chunk}
        for number, start in enumerate(starts := [*range(0, len(chunk), TOGETHER)] * PASSES):
            told(number * len(chunk) // len(starts))
            batch = chunk[start : start + TOGETHER]
            for shape, ms in zip(batch, self._timed(batch, -(-self.slots // PASSES)), strict=True):
                seen[shape.key] = min(seen[shape.key], ms)
        return seen

    def _timed(self, shapes: Sequence[LayerShape], slots: int) -> list[float]:
        with folder() as scratch:
            calls = [self._call(shape, scratch / f"{i}.onnx") for i, shape in enumerate(shapes)]
            rounds = [[min(call.run(self.seconds).times) for call in calls] for _ in range(slots)]
        return [1e3 * min(times) for times in zip(*rounds, strict=True)]

    def _call(self, shape: LayerShape, path: Path) -> Call:
        if self.runtime == "openvino" and set(shape.kernel) == {1}:
            # Of a lone convolution it would make a pool in float with these strides, and a convolution behind it.
            shape = replace(shape, stride=(1,) * len(shape.kernel))
        write_layer(shape, path)
        rng = np.random.default_rng(0)
        drawn = (
            rng.integers(0, 256, input_sizes(shape)) if shape.precision == "int8" else rng.random(input_sizes(shape))
        )
        kind = torch.uint8 if shape.precision == "int8" else torch.float32
        return Call(path, torch.as_tensor(drawn).to(kind), 1, self.runtime)

    def _kept(self) -> dict[str, float]:
        return _read(self.path) if self.path is not None and self.path.exists() else {}

    def _keep(self, found: Mapping[str, float]) -> None:
        """Beside what other processes have kept by now, whose figures stay."""
        self.known |= {**found, **self._kept()}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps({"ms": self.known}, indent=0, sort_keys=True) + "\n")


def _read(path: Path) -> dict[str, float]:
    try:
        known = json.loads(path.read_text())["ms"]
        good = all(isinstance(v, float) and v > 0 for v in known.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        good = False
    check(good, str(path), "not a latency table; delete it and it is measured anew")
    return dict(known)


def machine(runtime: Runtime = "onnxruntime") -> str:
    """Runtime, its version and the CPU, as part of a file name. LamellaError for a runtime without tables, MissingExtra where it is
    not installed.
    """
    if runtime not in (known := get_args(Runtime)):
        raise LamellaError(unknown_name("runtime", runtime, known))
    version = str(require(runtime, "a latency table").__version__).split("-")[0]
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    return f"{runtime}-{version}-{slug}"


def free_step(table: LatencyTable, shape: LayerShape) -> int:
    """The largest step to which outputs can be rounded up at no cost: what `round_to` should be for such a layer.

    Widths just above multiples of half a step are measured against the next multiple; free means that the median of the ratios
    exceeds 1 by no more than `FREE`. A depthwise layer's inputs and outputs move together, and steps count its inputs; a grouped
    one has only steps whose half its blocks divide, so 1 may be all that it says.
    """
    depthwise = shape.blocks == shape.inputs > 1
    channels = shape.inputs if depthwise else shape.outputs
    best = 1
    for step in STEPS[1:]:
        if step > channels:
            break
        if not depthwise and step // 2 % shape.blocks:
            continue
        tops = range(step, channels + 1, max(step, channels // 4 // step * step))
        pairs = [(_at(shape, top - step // 2, depthwise), _at(shape, top, depthwise)) for top in tops]
        table.measure(s for pair in pairs for s in pair)
        if median(table.ms(high) / table.ms(low) for low, high in pairs) <= 1 + FREE:
            best = step
    return best


def _at(shape: LayerShape, channels: int, depthwise: bool) -> LayerShape:
    if not depthwise:
        return replace(shape, outputs=channels)
    return replace(shape, inputs=channels, blocks=channels, outputs=channels * shape.outputs // shape.inputs)


__all__ = ["LatencyTable", "free_step", "machine"]
