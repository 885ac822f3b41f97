"""A run directory: atomic files, one writer at a time, and journals that survive a kill at any byte.

    with locked("runs/r20"):                              # RunError if another process is writing there
        write_atomically("runs/r20/plan.json", text)      # the old file or the new one, never half of it
        journal = Journal("runs/r20/profile.jsonl", identity={"structure": "...", "weights": "...", "data": "..."})
        if key not in journal.entries:
            journal.append(key, {"score": 0.97})          # on disk when the call returns

A journal is a line of identity and then one JSON line per finished item. A last line cut short by a kill is dropped.
"""

import errno
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import LamellaError, MismatchError, RunError
from .making import file_beside, sweep

LOCK = ".lock"


@contextmanager
def locked(directory: str | Path) -> Iterator[Path]:
    """Hold the run directory (made if absent) for writing. What a killed process left half made there is removed."""
    directory = Path(directory)
    refusal = "in use by another process (pid {holder}). Wait for it, or name another run directory."
    with held(directory / LOCK, directory, refusal):
        sweep(directory)
        yield directory


@contextmanager
def held(lock: Path, place: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file (made if absent). It dies with the process, whatever kills it.

    RunError of `place` where another process has it: the refusal, `{holder}` in it being that process.
    """
    with _naming_the_disk(place):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(handle, place, refusal)
        yield
    finally:
        os.close(handle)


def _take(handle: int, place: Path, refusal: str) -> None:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(handle, 40).decode(errors="replace").strip() or "unknown"
        raise RunError(f"{place}: {refusal.format(holder=holder)}") from None
    with _naming_the_disk(place):
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Replace the file by `content`: a reader, or a kill, sees the old file or the new one. RunError when the disk is full."""
    data = content.encode() if isinstance(content, str) else content
    write_through(path, lambda temporary: _write_bytes(temporary, data))


def write_through(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it into place. Errors raised there name `path`."""
    path = Path(path)
    with _naming_the_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_beside(path) as temporary:
            with told_as(temporary, path):
                write(temporary)
            temporary.chmod(0o644)
            _flush(temporary)
            temporary.replace(path)


@contextmanager
def told_as(made: Path, path: str | Path) -> Iterator[None]:
    """Errors raised inside name `path` where they would name a file in the making, of which nobody knows."""
    try:
        yield
    except LamellaError as error:
        error.args = tuple(str(each).replace(str(made), str(path)) for each in error.args)
        raise


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _naming_the_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"{path}: the disk is full. Free some space and run the same command: it resumes."
            ) from error
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}). Check the path and its rights."
        ) from error


class Journal:
    """Finished items of a long verb, by key, in the order they finished."""

    def __init__(self, path: str | Path, identity: Mapping[str, Any], added: Mapping[str, Any] | None = None) -> None:
        """Open or start the journal. MismatchError if it was written for another identity (model, weights, data, options).

        `added`: facts of the identity that older journals do not name, and are not refused for.
        """
        self.path, self.identity = Path(path), {**identity, **(added or {})}
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = _whole(data)
        self.entries = _finished(self.path, whole, self.identity, set(added or ()))
        if not whole:
            write_atomically(self.path, _line({"identity": self.identity}))
        elif len(whole) < len(data):  # the line that a kill fell into
            with _naming_the_disk(self.path):
                os.truncate(self.path, len(whole))

    def append(self, key: str, value: Any) -> None:
        """Record a finished item. It is on disk when this returns; on a full disk the journal stays as it was."""
        data = _line({"key": key, "value": value}).encode()
        with _naming_the_disk(self.path), self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(data) != len(data):  # as a full disk, or a limit of file sizes, may have it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(before)
                raise
        self.entries[key] = value


def journalled(path: str | Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The finished items in a journal, which stays as it is, its cut last line too. MismatchError as for `Journal`."""
    return _finished(Path(path), _whole(Path(path).read_bytes()), identity)


def _finished(path: Path, whole: bytes, identity: Mapping[str, Any], added: Collection[str] = ()) -> dict[str, Any]:
    """The items that these lines of a journal hold, whose identity may lack what was `added` later."""
    lines = [_parse(path, n, text) for n, text in enumerate(whole.splitlines(), 1)]
    if lines:
        seen = lines[0]["identity"]
        _check_identity(
            path, seen, {name: fact for name, fact in identity.items() if name in seen or name not in added}
        )
    return {line["key"]: line["value"] for line in lines[1:]}


def _whole(data: bytes) -> bytes:
    """The lines that end."""
    return data[: data.rfind(b"\n") + 1]


def _parse(path: Path, number: int, text: bytes) -> Any:
    try:
        line = json.loads(text)
        good = set(line) == ({"identity"} if number == 1 else {"key", "value"})
    except (ValueError, TypeError):
        good = False
    if not good:
        raise RunError(
            f"{path}, line {number}: damaged ({text[:60]!r}). Delete that line (or, if it is the first, the "
            "file) and run the same command: only what it held is measured again."
        )
    return line


def _check_identity(path: Path, seen: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    was, now = _named(seen), _named(expected)
    differing = [k for k in {**was, **now} if was.get(k) != now.get(k)]
    if differing:
        parts = [_difference(name, was, now) for name in sorted(differing)[:4]]
        raise MismatchError(
            f"{path}: belongs to another run: {'; '.join(parts)}. Name another run directory, or delete this "
            "file to start that stage afresh."
        )


def _difference(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two identities differ in a fact; one of them may lack it, as where an option has its usual value."""
    if name in was and name in now:
        return f"{name} was {was[name]!r} and is {now[name]!r}"
    return f"{name} was {was[name]!r} and is not given" if name in was else f"{name} is {now[name]!r} and was not given"


def _named(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts by name, those of a record within them one by one.

    >>> _named({"seed": 0, "recipe": {"lr": 0.1, "epochs": 2}})
    {'seed': 0, 'recipe.lr': 0.1, 'recipe.epochs': 2}
    """
    found: dict[str, Any] = {}
    for name, fact in facts.items():
        found |= {f"{name}.{inner}": each for inner, each in fact.items()} if isinstance(fact, dict) else {name: fact}
    return found


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"


def check_made(path: str | Path, made_by: str) -> None:
    """RunError where a run's file is absent: it says which verb makes it."""
    path = Path(path)
    if path.is_dir():
        raise RunError(f"{path}: is a folder; a file was expected, as made by `{made_by}`.")
    if not path.exists():
        raise RunError(f"{path}: not there. It is made by `{made_by}`; run that first.")


def read_text(path: str | Path, made_by: str) -> str:
    """The text of a run's file; where it is absent, RunError as of `check_made`."""
    path = Path(path)
    check_made(path, made_by)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LamellaError(f"{path}: cannot be read ({error}).") from None
