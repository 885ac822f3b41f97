"""The page: one self-contained HTML file that tells a whole run, from whatever stages exist.

    write_report("runs/r20")        -> runs/r20/report.html
    render(read_stages("runs/r20")) -> the text of the page

No script, no network: the page forbids itself both (Content-Security-Policy), so a hostile name can only be text. Facts
on hover and focus are styles; the data are links that hold the files themselves.
"""

import base64
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ..records import to_plain
from ..runs import write_atomically
from ..schema import FILES, Knob, Profile
from . import words
from .curves import curve_marks
from .facts import layer_facts
from .marks import elide, picture_css, shown, svg
from .ribbon import ribbon_marks
from .stages import Stages, chosen_level, read_stages
from .summary import figures, sentences
from .tables import Heat, frozen_rows, heat_map, step_rows
from .walk import walk_marks


class Curves(NamedTuple):
    """The curves of one knob: a panel per target, and the same numbers as a heat map."""

    knob: Knob
    panels: tuple[Markup, ...]
    heat: Heat

    @property
    def folded(self) -> bool:
        """Whether the heat map tells it better at first sight."""
        return self.knob == "bits" or len(self.panels) > 24


def write_report(directory: str | Path) -> Path:
    """Write report.html into a run directory. RunError where nothing has run yet; RecordError names a damaged file."""
    path = Path(directory) / FILES["report"][0]
    write_atomically(path, render(read_stages(directory)))
    return path


def render(stages: Stages) -> str:
    """The page as text."""
    facts = layer_facts(stages.graph, stages.outcome)
    model = stages.run.model if stages.run else stages.graph.model
    page: str = _template().render(
        title=f"{model} on {stages.run.task}" if stages.run else model,
        css=Markup(picture_css() + _read("page.css")),
        stages=stages,
        figures=figures(stages),
        sentences=sentences(stages, facts),
        ribbon=_picture(
            ribbon_marks(stages.graph, stages.outcome), f"Architecture ribbon: {len(facts)} layers along depth"
        ),
        facts=facts,
        curves=tuple(_curves(stages)),
        steps=step_rows(stages.graph, stages.plan, stages.result) if stages.plan else (),
        walk=_walk(stages),
        frozen=frozen_rows(stages.graph),
        provenance=_provenance(stages),
        downloads=[(name, _link(text), words.size(len(text))) for name, text in stages.files.items()],
    )
    return page


def _picture(marks: Any, label: str) -> Markup:
    return Markup(svg(marks, label=label, style=False))


def _walk(stages: Stages) -> Markup | None:
    history = stages.result.history if stages.result else ()
    return _picture(walk_marks(history), "Score after each step, measured and predicted") if len(history) > 1 else None


def _curves(stages: Stages) -> Iterator[Curves]:
    if stages.profile:
        for knob, chosen in (("pruning_ratio", chosen_ratios(stages)), ("bits", chosen_bits(stages))):
            if any(p.knob == knob for p in stages.profile.points):
                yield _knob_curves(stages.profile, knob, chosen, stages.threshold)  # type: ignore[arg-type]


def _knob_curves(profile: Profile, knob: Knob, chosen: Mapping[str, float], threshold: float | None) -> Curves:
    panels = tuple(
        _picture(
            curve_marks(profile, target, knob, threshold=threshold, chosen=chosen.get(target)),
            f"Score curve of {target}",
        )
        for target in dict.fromkeys(p.target for p in profile.points if p.knob == knob)
    )
    return Curves(knob, panels, heat_map(profile, knob, chosen, threshold))


def chosen_ratios(stages: Stages) -> dict[str, float]:
    """The level each group's plan width was measured at, where it was."""
    plan, profile = stages.plan, stages.profile
    if not (plan and profile):
        return {}
    levels = {group: chosen_level(profile.curve(group), width) for group, width in plan.widths.items()}
    return {group: level for group, level in levels.items() if level is not None}


def chosen_bits(stages: Stages) -> dict[str, float]:
    return {layer: float(bits) for layer, bits in stages.outcome.bits.items()} if stages.outcome else {}


def _provenance(stages: Stages) -> list[tuple[str, str]]:
    """The fields of run.json that say something, nested ones spelled out."""
    rows = []
    for name, value in to_plain(stages.run).items() if stages.run else ():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        if text not in ("", None):
            rows.append((name, str(text)))
    return [*rows, ("structure", stages.graph.structure)]


def _link(text: str) -> str:
    return "data:application/json;base64," + base64.b64encode(text.encode()).decode()


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"elide": elide}
    environment.globals |= {"words": words, "counted": words.counted}
    return environment.from_string(_read("page.html.j2"))


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Markup) else "" if value is None else shown(value)


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
