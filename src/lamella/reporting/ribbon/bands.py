"""The bands of a ribbon: smooth shapes behind the layers, and the lines that lead to branches and back.

marks = [*band_marks(graph, frame, facts), *branch_marks(graph, frame, facts)]
"""

from collections.abc import Iterator, Sequence

from ...schema import Graph
from ..facts import LayerFacts, drawn_layers
from ..marks import Box, Mark, path_mark
from .frame import Frame
from .layout import parents_of

Facts = Sequence[LayerFacts]


def band_marks(graph: Graph, frame: Frame, facts: Facts) -> Iterator[Mark]:
    """Behind each stretch of layers that follow each other two shapes: the dense network, and inside it what is kept."""
    for layers in _stretches(graph, frame, facts):
        yield _band("band", [frame.box(f) for f in layers])
        yield _band("core", [frame.body(f) for f in layers])


def _stretches(graph: Graph, frame: Frame, facts: Facts) -> list[list[LayerFacts]]:
    """Layers side by side in one lane of a line; beside the main path only those of which one feeds the next."""
    parents = parents_of(graph, drawn_layers(graph))
    found: list[list[LayerFacts]] = []
    for fact in sorted(facts, key=lambda f: _line_lane_slot(frame, f)):
        line, lane, slot = _line_lane_slot(frame, fact)
        before = found[-1][-1] if found else None
        beside = before is not None and _line_lane_slot(frame, before) == (line, lane, slot - 1)
        if before is not None and beside and (lane == 0 or before.name in parents[fact.name]):
            found[-1].append(fact)
        else:
            found.append([fact])
    return found


def _line_lane_slot(frame: Frame, fact: LayerFacts) -> tuple[int, int, int]:
    place = frame.places[fact.name]
    return place.line, place.lane, place.slot


def _band(role: str, boxes: list[Box]) -> Mark:
    above = _edge([(b.x, b.x + b.width, b.y) for b in boxes])
    below = _edge([(b.x + b.width, b.x, b.bottom) for b in reversed(boxes)])
    top, bottom = min(b.y for b in boxes), max(b.bottom for b in boxes)
    left, right = boxes[0].x, boxes[-1].x + boxes[-1].width
    return path_mark(role, f"M{above}L{below}Z", Box(x=left, y=top, width=right - left, height=bottom - top))


def _edge(pieces: list[tuple[float, float, float]]) -> str:
    """A line along the pieces (from x, to x, y), with a soft curve from each to the next."""
    path, end, level = "", 0.0, 0.0
    for start, stop, y in pieces:
        middle, to = (end + start) / 2, f"{start:.1f} {y:.1f}"
        path += f"C{middle:.1f} {level:.1f} {middle:.1f} {y:.1f} {to}" if path else to
        path += f"L{stop:.1f} {y:.1f}"
        end, level = stop, y
    return path


def branch_marks(graph: Graph, frame: Frame, facts: Facts) -> Iterator[Mark]:
    """For each layer beside the main path: a line from the last layer before it, and one to the first after it."""
    boxes = {f.name: frame.box(f) for f in facts}
    parents = parents_of(graph, drawn_layers(graph))
    for name in (n for n in parents if frame.places[n].lane):
        before = max(parents[name], key=lambda p: frame.places[p].column, default=None)
        after = min((c for c in parents if name in parents[c]), key=lambda c: frame.places[c].column, default=None)
        for one, other in ((before, name), (name, after)):
            if one and other and _is_linked(frame, one, other):
                yield _link(boxes[one], boxes[other], frame.gap)


def _is_linked(frame: Frame, one: str, other: str) -> bool:
    """Whether a line leads from one to the other: on one line of the ribbon, and not side by side in one band."""
    a, b = frame.places[one], frame.places[other]
    return a.line == b.line and (a.lane != b.lane or b.slot - a.slot > 1)


def _link(one: Box, other: Box, gap: float) -> Mark:
    """From the right of a layer to the left of one in another lane, up or down in the gap between two columns."""
    down = other.y > one.y
    left, right = one.x + one.width, other.x
    deep = (other if down else one).y + (other if down else one).height / 2
    near = one.bottom if down else other.bottom
    turn = left + gap / 2 if down else right - gap / 2
    bend = min(12.0, abs(deep - near) / 2)
    if down:
        path = f"M{turn:.1f} {near:.1f}V{deep - bend:.1f}Q{turn:.1f} {deep:.1f} {right:.1f} {deep:.1f}"
    else:
        up = f"Q{turn:.1f} {deep:.1f} {turn:.1f} {deep - bend:.1f}V{near:.1f}"
        path = f"M{left:.1f} {deep:.1f}H{turn - bend:.1f}{up}"
    return path_mark("branch", path, Box(x=left, y=min(near, deep), width=right - left, height=abs(deep - near)))
