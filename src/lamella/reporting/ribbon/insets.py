"""The insets of a ribbon: rows under the band that say, layer by layer, what it is worth and what it takes.

insets = insets_of(facts)               # sensitivity where curves were measured, bytes, MACs, latency where known
marks  = [*inset_marks(fact, frame, about), *inset_captions(frame, facts, changed)]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..facts import LayerFacts
from ..marks import Box, Mark, box_mark, text_mark
from ..words import brief_points, loss_axis, percent

if TYPE_CHECKING:
    from .frame import Frame

Facts = Sequence[LayerFacts]
Name = Literal["sensitivity", "bytes", "MACs", "latency"]

SPENT: tuple[Name, ...] = ("bytes", "MACs", "latency")
CELL, BARS = 16.0, 32.0
STEPS = (0.002, 0.01, 0.03, 0.1, 0.3)  # losses at which a cell of the sensitivity row gets one shade darker
CHARACTER = 5.2  # pixels of a digit in a cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Inset:
    """One row. `tallest`: the amount that fills its height; `total`: that of the dense network."""

    name: Name
    height: float
    tallest: float = 1.0
    total: float = 1.0


def insets_of(facts: Facts) -> tuple[Inset, ...]:
    """The rows that these facts can fill, from the top."""
    found = [Inset(name="sensitivity", height=CELL)] if any(f.half_losses for f in facts) else []
    for name in SPENT:
        amounts = [amounts_of(f, name) for f in facts]
        tallest, total = max((max(a) for a in amounts), default=0.0), sum(a[0] for a in amounts)
        if name == "bytes" or tallest > 0:
            found.append(Inset(name=name, height=BARS, tallest=tallest or 1.0, total=total or 1.0))
    return tuple(found)


def amounts_of(fact: LayerFacts, name: Name) -> tuple[float, float]:
    """What a layer took when it was dense, and takes now. Latency is known of the dense layer alone."""
    if name == "bytes":
        return fact.bytes_dense, fact.bytes_kept
    if name == "MACs":
        return fact.macs_dense, fact.macs_kept
    return fact.latency_ms or 0.0, 0.0


def inset_marks(fact: LayerFacts, frame: "Frame", about: str) -> Iterator[Mark]:
    """One layer's cell and bars."""
    for inset in frame.insets:
        room = frame.inset(fact, inset)
        if inset.name == "sensitivity":
            yield from _cell(fact, room, about)
        else:
            yield from _bars(inset, *amounts_of(fact, inset.name), room, about)


def shade_of(loss: float) -> int:
    """0 (hardly minds) to 5: fixed steps, so that two networks can be compared.

    >>> shade_of(0.001), shade_of(0.05), shade_of(0.8)
    (0, 3, 5)
    """
    return sum(loss >= step for step in STEPS)


def _cell(fact: LayerFacts, room: Box, about: str) -> Iterator[Mark]:
    """A stripe for each group whose channels the layer carries, as wide as its part of them."""
    if not fact.half_losses:
        y = room.y + room.height / 2
        yield box_mark("unknown", Box(x=room.middle - 3, y=y, width=6, height=1), about)
        return
    total, x = sum(n for _, n, _ in fact.half_losses) or 1, room.x
    for _, channels, loss in fact.half_losses:
        width = room.width * channels / total
        yield box_mark(f"loss loss-{shade_of(loss)}", Box(x=x, y=room.y, width=width, height=room.height), about)
        text = brief_points(loss)
        if CHARACTER * len(text) <= width + 3:
            at = x + width / 2
            yield text_mark(f"loss-text on-{shade_of(loss)}", text, at, room.bottom - 4.6, 9.5, "middle", about)
        x += width


def _bars(inset: Inset, dense: float, kept: float, room: Box, about: str) -> Iterator[Mark]:
    """Before as an outline and now as its filled foot, on one scale for all layers."""
    pairs = [("bar-dense", dense), ("bar-kept", kept)]
    for role, amount in pairs if inset.name != "latency" else [("bar-kept", dense)]:
        height = room.height * amount / inset.tallest
        place = Box(x=room.x, y=room.bottom - height, width=room.width, height=height)
        yield box_mark(f"{role} {inset.name.lower()}", place, about)


def inset_captions(frame: "Frame", changed: bool) -> Iterator[Mark]:
    """What the rows mean, at the left of each line."""
    for line in range(len(frame.tops)):
        for inset in frame.insets:
            y = frame.inset_tops[line, inset.name]
            if inset.name == "sensitivity":
                yield text_mark("caption", "sensitivity", 0, y + 7, 11)
                yield text_mark("caption faint", f"{loss_axis()[0]} at half", 0, y + 18, 9.5)
                continue
            now = ", now" if changed and inset.name != "latency" else ""
            yield text_mark("caption", f"{inset.name}{f': before{now}' if now else ''}", 0, y + 14, 11)
            yield text_mark("caption faint", f"tallest {percent(inset.tallest / inset.total, 1)}", 0, y + 26, 9.5)
