"""From facts to the marks of a ribbon, layer by layer.

ribbon_marks(graph, plan, profile)      the picture of a plan or a result
marks_at(graph, facts)                  of any facts: a level of an elastic network
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...schema import Graph, Plan, Profile, Result
from ..facts import LayerFacts, layer_facts, plan_of, steps_of_groups
from ..marks import Box, Mark, box_mark, elide, path_mark, text_mark
from ..words import counted
from .bands import band_marks, branch_marks
from .braces import Brace, find_braces
from .frame import DIGIT, GUTTER, NAME, Frame, frame_ribbon
from .insets import inset_captions, inset_marks
from .layout import lay_out
from .legend import legend_marks, shade

Facts = Sequence[LayerFacts]
Steps = Mapping[str, tuple[int, ...]]


def ribbon_marks(graph: Graph, value: Plan | Result | None = None, profile: Profile | None = None) -> tuple[Mark, ...]:
    """The ribbon as data. MismatchError if `value` belongs to another model."""
    facts = layer_facts(graph, value, profile)
    return marks_at(graph, facts, steps_of_groups(graph, plan_of(value)), changed=value is not None)


def marks_at(graph: Graph, facts: Facts, steps: Steps | None = None, *, changed: bool = True) -> tuple[Mark, ...]:
    """The ribbon of these facts. `steps`: per group the steps that narrow it; `changed`: whether there is a before and a now."""
    places, steps = lay_out(graph), steps or {}
    braces = find_braces(facts, places)
    frame = frame_ribbon(places, facts, braces)
    braced = {group for b in braces for group in b.groups}
    marks = [*_captions(frame, changed), *inset_captions(frame, changed)]
    marks += [*band_marks(graph, frame, facts), *branch_marks(graph, frame, facts)]
    for brace in braces:
        marks += _brace(brace, frame, facts, _numbers(brace.groups, steps))
    for fact in facts:
        marks += _layer(fact, frame, _numbers([g for g in fact.groups if g not in braced], steps))
    return (*marks, *legend_marks(frame, facts, bool(braces), changed))


def _numbers(groups: Sequence[str], steps: Steps) -> tuple[int, ...]:
    return tuple(sorted({n for g in groups for n in steps.get(g, ())}))


def _layer(fact: LayerFacts, frame: Frame, numbers: tuple[int, ...]) -> Iterator[Mark]:
    about, box, body = f"layer {fact.name}", frame.box(fact), frame.body(fact)
    yield box_mark("outline", box, about, f"{fact.name}: {fact}")
    yield box_mark(f"body bits-{shade(fact.bits)}", body, about)
    if shade(fact.bits) < 16:
        yield box_mark(f"hatch hatch-{shade(fact.bits)}", body, about)
    if fact.frozen:
        yield from _clamps(box, about)
    yield from _width_text(fact, frame, about)
    yield from inset_marks(fact, frame, about)
    yield from _name(fact, frame, about)
    if numbers:
        yield from _badge(box.middle, box.y - 11, numbers, about)
    yield _facts_line(frame, frame.places[fact.name].line, f"{elide(fact.name, 48)}: {fact}", about)


def _clamps(box: Box, about: str) -> Iterator[Mark]:
    """Rails above and below a layer that cannot be narrowed."""
    for y in (box.y - 3, box.bottom + 1.5):
        yield box_mark("clamp", Box(x=box.x, y=y, width=box.width, height=1.5), about)


def _width_text(fact: LayerFacts, frame: Frame, about: str) -> Iterator[Mark]:
    """Kept channels under the layer, and out of how many where there is room."""
    box = frame.box(fact)
    changed = fact.kept != fact.dense
    text = f"{fact.kept}/{fact.dense}" if changed and frame.both_widths else f"{fact.kept}"
    size = 10.5 if DIGIT * len(text) <= frame.pitch else 8.0
    role = "width changed" if changed else "width"
    if 0.75 * DIGIT * len(text) <= frame.pitch:
        yield text_mark(role, text, box.middle, box.bottom + 13, size, "middle", about)


def _name(fact: LayerFacts, frame: Frame, about: str) -> Iterator[Mark]:
    place, box = frame.places[fact.name], frame.box(fact)
    y = frame.name_tops[place.line] + 12
    if place.lane and frame.pitch > 36:  # named where it lies: the room under the bars belongs to the main path
        yield text_mark("name", elide(fact.name, 22), box.middle, box.bottom + 25, 9.5, "middle", about)
    elif not place.lane and frame.level_names:
        yield text_mark("name", elide(fact.name, int(frame.pitch / 5.8)), box.middle, y, 9.5, "middle", about)
    elif not place.lane:
        yield replace(text_mark("name", elide(fact.name, NAME), box.middle + 3, y, 9.5, "end", about), angle=-36.0)


def _badge(x: float, y: float, numbers: tuple[int, ...], about: str) -> Iterator[Mark]:
    """The numbers of the steps that narrow a group, in a badge."""
    text = elide("·".join(map(str, numbers)), 8)
    width = max(16.0, 6.6 * len(text) + 7)
    yield box_mark("badge", Box(x=x - width / 2, y=y - 8, width=width, height=16), about)
    yield text_mark("badge-text", text, x, y + 3.8, 10.5, "middle", about)


def _brace(brace: Brace, frame: Frame, facts: Facts, steps: tuple[int, ...]) -> Iterator[Mark]:
    boxes = [frame.box(f) for f in facts if f.name in brace.layers and frame.places[f.name].lane == 0]
    y = frame.brace_y(brace)
    left = GUTTER + (brace.first + (0.0 if brace.opens[0] else 0.5)) * frame.pitch
    right = GUTTER + (brace.last + (1.0 if brace.opens[1] else 0.5)) * frame.pitch
    ticks = "".join(f"M{box.middle:.1f} {y:.1f}V{box.y - 4:.1f}" for box in boxes)
    words = f"{counted(len(brace.layers), 'layer')} share these channels, which leave together"
    groups = ", ".join(brace.groups)
    about = f"brace {brace.line} {groups}"
    line = path_mark("brace", f"M{left:.1f} {y:.1f}H{right:.1f}{ticks}", Box(x=left, y=y, width=right - left, height=0))
    yield replace(line, about=about, title=f"{groups}: {words}: {', '.join(brace.layers)}")
    yield box_mark("hit", Box(x=left, y=y - 6, width=right - left, height=12), about)
    if steps:
        yield from _badge((left + right) / 2, y, steps, about)
    yield _facts_line(frame, brace.line, f"{elide(groups, 60)}: {words}", about)


def _facts_line(frame: Frame, line: int, text: str, about: str) -> Mark:
    """The line that shows above the band while its layer is pointed at or has the focus."""
    return text_mark("facts", elide(text, 178), GUTTER, frame.tops[line] + 12, 12, about=about)


def _captions(frame: Frame, changed: bool) -> Iterator[Mark]:
    """What the band means, at the left of each line."""
    more = ("kept / dense" if frame.both_widths else "kept") if changed else "of each layer"
    for line in range(len(frame.tops)):
        y = frame.centres.get((line, 0), frame.tops[line])
        yield text_mark("caption", "channels", 0, y - 2, 11)
        yield text_mark("caption faint", more, 0, y + 11, 9.5)
