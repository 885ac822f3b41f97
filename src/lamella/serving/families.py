"""The runner: the levels of an exported family in ONNX Runtime, switched while requests run.

    family = open_family("runs/r20/elastic", precision="int8")             # every level resident: switching is a pointer
    family = open_family("runs/r20/elastic", resident=("core",))           # others are loaded when switched to, and dropped after

A request runs on the session that was active when it began; a switch in another thread is seen by the next one. A level that is not
resident is loaded by the thread that switches, while the one before still serves.
"""

import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LamellaError, MismatchError, RunError, unknown_name
from ..lineage import file_digest
from ..records import digest, load_record
from ..runtimes import open_session
from ..schema import FILES, Family, Level
from ..schema.families import INTEGERS

Array = NDArray[Any]

SUFFIXES = {"fp32": ".onnx", "int8": f"{INTEGERS}.onnx"}
WEIGHTS = {"fp32": "weights.bin", "int8": "weights.int8.bin"}
# In every level's file: which level it is, of which network, among which levels, and the digest of the weights it was written with.
LEVEL_KEY, FAMILY_KEY, LEVELS_KEY, WEIGHTS_KEY = (
    f"lamella.{name}" for name in ("level", "family", "levels", "weights")
)


class OnnxFamily:
    """The sessions of a family's levels; `run` uses the active one. Safe to use from several threads."""

    def __init__(
        self,
        directory: Path,
        family: Family,
        *,
        precision: str = "fp32",
        resident: Collection[str] | None = None,
        threads: int = 1,
    ) -> None:
        if precision not in SUFFIXES:
            raise LamellaError(unknown_name("precision", precision, SUFFIXES))
        if isinstance(resident, str):
            raise LamellaError(
                f"resident: {resident!r} was given; a list of levels was expected, such as [{resident!r}]."
            )
        self.family = family.in_integers() if precision == "int8" else family
        self._directory, self._precision, self._threads = directory, precision, threads
        self._weights = directory / WEIGHTS[precision]
        self._digested: tuple[tuple[int, ...], str] = ((), "")  # which file it was, and its digest
        self._resident = frozenset(family.names if resident is None else resident)
        for name in self._resident:
            self._check(name)
        self._sessions = {name: self._opened(name) for name in family.names if name in self._resident}
        self._switching = threading.Lock()
        first = next(reversed(self._sessions), family.names[-1])
        self._active = (first, self._sessions[first] if self._sessions else self._opened(first))

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels, the smallest first, with the bytes and times of their files in this precision."""
        return self.family.levels

    @property
    def active_subnet(self) -> str:
        """The name of the level that the next request runs on."""
        return self._active[0]

    def set_active_subnet(self, name: str) -> None:
        """Let the next requests run on this level. LamellaError for an unknown name."""
        self._check(name)
        with self._switching:
            self._check_open()
            if name != self._active[0]:
                session = self._sessions.get(name)
                self._active = (name, self._opened(name) if session is None else session)

    def run(self, *inputs: Array) -> list[Array]:
        """The outputs of the active level on one batch."""
        return self.run_as(self._check_open(), inputs)

    def run_as(self, session: Any, inputs: Sequence[Array]) -> list[Array]:
        """The outputs of one session. LamellaError where number, types or shapes of the inputs are not what it takes."""
        wanted = session.get_inputs()
        if len(wanted) != len(inputs):
            names = ", ".join(w.name for w in wanted)
            raise LamellaError(f"{len(inputs)} inputs were given; the level takes {len(wanted)} ({names}).")
        feeds = {w.name: np.ascontiguousarray(x) for w, x in zip(wanted, inputs, strict=True)}
        try:
            found: list[Array] = session.run(None, feeds)
        except Exception as error:  # its exceptions share no base class
            problems = [problem for w in wanted if (problem := _unlike(w, feeds[w.name]))]
            raise LamellaError("; ".join(problems) or f"ONNX Runtime cannot run the level ({error}).") from error
        return found

    def close(self) -> None:
        """Let all sessions go, one that another thread is switching to included."""
        with self._switching:
            self._sessions = {}
            self._active = (self._active[0], None)

    def __enter__(self) -> "OnnxFamily":
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _check_open(self) -> Any:
        """The active session. LamellaError after `close`."""
        session = self._active[1]
        if session is None:
            raise LamellaError("the family is closed: its sessions are gone. Open it again with open_family.")
        return session

    def _check(self, name: str) -> None:
        if name not in self.family.names:
            raise LamellaError(unknown_name("level", name, self.family.names))

    def _opened(self, name: str) -> Any:
        """The session of a level's file, which must be this level of this family."""
        path = level_file(self._directory, name, self._precision)
        if not path.is_file():
            raise MismatchError(
                f"{path}: level {name!r} of the family is not there. Copy the whole directory, or write it again with "
                f"`{FILES['elastic'][1]}`."
            )
        self._check_weights(FILES["elastic"][0], self.family.weights)
        session = open_session(path, threads=self._threads)
        found = session.get_modelmeta().custom_metadata_map
        seen, expected = (found.get(LEVEL_KEY), found.get(FAMILY_KEY)), (name, self.family.structure)
        if seen != expected:
            raise MismatchError(
                f"{path}: is level {seen[0]!r} of {seen[1]!r}, and level {name!r} of {self.family.structure!r} was "
                f"expected. It is of another family: write both again with `{FILES['elastic'][1]}`."
            )
        settings = stamp_of(self.family)[LEVELS_KEY]
        if found.get(LEVELS_KEY, settings) != settings:  # older files do not say
            raise MismatchError(
                f"{path}: was written beside levels of other widths or bits ({found[LEVELS_KEY]}) than {FILES['elastic'][0]} "
                f"holds ({settings}). A run was cut short between the files and their record, or a copy mixed two families: "
                f"write both again with `{FILES['elastic'][1]}`."
            )
        self._check_weights(path.name, found.get(WEIGHTS_KEY))  # after the session has read them
        return session

    def _check_weights(self, place: str, expected: str | None) -> None:
        """MismatchError unless the weights that lie there are those that this file was written with; older files do not say."""
        if not self._weights.is_file():
            raise MismatchError(
                f"{self._weights}: the weights of the family's levels are not there. Copy the whole directory, or write it again "
                f"with `{FILES['elastic'][1]}`."
            )
        weights = self._weights_digest()
        if expected not in (None, weights):
            raise MismatchError(
                f"{self._weights}: holds other weights ({weights}) than {place} was written with ({expected}). A run was cut short, and "
                f"the same command goes on; or a copy was, or mixed two families: write all files again with `{FILES['elastic'][1]}`."
            )

    def _weights_digest(self) -> str:
        """The digest of the weights that lie there now: while levels are loaded one by one, another family may be written."""
        stat = self._weights.stat()
        seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._digested[0] != seen:
            self._digested = (seen, file_digest(self._weights))
        return self._digested[1]


def _unlike(wanted: Any, array: Array) -> str:
    """What the array has that the session's input has not; empty where type and shape are as wanted."""
    kind = {"float32": "float", "float64": "double"}.get(str(array.dtype), str(array.dtype))
    fits = len(wanted.shape) == array.ndim and all(
        seen == expected for seen, expected in zip(array.shape, wanted.shape, strict=False) if isinstance(expected, int)
    )
    if fits and wanted.type == f"tensor({kind})":
        return ""
    shape = ", ".join(map(str, wanted.shape))
    return (
        f"input {wanted.name!r} is a tensor({kind}) of shape {array.shape}; a {wanted.type} of shape ({shape}) was expected. Prepare "
        "it as in training"
    )


def level_file(directory: str | Path, name: str, precision: str = "fp32") -> Path:
    """Where a level's file of this precision lies."""
    return Path(directory) / f"{name}{SUFFIXES[precision]}"


def stamp_of(family: Family) -> dict[str, str]:
    """What every file of the family says about it: the network it was made from, and a digest of its levels."""
    settings = [(level.name, level.widths, level.bits) for level in family.levels]
    return {FAMILY_KEY: family.structure, LEVELS_KEY: digest(settings)}


def open_family(
    directory: str | Path,
    *,
    precision: str = "fp32",
    resident: Collection[str] | None = None,
    threads: int = 1,
) -> OnnxFamily:
    """The family whose files lie in the directory; its record lies there too, or in the run directory around it.

    `resident`: the levels that stay loaded (default: all). RunError where there is no record, MismatchError for a level that
    is missing or of another family.
    """
    directory = Path(directory)
    name = FILES["elastic"][0]
    records = [path for path in (directory / name, directory.parent / name) if path.is_file()]
    if not records:
        raise RunError(f"{directory}: no {name} here or one level up. It is made by `{FILES['elastic'][1]}`.")
    family = load_record(records[0], Family)
    return OnnxFamily(directory, family, precision=precision, resident=resident, threads=threads)
