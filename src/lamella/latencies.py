"""What a network's plans would take on this machine: random plans exported and timed, a prediction fitted and held to others.

    fit = latency_fit(model, graph, task, Timing(precision="int8"), directory="runs/r20/latency")
    fit.text                                   # int8 latency on onnxruntime-1.31.1-...: median error 2.5 % ...
    predictor(fit, graph)                      # what plan(latency=...) takes
    Timing(precision="int8", runtime="openvino")       # the same there
    measured_steps(graph, "int8")              # {"conv1": 4, ...}: what `round_to` should be on this machine

Layers are timed once per runtime, version and CPU, and kept in the user's cache; exports lie in `directory` until the fit is made, so
that a kill loses at most the file in progress.
"""

import os
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .calibrating import calibration_inputs
from .errors import LamellaError
from .exporting import Export, NarrowedExports, export_onnx, layers_of, one_sample, quantize_onnx
from .progress import Progress, silent
from .schema import Graph, Group, LatencyFit, TimedPlan
from .schema.timings import Runtime
from .surgery import narrow
from .timing import LatencyPredictor, LatencyTable, accuracy, fit_predictor, free_step, latency
from .timing.predicting import shapes_of
from .timing.shapes import Precision, is_depthwise
from .timing.tables import machine
from .training import Task, batch_length, tensors_of

Widths = Mapping[str, int]

RULE = 1  # by which layers and files are timed: `LatencyFit.rule`
GONE = 0.25  # of the groups that may go altogether, in plans that go without some


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """`precision` of the files, and the `runtime` they run in; `fits` random plans to fit on (0: trust the table of layers alone),
    `holds` to hold the fit to.

    `whole`: these plans go without some of the groups that may go altogether, as those to be predicted do (decision 0024).
    """

    precision: Precision = "fp32"
    runtime: Runtime = "onnxruntime"
    fits: int = 12
    holds: int = 8
    seed: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        if self.fits not in (0, *range(3, 1000)) or self.holds < 0:
            raise LamellaError(
                f"fits={self.fits}, holds={self.holds}: 0 or at least 3 plans to fit on, and 0 or more to hold."
            )

    def plans(self, graph: Graph) -> list[dict[str, int]]:
        """The plans that are timed."""
        return random_plans(graph, self.fits + self.holds, self.seed, GONE if self.whole else 0.0)


def latency_fit(
    model: nn.Module,
    graph: Graph,
    task: Task,
    timing: Timing,
    directory: str | Path,
    progress: Progress = silent,
) -> LatencyFit:
    """Export, time, fit, and predict the plans that were held out."""
    table = _table(timing.precision, timing.runtime)
    plans = timing.plans(graph)
    files: list[tuple[Widths, Precision]] = [(widths, timing.precision) for widths in plans]
    if timing.fits and plans and timing.precision == "int8":
        files.append(({}, "fp32"))
    ms = _timed(model, graph, task, files, Path(directory), timing.runtime, progress) if files else []
    fitted, held = plans[: timing.fits], plans[timing.fits :]
    found = LatencyPredictor(table, graph)
    if fitted:
        found = fit_predictor(table, graph, fitted, ms[: timing.fits], progress)
    seen = accuracy(found, graph, held, ms[timing.fits : len(plans)]) if held else None
    table.measure([s for widths in [*plans, {}] for s in shapes_of(table, graph, widths)], progress)
    shutil.rmtree(directory, ignore_errors=True)
    rows = [
        TimedPlan(widths=w, measured_ms=t, predicted_ms=found.predict(graph, w, {}), fitted=i < timing.fits)
        for i, (w, t) in enumerate(zip(plans, ms[: len(plans)], strict=True))
    ]
    dense_ms = ms[-1] if len(ms) > len(plans) else _dense_in_float(graph, timing.runtime, progress)
    return LatencyFit(
        structure=graph.structure,
        machine=machine(timing.runtime),
        runtime=timing.runtime,
        precision=timing.precision,
        rule=RULE,
        scale=found.scale,
        per_layer=found.per_layer,
        per_element=found.per_element,
        block=found.block,
        plans=tuple(rows),
        median_error=None if seen is None else seen.median_error,
        worst_error=None if seen is None else seen.worst_error,
        rank_correlation=None if seen is None else seen.rank_correlation,
        dense_ms=dense_ms if timing.precision == "int8" else None,
    )


def is_of_this_rule(found: LatencyFit, graph: Graph, task: Task) -> bool:
    """Whether the fit is of use: one of an older rule is where the network has nothing that the rule got wrong."""
    touched = batch_length(task.example_inputs) > 1 or any(is_depthwise(graph, x) for x in graph.multiplying)
    return found.rule == RULE or not touched


def _table(precision: Precision, runtime: Runtime) -> LatencyTable:
    """The one in the user's cache."""
    return LatencyTable(cache_directory(), precision=precision, runtime=runtime, slots=16)


def _dense_in_float(graph: Graph, runtime: Runtime, progress: Progress) -> float:
    """What the dense network's layers take in float, added up: beside a table of layers in integers that nothing was fitted to."""
    table = _table("fp32", runtime)
    table.measure(shapes_of(table, graph, {}), progress)
    return LatencyPredictor(table, graph).predict(graph, {}, {})


def predictor(found: LatencyFit, graph: Graph) -> LatencyPredictor:
    """The fit at work, over the table in the user's cache."""
    table = _table(found.precision, found.runtime)
    return LatencyPredictor(table, graph, found.scale, found.per_layer, found.per_element, found.block, found.dense_ms)


def cache_directory() -> Path:
    """Where latency tables lie: LAMELLA_CACHE, else `lamella` in the user's cache."""
    named = os.environ.get("LAMELLA_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamella"


def random_plans(graph: Graph, count: int, seed: int, gone: float = 0.0) -> list[dict[str, int]]:
    """Every free group at a legal width drawn from a quarter of its channels to all of them, or without any: `gone` of those that may go.

    No plan comes twice; where there are fewer than three, which nothing can be fitted to, there is none.
    """
    rng = random.Random(seed)
    drawn = [{g.name: _width(g, rng, gone) for g in graph.free} for _ in range(count)]
    plans = [dict(each) for each in dict.fromkeys(tuple(widths.items()) for widths in drawn)]
    return plans if len(plans) in (count, *range(3, count)) else []


def _width(group: Group, rng: random.Random, gone: float) -> int:
    if gone and group.removable and rng.random() < gone:
        return 0
    return group.legal(group.width * rng.uniform(0.25, 1.0))


def _timed(
    model: nn.Module,
    graph: Graph,
    task: Task,
    plans: Sequence[tuple[Widths, Precision]],
    directory: Path,
    runtime: Runtime,
    progress: Progress,
) -> list[float]:
    """Milliseconds of every plan's file in its precision on one sample, all timed side by side."""
    files, export = {}, NarrowedExports()
    for i, (widths, precision) in enumerate(plans):
        progress("export plans to time", i, len(plans))
        files[str(i)] = written(narrow(model, graph, widths), task, precision, directory / f"{i}.onnx", export=export)
    progress("export plans to time", len(plans), len(plans))
    times = latency(files, tensors_of(one_sample(task.example_inputs)), runtime=runtime, slots=8, seconds=0.02)
    return [times[name].latency_ms for name in files]


def written(
    model: nn.Module,
    task: Task,
    precision: Precision,
    path: Path,
    *,
    bits: Mapping[str, int] | None = None,
    export: Export = export_onnx,
) -> Path:
    """The network as a file in float or in integers, unless it is there already. `export` writes the float one.

    What the ranges are takes no time: of the calibration data, only what would make no file is refused.
    """
    final = path if precision == "fp32" else path.with_suffix(".int8.onnx")
    if not final.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        export(model, task.example_inputs, path)
        if precision == "int8":
            held = {name: width for name, width in (bits or {}).items() if name in layers_of(path)}
            quantize_onnx(path, final, calibration_inputs(task, 1), bits=held)
    return final


def measured_steps(graph: Graph, precision: Precision = "fp32") -> dict[str, int]:
    """Per group the largest step that is free for some layer that makes it: round_to as ONNX Runtime has it on this machine.

    Layers of one shape are measured once. A group that no multiplying layer makes has step 1.
    """
    table = _table(precision, "onnxruntime")
    shapes = dict(zip((x.name for x in graph.multiplying), shapes_of(table, graph, {}), strict=True))
    steps: dict[str, int] = {}
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if shape.key not in steps:
            steps[shape.key] = free_step(table, shape)
        for group in graph.layer_of[name].outputs.groups:
            found[group] = max(found.get(group, 1), steps[shape.key])
    return {g.name: min(found.get(g.name, 1), g.width) for g in graph.groups}
