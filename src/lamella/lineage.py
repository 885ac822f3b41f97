"""Which file of a run was made from which, told by their bytes: a copy of a run, a checkout or a download has other times.

    made_from(weights, onnx, make)          # `onnx`, made unless it is there and was made from these very bytes
    is_made_from(weights, onnx)
    made_from(onnx, int8, make, also=digest((bits, ranges)))    # and from these

`made.json` beside a made file holds a digest of what it was made from, one of itself, and one of what else decides it, where that lies in
no file. Files that are not in it, those of older runs, are told by their times.
"""

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from .runs import write_through

LEDGER = "made.json"


def made_from(source: Path, target: Path, make: Callable[[], object], *, also: str | None = None) -> Path:
    """`target`, made where it is not there or was made from something else; `also` is a digest of what else it is made from."""
    if not is_made_from(source, target, also=also):
        make()
    _write_down(source, target, also)
    return target


def is_made_from(source: Path, target: Path, *, also: str | None = None) -> bool:
    """Whether `target` is there and was made from what `source` now is (or from fresh weights of the run's seed, which lie in no file),
    and from `also` where that is given.
    """
    if not target.exists() or not source.exists():
        return target.exists()
    known = _ledger(target).get(target.name)
    if not isinstance(known, list):
        return also is None and target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    return known[:2] == [_contents(source), _contents(target)] and (also is None or known[2:] == [also])


def _write_down(source: Path, target: Path, also: str | None) -> None:
    if not source.exists() or not target.exists():
        return
    known, entry = _ledger(target), [_contents(source), _contents(target), *([also] if also else [])]
    if known.get(target.name) != entry:
        text = json.dumps({**known, target.name: entry}, indent=1, sort_keys=True)
        write_through(target.with_name(LEDGER), lambda temporary: temporary.write_text(text))


def _ledger(target: Path) -> dict[str, object]:
    """What is written beside the file; nothing where that is not readable."""
    try:
        known = json.loads(target.with_name(LEDGER).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def weights_beside(path: Path) -> Path:
    """Where the weights of an ONNX file lie that is too large to hold them."""
    return path.with_name(f"{path.name}.data")


def _contents(path: Path) -> str:
    """The digests of the file and of the weights beside it, where there are such."""
    files = [each for each in (path, weights_beside(path)) if each.exists()]
    return " ".join(_digest(each, each.stat().st_mtime_ns, each.stat().st_size) for each in files)


@lru_cache(maxsize=64)
def _digest(path: Path, changed_ns: int, size: int) -> str:
    """Of a file as it was then: pages that are drawn again and again ask for the same."""
    return file_digest(path)


def file_digest(path: Path) -> str:
    """The first 16 hex digits of the file's BLAKE2b."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]
