"""Files and folders in the making: hidden or in the system's own place, held while their process lives, and swept up after a kill.

    with file_beside("runs/r20/plan.json") as part: part.write_text(text); part.replace("runs/r20/plan.json")
    with folder() as scratch: ...                       # in the system's folder for temporary files
    with folder(beside="runs/r20/model.onnx") as scratch: ...
    sweep("runs/r20")                                   # what killed processes left there, at any depth

What is in the making bears a lock that dies with its process: nothing that anybody is at work on is swept up.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = ".making"
PREFIX = "lamella."  # of folders in the system's place


@contextmanager
def file_beside(path: str | Path) -> Iterator[Path]:
    """An empty file in the folder of `path`, gone afterwards unless it was moved away."""
    path = Path(path)

    def make() -> Path:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=MARK)
        os.close(handle)
        return Path(name)

    with _held(make) as made:
        yield made


@contextmanager
def folder(beside: str | Path | None = None) -> Iterator[Path]:
    """A folder, gone afterwards: in the folder of the path `beside`, or among the system's temporary files."""
    place = None if beside is None else Path(beside).parent
    prefix = PREFIX if beside is None else f".{Path(beside).name}."
    if place is None:
        _remove_abandoned(Path(tempfile.gettempdir()).glob(f"{PREFIX}*{MARK}"))
    with _held(lambda: Path(tempfile.mkdtemp(dir=place, prefix=prefix, suffix=MARK))) as made:
        yield made


def sweep(directory: str | Path) -> None:
    """Remove what killed processes left in the making in this folder and those within it."""
    _remove_abandoned(Path(directory).rglob(f".*{MARK}"))


@contextmanager
def _held(make: Callable[[], Path]) -> Iterator[Path]:
    made, handle = _taken(make)
    try:
        yield made
    finally:
        _remove(made)
        os.close(handle)


def _taken(make: Callable[[], Path]) -> tuple[Path, int]:
    """What `make` made, and the open file that locks it; made anew where a sweep came in between."""
    import fcntl

    while True:
        made = make()
        with suppress(FileNotFoundError):
            handle = os.open(made, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: there, nothing is swept up
                fcntl.flock(handle, fcntl.LOCK_EX)
            if made.exists():
                return made, handle
            os.close(handle)


def _remove_abandoned(found: Iterable[Path]) -> None:
    """Remove those that no living process holds."""
    import fcntl

    for path in list(found):
        with suppress(OSError):  # held, another user's, or gone by now
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
