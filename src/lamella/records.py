"""Records: frozen dataclasses of plain fields, to JSON and back.

    text  = dumps(plan)                       # one JSON object in an envelope: kind, format, lamella, structure, value
    plan  = loads(text, Plan)                 # RecordError with the dotted path of the first bad field
    save_record("plan.json", plan)            # atomic
    plan  = load_record("plan.json", Plan)

A record class is any `@dataclass(frozen=True, slots=True, kw_only=True)` whose fields are annotated with plain types: str,
int, float, bool, None, Literal, tuples, dicts with string keys, other records, and unions of those. `__post_init__` rejects
nonsense through `check`. A field that had another name says so, `field(metadata={"was": "old"})`, and is read by either. Reading
never runs code from the file.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from .errors import MismatchError, RecordError, in_file
from .runs import write_atomically
from .version import __version__

FORMAT = (1, 0)  # a newer major is refused; a newer minor may hold fields that this version does not know

R = TypeVar("R")


def check(condition: bool, path: str, problem: str) -> None:
    """Raise `RecordError(path, problem)` unless `condition` holds."""
    if not condition:
        raise RecordError(path, problem)


def to_plain(value: Any) -> Any:
    """A record as the dicts, lists and scalars that JSON knows. Fields that hold their default are written too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(v) for v in value]
    return value


def from_plain(data: Any, kind: type[R], given: Mapping[str, Any] | None = None) -> R:
    """The record that `data` describes; `RecordError` names the first field that does not fit.

    `given`: fields of the outermost record that are at hand and are not read again.
    """
    if given is not None:
        return typing.cast(R, _read_record(data, typing.cast(type, kind), given))
    return typing.cast(R, _reader(typing.cast(Any, kind))(data))


Reader = Callable[[Any], Any]


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _reader(kind: Any) -> Reader:
    """What reads this kind. Made once: a profile holds tens of thousands of values of a few kinds."""
    if dataclasses.is_dataclass(kind):
        return partial(_read_record, kind=typing.cast(type, kind))
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return partial(_read_union, kinds=get_args(kind))
    if origin is Literal:
        return partial(_read_literal, values=get_args(kind))
    if origin is tuple:
        items = get_args(kind)
        return partial(_read_row, item=items[0]) if items[1:] == (...,) else partial(_read_tuple, items=items)
    if origin is dict:
        return partial(_read_dict, item=get_args(kind)[1])
    return partial(_read_scalar, kind=kind)


@cache
def _fields(kind: type) -> tuple[tuple[str, Reader, bool], ...]:
    """Of every field its name, what reads it, and whether it may be missing."""
    return tuple(
        (
            field.name,
            _reader(_hints(kind)[field.name]),
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    )


@cache
def _earlier_names(kind: type) -> dict[str, str]:
    """Of fields that had another name once, by that: what they are called now."""
    return {f.metadata["was"]: f.name for f in dataclasses.fields(kind) if "was" in f.metadata}


def _read_record(data: Any, kind: type, given: Mapping[str, Any] | None = None) -> Any:
    if not isinstance(data, dict):
        raise RecordError("", f"{_seen(data)} where an object ({kind.__name__}) was expected")
    for was, name in _earlier_names(kind).items():
        if was in data and name not in data:
            data = {name if key == was else key: value for key, value in data.items()}
    values = dict(given or {})
    for name, read, optional in _fields(kind):
        if name in values:
            continue
        if name in data:
            values[name] = _at(name, data[name], read)
        else:
            check(optional, name, "missing")
    unknown = sorted(data.keys() - _hints(kind).keys())
    check(not unknown, unknown[0] if unknown else "", f"not a field of {kind.__name__}")
    return kind(**values)


def _at(place: str, data: Any, read: Reader) -> Any:
    try:
        return read(data)
    except RecordError as error:
        raise error.within(place) from None


def _read_union(data: Any, kinds: tuple[Any, ...]) -> Any:
    if data is None and type(None) in kinds:
        return None
    failures = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _reader(kind)(data)
            except RecordError as error:
                failures.append(error)
    raise failures[0]


def _read_literal(data: Any, values: tuple[Any, ...]) -> Any:
    if data not in values:
        raise RecordError("", f"{data!r} is not one of {', '.join(map(repr, values))}")
    return data


def _read_row(data: Any, item: Any) -> tuple[Any, ...]:
    """A tuple of any length. Only when an item does not fit is its place looked for."""
    _check_list(data)
    read = _reader(item)
    try:
        return tuple(map(read, data))
    except RecordError:
        return tuple(_at(f"[{i}]", d, read) for i, d in enumerate(data))


def _read_tuple(data: Any, items: tuple[Any, ...]) -> tuple[Any, ...]:
    _check_list(data)
    if len(data) != len(items):
        raise RecordError("", f"{len(data)} items where {len(items)} were expected")
    return tuple(_at(f"[{i}]", d, _reader(k)) for i, (d, k) in enumerate(zip(data, items, strict=True)))


def _check_list(data: Any) -> None:
    if not isinstance(data, list | tuple):
        raise RecordError("", f"{_seen(data)} where a list was expected")


def _read_dict(data: Any, item: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise RecordError("", f"{_seen(data)} where an object was expected")
    read = _reader(item)
    return {str(k): _at(f"[{k!r}]", v, read) for k, v in data.items()}


def _read_scalar(data: Any, kind: Any) -> Any:
    if kind is Any:
        return data
    if kind is float:
        number = isinstance(data, int | float) and not isinstance(data, bool)
        if not (number and math.isfinite(data)):
            raise RecordError("", f"{_seen(data)} where a finite number was expected")
        return float(data)
    if not isinstance(data, kind) or (kind is not bool and isinstance(data, bool)):
        raise RecordError("", f"{_seen(data)} where {kind.__name__} was expected")
    return data


def _seen(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a record's canonical JSON: an identity, stable over machines."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def dumps(record: Any) -> str:
    """The record as JSON in its envelope, where `structure` is the digest of the model's structure it belongs to, if it names one."""
    envelope = {
        "kind": type(record).__name__,
        "format": f"{FORMAT[0]}.{FORMAT[1]}",
        "lamella": __version__,
        "structure": getattr(record, "structure", None),
        "value": to_plain(record),
    }
    return json.dumps(envelope, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def loads(text: str, kind: type[R]) -> R:
    """The record in an envelope. Raises `RecordError` on damage, `MismatchError` on another kind or a newer format."""
    try:
        envelope = json.loads(text)
    except ValueError as error:
        raise RecordError("", f"not JSON ({error}); the file is damaged or was cut short: make it again") from None
    return from_envelope(envelope, kind)


def from_envelope(envelope: Any, kind: type[R], given: Mapping[str, Any] | None = None) -> R:
    """The record in an envelope that has been parsed already. Raises as `loads` does; `given` as for `from_plain`."""
    check(isinstance(envelope, dict) and "value" in envelope, "", "not a Lamella record (no envelope)")
    newer = _checked_format(envelope.get("format")) > FORMAT
    seen = envelope.get("kind")
    if seen != kind.__name__:
        raise MismatchError(f"holds a {seen}, and a {kind.__name__} was expected")
    try:
        return from_plain(envelope["value"], kind, given)
    except RecordError as error:
        raise MismatchError(f"{_by_a_newer(envelope['format'])} ({error})") if newer else error from None


def _checked_format(version: Any) -> tuple[int, int]:
    major, _, minor = str(version).partition(".")
    check(major.isdigit() and minor.isdigit(), "format", f"{version!r} is not a version")
    if int(major) > FORMAT[0]:
        raise MismatchError(_by_a_newer(version))
    return int(major), int(minor)


def _by_a_newer(version: str) -> str:
    known = ".".join(map(str, FORMAT))
    return f"written in format {version} by a newer Lamella; this one ({__version__}) knows {known}: upgrade"


def load_record(path: str | Path, kind: type[R]) -> R:
    """Read a record file; every failure names the file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(str(path), f"cannot be read ({error})") from None
    with in_file(path):
        return loads(text, kind)


def save_record(path: str | Path, record: Any) -> None:
    """Write a record file atomically."""
    write_atomically(path, dumps(record))
