"""From stages to the text of the page.

The page is mailed and opened years later, so it holds everything: styles, pictures, data. The one script (sorting
fingerprints, the slider of an elastic network) is ours and is named by its hash in the Content-Security-Policy, which forbids
every other script and every request; so a hostile name can only be text. Without the script all is still there to read.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from ...records import to_plain
from ...runs import write_atomically
from ...schema import FILES
from .. import words
from ..facts import layer_facts
from ..marks import elide, shown
from ..prints import layer_prints
from ..stages import Stages, read_stages
from ..styles import picture_css
from ..summary import caveats, figures, sentences
from .datasets import csv_files
from .sections import Charts, sections

RULES = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; script-src 'sha256-{}'"


def write_report(directory: str | Path) -> Path:
    """Write report.html into a run directory. RunError where nothing has run yet; RecordError names a damaged file."""
    path = Path(directory) / FILES["report"][0]
    write_atomically(path, render(read_stages(directory)))
    return path


def render(stages: Stages, *, live: bool = False) -> str:
    """The page as text. `live`: it asks its server for news while it is open."""
    with words.scores_told(stages.metric):
        return _page(stages, live)


def _page(stages: Stages, live: bool) -> str:
    facts = layer_facts(stages.graph, stages.outcome, stages.profile) if stages.graph else ()
    charts = Charts()
    prints = layer_prints(stages.graph, stages.profile) if stages.graph else ()
    found = sections(stages, facts, prints, charts)
    script = _read("page.js")
    page: str = _template().render(
        title=_title(stages),
        rules=RULES.format(_hash(script)) + ("; connect-src 'self'" if live else ""),
        css=Markup(picture_css() + _read("page.css")),
        script=Markup(script),
        live=live,
        stages=stages,
        figures=figures(stages),
        sentences=sentences(stages, facts),
        caveats=caveats(stages),
        sections=found,
        missing=charts.missing,
        provenance=_provenance(stages),
        downloads=[
            _download(name, text) for name, text in {**csv_files(stages, facts, prints), **stages.files}.items()
        ],
    )
    return page


def _title(stages: Stages) -> str:
    if stages.run:
        return f"{stages.run.model} on {stages.run.task}"
    return (
        stages.graph.model if stages.graph else f"{stages.accordion.task if stages.accordion else ''}: a width search"
    )


def _provenance(stages: Stages) -> list[tuple[str, str]]:
    """The fields of run.json that say something, nested ones spelled out."""
    rows = []
    for name, value in to_plain(stages.run).items() if stages.run else ():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        if text not in ("", None):
            rows.append((name, str(text)))
    if stages.result:
        rows.append(("seed of the walk", str(stages.result.seed)))
    return [*rows, *([("structure", stages.graph.structure)] if stages.graph else [])]


def _download(name: str, text: str) -> tuple[str, str, str]:
    kind = "text/csv" if name.endswith(".csv") else "application/json"
    data = text.encode("utf-8", errors="replace")
    return name, f"data:{kind};base64,{base64.b64encode(data).decode()}", words.size(len(data))


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: _read(f"templates/{name}")),
    )
    environment.filters |= {"elide": elide}
    environment.globals |= {"words": words, "counted": words.counted}
    return environment.get_template("page.html.j2")


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Markup) else "" if value is None else shown(value)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
