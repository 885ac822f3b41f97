"""The frame of a ribbon: from places (columns, lanes, lines) and facts to pixels.

    frame = frame_ribbon(places, facts, braces)
    frame.box(fact), frame.body(fact)           # the dense outline of a layer, and inside it what is kept

Outlines grow with the square root of the channels, so that 16 and 2,048 fit one picture; a body is the kept share of
its outline, exactly. From the top a line of the ribbon holds: a line of facts, braces, lanes, insets, names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..facts import LayerFacts
from ..marks import Box
from .braces import Brace
from .insets import Inset, insets_of
from .layout import Place

WIDTH, GUTTER = 1200.0, 104.0
DIGIT, NAME = 6.4, 16  # pixels of a digit under a layer; letters of a name that are always shown
FACTS, BRACE, ABOVE, BELOW, LANE_GAP, INSET_GAP, NAMES = 22.0, 20.0, 22.0, 16.0, 6.0, 9.0, 62.0
TALLEST = {1: 118.0, 2: 84.0}  # pixels of the widest layer, by the lines of the ribbon
TALLEST_OF_MANY = 60.0


@dataclass(frozen=True, kw_only=True)
class Frame:
    places: Mapping[str, Place]
    lanes: Mapping[str, int]  # lanes in the column of each layer
    insets: tuple[Inset, ...]
    pitch: float
    unit: float  # pixels per square root of a channel
    tops: tuple[float, ...]
    centres: Mapping[tuple[int, int], float]  # (line, lane) -> y
    inset_tops: Mapping[tuple[int, str], float]  # (line, name of an inset) -> y
    name_tops: tuple[float, ...]
    brace_rows: tuple[int, ...]  # per line
    level_names: bool  # whether names fit under their layers without turning
    both_widths: bool  # whether kept and dense channels fit under every layer
    bottom: float

    @property
    def gap(self) -> float:
        """The room between two columns."""
        return min(14.0, self.pitch * 0.2)

    def slot(self, place: Place) -> float:
        """The left edge of a column."""
        return GUTTER + place.slot * self.pitch

    def brace_y(self, brace: Brace) -> float:
        return self.tops[brace.line] + FACTS + BRACE * (self.brace_rows[brace.line] - brace.row) - BRACE / 2

    def box(self, fact: LayerFacts) -> Box:
        place = self.places[fact.name]
        height = max(4.0, self.unit * fact.dense**0.5)
        centre = self.centres[place.line, place.lane]
        return Box(x=self.slot(place) + self.gap / 2, y=centre - height / 2, width=self.pitch - self.gap, height=height)

    def body(self, fact: LayerFacts) -> Box:
        box = self.box(fact)
        height = min(box.height, max(1.5, box.height * fact.kept / max(1, fact.dense)))
        return Box(x=box.x, y=box.y + (box.height - height) / 2, width=box.width, height=height)

    def inset(self, fact: LayerFacts, inset: Inset) -> Box:
        """The full room of one layer in one inset; layers of one column share its width."""
        place, box = self.places[fact.name], self.box(fact)
        width = box.width / self.lanes[fact.name]
        y = self.inset_tops[place.line, inset.name]
        return Box(x=box.x + width * place.lane, y=y, width=width, height=inset.height)


def frame_ribbon(places: Mapping[str, Place], facts: Iterable[LayerFacts], braces: Iterable[Brace]) -> Frame:
    facts = tuple(facts)
    lines = 1 + max((p.line for p in places.values()), default=0)
    slots = 1 + max((p.slot for p in places.values()), default=0)
    unit = TALLEST.get(lines, TALLEST_OF_MANY) / max((f.dense for f in facts), default=1) ** 0.5
    pitch = (WIDTH - GUTTER) / slots
    level_names = all(5.8 * min(len(name), NAME) < pitch for name, p in places.items() if p.lane == 0)
    brace_rows = [max((b.row + 1 for b in braces if b.line == line), default=0) for line in range(lines)]
    insets = insets_of(facts)
    tops, names, y = [], [], 0.0
    centres: dict[tuple[int, int], float] = {}
    inset_tops: dict[tuple[int, str], float] = {}
    for line in range(lines):
        tops.append(y)
        y += FACTS + BRACE * brace_rows[line]
        for lane, height in _lane_heights(places, facts, line, unit):
            centres[line, lane] = y + ABOVE + height / 2
            y += ABOVE + height + BELOW + LANE_GAP
        for inset in insets:
            y += INSET_GAP
            inset_tops[line, inset.name] = y
            y += inset.height
        names.append(y)
        y += 22.0 if level_names else NAMES
    return Frame(
        places=places,
        lanes=_lanes_beside(places),
        insets=insets,
        pitch=pitch,
        unit=unit,
        tops=tuple(tops),
        centres=centres,
        inset_tops=inset_tops,
        name_tops=tuple(names),
        brace_rows=tuple(brace_rows),
        level_names=level_names,
        both_widths=all(DIGIT * len(f"{f.dense}/{f.dense}") <= pitch for f in facts if not f.frozen),
        bottom=y,
    )


def _lane_heights(
    places: Mapping[str, Place], facts: tuple[LayerFacts, ...], line: int, unit: float
) -> list[tuple[int, float]]:
    heights: dict[int, float] = {}
    for fact in facts:
        place = places[fact.name]
        if place.line == line:
            heights[place.lane] = max(heights.get(place.lane, 4.0), unit * fact.dense**0.5)
    return sorted(heights.items())


def _lanes_beside(places: Mapping[str, Place]) -> dict[str, int]:
    most: dict[int, int] = {}
    for place in places.values():
        most[place.column] = max(most.get(place.column, 0), place.lane + 1)
    return {name: most[place.column] for name, place in places.items()}
