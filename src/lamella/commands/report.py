"""lamella report: the page of a run, its pictures as files, and the page live while the run goes on.

lamella report RUN
lamella report RUN --svg figures --png figures
lamella report RUN --watch
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..errors import LamellaError
from .shared import AsJson, Quiet, Run, options, show


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Which pictures become files of their own."""

    svg: Annotated[Path | None, typer.Option(help="Write every picture as SVG into this folder.")] = None
    png: Annotated[Path | None, typer.Option(help="Write every picture as PNG into this folder.")] = None
    dark: Annotated[bool, typer.Option("--dark", help="Light on dark, for --svg and --png.")] = False

    def saved(self, run: Path) -> tuple[Path, ...]:
        """The files, written."""
        from ..reporting import save_pictures

        if not (self.svg or self.png):
            return ()
        return save_pictures(run, svg=self.svg, png=self.png, scheme="dark" if self.dark else "light")


@dataclass(frozen=True, kw_only=True)
class Live:
    """Whether the page is served while the run goes on, and where."""

    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page, refreshed as points arrive, until Ctrl-C.")
    ] = False
    host: Annotated[
        str, typer.Option(help="Address to serve on; anything but this machine's own lets others see the run.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --watch; 0: any that is free.")] = 0


@options(pictures=Pictures, live=Live)
def report(run: Run, pictures: Pictures, live: Live, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write report.html: the whole run on one self-contained page. Needs no torch, and works on a copied directory."""
    from ..reporting import serving, write_report

    if live.watch:
        if pictures.svg or pictures.png:
            raise LamellaError("--watch serves the page and writes nothing: leave --svg and --png out, or --watch.")
        with serving(run, host=live.host, port=live.port) as served:
            show(f"{served.url}  (Ctrl-C ends it)", {"url": served.url}, quiet=quiet, as_json=as_json)
            served.wait()
        return
    path = write_report(run)
    saved = pictures.saved(run)
    lines = [f"wrote {path}", *(f"wrote {picture}" for picture in saved)]
    plain = {"report": str(path), "pictures": [str(picture) for picture in saved]}
    show("\n".join(lines), plain, quiet=quiet, as_json=as_json)
