"""Pictures by name: each is marks or a chart's specification, and can be written for a page, for a notebook, or as a file.

    for picture in pictures_of(result, graph): picture.name, picture.svg()
    pictures_of_run(stages)         every picture that a run directory has: ribbon, fingerprints, curves-bits, walk, front ...

What a picture shows is decided when it is made; drawing it can only fail for want of the charting library.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import LamellaError
from ..schema import Accordion, Family, Front, Graph, Knob, Plan, Profile, Result
from .charts import (
    Spec,
    bits_spec,
    chart_svg,
    controls_spec,
    family_spec,
    front_spec,
    pairs_spec,
    ratio_spec,
    walk_spec,
    widths_spec,
)
from .facts import facts_at, layer_facts, plan_of, steps_of_groups
from .marks import Mark, svg
from .prints import print_marks
from .ribbon import marks_at
from .stages import Stages
from .styles import Scheme, flat_css

KNOBS: dict[Knob, str] = {
    "pruning_ratio": "Score against the share of a group's channels pruned",
    "masked_ratio": "Score against the share of one layer's filters set to zero",
    "bits": "Score against the bits of one layer's weights",
    "bits_both": "Score against the bits of one layer's weights and inputs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """`name` is that of its file, `label` what it shows in words."""

    name: str
    label: str
    content: tuple[Mark, ...] | Spec

    @property
    def is_chart(self) -> bool:
        """Whether drawing it needs the extra `report`."""
        return isinstance(self.content, dict)

    def svg(self, scheme: Scheme | None = None) -> str:
        """As an SVG element. With a scheme its colours are written out, for programs that know no variables."""
        if isinstance(self.content, dict):
            return chart_svg(self.content, label=self.label, scheme=scheme or "light")
        return svg(self.content, label=self.label, style=flat_css(scheme) if scheme else None)


def pictures_of(value: Any, graph: Graph | None = None) -> tuple[Picture, ...]:
    """The pictures of one value. LamellaError for what has none, and for a plan, result or family without its graph."""
    if isinstance(value, Graph):
        return (_ribbon(value, None, None),)
    if isinstance(value, Profile):
        return tuple(_of_profile(value))
    if isinstance(value, Front):
        return (Picture(name="front", label="Front of the budget", content=front_spec(value)),)
    if isinstance(value, Accordion):
        return tuple(_of_accordion(value))
    if not isinstance(value, Plan | Result | Family):
        known = "Graph, Profile, Plan, Result, Family, Front, Accordion or an elastic network"
        raise LamellaError(f"a {type(value).__name__} has no picture. Draw a {known}.")
    if graph is None:
        kind = type(value).__name__
        raise LamellaError(f"a {kind} names groups, and its layers are in the Graph. Call draw({kind.lower()}, graph).")
    return tuple(_of_family(value, graph) if isinstance(value, Family) else _of_outcome(value, graph))


def pictures_of_run(stages: Stages) -> tuple[Picture, ...]:
    """Every picture of a run, the ribbon first."""
    found: list[Picture] = []
    if stages.graph:
        found.append(_ribbon(stages.graph, stages.outcome, stages.profile))
        found += _of_profile(stages.profile) if stages.profile else [_prints(stages.graph, None)]
    found += (
        [p for p in _of_outcome(stages.result, stages.graph) if p.name == "walk"]
        if stages.result and stages.graph
        else []
    )
    found += (
        [Picture(name="front", label="Front of the budget", content=front_spec(stages.front, stages.plan))]
        if stages.front
        else []
    )
    found += _of_family(stages.family, stages.graph) if stages.family and stages.graph else []
    return (*found, *(_of_accordion(stages.accordion) if stages.accordion else ()))


def _ribbon(graph: Graph, value: Plan | Result | None, profile: Profile | None) -> Picture:
    facts, steps = layer_facts(graph, value, profile), steps_of_groups(graph, plan_of(value))
    marks = marks_at(graph, facts, steps, changed=value is not None)
    return Picture(name="ribbon", label=f"Architecture ribbon of {graph.model}", content=marks)


def _prints(graph: Graph, profile: Profile | None) -> Picture:
    label = f"Layer fingerprints of {graph.model}"
    return Picture(name="fingerprints", label=label, content=print_marks(graph, profile))


def _of_profile(profile: Profile) -> Iterable[Picture]:
    yield _prints(profile.graph, profile)
    for knob, label in KNOBS.items():
        targets = list(dict.fromkeys(p.target for p in profile.points if p.knob == knob))
        if targets:
            spec = bits_spec(profile, knob) if knob.startswith("bits") else ratio_spec(profile, knob, targets)
            yield Picture(name=f"curves-{knob}", label=label, content=spec)


def _of_outcome(value: Plan | Result, graph: Graph) -> Iterable[Picture]:
    yield _ribbon(graph, value, None)
    if isinstance(value, Result) and len(value.history) > 1:
        yield Picture(name="walk", label="Score after each step", content=walk_spec(value.history))


def _of_family(family: Family, graph: Graph) -> Iterable[Picture]:
    yield Picture(name="levels", label="Score against latency, level by level", content=family_spec(family))
    for number, level in enumerate(family.levels):
        marks = marks_at(graph, facts_at(graph, level.widths, level.bits))
        label = f"Architecture ribbon of level {level.name}"
        yield Picture(name=f"ribbon-level-{number}", label=label, content=marks)


def _of_accordion(found: Accordion) -> Iterable[Picture]:
    yield Picture(name="accordion-widths", label="Nodes of every hidden layer", content=widths_spec(found))
    if found.sweeps:
        label = "The metric against the width of each pair of layers"
        yield Picture(name="accordion-pairs", label=label, content=pairs_spec(found))
    yield Picture(name="accordion-controls", label="Test metric against parameters", content=controls_spec(found))
