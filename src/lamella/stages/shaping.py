"""The accordion verb over a run directory: search, train the chosen network once more, export it, measure the files.

    session = begin("runs/fraud", describe(model="autoencoder", task="fraud", data="creditcard.csv"))
    found = shaped(session, (16, 8, 4, 2, 4, 8, 16), settings=Settings(...))

The directory ends as a run of the chosen network: its weights, its graph, and `run.json` with its widths, so that every other verb goes on
from there. ONNX files of baseline and winner lie in `accordion/`, and beside them, for a table, how its rows become their inputs.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..accordions import RECIPE, Settings, accordion, networks
from ..accordions.metrics import Judge, best_threshold, truth_of
from ..digests import weights_digest
from ..errors import LamellaError
from ..exporting import OnnxModel, export_onnx, onnx_bytes
from ..progress import Progress, silent
from ..quantization import write_integers
from ..records import load_record, save_record
from ..schema import FILES, Accordion, ExportedFile, RunInfo, Search
from ..sessions import Session, check_options, check_same
from ..timing import latency
from ..training import Recipe, Task, evaluate


def begin(directory: str | Path, info: RunInfo) -> Session:
    """Open a run directory for this task. MismatchError where work on another has begun there."""
    check_options(info)
    directory = Path(directory)
    path = directory / FILES["run"][0]
    if path.exists() and any(
        (directory / FILES[name][0]).exists() for name in ("accordion_journal", "weights", "graph")
    ):
        before = load_record(path, RunInfo)
        there, asked = (replace(each, options=_searched(each.options)) for each in (before, info))
        check_same(directory, there, asked)
        return Session(directory, before)  # as it stands: what was found stays a run until something better is
    save_record(path, info)
    return Session(directory, info)


def _searched(options: Mapping[str, str | int | float | bool | None]) -> dict[str, str | int | float | bool | None]:
    """The options that are not the search's own outcome."""
    return {name: value for name, value in options.items() if not name.startswith("model.")}


def shaped(
    session: Session,
    widths: Sequence[int],
    *,
    candidates: Sequence[int] | None = None,
    symmetric: bool = True,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    recipe: Recipe = RECIPE,
    progress: Progress = silent,
) -> Accordion:
    """The outcome, `accordion.json`, and a run of the chosen network. What is done is never done again.

    `search.json` tells what was asked: from the first network on, or, where a search is finished, once this one has its winner.
    """
    journal = session.path("accordion_journal")
    asked = without_first(search_of(widths, candidates, symmetric, settings, recipe), session.task)
    found = accordion(
        session.task,
        widths,
        candidates=candidates,
        symmetric=symmetric,
        settings=settings,
        recipe=recipe,
        journal=journal,
        progress=progress if session.has("accordion") else _noting(session, asked, progress),
    )
    session.write("search", asked)
    if (before := _finished(session, found)) is not None:
        if not session.has("inputs"):  # an older version's searches left none
            _write_inputs(session, before)
        return before
    progress("export", 0, 2, "training the chosen network")
    baseline, winner = networks(
        session.task, found, candidates=candidates, settings=settings, recipe=recipe, journal=journal
    )
    progress("export", 1, 2, "ONNX files")
    found = replace(found, files=_written(session.directory, session.task, baseline, winner))
    if not _unchanged(session, winner):
        _forget(session)
    session.write("accordion", found)
    _write_inputs(session, found)
    _as_run(session, found, winner, settings.activation)
    progress("export", 2, 2)
    return found


def search_of(
    widths: Sequence[int], candidates: Sequence[int] | None, symmetric: bool, settings: Settings, recipe: Recipe
) -> Search:
    """What is asked of a search, as it is kept in the run directory."""
    return Search(
        widths=tuple(widths),
        candidates=None if candidates is None else tuple(candidates),
        symmetric=symmetric,
        method=settings.method,
        metric=settings.metric,
        seeds=settings.seeds,
        budget=settings.budget,
        passes=settings.passes,
        trials=settings.trials,
        epochs=recipe.epochs,
        lr=recipe.lr,
        activation=settings.activation,
    )


def without_first(asked: Search, task: Task) -> Search:
    """The search, its metric left out where it is the task's first: which of both was said makes no other search."""
    named = asked.metric is not None and asked.metric == Judge.of(task).names[0]
    return replace(asked, metric=None) if named else asked


def _noting(session: Session, asked: Search, progress: Progress) -> Progress:
    """The progress; its first word, before which all that is refused at once has been, writes down what was asked."""
    unwritten = [asked]

    def told(stage: str, done: int, total: int, note: str = "") -> None:
        while unwritten:
            session.write("search", unwritten.pop())
        progress(stage, done, total, note)

    return told


def _finished(session: Session, found: Accordion) -> Accordion | None:
    """What the run directory holds already, where it is this very outcome with its files and its weights."""
    path = session.path("accordion")
    if not path.exists() or not session.path("weights").exists():
        return None
    before = load_record(path, Accordion)
    files = [(session.directory / each.file, each.bytes) for each in before.files]
    whole = bool(files) and all(file.exists() and onnx_bytes(file) == size for file, size in files)
    same = replace(before, files=(), notes=found.notes) == found  # an older version's notes say less
    return before if whole and same else None


def _written(directory: Path, task: Task, baseline: nn.Module, winner: nn.Module) -> tuple[ExportedFile, ...]:
    """Baseline and winner as fp32 files and the winner in int8, each weighed, timed in one run, and judged on the test samples."""
    folder = directory / "accordion"
    files = {"baseline, fp32": folder / "baseline.onnx", "winner, fp32": folder / "winner.onnx"}
    for model, path in zip((baseline, winner), files.values(), strict=True):
        export_onnx(model, task.example_inputs, path)
    files["winner, int8"] = write_integers(files["winner, fp32"], folder / "winner.int8.onnx", {}, task)
    times, judge = latency(files, task.example_inputs), Judge.of(task)
    return tuple(
        ExportedFile(
            name=name,
            file=str(path.relative_to(directory)),
            bytes=onnx_bytes(path),
            latency_ms=times[name].latency_ms,
            latency_ratio=times[name].ratio,
            test=_judged(judge, task, OnnxModel(path)),
        )
        for name, path in files.items()
    )


def _judged(judge: Judge, task: Task, model: nn.Module) -> dict[str, float]:
    held, test = (evaluate(model, part, task.score).numpy() for part in (task.validation, task.test))
    return judge.test(held, test)


def _write_inputs(session: Session, found: Accordion) -> None:
    """How rows become the inputs of the files, and the threshold of each, where the task knows."""
    told = session.task.standardization
    if told is not None:
        paths = [session.directory / file.file for file in found.files]
        session.write("inputs", replace(told, thresholds=_thresholds(session.task, paths)))


def _thresholds(task: Task, paths: Sequence[Path]) -> dict[str, float]:
    """The alarm threshold of every file, by its name; none where samples are classified."""
    held = truth_of(task.validation)
    if held is None:
        return {}
    scores = {path.name: evaluate(OnnxModel(path), task.validation, task.score) for path in paths}
    return {name: best_threshold(held, scores_N.numpy()) for name, scores_N in scores.items()}


def _unchanged(session: Session, winner: nn.Module) -> bool:
    """Whether the run's network is this very winner, so that what was made of it stays. Weights that cannot be read are not."""
    with suppress(LamellaError):
        return session.has("weights") and weights_digest(session.dense()) == weights_digest(winner)
    return False


def _forget(session: Session) -> None:
    """An earlier winner, and what was made of it. Its weights go first: without them nothing is taken to be finished."""
    for name in ("weights", "inputs", "graph", "result", "model"):
        session.path(name).unlink(missing_ok=True)


def _as_run(session: Session, found: Accordion, winner: nn.Module, activation: str) -> None:
    """Weights, run.json and graph of the winner: what every other verb starts from."""
    own: dict[str, str | int | float | bool | None] = {
        "model.widths": ",".join(map(str, found.widths)) + ",",  # the last comma makes a single width a sequence too
        "model.inputs": found.inputs,
        "model.outputs": found.outputs,
        "model.activation": activation,
    }
    run = Session(session.directory, replace(session.info, options={**_searched(session.info.options), **own}))
    run.write("run", run.info)
    run.keep_dense(winner)
    run.graph()


__all__ = ["begin", "search_of", "shaped", "without_first"]
