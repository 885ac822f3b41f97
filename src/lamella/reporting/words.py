"""Numbers and records in words: the one place where a figure gets its unit and its rounding.

percent(0.98123) -> '98.12 %'     size(88_400) -> '88.4 kB'     short(12_345_678) -> '12.3 M'     times(10, 4) -> '2.5×'
score(0.98123)   -> '98.12 %'     and the plain number inside `with scores_told("score")`: a task's own scores are no fractions
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..schema import Graph, Group, Metric, Score
from ..texts import counted as counted  # of this vocabulary too, as are percent and short
from ..texts import figure, told
from ..texts import percent as percent
from ..texts import short as short

MINUS, TIMES = "\u2212", "\u00d7"
# One page tells one task's scores, in a hundred places.
_METRIC: ContextVar[Metric] = ContextVar("metric", default="accuracy")


def metric_of(scores: Iterable[float]) -> Metric:
    """What scores are where nobody wrote it down: numbers where any of them is no fraction.

    >>> metric_of([0.5, 0.9]), metric_of([0.5, -2.5])
    ('accuracy', 'score')
    """
    return "accuracy" if all(0 <= score <= 1 for score in scores) else "score"


@contextmanager
def scores_told(metric: Metric) -> Iterator[None]:
    """Inside, scores and their differences are told as this metric is: an accuracy in per cent and points, others as numbers."""
    token = _METRIC.set(metric)
    try:
        yield
    finally:
        _METRIC.reset(token)


def are_fractions() -> bool:
    """Whether scores are told in per cent."""
    return _METRIC.get() == "accuracy"


def score(value: float, digits: int = 2) -> str:
    """A score.

    >>> with scores_told("score"): score(-1.25), score(0.5)
    ('−1.25', '0.5')
    """
    return told(value, _METRIC.get(), digits).replace("-", MINUS)


def score_axis(digits: int) -> str:
    """How an axis of scores writes its ticks, as d3 names formats."""
    return f".{digits}%" if are_fractions() else ".3~g"


def lost_rate(rate: float) -> str:
    """Points of the score lost per something."""
    return f"{rate:.3g} points lost" if are_fractions() else f"{rate / 100:.3g} lost"


def loss_axis() -> tuple[str, float]:
    """What an axis of lost scores says, and what a loss is multiplied by for it."""
    return ("points lost", 100.0) if are_fractions() else ("score lost", 1.0)


def ratio(value: float) -> str:
    """A pruning ratio as per cent, as short as it can be.

    >>> ratio(0.3), ratio(0.125)
    ('30 %', '12.5 %')
    """
    return f"{100 * value:.3g} %"


def points(value: float) -> str:
    """A difference of fractions in percentage points, signed.

    >>> points(-0.0042)
    '−0.42'
    """
    return (f"{100 * value:+.2f}" if are_fractions() else f"{value:+.3g}").replace("-", MINUS)


def more(share: float) -> str:
    """A growth in per cent, signed."""
    return f"{100 * share:+.2f}".replace("-", MINUS)


def hundredths(value: float) -> str:
    """A fraction in hundredths, without a sign where it has none.

    >>> hundredths(0.006)
    '0.60'
    """
    return figure(value, _METRIC.get()).replace("-", MINUS)


def lost_points(loss: float) -> str:
    """A lost fraction of the score as points, as short as it may be.

    >>> lost_points(0.0042), lost_points(0.3), lost_points(0.0)
    ('0.42 points lost', '30 points lost', '0 points lost')
    """
    return f"{brief_points(loss)} points lost" if are_fractions() else f"{brief_points(loss)} lost"


def brief_points(loss: float) -> str:
    """Points with two digits that count: three where there is no room for a unit.

    >>> brief_points(0.0042), brief_points(0.0187), brief_points(0.823), brief_points(0.00001)
    ('0.42', '1.9', '82', '0')
    """
    if not are_fractions():
        return f"{loss:.2g}"
    value = 100 * loss
    return (
        "0"
        if value < 0.005
        else f"{value:.2f}"
        if value < 0.995
        else f"{value:.1f}"
        if value < 9.95
        else f"{value:.0f}"
    )


def size(value: float) -> str:
    """Bytes, in the decimal units that file listings use."""
    return f"{short(value)}B" if value >= 999.5 else f"{value:g} B"


def whole(value: float) -> str:
    """A count with its thousands set apart."""
    return f"{value:,.0f}".replace(",", "\u202f")


def times(before: float, after: float) -> str:
    """How many times smaller.

    >>> times(100, 8)
    '12.5×'
    """
    factor = before / after if after else 0.0
    return f"{factor:.0f}" + TIMES if factor >= 99.5 else f"{factor:.3g}" + TIMES


def scored(measured: Score) -> str:
    """A score with its interval and sample count."""
    return f"{score(measured.value)} (95 % interval {hundredths(measured.low)} to {hundredths(measured.high)}, n = {whole(measured.n)})"


def members(graph: Graph, group: Group) -> tuple[str, ...]:
    """The layers that make a group's channels, as the group says or as the layers say."""
    return group.layers or tuple(x.name for x in graph.layers if group.name in dict(x.outputs.terms))
