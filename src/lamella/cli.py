"""The command line: one command per verb, over one run directory.

    lamella demo                                            the main job on digits, end to end
    lamella trace runs/r20 --model resnet20 --task cifar10 --data cifar --weights r20.safetensors
    lamella profile runs/r20; lamella plan runs/r20 --option factor=0.985; lamella compress runs/r20; lamella quantize runs/r20
    lamella report runs/r20

Results go to standard output (`--json`: as JSON), progress to standard error. Bad input prints one paragraph and exits 2.
"""

import sys
from typing import Annotated

import typer

from .commands.accordion import accordion
from .commands.bench import bench
from .commands.compress import compress
from .commands.demo import demo
from .commands.deploy import export, quantize
from .commands.elastic import elasticize, serve_levels
from .commands.plan import plan
from .commands.profile import profile
from .commands.report import report
from .commands.shared import complain
from .commands.trace import trace
from .errors import LamellaError
from .version import __version__

app = typer.Typer(
    name="lamella",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Layer-wise optimization of neural networks: characterize, plan, compress, quantize, explain.",
    epilog="Your own network: lamella trace RUN --model nets.py:make_net --task data.py:make_task; then profile, plan, compress, "
    "quantize, export and report RUN, in this order. Without one: lamella demo.",
)


def main() -> None:
    """The console script: runs the command, prints errors as one paragraph, exits 2 on bad input."""
    try:
        app()
    except LamellaError as error:
        complain(f"error: {error}")
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lamella {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the verb."""


# In the order in which they are used, which is that of `lamella --help`.
app.command()(demo)
app.command()(trace)
app.command()(profile)
app.command()(plan)
app.command()(compress)
app.command()(quantize)
app.command()(export)
app.command()(report)
app.command()(elasticize)
app.command(name="serve-levels")(serve_levels)
app.command()(accordion)
app.add_typer(bench, name="bench")

__all__ = ["app", "main"]
