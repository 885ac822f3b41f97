"""Charts of what became of a network: the walk through a plan, the front of a budget, the levels of an elastic network.

walk_spec(result.history)               measured after each step, against what was predicted and expected
front_spec(front, plan)                 score against what is spent, the plan at hand among the others
family_spec(family)                     score against latency (MACs where no latency was measured), level by level
"""

from collections.abc import Iterable, Sequence

from ...schema import Cost, Family, Front, Level, Measure, Plan, Score
from ..marks import elide
from ..words import percent, scored, short, size
from .vega import ACCENT, FAINT, INK, LINE, PAPER, SECOND, Spec

UNITS = {
    "bytes": "bytes of the file",
    "params": "parameters",
    "macs": "MACs",
    "memory": "bytes of activations",
    "latency_ms": "ms",
}
WIDE = {"width": 860, "height": 220}
SERIES = {
    "measured": (LINE, [1, 0]),
    "before tuning": (FAINT, [1, 0]),
    "step alone": (SECOND, [2, 3]),
    "expected": (ACCENT, [5, 3]),
}


def walk_spec(history: Sequence[Measure]) -> Spec:
    """Score after each step: measured with its interval, before tuning, predicted for the step alone, expected of all steps."""
    rows = [row for m in history for row in _walk_rows(m)]
    present = [name for name in SERIES if any(r["kind"] == name for r in rows)]
    x = {
        "field": "step",
        "type": "quantitative",
        "axis": {"title": "step of the plan (0: dense)", "tickMinStep": 1, "format": "d", "grid": False},
    }
    y = {
        "field": "score",
        "type": "quantitative",
        "axis": {"title": "validation score", "format": ".1%"},
        "scale": {"zero": False},
    }
    scale = {"domain": present, "range": [SERIES[name][0] for name in present]}
    colour = {
        "field": "kind",
        "type": "nominal",
        "sort": present,
        "scale": scale,
        "legend": {"title": None, "orient": "top"},
    }
    dash = {
        "field": "kind",
        "type": "nominal",
        "sort": present,
        "scale": {"domain": present, "range": [SERIES[n][1] for n in present]},
        "legend": None,
    }
    return {
        "data": {"values": rows},
        **WIDE,
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 1.6},
                "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
            },
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "color": LINE, "strokeWidth": 1.2},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "opacity": 1, "size": 34},
                "encoding": {"x": x, "y": y, "color": colour, "description": {"field": "words"}},
            },
        ],
    }


def _walk_rows(measure: Measure) -> Iterable[Spec]:
    about = f"step {measure.step}, {elide(measure.name, 60)}"
    score = measure.validation
    yield {
        "step": measure.step,
        "kind": "measured",
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "words": f"{about}: {scored(score)}",
    }
    others = (
        ("before tuning", measure.before_tuning),
        ("step alone", measure.predicted),
        ("expected", measure.expected),
    )
    for kind, value in others:
        if value is not None:
            yield {"step": measure.step, "kind": kind, "score": value, "words": f"{about}, {kind}: {percent(value)}"}


def front_spec(front: Front, plan: Plan | None = None) -> Spec:
    """Predicted score against what is spent. Rings: measured. The cross: the plan of this run; the square: the dense network."""
    axis = "bytes" if front.axis == "max_drop" else front.axis
    rows = []
    for row in front.rows:
        amount = row.latency_ms if axis == "latency_ms" else getattr(row.predicted, axis)
        if amount:
            score = f"predicted {percent(row.predicted_score)} ({row.drop:.2f} points below dense)"
            words = f"limit {row.limit}: {_amount(axis, amount)}, {score}"
            rows.append({"spent": amount, "score": row.predicted_score, "measured": row.measured_score, "words": words})
    marks = [
        {
            "spent": _spent(axis, front.dense, front.dense_latency_ms),
            "score": front.dense_score,
            "what": "dense",
            "words": f"dense: {percent(front.dense_score)}",
        }
    ]
    if plan is not None and plan.predicted_score is not None:
        spent = _spent(axis, plan.predicted, plan.latency_ms)
        marks.append(
            {
                "spent": spent,
                "score": plan.predicted_score,
                "what": "this plan",
                "words": f"this plan: {_amount(axis, spent or 0)}, predicted {percent(plan.predicted_score)}",
            }
        )
    marks = [m for m in marks if m["spent"]]
    x = {
        "field": "spent",
        "type": "quantitative",
        "scale": {"zero": True},
        "axis": {"title": UNITS[axis], "format": "~s"},
    }
    y = {
        "field": "score",
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": {"title": "predicted score, untuned", "format": ".1%"},
    }
    shape = {
        "field": "what",
        "type": "nominal",
        "scale": {"domain": ["dense", "this plan"], "range": ["square", "cross"]},
        "legend": {"title": None, "orient": "top"},
    }
    return {
        **WIDE,
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "line", "color": LINE, "interpolate": "step-before", "strokeWidth": 1.6},
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": rows},
                "mark": {"type": "circle", "color": LINE, "size": 46, "opacity": 1},
                "encoding": {"x": x, "y": y, "description": {"field": "words"}},
            },
            {
                "data": {"values": [r for r in rows if r["measured"] is not None]},
                "mark": {"type": "point", "color": ACCENT, "size": 80, "filled": False},
                "encoding": {"x": x, "y": {**y, "field": "measured"}},
            },
            {
                "data": {"values": marks},
                "mark": {"type": "point", "filled": True, "size": 120, "color": INK, "opacity": 1},
                "encoding": {"x": x, "y": y, "shape": shape, "description": {"field": "words"}},
            },
        ],
    }


def _spent(axis: str, cost: Cost, latency_ms: float | None) -> float | None:
    return latency_ms if axis == "latency_ms" else float(getattr(cost, axis))


def _amount(axis: str, amount: float) -> str:
    if axis in ("bytes", "memory"):
        return size(amount)
    return f"{amount:.3g} ms" if axis == "latency_ms" else f"{short(amount)} {UNITS[axis]}"


def family_spec(family: Family) -> Spec:
    """A dot per level with its interval, joined from the smallest to the largest."""
    timed = all(level.latency_ms for level in family.levels)
    rows = [_level_row(level, timed) for level in family.levels if score_of(level)]
    title = "latency in ONNX Runtime, ms" if timed else "MACs per sample"
    x = {
        "field": "spent",
        "type": "quantitative",
        "scale": {"zero": True},
        "axis": {"title": title, "format": "~g" if timed else "~s", "tickCount": 7},
    }
    y = {
        "field": "score",
        "type": "quantitative",
        "scale": {"zero": False},
        "axis": {"title": "score", "format": ".1%"},
    }
    return {
        "data": {"values": rows},
        "width": 520,
        "height": 220,
        "layer": [
            {"mark": {"type": "line", "color": LINE, "strokeWidth": 1.6}, "encoding": {"x": x, "y": y}},
            {
                "mark": {"type": "rule", "color": LINE, "strokeWidth": 1.2},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {
                    "type": "point",
                    "filled": True,
                    "fill": PAPER,
                    "stroke": LINE,
                    "strokeWidth": 2,
                    "size": 70,
                    "opacity": 1,
                },
                "encoding": {"x": x, "y": y, "description": {"field": "words"}},
            },
            {
                "mark": {"type": "text", "dy": 16, "dx": 6, "align": "left", "color": INK, "fontSize": 11},
                "encoding": {"x": x, "y": y, "text": {"field": "name"}},
            },
        ],
    }


def score_of(level: Level) -> Score | None:
    """What is drawn of a level: its test score, else its validation score."""
    return level.test or level.validation


def _level_row(level: Level, timed: bool) -> Spec:
    score = score_of(level)
    assert score is not None
    spent = level.latency_ms if timed else level.macs
    took = f"{level.latency_ms:.3g} ms, " if level.latency_ms else ""
    words = f"{elide(level.name, 40)}: {took}{short(level.macs)} MACs, {scored(score)}"
    return {
        "name": elide(level.name, 18),
        "spent": spent,
        "score": score.value,
        "low": score.low,
        "high": score.high,
        "words": words,
    }
