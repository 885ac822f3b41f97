"""The walk through a plan: the score measured after each step, against the one the plan expected.

walk_marks(result.history)
"""

from collections.abc import Iterator, Sequence

from ..schema import Measure
from .marks import Box, Mark, disc_mark, path_mark, text_mark
from .panel import Panel, axis_marks, line_marks, tick_mark
from .words import percent, scored

PANEL = Box(x=58, y=28, width=1120, height=180)
TICKS = 30  # step numbers that fit


def walk_marks(history: Sequence[Measure]) -> tuple[Mark, ...]:
    """Per step a dot with its interval (measured) and a ring (predicted)."""
    if not history:
        return ()
    panel = _panel(history)
    expected = [(panel.x(m.step), panel.y(m.predicted)) for m in history if m.predicted is not None]
    measured = [(panel.x(m.step), panel.y(m.validation.value)) for m in history]
    marks = [*axis_marks(panel), *_legend(bool(expected))]
    marks += [*line_marks("predicted", expected), *line_marks("curve", measured)]
    every = -(-len(history) // TICKS)
    for number, measure in enumerate(history):
        marks += _step(panel, measure, number % every == 0)
    return tuple(marks)


def _panel(history: Sequence[Measure]) -> Panel:
    values = [v for m in history for v in (m.validation.low, m.validation.high, m.predicted) if v is not None]
    low, high = min(values), max(values)
    steps = [m.step for m in history]
    edge = 0.4  # half a dot's room at both ends, in steps
    high = high if high > low else low + 0.01
    return Panel(box=PANEL, low=low, high=high, first=min(steps) - edge, last=max(steps) + edge)


def _legend(expected: bool) -> Iterator[Mark]:
    yield disc_mark("dot", PANEL.x + 4, 7, 3.5)
    yield text_mark("caption", "measured, with interval", PANEL.x + 14, 11, 11)
    if expected:
        yield disc_mark("predicted-dot", PANEL.x + 174, 7, 3.5)
        yield text_mark("caption", "predicted", PANEL.x + 184, 11, 11)


def _step(panel: Panel, measure: Measure, named: bool) -> Iterator[Mark]:
    x, score, about = panel.x(measure.step), measure.validation, f"step {measure.step} {measure.name}"
    expected = "" if measure.predicted is None else f"; predicted {percent(measure.predicted)}"
    title = f"Step {measure.step}, {measure.name}: {scored(score)}{expected}"
    high, low = panel.y(score.high), panel.y(score.low)
    room = Box(x=x, y=high, width=0, height=low - high)
    yield path_mark("whisker", f"M{x:.1f} {high:.1f}V{low:.1f}", room, about, title)
    if measure.predicted is not None:
        yield disc_mark("predicted-dot", x, panel.y(measure.predicted), 3, about)
    yield disc_mark("dot", x, panel.y(score.value), 3, about)
    if named:
        yield tick_mark(panel, x, str(measure.step) if measure.step else "dense")
