"""The task and the dense network that `run.json` names, and what its options may say."""

import inspect
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import DataError, LamellaError, unknown_name
from ..schema import RunInfo
from ..tasks import TABLES, TASKS, Columns, make_task
from ..texts import parsed
from ..training import Task
from ..zoo import MODELS, load_weights, make_model
from .references import called

# And model.*, the zoo's own.
OPTIONS = ("batch_size", "floor", "ignore", "ignored_layers", "label", "limit", "round_to", "time", "validation")


def open_task(info: RunInfo) -> Task:
    """The task a run names."""
    if ":" in info.task:
        task = called(info.task, "task")
        if not isinstance(task, Task):
            raise LamellaError(f"{info.task} returned a {type(task).__name__}; a lamella.Task was expected.")
        _check_filled(task, info.task)
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


def _check_filled(task: Task, name: str) -> None:
    """DataError where there is nothing to train or to judge by: every stage needs both, and the last ones would tell hours later."""
    for part in ("train", "validation"):
        with suppress(TypeError):  # a stream has no length
            if not len(getattr(task, part)):
                raise DataError(
                    f"{name}: the task's {part} loader has no batch; at least one (inputs, targets) was expected. Check its data, its "
                    "sampler, and whether drop_last leaves any."
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
        *others, last = ("a whole number from 1 on", *words)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise LamellaError(f"option {name}={value}: {expected} was expected.")
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


def build_model(info: RunInfo) -> nn.Module:
    """The dense network a run names, its random weights drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(info.seed)
        if ":" in info.model:
            model = called(info.model, "model")
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
