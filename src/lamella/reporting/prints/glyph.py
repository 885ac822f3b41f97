"""One layer's glyph, drawn from its facts on a scale that all layers share.

    scale = scale_of(prints)
    glyph_marks(prints[3], scale)               # at (0, 0), WIDTH x HEIGHT
    glyph_marks(prints[3], scale, x=140, y=0)

Upwards from the middle line: the score lost to pruning, from nothing pruned (left) to 90 % (right). Downwards: the score lost
to fewer bits, one bar per width. Both grow with the square root of the loss, so that one point shows and eighty fit. The
more ink, and the darker, the more sensitive. At the right six columns: shares P M A L and traits R F.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..losses import REACH, loss_at
from ..marks import Box, Mark, box_mark, elide, path_mark, text_mark
from ..ribbon.insets import shade_of
from .facts import LayerPrint

WIDTH, HEIGHT = 132.0, 104.0
PLOT = Box(x=6, y=19, width=72, height=50)  # losses to pruning, upwards
BITS = Box(x=6, y=69, width=72, height=27)  # losses to bits, downwards
COLUMNS = Box(x=86, y=25, width=42, height=62)
LETTERS = {"params": "P", "macs": "M", "memory": "A", "latency": "L", "redundancy": "R", "field": "F"}
MARKS = (0.01, 0.1, 0.5)  # losses at which a thin line crosses the plot
NAME = 21  # letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What all glyphs share: the loss and the share that fill their room, and the bits that have a slot."""

    loss: float
    share: float
    bits: tuple[float, ...]

    def height(self, loss: float) -> float:
        """Of a loss, as a fraction of the room."""
        return math.sqrt(min(1.0, loss / self.loss))


def scale_of(prints: Sequence[LayerPrint]) -> Scale:
    losses = [v for p in prints for _, v in (*p.pruning, *p.masked, *p.bits)]
    shares = [share for p in prints for share in p.shares.values()]
    bits = {b for p in prints for b, _ in p.bits}
    return Scale(loss=max(0.1, *losses, 0.1), share=max([*shares, 1e-9]), bits=tuple(sorted(bits, reverse=True)))


def glyph_marks(found: LayerPrint, scale: Scale, x: float = 0.0, y: float = 0.0) -> tuple[Mark, ...]:
    """The glyph with its top left corner at (x, y)."""
    about = f"print {found.name}"
    marks = [
        box_mark(
            "tile", Box(x=x + 0.5, y=y + 0.5, width=WIDTH - 1, height=HEIGHT - 1), about, f"{found.name}: {found}"
        ),
        text_mark("panel", elide(found.name, NAME), x + 6, y + 12.5, 9.5, about=about),
        *_grid(scale, x, y, about),
        *_pruning(found, scale, x, y, about),
        *_bits(found, scale, x, y, about),
        *_columns(found, scale, x, y, about),
    ]
    return tuple(marks)


def _grid(scale: Scale, x: float, y: float, about: str) -> Iterator[Mark]:
    left = x + PLOT.x
    for loss in (m for m in MARKS if m <= scale.loss):
        line = y + PLOT.bottom - PLOT.height * scale.height(loss)
        yield path_mark("grid", f"M{left:.1f} {line:.1f}h{PLOT.width:.0f}", _flat(left, line, PLOT.width), about)


def _pruning(found: LayerPrint, scale: Scale, x: float, y: float, about: str) -> Iterator[Mark]:
    """The hill of losses; flat ground with a question mark where nothing was measured."""
    left, foot = x + PLOT.x, y + PLOT.bottom
    if found.pruning:
        at = _hill(found.pruning, scale, left, foot)
        shade = shade_of(loss_at(found.pruning, 0.5) or found.pruning[-1][1])
        room = Box(x=left, y=min(v for _, v in at), width=at[-1][0] - left, height=foot - min(v for _, v in at))
        line = "L".join(f"{a:.1f} {b:.1f}" for a, b in at)
        yield path_mark(f"loss loss-{shade}", f"M{line}V{foot:.1f}H{left:.1f}Z", room, about)
        yield path_mark("ridge", f"M{line}", room, about)
    else:
        yield text_mark("caption faint", "not measured", left + PLOT.width / 2, foot - 6, 8.5, "middle", about)
    if len(found.masked) > 1:
        at = _hill(found.masked, scale, left, foot)
        line = "L".join(f"{a:.1f} {b:.1f}" for a, b in at)
        yield path_mark("masked", f"M{line}", Box(x=left, y=y + PLOT.y, width=PLOT.width, height=PLOT.height), about)
    yield path_mark("zero", f"M{left:.1f} {foot:.1f}h{PLOT.width:.0f}", _flat(left, foot, PLOT.width), about)


def _hill(curve: Sequence[tuple[float, float]], scale: Scale, left: float, foot: float) -> list[tuple[float, float]]:
    """The curve in pixels, from nothing pruned; between measured levels it follows the square root of the straight line."""
    steps = sorted({0.0, *(k / 30 for k in range(1, 30) if k / 30 < curve[-1][0]), *(r for r, _ in curve)})
    known = [(r, loss_at(curve, r)) for r in steps if r <= REACH + 1e-9]
    pixel = PLOT.width / REACH
    return [(left + r * pixel, foot - PLOT.height * scale.height(v)) for r, v in known if v is not None]


def _bits(found: LayerPrint, scale: Scale, x: float, y: float, about: str) -> Iterator[Mark]:
    """A bar per width that any layer was measured at; widths that this one was not are left open."""
    slot = BITS.width / max(5, len(scale.bits))
    lost = dict(found.bits)
    for number, width in enumerate(scale.bits):
        if width in lost:
            room = Box(
                x=x + BITS.x + slot * number + 1,
                y=y + BITS.y,
                width=slot - 2,
                height=max(0.6, (BITS.height - 8) * scale.height(lost[width])),
            )
            yield box_mark("bits-bar", room, about)
            yield text_mark("letter", f"{width:g}", room.middle, y + HEIGHT - 4, 7.5, "middle", about)


def _columns(found: LayerPrint, scale: Scale, x: float, y: float, about: str) -> Iterator[Mark]:
    """Shares on a square-root scale up to the largest share of any layer; traits from nothing to all."""
    step, foot = COLUMNS.width / len(LETTERS), y + COLUMNS.bottom
    heights = {name: (share / scale.share) ** 0.5 for name, share in found.shares.items()} | found.traits
    for number, (name, letter) in enumerate(LETTERS.items()):
        left = x + COLUMNS.x + step * number
        if name in heights:
            height = max(0.6, COLUMNS.height * heights[name])
            role = "share" if name in found.shares else "trait"
            yield box_mark(role, Box(x=left + 1, y=foot - height, width=step - 2, height=height), about)
        else:
            yield box_mark("unknown", Box(x=left + 2, y=foot - 6, width=step - 4, height=1), about)
        yield text_mark("letter", letter, left + step / 2, foot + 9.5, 7.5, "middle", about)


def _flat(x: float, y: float, width: float) -> Box:
    return Box(x=x, y=y, width=width, height=0)
