"""Marks: a picture as data. What to draw is decided elsewhere; `svg` only writes it down.

    marks = ribbon_marks(graph, plan)           # or print_marks: geometry that tests can reason about
    text  = svg(marks, label="...")             # one self-contained SVG: styles inside, light and dark, no script

`role` is the word the style sheet (`picture.css`) knows a mark by. Marks with the same `about` become one group: one
stop for the keyboard, with the facts in words as its title, and as a line of text that shows on hover and focus.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from typing import Literal
from zlib import crc32

from .styles import picture_css

Shape = Literal["rect", "path", "text"]
Anchor = Literal["start", "middle", "end"]

HATCH = "\x1ahatch"  # stands for the name of the patterns; no text that is shown can hold it

_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A place on the picture; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One shape in its bounding box; for text: the anchor point, and the font's size as height."""

    shape: Shape
    role: str
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    path: str = ""
    text: str = ""
    angle: float = 0.0
    anchor: Anchor = "start"
    about: str = ""
    title: str = ""


def box_mark(role: str, box: Box, about: str = "", title: str = "") -> Mark:
    x, y, width, height = box.x, box.y, box.width, box.height
    return Mark(shape="rect", role=role, x=x, y=y, width=width, height=height, about=about, title=title)


def path_mark(role: str, path: str, box: Box, about: str = "") -> Mark:
    return replace(box_mark(role, box, about), shape="path", path=path)


def text_mark(role: str, text: str, x: float, y: float, size: float, anchor: Anchor = "start", about: str = "") -> Mark:
    return Mark(shape="text", role=role, x=x, y=y, height=size, text=text, anchor=anchor, about=about)


def shown(text: object) -> str:
    """Text as it may be shown: what no page can hold, or what turns the reading order round, becomes U+FFFD."""
    return _UNSHOWABLE.sub("\ufffd", str(text))


def elide(text: str, room: int) -> str:
    """The text if it has at most `room` characters, else its two ends.

    >>> elide("features.block1.conv", 11)
    'featu….conv'
    """
    if len(text) <= room:
        return text
    head = max(1, room // 2)
    return f"{text[:head]}…{text[len(text) - (room - head - 1) :]}"


def svg(marks: Iterable[Mark], *, label: str = "", style: str | None = None) -> str:
    """The marks as an SVG element, with this style sheet inside (None: that of all pictures; "": that of the page around it)."""
    marks = tuple(marks)
    width, height = _extent(marks)
    body = "".join(_grouped(marks))
    hatch = f"lm{crc32(body.encode()):08x}"
    part = "group" if any(m.about for m in marks) else "img"
    css = picture_css() if style is None else style
    head = f"<style>{css}</style>" if css else ""
    view = f'viewBox="0 0 {width:g} {height:g}" role="{part}" aria-label="{escape(shown(label))}"'
    inside = head + _hatches(hatch, body) + body.replace(HATCH, hatch)
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="lm-picture" {view}>{inside}</svg>'


def _extent(marks: tuple[Mark, ...]) -> tuple[float, float]:
    right = max((m.x + m.width for m in marks), default=1.0)
    bottom = max((m.y + m.height for m in marks), default=1.0)
    return round(right + 1, 1), round(bottom + 1, 1)


def _grouped(marks: tuple[Mark, ...]) -> list[str]:
    """Marks about one thing in one group, at the place of the first of them; marks about nothing by themselves."""
    parts: dict[str, list[Mark]] = {}
    for number, mark in enumerate(marks):
        parts.setdefault(mark.about or f"\x00{number}", []).append(mark)
    return [_group(members) if members[0].about else _element(members[0]) for members in parts.values()]


def _group(members: list[Mark]) -> str:
    title = escape(shown(next((m.title for m in members if m.title), "")))
    inside = "".join(_element(m) for m in members)
    return f'<g class="thing" tabindex="0" role="img"><title>{title}</title>{inside}</g>'


def _element(mark: Mark) -> str:
    """A mark about something leaves its title to the group around it."""
    tag, place, inside = _drawn(mark)
    if mark.title and not mark.about:
        inside += f"<title>{escape(shown(mark.title))}</title>"
    return f'<{tag} class="{escape(mark.role)}" {place}>{inside}</{tag}>'


def _drawn(mark: Mark) -> tuple[str, str, str]:
    """Tag, attributes and text."""
    if mark.shape == "text":
        turn = f' transform="rotate({mark.angle:g} {mark.x:.5g} {mark.y:.5g})"' if mark.angle else ""
        place = f'x="{mark.x:.5g}" y="{mark.y:.5g}" font-size="{mark.height:g}" text-anchor="{mark.anchor}"{turn}'
        return "text", place, escape(shown(mark.text))
    if mark.shape == "path":
        return "path", f'd="{escape(mark.path)}"', ""
    fill = ' rx="8"' if mark.role == "badge" else ""
    fill += f' fill="url(#{HATCH}-{mark.role.split("-")[-1]})"' if mark.role.startswith("hatch") else ""
    return "rect", f'x="{mark.x:.5g}" y="{mark.y:.5g}" width="{mark.width:.5g}" height="{mark.height:.5g}"{fill}', ""


def _hatches(name: str, body: str) -> str:
    """Fewer bits, more paper: the patterns that tell bit widths apart in grey."""
    lines = {8: (8, 1.4), 4: (5, 1.6), 2: (4, 2.0)}
    patterns = [
        f'<pattern id="{name}-{bits}" width="{gap}" height="{gap}" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect class="paper" width="{thick}" height="{gap}"/></pattern>'
        for bits, (gap, thick) in lines.items()
        if f"{HATCH}-{bits})" in body
    ]
    return f"<defs>{''.join(patterns)}</defs>" if patterns else ""
