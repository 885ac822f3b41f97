"""The legend of a ribbon: a swatch and a word for each kind of mark that the picture really has."""

from collections.abc import Iterator, Sequence

from ..facts import LayerFacts
from ..marks import Box, Mark, box_mark, path_mark, text_mark
from .frame import GUTTER, WIDTH, Frame
from .insets import STEPS

SHADES = len(STEPS) + 1


def legend_marks(frame: Frame, facts: Sequence[LayerFacts], braces: bool, changed: bool) -> Iterator[Mark]:
    """Entries from left to right under the last line."""
    x, y = GUTTER, frame.bottom + 16
    for role, words in _entries(facts, braces, changed):
        width = 44 + 5.6 * len(words)
        if x + width > WIDTH:
            x, y = GUTTER, y + 20
        x += 14 if role == "loss" else 0
        yield from _swatch(role, x, y)
        yield text_mark("caption", words, x + 22, y + 4, 11)
        x += width


def _entries(facts: Sequence[LayerFacts], braces: bool, changed: bool) -> Iterator[tuple[str, str]]:
    if changed:
        yield "outline key", "dense"
    for bits in sorted({f.bits for f in facts if f.kept}, reverse=True):
        yield f"bits-{bits}", f"{'kept, ' if changed else ''}{bits} bits"
    if any(f.order for f in facts):
        yield "badge", "when it was pruned"
    if braces:
        yield "brace", "channels leave together"
    if any(f.frozen for f in facts):
        yield "clamp", "cannot be narrowed"
    if any(f.half_losses for f in facts):
        yield "loss", "hardly minds losing half … minds much"
    if changed:
        yield "bar", "share before, now"


def shade(bits: int) -> int:
    """The nearest step of the scale of colours that is not below these bits."""
    return next(step for step in (2, 4, 8, 16, 32) if bits <= step)


def _swatch(role: str, x: float, y: float) -> Iterator[Mark]:
    box = Box(x=x, y=y - 6, width=16, height=12)
    if role.startswith("bits"):
        bits = shade(int(role[5:]))
        yield box_mark(f"body bits-{bits}", box)
        yield from [box_mark(f"hatch hatch-{bits}", box)][: bits < 16]
    elif role == "badge":
        yield box_mark("badge", Box(x=x, y=y - 8, width=16, height=16))
        yield text_mark("badge-text", "1", x + 8, y + 3.8, 10.5, "middle")
    elif role == "brace":
        yield path_mark("brace", f"M{x} {y + 5}v-8h16v8", Box(x=x, y=y - 3, width=16, height=8))
    elif role == "clamp":
        yield box_mark("clamp", Box(x=x, y=y - 6, width=16, height=1.5))
        yield box_mark("clamp", Box(x=x, y=y + 4, width=16, height=1.5))
    elif role == "loss":
        for step in range(SHADES):
            yield box_mark(f"loss loss-{step}", Box(x=x - 14 + 5 * step, y=y - 6, width=5, height=12))
    elif role == "bar":
        yield box_mark("bar-dense", Box(x=x + 3, y=y - 7, width=10, height=13))
        yield box_mark("bar-kept", Box(x=x + 3, y=y + 1, width=10, height=5))
    else:
        yield box_mark(role, box)
