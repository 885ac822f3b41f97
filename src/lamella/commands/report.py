"""lamella report: the page of a run, its pictures as files, and the page live while the run goes on.

lamella report RUN
lamella report RUN --svg figures --png figures
lamella report RUN --watch
"""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import LamellaError
from .shared import AsJson, Quiet, Run, show

Host = Annotated[
    str, typer.Option(help="Address to serve on; anything but this machine's own lets others see the run.")
]


def report(
    run: Run,
    svg: Annotated[Path | None, typer.Option(help="Write every picture as SVG into this folder.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write every picture as PNG into this folder.")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Light on dark, for --svg and --png.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page, refreshed as points arrive, until Ctrl-C.")
    ] = False,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --watch; 0: any that is free.")] = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write report.html: the whole run on one self-contained page. Needs no torch, and works on a copied directory."""
    from ..reporting import save_pictures, serving, write_report

    if watch:
        if svg or png:
            raise LamellaError("--watch serves the page and writes nothing: leave --svg and --png out, or --watch.")
        with serving(run, host=host, port=port) as served:
            show(f"{served.url}  (Ctrl-C ends it)", {"url": served.url}, quiet=quiet, as_json=as_json)
            served.wait()
        return
    path = write_report(run)
    pictures = save_pictures(run, svg=svg, png=png, scheme="dark" if dark else "light") if svg or png else ()
    lines = [f"wrote {path}", *(f"wrote {picture}" for picture in pictures)]
    plain = {"report": str(path), "pictures": [str(picture) for picture in pictures]}
    show("\n".join(lines), plain, quiet=quiet, as_json=as_json)
