"""Every error raised on purpose, and how it prints.

An error is one paragraph: where, what was seen, what was expected, what to do. Inner code states the fact
(`LamellaError("9 channels asked, 8 exist")`); the door that was knocked on adds the place once (`with_context`, `in_file`).
The command line prints the paragraph and exits 2.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class LamellaError(Exception):
    """Base of every error raised on purpose; `str(error)` is what a person reads."""


class TraceError(LamellaError):
    """A model that cannot be exported, followed or narrowed."""


class RecordError(LamellaError):
    """A field that holds nonsense. `path` is dotted, `problem` says what is wrong with it."""

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path}: {problem}" if path else problem)

    def within(self, prefix: str) -> "RecordError":
        """The same problem seen from one level further out."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return RecordError(f"{prefix}{joint}{self.path}", self.problem)


class MismatchError(LamellaError):
    """A record, journal or weight file that belongs to another model, data set or run."""


class BudgetError(LamellaError):
    """No plan keeps the budget; the message names the nearest one and what blocks it.

    `nearest`: of the limits that are broken, what that plan reaches, where it is known.
    """

    def __init__(self, text: str, nearest: Mapping[str, float] | None = None) -> None:
        self.nearest = dict(nearest or {})
        super().__init__(text)


class DataError(LamellaError):
    """Data that is absent, damaged, empty, or that gives scores which are not numbers."""


class ScoreError(DataError):
    """Scores that are not finite: of broken data, or of a network that a training broke."""


class DivergedError(DataError):
    """A training whose loss is no longer a finite number."""


class RunError(LamellaError):
    """A run directory that is in use, unwritable, or lacks what a verb needs."""


class MissingExtra(LamellaError):  # noqa: N818 - the public name, as in the design
    """A library that an optional feature needs is not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed. Install the extra: pip install 'lamella[{extra}]'."
        )


@contextmanager
def needing(library: str, extra: str, purpose: str) -> Iterator[None]:
    """`MissingExtra` in place of an ImportError raised inside."""
    try:
        yield
    except ImportError:
        raise MissingExtra(library, extra, purpose) from None


def demand(holds: bool, problem: str) -> None:
    """LamellaError with the problem unless the condition holds."""
    if not holds:
        raise LamellaError(problem)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """A sentence for a name that is not in a table, offering the nearest ones.

    >>> unknown_name("planner", "treshold", ["threshold", "uniform"])
    "unknown planner 'treshold'; did you mean 'threshold'? Known: threshold, uniform."
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """What a library's error says, in a line of 300 characters at most and without its full stop; its type, where it says nothing.

    >>> first_line(ValueError("\\n  no such size.\\nin file x")), first_line(ValueError())
    ('no such size', 'ValueError')
    """
    lines = (line.strip().rstrip(".")[:300] for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


@contextmanager
def with_context(place: str) -> Iterator[None]:
    """Prefix any `LamellaError` raised inside with the place where it happened, keeping its type."""
    try:
        yield
    except RecordError as error:
        is_file = error.path.startswith(("/", ".")) or "/" in error.path
        raise (RecordError(f"{place}: {error.path}", error.problem) if is_file else error.within(place)) from error
    except LamellaError as error:
        error.args = (f"{place}: {error}",)
        raise


@contextmanager
def in_file(path: str | Path) -> Iterator[None]:
    """Prefix any `LamellaError` raised inside with the file whose contents it speaks of, keeping its type."""
    try:
        yield
    except RecordError as error:
        raise RecordError(f"{path}" + (f": {error.path}" if error.path else ""), error.problem) from None
    except LamellaError as error:
        error.args = (f"{path}: {error}",)
        raise
