"""A session: a run directory opened for work. `run.json` names model, task and data; everything else follows from it.

    session = start("runs/r20", RunInfo(model="resnet20", task="cifar10", data="cifar", weights="r20.safetensors"))
    session = resume("runs/r20")
    session.dense(), session.task, session.graph()

A model is a name of the zoo, `package.module:function` or `path/file.py:function`; a task is a ready-made name or such a function
that returns a Task. The functions are called without arguments.
"""

import importlib
import inspect
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from .errors import LamellaError, MismatchError, RunError, unknown_name
from .profiling import Sweep
from .proof import line_of
from .records import from_plain, load_record, save_record, to_plain
from .runs import read_text
from .schema import FILES, Graph, Metric, RunInfo
from .storage import load_tensors, save_tensors
from .surgery import refitted
from .tasks import TABLES, TASKS, Columns, make_task
from .texts import parsed
from .timing import Precision
from .tracing import aligned, trace
from .training import Recipe, Task, metric_of
from .version import __version__
from .zoo import MODELS, load_weights, make_model

R = TypeVar("R")

OPTIONS = (
    "batch_size",
    "floor",
    "ignore",
    "ignored_layers",
    "label",
    "limit",
    "round_to",
    "time",
    "validation",
)  # and model.*, the zoo's own
MEASURED_STEPS: dict[str, Precision] = {"measured": "fp32", "measured_int8": "int8"}
FILE = ".py"  # how a module that is named by its file ends
BOUND = ("model", "task", "data", "weights", "seed", "options")  # what must not change within a run directory


@dataclass
class Session:
    """A run directory and what `run.json` says of it. Models and data are made when first asked for."""

    directory: Path
    info: RunInfo
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def path(self, name: str) -> Path:
        """Where a file of the run lies, by its name in `schema.FILES`."""
        return self.directory / FILES[name][0]

    def has(self, name: str) -> bool:
        return self.path(name).exists()

    def read(self, name: str, kind: type[R]) -> R:
        """A record of the run; RunError names the verb that makes it where it is absent."""
        read_text(self.path(name), f"{FILES[name][1]} {self.directory}")
        return load_record(self.path(name), kind)

    def write(self, name: str, record: Any) -> None:
        save_record(self.path(name), record)

    @cached_property
    def task(self) -> Task:
        return open_task(self.info)

    @property
    def metric(self) -> Metric:
        """What the scores of the run are."""
        return metric_of(self.task)

    def fresh(self) -> nn.Module:
        """The dense network, new weights drawn from the run's seed."""
        return build_model(self.info)

    def dense(self) -> nn.Module:
        """The dense network with the run's weights; before any are there, those the run names (or fresh ones)."""
        if not self.has("weights"):
            return weighted(self.info).eval()
        return refitted(self.fresh(), load_tensors(self.path("weights"))).eval()

    def keep_dense(self, model: nn.Module) -> None:
        save_tensors(self.path("weights"), model)

    def graph(self) -> Graph:
        """The run's Graph: read where it was written, traced where not."""
        if not self.has("graph"):
            self.write("graph", self.traced(self.dense()))
        return self.read("graph", Graph)

    def traced(self, model: nn.Module) -> Graph:
        """The dense network traced, with the run's own `ignored_layers` (comma separated), `round_to` and `floor`."""
        options = {name: str(value) for name, value in self.info.options.items() if value is not None}
        graph = trace(
            model,
            self.task.example_inputs,
            ignored_layers=tuple(filter(None, options.get("ignored_layers", "").split(","))),
            round_to=self._steps(model),
            floor=whole_option(self.info, "floor") or 1,
        )
        return replace(graph, model=self.info.model)

    def _steps(self, model: nn.Module) -> Any:
        """`round_to` of the run: a number, the rule (decision 0002), or per group what the runtime shows."""
        asked = self.info.options.get("round_to")
        if asked not in MEASURED_STEPS:
            return whole_option(self.info, "round_to", MEASURED_STEPS) or aligned
        from .latencies import measured_steps

        graph = trace(model, self.task.example_inputs, round_to=1)
        return measured_steps(graph, MEASURED_STEPS[str(asked)])


def start(directory: str | Path, info: RunInfo) -> Session:
    """Open a run directory for this model and task. MismatchError where work on another has begun there."""
    check_options(info)
    directory = Path(directory)
    path = directory / FILES["run"][0]
    bound = any((directory / FILES[name][0]).exists() for name in ("weights", "graph"))
    if path.exists() and bound:
        before = load_record(path, RunInfo)
        check_same(directory, before, info)
        return Session(directory, before)
    save_record(path, info)
    return Session(directory, info)


def check_same(directory: Path, before: RunInfo, info: RunInfo) -> None:
    """MismatchError, with what differs, where a run directory is asked to hold another run than it does."""
    was, now = ({k: getattr(each, k) for k in BOUND if k != "options"} for each in (before, info))
    was |= {f"option {name}": before.options.get(name) for name in {**before.options, **info.options}}
    now |= {f"option {name}": info.options.get(name) for name in {**before.options, **info.options}}
    facts = "; ".join(f"{name} was {was[name]!r} and is {now[name]!r}" for name in was if was[name] != now[name])
    if facts:
        raise MismatchError(f"{directory}: holds another run: {facts}. Name another run directory.")


def resume(directory: str | Path) -> Session:
    """Open an existing run directory."""
    directory = Path(directory)
    path = directory / FILES["run"][0]
    if not path.exists():
        raise RunError(f"{directory}: no run directory ({path.name} is not there). Start one with `{FILES['run'][1]}`.")
    return Session(directory, load_record(path, RunInfo))


def describe(**named: Any) -> RunInfo:
    """A RunInfo with the provenance of this process filled in, and with names that hold from any directory."""
    named |= {what: located(named[what]) for what in ("model", "task")}
    return RunInfo(
        versions=versions(), machine=machine(), command=" ".join(["lamella", *sys.argv[1:]]), started=_now(), **named
    )


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """The versions that a figure depends on."""
    found = {"lamella": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "onnx", "onnxruntime", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The processor's kind and the number of its cores this process may use."""
    import os

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
        name = next(lines, f": {name}").partition(":")[2].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, {platform.system()}"


def open_task(info: RunInfo) -> Task:
    """The task a run names."""
    if ":" in info.task:
        task = _called(info.task, "task")
        if not isinstance(task, Task):
            raise LamellaError(f"{info.task} returned a {type(task).__name__}; a lamella.Task was expected.")
        return task
    implied = "test_even" if info.weights and info.task in TASKS else None
    validation = info.options.get("validation") or implied
    limit = whole_option(info, "limit")
    return make_task(
        info.task,
        info.data,
        seed=info.seed,
        validation=None if validation is None else str(validation),
        batch_size=whole_option(info, "batch_size") or 128,
        limit=limit,
        columns=_columns(info),
    )


def _columns(info: RunInfo) -> Columns | None:
    """What the columns of a table mean: the task's own, with the run's `label`, `time` and `ignore` (comma separated)."""
    named = {
        name: str(info.options[name]) for name in ("label", "time", "ignore") if info.options.get(name) is not None
    }
    if info.task not in TABLES:
        if named:
            raise LamellaError(f"option {next(iter(named))} is for tables; task {info.task!r} is none.")
        return None
    ignore = tuple(filter(None, named.pop("ignore", "").split(",")))
    return replace(TABLES[info.task], ignore=ignore, **named)  # type: ignore[arg-type]


def whole_option(info: RunInfo, name: str, words: Iterable[str] = ()) -> int | None:
    """A run's option that counts something, None where it is not given. `words`: what it may be besides, for the message."""
    value = info.options.get(name)
    if value is None:
        return None
    if not str(value).isdigit() or int(str(value)) < 1:
        others = "".join(f", or {word}," for word in words)
        raise LamellaError(f"option {name}={value}: a whole number from 1 on{others} was expected.")
    return int(str(value))


def check_options(info: RunInfo) -> None:
    """LamellaError for a model or task that is not there, and for an option that nothing reads."""
    for what, name, known in (("model", info.model, MODELS), ("task", info.task, (*TASKS, *TABLES))):
        if ":" not in name and name not in known:
            raise LamellaError(
                f"{unknown_name(what, name, known)} A function of your own is named package.module:function or path/file.py:function."
            )
    for name in info.options:
        if name not in OPTIONS and not name.startswith("model."):
            raise LamellaError(unknown_name("option", name, (*OPTIONS, "model.NAME")))
    own = [f"--option {name}" for name in info.options if name.startswith("model.")] if ":" in info.model else []
    if ":" in info.task:
        own += ["--data"] * (info.data is not None)
        own += [
            f"--option {name}"
            for name in info.options
            if name in ("batch_size", "ignore", "label", "limit", "time", "validation")
        ]
    if own:
        raise LamellaError(
            f"{own[0]} is for the ready-made models and tasks; a function of your own decides that itself."
        )


def untrained(session: Session) -> bool:
    """Whether the run's weights are fresh ones of the zoo."""
    return ":" not in session.info.model and session.info.weights is None and not session.has("weights")


def _called(reference: str, what: str) -> Any:
    """What the user's function returns; whatever it raises becomes one sentence with its line."""
    function = resolve(reference, what)
    try:
        return function()
    except LamellaError:
        raise
    except Exception as error:
        raise LamellaError(f"{what} {reference!r} failed: {type(error).__name__}: {line_of(error)}") from error


def build_model(info: RunInfo) -> nn.Module:
    """The dense network a run names, its random weights drawn from the run's seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(info.seed)
        if ":" in info.model:
            model = _called(info.model, "model")
            if not isinstance(model, nn.Module):
                raise LamellaError(f"{info.model} returned a {type(model).__name__}; an nn.Module was expected.")
            return model
        return make_model(info.model, **_model_options(info))


def weighted(info: RunInfo) -> nn.Module:
    """The dense network with the weights file the run names, if it names one."""
    model = build_model(info)
    return load_weights(model, info.weights) if info.weights else model


def _model_options(info: RunInfo) -> dict[str, Any]:
    """What the task implies (channels in, classes), then what the run's `model.*` options say."""
    implied: dict[str, Any] = {}
    if info.task in TASKS:
        source, taken = TASKS[info.task], inspect.signature(MODELS.get(info.model, make_model)).parameters
        implied = {"in_channels": source.in_channels, "num_classes": source.num_classes}
        implied = {name: value for name, value in implied.items() if name in taken}
    own = {k.removeprefix("model."): parsed(str(v)) for k, v in info.options.items() if k.startswith("model.")}
    return {**implied, **own}


def sweep_of(pairs: Iterable[str], points: tuple[str, ...]) -> Sweep:
    """The sweep that NAME=VALUE pairs describe. LamellaError for a name it does not have, RecordError for a value that does not fit."""
    return options_of(Sweep, pairs, "--sweep", points=points)


def options_of(kind: type[R], pairs: Iterable[str], option: str, **given: Any) -> R:
    """The record of options that NAME=VALUE pairs (and what is `given`) describe."""
    kinds = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = dict(given)
    for name, text in named_values(pairs, option):
        if name not in kinds or name in given:
            raise LamellaError(unknown_name(f"name of {option}", name, set(kinds) - set(given)))
        value = parsed(text)
        values[name] = bool(value) if kinds[name] in (bool, "bool") and value in (0, 1) else value
    return from_plain(values, kind)


def recipe_of(pairs: Iterable[str], defaults: Recipe, **shorthands: Any) -> Recipe:
    """The recipe that NAME=VALUE pairs describe, over `defaults`; a shorthand that is not None is a pair of its own name.

    LamellaError for a name it does not have and for a pair that a shorthand contradicts, RecordError for a value.
    """
    known = {f.name for f in fields(Recipe)} - {"epochs"}
    values = {name: value for name, value in shorthands.items() if value is not None}
    for name, text in named_values(pairs, "--recipe"):
        if name not in known:
            hint = " A plan's steps have their own epochs: lamella plan --epochs." if name == "epochs" else ""
            raise LamellaError(unknown_name("option of the recipe", name, known) + hint)
        value = parsed(text)
        before = values.setdefault(name, value)
        if before is not value and before != value:  # not a number is not even equal to itself
            where = (
                f"--{name} {values[name]}" if shorthands.get(name) is not None else f"--recipe {name}={values[name]}"
            )
            raise LamellaError(f"{where} and --recipe {name}={text} say different things. Give one of them.")
    return from_plain({**to_plain(defaults), **values}, Recipe)


def named_values(pairs: Iterable[str], option: str, known: Sequence[str] = ()) -> list[tuple[str, str]]:
    """NAME=VALUE texts as pairs; `known`, where given, are the names there are."""
    found = []
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise LamellaError(f"{option} {pair!r}: NAME=VALUE was expected.")
        if known and name not in known:
            raise LamellaError(unknown_name(f"{option} name", name, known))
        found.append((name, value))
    return found


def resolve(reference: str, what: str) -> Callable[[], Any]:
    """The function behind 'package.module:function' or 'path/file.py:function'."""
    module_name, _, name = reference.rpartition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = _imported(module_name)
    except LamellaError as error:
        raise LamellaError(f"{what} {reference!r}: {error}") from None
    except Exception as error:
        place = "" if module_name.endswith(FILE) else " It must be on the Python path; the current directory is."
        raise LamellaError(
            f"{what} {reference!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}).{place}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise LamellaError(
            f"{what} {reference!r}: {module_name} has no function {name!r}. It has: {', '.join(known) or 'none'}."
        )
    return function  # type: ignore[no-any-return]


def _imported(name: str) -> Any:
    """The module of this name, or of a file, under the file's name: workers import it by that."""
    if not name.endswith(FILE):
        return importlib.import_module(name)
    path = Path(name).absolute()
    if not path.is_file():
        raise LamellaError(f"{path}: no such file.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # what it imports may lie beside it, as for a script
    module = importlib.import_module(path.stem)
    if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
        raise LamellaError(f"{path.stem!r} is the name of another module that Python has. Rename the file.")
    return module


def located(reference: str) -> str:
    """A reference that holds from any directory: the path of 'path/file.py:function' made absolute, all else as it is."""
    place, _, name = reference.rpartition(":")
    return f"{Path(place).absolute()}:{name}" if place.endswith(FILE) else reference
