"""The inside of a chart: values to pixels, and the marks all charts share.

panel = Panel(box=Box(...), low=0.1, high=0.99, first=0.0, last=0.9)
marks = [*axis_marks(panel), *line_marks("curve", [(panel.x(0.1), panel.y(0.98)), ...])]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .marks import Box, Mark, path_mark, text_mark

TICK = 9.5  # size of the words at an axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A place, and the values at its edges: first to last rightwards, low to high upwards."""

    box: Box
    low: float
    high: float
    first: float
    last: float

    def x(self, value: float) -> float:
        return self.box.x + self.box.width * (value - self.first) / ((self.last - self.first) or 1.0)

    def y(self, value: float) -> float:
        return self.box.y + self.box.height * (self.high - value) / ((self.high - self.low) or 1.0)


def axis_marks(panel: Panel) -> Iterator[Mark]:
    """The axes, with the lowest and the highest score at the left one."""
    box = panel.box
    yield path_mark("axis", f"M{box.x:.1f} {box.y:.1f}V{box.bottom:.1f}h{box.width:.1f}", box)
    digits = 0 if panel.high - panel.low > 0.1 else 1
    for value in (panel.low, panel.high):
        yield text_mark("tick", f"{100 * value:.{digits}f} %", box.x - 4, panel.y(value) + 3.5, TICK, "end")


def level_mark(role: str, panel: Panel, value: float) -> Mark:
    """A line across at one score."""
    y = panel.y(value)
    place = Box(x=panel.box.x, y=y, width=panel.box.width, height=0)
    return path_mark(role, f"M{place.x:.1f} {y:.1f}h{place.width:.1f}", place)


def tick_mark(panel: Panel, x: float, text: str) -> Mark:
    return text_mark("tick", text, x, panel.box.bottom + 13, TICK, "middle")


def line_marks(role: str, at: Sequence[tuple[float, float]], closed: bool = False) -> Iterator[Mark]:
    """A line through places; nothing where there are not two of them."""
    if len(at) > 1:
        xs, ys = [x for x, _ in at], [y for _, y in at]
        place = Box(x=min(xs), y=min(ys), width=max(xs) - min(xs), height=max(ys) - min(ys))
        yield path_mark(role, "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at) + "Z" * closed, place)
