"""The sections of the page as views: what each template needs, made from stages. A stage that has not run has no section.

sections(stages, facts, prints, charts) -> {"ribbon": Ribbon(...), "prints": ..., "curves": ..., ...}   in the order of the page
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ...errors import MissingExtra
from ...schema import Accordion, Epoch, Family, Front, Graph, Knob, Level, Plan, Profile
from ...trials import remarks
from ..charts import (
    Spec,
    bits_spec,
    chart_svg,
    controls_spec,
    family_spec,
    front_spec,
    pairs_spec,
    ratio_spec,
    score_of,
    training_spec,
    walk_spec,
    widths_spec,
)
from ..facts import LayerFacts, plan_of, steps_of_groups
from ..losses import mean_losses
from ..marks import Mark, svg
from ..pictures import KNOBS
from ..prints import LayerPrint, glyph_marks, legend_marks, likeness, scale_of
from ..ribbon import marks_at
from ..stages import Stages, Training, chosen_level
from ..summary import about_bits
from ..tables import Heat, StepRow, TrialRow, frozen_rows, heat_map, step_rows, trial_rows
from ..words import more, size, whole
from .levels import Slider, slider

Facts = Sequence[LayerFacts]

PANELS = 40  # curves that are drawn one by one; beyond that the most sensitive ones, and all in the heat map
HEADS = {"pruning_ratio": "Group"}  # what a knob acts on; the others act on a layer


class Charts:
    """Draws charts, and remembers when they cannot be: the page then says once what is missing, and its tables remain."""

    def __init__(self) -> None:
        self.missing = ""

    def __call__(self, spec: Spec, label: str) -> Markup | None:
        if self.missing:
            return None
        try:
            return Markup(chart_svg(spec, label=label))
        except MissingExtra as error:
            self.missing = str(error)
            return None


class Ribbon(NamedTuple):
    picture: Markup
    facts: Facts


class Print(NamedTuple):
    """One fingerprint and its place in every order it can be sorted by."""

    name: str
    picture: Markup
    lines: tuple[tuple[str, str], ...]
    places: dict[str, int]
    kin: str


class Prints(NamedTuple):
    legend: Markup
    glyphs: tuple[Print, ...]
    orders: tuple[tuple[str, str], ...]  # key, words


class Curves(NamedTuple):
    """What was measured of one knob: a chart, and the same numbers as a heat map."""

    knob: Knob
    title: str
    head: str
    chart: Markup | None
    drawn: int
    targets: int
    heat: Heat


class Walk(NamedTuple):
    plan: Plan
    chart: Markup | None
    rows: tuple[StepRow, ...]
    bits: str  # whose score the last one is


class FrontView(NamedTuple):
    front: Front
    chart: Markup | None


class Elastic(NamedTuple):
    """A family: `integers` are its levels as files in int8, `weights` what all levels weigh together, form by form."""

    family: Family
    chart: Markup | None
    slider: Slider
    integers: tuple[Level, ...]
    samples: str
    weights: tuple[str, ...]


class Trained(NamedTuple):
    """A training that goes on; `latest`: of every level the last epoch that scored it."""

    training: Training
    chart: Markup | None
    latest: tuple[tuple[str, Epoch | None], ...]


class Search(NamedTuple):
    found: Accordion
    widths: Markup | None
    pairs: Markup | None
    controls: Markup | None


class Controls(NamedTuple):
    rows: tuple[TrialRow, ...]
    notes: tuple[str, ...]


def sections(stages: Stages, facts: Facts, prints: Sequence[LayerPrint], charts: Charts) -> dict[str, Any]:
    """The views by the name of their section; the order of the page is the template's."""
    found: dict[str, Any] = {}
    if stages.graph:
        found["ribbon"] = _ribbon(stages.graph, stages, facts)
        found["prints"] = _prints(prints)
        found["frozen"] = frozen_rows(stages.graph)
    if stages.profile:
        found["curves"] = tuple(_curves(stages, stages.profile, charts))
    if stages.graph and stages.plan:
        found["plan"] = _walk(stages.graph, stages.plan, stages, charts)
    if stages.trials:
        found["trials"] = Controls(trial_rows(stages.trials), remarks(stages.trials))
    if stages.front:
        found["front"] = FrontView(stages.front, charts(front_spec(stages.front, stages.plan), "Front of the budget"))
    if stages.graph and stages.family:
        found["elastic"] = _elastic(stages.graph, stages.family, charts)
    if stages.training:
        found["training"] = _trained(stages.training, charts)
    if stages.accordion:
        found["accordion"] = _search(stages.accordion, charts)
    if stages.trying:
        found["trying"] = stages.trying
    return found


def picture(marks: Sequence[Mark], label: str) -> Markup:
    """Our own pictures: the page holds their style sheet once."""
    return Markup(svg(marks, label=label, style=""))


def _ribbon(graph: Graph, stages: Stages, facts: Facts) -> Ribbon:
    steps = steps_of_groups(graph, plan_of(stages.outcome))
    marks = marks_at(graph, facts, steps, changed=stages.outcome is not None)
    return Ribbon(picture(marks, f"Architecture ribbon: {len(facts)} layers along depth"), facts)


ORDERS = (
    ("depth", "depth"),
    ("sensitivity", "sensitivity to pruning"),
    ("bits", "sensitivity to fewer bits"),
    ("params", "share of parameters"),
    ("macs", "share of MACs"),
    ("latency", "share of latency"),
    ("likeness", "likeness"),
)


def _prints(prints: Sequence[LayerPrint]) -> Prints:
    scale, kin = scale_of(prints), likeness(prints)
    keys: dict[str, list[float]] = {
        "depth": list(map(float, range(len(prints)))),
        "sensitivity": [-(p.sensitivity if p.sensitivity is not None else -1.0) for p in prints],
        "bits": [-sum(loss for _, loss in p.bits) for p in prints],
        **{name: [-p.shares.get(name, 0.0) for p in prints] for name in ("params", "macs", "latency")},
        "likeness": [float(kin.order.index(i)) for i in range(len(prints))],
    }
    told = {name: values for name, values in keys.items() if len(set(values)) > 1 or name == "depth"}
    places = {name: _places(values) for name, values in told.items()}
    glyphs = tuple(
        Print(
            name=p.name,
            picture=picture(glyph_marks(p, scale), f"Fingerprint of {p.name}: {p}"),
            lines=p.lines,
            places={name: at[i] for name, at in places.items()},
            kin=kin.letters[i],
        )
        for i, p in enumerate(prints)
    )
    legend = picture(legend_marks(scale), "How to read a fingerprint")
    return Prints(legend, glyphs, tuple((key, text) for key, text in ORDERS if key in told))


def _places(values: Sequence[float]) -> list[int]:
    """The place of every value among all, from 0."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    places = [0] * len(values)
    for place, i in enumerate(order):
        places[i] = place
    return places


def _curves(stages: Stages, profile: Profile, charts: Charts) -> list[Curves]:
    found = []
    for knob, title in KNOBS.items():
        targets = list(dict.fromkeys(p.target for p in profile.points if p.knob == knob))
        if targets:
            chosen = _chosen(stages, profile, knob)
            heat = heat_map(profile, knob, chosen, stages.threshold)
            drawn = _drawn_targets(profile, knob, targets)
            if knob in ("bits", "bits_both"):
                spec = bits_spec(profile, knob, threshold=stages.threshold, chosen=chosen)
            else:
                spec = ratio_spec(profile, knob, drawn, threshold=stages.threshold, chosen=chosen)
            found.append(
                Curves(knob, title, HEADS.get(knob, "Layer"), charts(spec, title), len(drawn), len(targets), heat)
            )
    return found


def _drawn_targets(profile: Profile, knob: Knob, targets: list[str]) -> list[str]:
    """All targets, or the most sensitive ones, in network order."""
    if knob.startswith("bits") or len(targets) <= PANELS:
        return targets
    means = mean_losses(profile, knob)
    chosen = set(sorted(targets, key=lambda t: -means.get(t, 0.0))[:PANELS])
    return [t for t in targets if t in chosen]


def _chosen(stages: Stages, profile: Profile, knob: Knob) -> Mapping[str, float]:
    """The level that the plan takes of each target, where it was measured. A plan removes groups: it masks nothing."""
    if knob == "pruning_ratio" and stages.plan:
        widths = stages.plan.widths
        levels = {group: chosen_level(profile.curve(group), width) for group, width in widths.items()}
        return {group: level for group, level in levels.items() if level is not None}
    if knob == "bits" and stages.outcome:
        return {layer: float(bits) for layer, bits in stages.outcome.bits.items()}
    return {}


def _walk(graph: Graph, plan: Plan, stages: Stages, charts: Charts) -> Walk:
    label, history = "Score after each step, measured and predicted", stages.history
    chart, bits = (
        charts(walk_spec(history), label) if history else None,
        about_bits(stages.result) if stages.result else "",
    )
    return Walk(plan, chart, step_rows(graph, plan, history), bits)


def _elastic(graph: Graph, family: Family, charts: Charts) -> Elastic:
    scored, largest = any(score_of(level) for level in family.levels), family.levels[-1]
    in_int8 = any(level.int8_bytes for level in family.levels)
    together = (
        ("safetensors", family.file_bytes, family.largest_bytes),
        ("ONNX", family.onnx_bytes, largest.bytes),
        ("ONNX int8", family.int8_bytes, largest.int8_bytes),
    )
    return Elastic(
        family,
        charts(family_spec(family), "Score against latency, level by level") if scored else None,
        slider(graph, family),
        family.in_integers().levels if in_int8 else (),
        _samples(largest),
        tuple(f"{name} {size(whole)} ({more(whole / one - 1)} %)" for name, whole, one in together if whole and one),
    )


def _samples(level: Level) -> str:
    """On how many samples a level was scored, for a caption."""
    scores = {"validation": level.validation, "test": level.test}
    told = [f"{whole(score.n)} {name}" for name, score in scores.items() if score]
    return f" on {' and '.join(told)} samples" if told else ""


def _trained(training: Training, charts: Charts) -> Trained:
    label, chart = "Score after each epoch, level by level", None
    if any(epoch.scores for epoch in training.epochs):
        chart = charts(training_spec(training.epochs, training.names), label)
    latest = {name: epoch for epoch in training.epochs for name in epoch.scores}
    return Trained(training, chart, tuple((name, latest.get(name)) for name in training.names))


def _search(found: Accordion, charts: Charts) -> Search:
    return Search(
        found,
        charts(widths_spec(found), "Nodes of every hidden layer, baseline and winner"),
        charts(pairs_spec(found), "The metric against the width of each pair of layers") if found.sweeps else None,
        charts(controls_spec(found), "Test metric against parameters, with controls"),
    )
