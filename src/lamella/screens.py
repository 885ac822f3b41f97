"""Progress bars on standard error: one line per stage, with the time left.

with bars(quiet) as progress:
    progress("profile", 12, 81, "layer2.0.conv1 at 0.50: 97.2 %")
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from .progress import Progress, silent


@contextmanager
def bars(quiet: bool) -> Iterator[Progress]:
    """A Progress that draws, or one that is silent."""
    if quiet:
        yield silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    )
    # In a narrow window the note is cut, not the times.
    drawn = Bars(*columns, console=Console(stderr=True), expand=True)
    try:
        yield _on(drawn)
    finally:
        if drawn.live.is_started:
            drawn.stop()


def _on(drawn: Bars) -> Progress:
    """Bars appear with the first stage, so that a command that fails at once prints its error alone."""
    lines: dict[str, int] = {}

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in lines:
            drawn.start()
            lines[stage] = int(drawn.add_task(stage, total=total, note=note))
        drawn.update(lines[stage], completed=done, total=total, note=note)  # type: ignore[arg-type]

    return progress
