"""lamella demo: the main job on a ready-made task, end to end.

lamella demo
lamella demo --task mnist --data mnist
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LamellaError, unknown_name
from ..schema import FILES, RunInfo
from ..views import table_view
from .shared import AsJson, Quiet, options, show, working
from .trace import MODEL, Data, Option, Source, Weights, described

if TYPE_CHECKING:
    from ..demo import Settings

DEMO_MODEL = "resnet14"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the demo is shown on."""

    task: Annotated[str, typer.Option("--task", help="digits, mnist or cifar10.")] = "digits"
    model: Annotated[str, typer.Option(help=MODEL)] = DEMO_MODEL
    data: Data = None
    weights: Weights = None
    seed: Annotated[int, typer.Option(help="What all random draws follow from.")] = 0
    option: Option = None

    def settings(self) -> "Settings":
        """How its task is shown."""
        from ..demo import SETTINGS

        if self.task not in SETTINGS:
            raise LamellaError(unknown_name("demo task", self.task, SETTINGS))
        return SETTINGS[self.task]

    def info(self, usual: Mapping[str, str]) -> RunInfo:
        """As `run.json` tells it; `usual`: options of the demo's own network."""
        own = Source(**{field.name: getattr(self, field.name) for field in fields(self)})
        return described(own, usual if self.model == DEMO_MODEL else {})


@options(shown=Shown)
def demo(
    shown: Shown,
    run: Annotated[
        Path | None, typer.Argument(help="The run directory [default: runs/TASK-MODEL-SEED].", metavar="RUN")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """The main job end to end: train (or load), profile, plan, compress out of order, quantize, measure, explain."""
    from ..demo import demo
    from ..sessions import check_unchanged, start

    settings = shown.settings()
    info = shown.info(settings.options)
    directory = run or Path("runs") / f"{shown.task}-{shown.model.rpartition(':')[2]}-{shown.seed}"
    with working(directory, quiet, fresh=True) as progress:
        session = start(directory, info)
        check_unchanged(session, trained=info.weights is None)
        table = demo(session, settings, progress)
    rows = [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in table.rows]
    files = {name: str(directory / FILES[name][0]) for name in ("dense_onnx", "onnx", "int8_onnx", "report")}
    plain = {"rows": rows, "run": str(directory), "files": files, "notes": table.notes}
    show(table_view(table, files), plain, quiet=quiet, as_json=as_json)
