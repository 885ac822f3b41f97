"""What every command shares: its common options, the run directory it holds while it works, and how it prints an outcome."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import RunError
from ..schema import FILES

Run = Annotated[Path, typer.Argument(help="The run directory.", metavar="RUN")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")]


def complain(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(escape(text))


@contextmanager
def working(directory: Path, quiet: bool, *, fresh: bool = False) -> Iterator[Any]:
    """Hold the run directory, which must be there unless `fresh`, and show progress on standard error."""
    from ..runs import locked
    from ..screens import bars

    if not fresh and not directory.is_dir():
        raise RunError(f"{directory}: no run directory. Start one with `{FILES['run'][1]}`.")
    try:
        with locked(directory), bars(quiet) as progress:
            yield progress
    except KeyboardInterrupt:
        complain("interrupted: nothing finished is lost, and the same command goes on from here.")
        raise


def show(view: Any, plain: Any, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))
    elif not quiet:
        wide = None if sys.stdout.isatty() else 120  # a file or a pipe has no width of its own
        Console(highlight=False, width=wide).print(view)
