"""The main job, end to end: a real network characterized, planned, compressed out of order, quantized, measured, explained.

    outcome = demo(session, DIGITS)               # Table: dense, in order, out of order, + int8, small from scratch

Rows are paired: every network is scored on the same test samples, bytes are those of the ONNX files on disk, latencies come from
one interleaved run in ONNX Runtime. The last row keeps it honest: a network of the final widths that never saw the dense one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import nn

from .costs import cost
from .errors import LamellaError
from .exporting import NarrowedExports, OnnxModel, onnx_bytes
from .planning import reorder
from .profiling import Sweep
from .progress import Progress, silent
from .records import digest
from .reporting import write_report
from .schema import Budget, Graph, Plan, Request, Result, Row, Table
from .sessions import Session, build_model
from .stages import Way, compressed_as, export_once, opened, profiled, quantized, train, tuning_task
from .stages.deciding import planned
from .statistics import paired_difference
from .storage import read_into, save_tensors
from .surgery import narrow
from .timing import latency
from .training import Recipe, evaluate, fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much work the demo does: recipes, epochs after each cut and after the last, and the threshold factor.

    `recalibrate`: measure the curves with batch-norm statistics re-estimated (decision 0005): a better guide to what tuning will
    bring, at several times the work.
    """

    training: Recipe
    tuning: Recipe
    epochs_per_step: int = 1
    closing_epochs: int = 0
    factor: float = 0.985
    tuning_samples: int | None = None
    recalibrate: bool = True
    least_dense: float = 0.0
    options: dict[str, str] = field(default_factory=dict)


SETTINGS: dict[str, Settings] = {
    "digits": Settings(
        training=Recipe(epochs=20, lr=0.05),
        tuning=Recipe(epochs=1, lr=0.05),
        closing_epochs=20,
        least_dense=0.98,
        options={"model.widths": "32,64,128"},
    ),
    "mnist": Settings(
        training=Recipe(epochs=3, lr=0.05), tuning=Recipe(epochs=1, lr=0.02), closing_epochs=2, tuning_samples=10_000
    ),
    "cifar10": Settings(
        training=Recipe(epochs=30, lr=0.1, warmup=1),
        tuning=Recipe(epochs=1, lr=0.01),
        closing_epochs=6,
        tuning_samples=5_000,
        recalibrate=False,
    ),
}

Notes = tuple[str, ...]


def demo(session: Session, settings: Settings, progress: Progress = silent) -> Table:
    """Run every stage that is not finished yet, write table and page, and return the table."""
    dense = train(session, settings.training, progress)
    _check_dense(dense, session, settings)
    opened(session)
    profiled(session, sweep=Sweep(recalibrate=settings.recalibrate), progress=progress)
    plan = planned(session, _request(settings))
    variants = _compressed_variants(session, plan, settings, progress)
    quantized(session)
    scratch = _from_scratch(session, settings, progress)
    table = _table(session, {"dense": dense, **variants}, scratch, settings, progress)
    session.write("table", table)
    progress("report", 0, 1)
    write_report(session.directory)
    progress("report", 1, 1)
    return table


def _request(settings: Settings) -> Request:
    """The published schedule, with 8 bits at its end."""
    return Request(
        budget=Budget(),
        planner="threshold",
        order="by_score",
        epochs=settings.epochs_per_step,
        closing_epochs=settings.closing_epochs,
        bits=8,
        options={"factor": settings.factor},
    )


def _check_dense(dense: nn.Module, session: Session, settings: Settings) -> None:
    reached = float(evaluate(dense, session.task.validation, session.task.score).mean())
    if reached < settings.least_dense:
        raise LamellaError(
            f"the dense network reached {100 * reached:.2f} % on validation, and {100 * settings.least_dense:.0f} % was expected "
            f"of it. Delete {session.directory}, and use another --seed, or more samples where --option limit= leaves few."
        )


def _compressed_variants(session: Session, plan: Plan, settings: Settings, progress: Progress) -> dict[str, nn.Module]:
    """The same cuts in two orders, with the same tuning."""
    in_order = reorder(plan, session.profile(), "in_order")
    way = Way(settings.tuning, settings.tuning_samples)
    aside = session.directory / "in_order"
    first, _ = compressed_as(session, in_order, way, aside, progress=_named(progress, "prune in order"))
    small, _ = compressed_as(session, plan, way, session.directory, progress=_named(progress, "prune out of order"))
    return {"pruned in order": first, "pruned out of order": small}


def _named(progress: Progress, name: str) -> Progress:
    return lambda stage, done, total, note="": progress(name, done, total, note)


def _from_scratch(session: Session, settings: Settings, progress: Progress) -> nn.Module:
    """A network of the final widths with fresh weights, trained as many epochs as the compressed one had in all."""
    model = _drawn_anew(session)
    path = scratch_weights(session, settings)
    if path.exists():
        return read_into(model, path).eval()
    epochs = scratch_epochs(session, settings)
    recipe = replace(settings.training, epochs=epochs)
    task = tuning_task(session.task, settings.tuning_samples if session.info.weights else None)
    checkpoint = session.directory / "scratch.pt"
    progress("train small from scratch", 0, epochs)
    note: Callable[[int, float], None] = lambda e, loss: progress(
        "train small from scratch", e, epochs, f"loss {loss:.3f}"
    )
    fit(model, task, recipe, seed=session.info.seed + 1, checkpoint=checkpoint, on_epoch=note)
    save_tensors(path, model)
    checkpoint.unlink(missing_ok=True)
    return model.eval()


def scratch_epochs(session: Session, settings: Settings) -> int:
    """Dense training and all tuning together (only the tuning where the dense weights came trained)."""
    tuned = sum(step.epochs for step in session.read("plan", Plan).steps)
    return tuned + (0 if session.info.weights else settings.training.epochs)


def scratch_weights(session: Session, settings: Settings) -> Path:
    """Where the control's weights lie: named after the widths and the training they belong to."""
    facts = (session.read("result", Result).widths, settings.training, scratch_epochs(session, settings))
    return session.directory / f"scratch-{digest(facts)}.safetensors"


def _drawn_anew(session: Session) -> nn.Module:
    """The compressed network's widths with weights drawn as the dense network's were, from the next seed."""
    fresh = build_model(replace(session.info, seed=session.info.seed + 1))
    graph, result = session.graph(), session.read("result", Result)
    return narrow(fresh, graph, {g.name: result.kept[g.name] for g in graph.free})


# ---- the table


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    model: nn.Module
    file: Path
    params: int
    macs: int


def _table(
    session: Session, models: dict[str, nn.Module], scratch: nn.Module, settings: Settings, progress: Progress
) -> Table:
    """Score and time every network on the same samples and in one run."""
    entries = _entries(session, models, scratch, settings)
    example = session.task.example_inputs
    progress("measure", 0, len(entries) + 1, "accuracy")
    scores = {}
    for index, entry in enumerate(entries, 1):
        loaders = (session.task.validation, session.task.test)
        scores[entry.name] = tuple(evaluate(entry.model, loader, session.task.score).numpy() for loader in loaders)
        progress("measure", index, len(entries) + 1, entry.name)
    times = latency({e.name: e.file for e in entries}, example)
    progress("measure", len(entries) + 1, len(entries) + 1, "latency")
    rows = tuple(_row(e, scores, scores["dense"][1], times[e.name].ratio) for e in entries)
    validation, test = scores["dense"]
    return Table(
        plan=digest(session.read("plan", Plan)),
        walk=session.read("result", Result).walk,
        rows=rows,
        n_validation=len(validation),
        n_test=len(test),
        notes=_notes(session, settings),
    )


def _entries(session: Session, models: dict[str, nn.Module], scratch: nn.Module, settings: Settings) -> list[_Entry]:
    graph = session.graph()
    widths = session.read("result", Result).widths
    files = {
        "dense": session.path("dense_onnx"),
        "pruned in order": session.directory / "in_order" / "model.onnx",
        "pruned out of order": session.path("onnx"),
    }
    first = session.directory / "in_order" / "model.safetensors"
    export = NarrowedExports(files["dense"])
    export_once(session, first, files["pruned in order"], lambda: models["pruned in order"], export)
    entries = [_Entry(n, m, files[n], *_counts(graph, None if n == "dense" else widths)) for n, m in models.items()]
    quantized_model = OnnxModel(session.path("int8_onnx"))
    entries.append(_Entry("out of order + int8", quantized_model, session.path("int8_onnx"), *_counts(graph, widths)))
    weights = scratch_weights(session, settings)
    file = export_once(session, weights, session.directory / "scratch.onnx", lambda: scratch, export)
    entries.append(_Entry("small from scratch", scratch, file, *_counts(graph, widths)))
    return entries


def _counts(graph: Graph, widths: dict[str, int] | None) -> tuple[int, int]:
    now = cost(graph, widths)
    return now.params, now.macs


def _row(entry: _Entry, scores: dict[str, tuple[np.ndarray, ...]], dense: np.ndarray, ratio: float) -> Row:
    validation, test = scores[entry.name]
    drop = paired_difference(dense, test) if entry.name != "dense" else (None, None, None)
    return Row(
        name=entry.name,
        validation_accuracy=float(validation.mean()),
        test_accuracy=float(test.mean()),
        drop=drop[0],
        drop_low=drop[1],
        drop_high=drop[2],
        params=entry.params,
        macs=entry.macs,
        bytes=onnx_bytes(entry.file),
        latency_ratio=ratio,
    )


def _notes(session: Session, settings: Settings) -> Notes:
    epochs = scratch_epochs(session, settings)
    samples = f" of {settings.tuning_samples:,} samples" if settings.tuning_samples and session.info.weights else ""
    return (
        *session.task.notes,
        f"small from scratch: the widths of the compressed network, fresh weights, {epochs} epochs{samples}.",
        "bytes: the exported ONNX file on disk; latency: ONNX Runtime, one thread, batch 1, ratio to dense in one interleaved run.",
    )
