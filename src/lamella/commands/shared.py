"""What every command shares: its common options, the run directory it holds while it works, and how it prints an outcome."""

import dataclasses
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import RunError
from ..schema import FILES

Run = Annotated[Path, typer.Argument(help="The run directory.", metavar="RUN")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, no tables.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")]

Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Train on so many GPUs, or CPU processes where there is none. Needs the extra fabric. Short for devices=N.",
    ),
]
Precision = Annotated[
    str | None, typer.Option(help="32-true or bf16-mixed, which needs the extra fabric. Short for precision=P.")
]


def options(**records: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The command with an option per field of these dataclasses, in the place of the parameter named so, which gets the record.

    @options(asked=Asked)
    def plan(run: Run, asked: Asked, quiet: Quiet = False) -> None: ...
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(command).parameters.values()]
        fields = {name: _parameters(record) for name, record in records.items()}

        @wraps(command)
        def call(**given: Any) -> None:
            made = {name: records[name](**{p.name: given.pop(p.name) for p in each}) for name, each in fields.items()}
            command(**given, **made)

        spread = [each for p in own for each in fields.get(p.name, [p])]
        vars(call)["__signature__"] = inspect.Signature(spread)
        call.__annotations__ = {p.name: p.annotation for p in spread}
        return call

    return decorated


def _parameters(record: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(record, include_extras=True)
    return [
        inspect.Parameter(f.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(record)
    ]


def complain(text: str) -> None:
    """Print on standard error, as it is: nothing in the text is taken for markup."""
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


def following(run: Path, *verbs: str) -> str:
    """What usually comes after this verb, in the order of likelihood."""
    return "next: " + " or ".join(f"lamella {verb} {shlex.quote(str(run))}" for verb in verbs)


def show(view: Any, plain: Any, *, quiet: bool, as_json: bool, then: str = "") -> None:
    """Print the outcome: as JSON, or as a view with what comes next below it."""
    if as_json:
        typer.echo(json.dumps(plain, indent=1, ensure_ascii=False))
    elif not quiet:
        wide = None if sys.stdout.isatty() else 120  # a file or a pipe has no width of its own
        Console(highlight=False, width=wide).print(view)
        if then:
            typer.echo(then)
