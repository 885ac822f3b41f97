"""Charts of what became of a network: the walk through a plan, the front of a budget, the levels of an elastic network.

walk_spec(result.history)               measured after each step, against what was predicted and expected
front_spec(front, plan)                 score against what is spent, the plan at hand among the others
training_spec(epochs, names)            score after each epoch, level by level
family_spec(family)                     score against latency (MACs where no latency was measured), level by level
"""

from collections.abc import Iterable, Sequence

from ...schema import Cost, Epoch, Family, Front, Level, Measure, Plan, Score
from ..marks import elide
from ..words import score as told_score
from ..words import score_axis, scored, short, size
from .grammar import (
    ACCENT,
    FAINT,
    INK,
    LEVELS,
    LINE,
    PAPER,
    SECOND,
    Spec,
    dots,
    kinds,
    layer,
    quantity,
    steps,
    whiskers,
)
from .sweeps import distinct

WIDE = {"width": 860, "height": 220}
UNITS = {
    "bytes": "bytes of the file",
    "params": "parameters",
    "macs": "MACs",
    "memory": "bytes of activations",
    "latency_ms": "ms",
}
SERIES = {  # colour and dashes
    "measured": (LINE, [1, 0]),
    "before tuning": (FAINT, [1, 0]),
    "step alone": (SECOND, [2, 3]),
    "expected": (ACCENT, [5, 3]),
}
BESIDE = {"dense": "square", "this plan": "cross", "measured": "circle"}


def walk_spec(history: Sequence[Measure]) -> Spec:
    """Score after each step: measured with its interval, before tuning, predicted for the step alone, expected of all steps."""
    rows = [row for m in history for row in _walk_rows(m)]
    present = [name for name in SERIES if any(r["kind"] == name for r in rows)]
    x = steps("step", "step of the plan (0: dense)", max(m.step for m in history))
    y = quantity("score", "validation score", format=score_axis(1))
    colour = kinds("kind", present, [SERIES[name][0] for name in present])
    dash = kinds("kind", present, [SERIES[name][1] for name in present], None)
    return {
        "data": {"values": rows},
        **WIDE,
        "layer": [
            layer("line", {"x": x, "y": y, "color": colour, "strokeDash": dash}, strokeWidth=1.6),
            whiskers(x, y, color=LINE),
            dots(x, y, color=colour),
        ],
    }


def _walk_rows(measure: Measure) -> Iterable[Spec]:
    about, score = f"step {measure.step}, {elide(measure.name, 60)}", measure.validation
    at = {"step": measure.step, "low": score.low, "high": score.high}
    yield {**at, "kind": "measured", "score": score.value, "words": f"{about}: {scored(score)}"}
    others = {"before tuning": measure.before_tuning, "step alone": measure.predicted, "expected": measure.expected}
    for kind, value in others.items():
        if value is not None:
            yield {"step": measure.step, "kind": kind, "score": value, "words": f"{about}, {kind}: {told_score(value)}"}


def training_spec(epochs: Sequence[Epoch], names: Sequence[str]) -> Spec:
    """Score after each epoch, a line per level of an elastic network in training."""
    short = distinct(names, 18)
    rows = [
        {**_epoch_row(epoch, name, score), "level": short[name]}
        for epoch in epochs
        for name, score in epoch.scores.items()
        if name in short
    ]
    x = steps("epoch", "epochs done", epochs[-1].done)
    y = quantity("score", "validation score", format=score_axis(1))
    looks = [LEVELS[i * (len(LEVELS) - 1) // max(1, len(short) - 1)] for i in range(len(short))]
    colour = kinds("level", list(short.values()), looks)
    return {
        "data": {"values": rows},
        **WIDE,
        "layer": [
            layer("line", {"x": x, "y": y, "color": colour}, strokeWidth=1.6),
            whiskers(x, y, color=colour),
            dots(x, y, color=colour),
        ],
    }


def _epoch_row(epoch: Epoch, name: str, score: Score) -> Spec:
    words = f"{elide(name, 40)}, epoch {epoch.done}: {scored(score)}"
    return {"epoch": epoch.done, "score": score.value, "low": score.low, "high": score.high, "words": words}


def front_spec(front: Front, plan: Plan | None = None) -> Spec:
    """Predicted score against what is spent; beside it the dense network, the plan of this run, and what was measured."""
    timed = front.dense_latency_ms is not None or any(row.latency_ms for row in front.rows)
    axis = "bytes" if front.axis == "max_drop" or (front.axis == "latency_ms" and not timed) else front.axis
    rows = [_front_row(axis, r.predicted, r.latency_ms, r.predicted_score, f"limit {r.limit}") for r in front.rows]
    rows = [row for row in rows if row["spent"]]
    beside = [_front_row(axis, front.dense, front.dense_latency_ms, front.dense_score, "dense")]
    other = (
        axis == "latency_ms" and plan is not None and plan.dense_latency_ms != front.dense_latency_ms
    )  # timed elsewhere
    if plan is not None and plan.predicted_score is not None and not other:
        beside.append(_front_row(axis, plan.predicted, plan.latency_ms, plan.predicted_score, "this plan"))
    for r in front.rows:
        if r.measured_score is not None:
            row = _front_row(axis, r.predicted, r.latency_ms, r.measured_score, f"limit {r.limit}, measured")
            beside.append({**row, "what": "measured"})
    beside = [row for row in beside if row["spent"]]
    x = quantity("spent", UNITS[axis], scale={"zero": True}, format="~s")
    y = quantity("score", "predicted score, before compress tunes", format=score_axis(1))
    used = [what for what in BESIDE if any(row["what"] == what for row in beside)]
    marks = kinds("what", used, [BESIDE[what] for what in used])
    colour = kinds("what", used, [ACCENT if what.startswith("measured") else INK for what in used])
    return {
        **WIDE,
        "layer": [
            # Between two limits the best plan known is the one of the tighter limit.
            layer("line", {"x": x, "y": y}, data=rows, color=LINE, interpolate="step-after", strokeWidth=1.6),
            dots(x, y, data=rows, color=LINE, size=46),
            dots(x, y, data=beside, shape=marks, color=colour, size=110),
        ],
    }


def _front_row(axis: str, cost: Cost, latency_ms: float | None, score: float, what: str) -> Spec:
    spent = latency_ms if axis == "latency_ms" else float(getattr(cost, axis))
    return {
        "spent": spent,
        "score": score,
        "what": what,
        "words": f"{what}: {_amount(axis, spent)}, {told_score(score)}",
    }


def _amount(axis: str, amount: float | None) -> str:
    if amount is None:
        return "not timed"
    if axis in ("bytes", "memory"):
        return size(amount)
    return f"{amount:.3g} ms" if axis == "latency_ms" else f"{short(amount)} {UNITS[axis]}"


def family_spec(family: Family) -> Spec:
    """A dot per level with its interval, joined from the smallest to the largest."""
    timed = all(level.latency_ms for level in family.levels)
    rows = [row for level in family.levels for row in _level_row(level, timed)]
    title = "latency in ONNX Runtime, ms" if timed else "MACs per sample"
    x = quantity("spent", title, scale={"zero": True}, format="~g" if timed else "~s", tickCount=7)
    y = quantity("score", f"{'test' if family.levels[0].test else 'validation'} score", format=score_axis(1))
    name = {"x": x, "y": y, "text": {"field": "name"}}
    return {
        "data": {"values": rows},
        "width": 560,
        "height": 220,
        "layer": [
            layer("line", {"x": x, "y": y}, color=LINE, strokeWidth=1.6),
            whiskers(x, y, color=LINE),
            dots(x, y, fill=PAPER, stroke=LINE, strokeWidth=2, size=70),
            layer("text", name, dy=16, dx=6, align="left", color=INK, fontSize=11),
        ],
    }


def score_of(level: Level) -> Score | None:
    """What is drawn of a level: its test score, else its validation score."""
    return level.test or level.validation


def _level_row(level: Level, timed: bool) -> Iterable[Spec]:
    score = score_of(level)
    if score is not None:
        took = f"{level.latency_ms:.3g} ms, " if level.latency_ms else ""
        words = f"{elide(level.name, 40)}: {took}{short(level.macs)} MACs, {scored(score)}"
        at = {"name": elide(level.name, 18), "spent": level.latency_ms if timed else level.macs}
        yield {**at, "score": score.value, "low": score.low, "high": score.high, "words": words}
