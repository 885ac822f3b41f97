"""NAME=VALUE texts, as the command line takes them, read into records.

named_values(["label=failed"], "--option")                      # [("label", "failed")]
parsed_values(["bytes=10%", "macs=5e6"], "--budget")            # {"bytes": "10%", "macs": 5000000.0}
options_of(Sweep, ["factor=0.99"], "--sweep")                   # Sweep(factor=0.99)
recipe_of(["momentum=0.5"], "--recipe", TUNING, lr=0.1)         # TUNING with both
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from .errors import LamellaError, unknown_name
from .records import from_plain, to_plain
from .texts import parsed

R = TypeVar("R")

ELSEWHERE = {
    "epochs": " Epochs have an option of their own: lamella plan --epochs for a plan's steps, lamella elasticize --epochs for levels."
}


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


def parsed_values(pairs: Iterable[str], option: str, known: Sequence[str] = ()) -> dict[str, Any]:
    """NAME=VALUE texts as values by name, numbers as numbers. LamellaError for a name that comes with two values."""
    values: dict[str, Any] = {}
    for name, text in named_values(pairs, option, known):
        _add(values, name, text, option)
    return values


def _add(values: dict[str, Any], name: str, text: str, option: str, first: str | None = None) -> None:
    """The value by its name, numbers as numbers. LamellaError where there is another by that name: `first`, or another pair."""
    value = parsed(text)
    before = values.setdefault(name, value)
    if before is not value and before != value:  # not a number is not even equal to itself
        first = first or f"{option} {name}={before}"
        raise LamellaError(f"{first} and {option} {name}={text} say different things. Give one of them.")


def options_of(kind: type[R], pairs: Iterable[str], option: str, **given: Any) -> R:
    """The record of options that NAME=VALUE pairs (and what is `given`) describe.

    LamellaError for a name it does not have or that comes with two values, RecordError for a value that does not fit.
    """
    kinds = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, text in named_values(pairs, option):
        if name not in kinds or name in given:
            raise LamellaError(unknown_name(f"name of {option}", name, set(kinds) - set(given)))
        _add(values, name, text, option)
    for name, value in values.items():
        values[name] = bool(value) if kinds[name] in (bool, "bool") and value in (0, 1) else value
    return from_plain({**given, **values}, kind)


def recipe_of(pairs: Iterable[str], option: str, defaults: R, **shorthands: Any) -> R:
    """The `training.Recipe` that NAME=VALUE pairs describe, over `defaults`; a shorthand that is not None is a pair of its own name.

    LamellaError for a name it does not have and for a pair that a shorthand contradicts, RecordError for a value.
    """
    known = {f.name for f in fields(defaults)} - ELSEWHERE.keys()  # type: ignore[arg-type]
    values = {name: value for name, value in shorthands.items() if value is not None}
    for name, text in named_values(pairs, option):
        if name not in known:
            raise LamellaError(unknown_name(f"name of {option}", name, known) + ELSEWHERE.get(name, ""))
        _add(values, name, text, option, f"--{name} {values[name]}" if shorthands.get(name) is not None else None)
    return from_plain({**to_plain(defaults), **values}, type(defaults))
