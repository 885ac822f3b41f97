"""All fingerprints of a network on one sheet, with the legend: a picture of its own, for files and notebooks.

print_marks(graph, profile)                         # every layer, in rows
legend_marks(scale, example)                        # one large glyph that says what is what
"""

from collections.abc import Sequence
from dataclasses import replace

from ...schema import Graph, Profile
from ..marks import Box, Mark, box_mark, path_mark, text_mark
from ..words import are_fractions, percent, score
from .facts import LayerPrint, layer_prints
from .glyph import BITS, COLUMNS, HEIGHT, PLOT, WIDTH, Scale, glyph_marks, scale_of

PER_ROW, GAP = 8, 8.0
LEGEND = 128.0  # height


def print_marks(graph: Graph, profile: Profile | None = None) -> tuple[Mark, ...]:
    """The sheet as data: the legend, then a glyph per layer in call order."""
    prints = layer_prints(graph, profile)
    if not prints:
        return ()
    scale = scale_of(prints)
    marks = [*legend_marks(scale)]
    for number, found in enumerate(prints):
        row, column = divmod(number, PER_ROW)
        marks += glyph_marks(found, scale, column * (WIDTH + GAP), LEGEND + row * (HEIGHT + GAP))
    return tuple(marks)


def legend_marks(scale: Scale) -> tuple[Mark, ...]:
    """An invented layer, with a word at everything it shows."""
    x, y = 236.0, 6.0
    glyph = [replace(m, about="", title="") for m in glyph_marks(_example(scale), scale, x, y)]
    left, right = x - 14, x + WIDTH + 14
    words: list[Mark] = []
    for text, at, more in (
        ("score lost to pruning", y + 38, f"left 0, right 90 % of channels; full height {score(scale.loss, 0)}"),
        ("score lost to fewer bits", y + 84, "one bar per bit width, downwards"),
    ):
        words += [
            text_mark("caption", text, left, at, 11, "end"),
            text_mark("caption faint", more, left, at + 12, 9, "end"),
        ]
    for number, (letter, text) in enumerate(
        (
            ("P M A", "share of parameters, of MACs, of activation memory"),
            ("L", "share of latency, where that was measured"),
            ("", f"(full height: {percent(scale.share, 1)}, the largest share; square-root scale)"),
            ("R", "redundancy: the part of its rank that it does not use"),
            ("F", "receptive field: the part that lies on the picture"),
        )
    ):
        at = y + 20 + 17 * number
        words += [
            text_mark("panel", letter, right + 40, at, 11, "end"),
            text_mark("caption" if letter else "caption faint", text, right + 50, at, 11 if letter else 9.5),
        ]
    room = box_mark("hit", Box(x=0, y=0, width=PER_ROW * (WIDTH + GAP) + 20, height=LEGEND - 16))
    return (room, *glyph, *words, *_leads(x, y), *_reading(x + WIDTH + 398, y))


def _leads(x: float, y: float) -> list[Mark]:
    """Thin lines from the words to what they mean."""
    spots = [
        (f"M{x - 11} {y + 34}H{x + PLOT.x + 44}", x - 11, y + 34),
        (f"M{x - 11} {y + 80}H{x + BITS.x + 6}", x - 11, y + 80),
        (f"M{x + COLUMNS.x + COLUMNS.width - 2} {y + 16}H{x + WIDTH + 20}", x + COLUMNS.x, y + 16),
    ]
    return [path_mark("lead", path, Box(x=at, y=height, width=1, height=0)) for path, at, height in spots]


def _lines() -> str:
    """What the thin lines of a glyph stand for."""
    return "1, 10 and 50 points lost" if are_fractions() else "0.01, 0.1 and 0.5 lost"


def _reading(x: float, y: float) -> list[Mark]:
    lines = (
        ("How to read it", "panel"),
        ("More ink above the line, in a stronger colour: it minds", "caption"),
        ("losing channels here more. More ink below: it minds", "caption"),
        ("coarse weights more. Tall columns: the layer costs much.", "caption"),
        ("Little ink beside tall columns: prune here first.", "caption"),
        (f"Thin lines: {_lines()}. A dash: not measured.", "caption faint"),
    )
    return [text_mark(role, text, x, y + 12 + 16 * i, 11) for i, (text, role) in enumerate(lines)]


def _example(scale: Scale) -> LayerPrint:
    top = scale.loss
    pruning = tuple((k / 10, 0.75 * top * (k / 10) ** 3) for k in range(1, 10))
    bits: Sequence[float] = scale.bits or (8.0, 6.0, 4.0, 3.0, 2.0)
    lost = tuple((b, 0.8 * top * ((i + 1) / len(bits)) ** 3) for i, b in enumerate(bits))
    shares = {"params": 0.7, "macs": 0.35, "memory": 0.15, "latency": 0.4}
    return LayerPrint(
        name="a layer",
        group="",
        pruning=pruning,
        masked=(),
        bits=lost,
        shares={name: share * scale.share for name, share in shares.items()},
        traits={"redundancy": 0.45, "field": 0.8},
        sensitivity=0.0,
        significance=None,
    )
