"""Search around the knapsack plan with real measurements, where adding up drops is not believed.

    plan(profile, Budget(bytes="10%"), planner="search", measure=measure, trials=50, storage="runs/r20/search.journal")

`measure(widths, bits)` gives a candidate's score, or a stream of (score so far, share of the samples seen): then a candidate that can
no longer win is dropped at once. Candidates over the budget are never measured (arithmetic knows). Optuna proposes (TPE, Bergstra et
al. 2011; with `trade` NSGA-II over score and that cost); the first candidate is the knapsack plan itself. With a `storage` file a
search that was stopped goes on. The plan's notes say what was measured and whether the search beat the knapsack; with `control`, also
whether it beat as many knapsack plans made from jittered curves, which cost as many measurements.
"""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..costs import cost, file_bits
from ..errors import LamellaError, needing
from ..records import digest
from ..schema import FrontRow, Graph, Metric, Point, Profile
from ..schema.plans import COSTS, FLOAT, in_integers
from ..texts import told
from .asking import Ask, Draft, Predictor, costs, dense_ms, limits, over
from .curves import Rung, bit_rungs, group_rungs, score_at
from .knapsack import assumed_drops, knapsack
from .order import Choice, Scorer

REACH = 2  # rungs up or down from the knapsack plan
JITTER = 0.5  # of the logarithm of a drop, for the control's curves


@dataclass(frozen=True, slots=True)
class Nearby:
    """What every group and layer may be in this search: rungs near the start."""

    widths: Mapping[str, tuple[Rung, ...]]
    bits: Mapping[str, tuple[Rung, ...]]


def search(
    ask: Ask,
    *,
    trials: int = 30,
    seed: int = 0,
    storage: str | Path | None = None,
    trade: str | None = None,
    control: bool = False,
    bit_drops: Mapping[int, float] | str | None = None,
) -> Draft:
    """The best measured plan of `trials` measurements within the budget. Needs `measure=` and the extra `search`.

    `trade`: a cost to be kept low beside the score; the plan is still the one that scores best, the notes list the front.
    """
    if ask.measure is None:
        raise LamellaError(
            "planner 'search' measures candidates and needs measure=: a function (widths, bits) -> score."
        )
    if trials < 1:
        raise LamellaError(f"trials {trials}: at least one measurement, that of the knapsack plan, was expected.")
    if trade is not None and trade not in COSTS:
        raise LamellaError(f"trade={trade!r}: one of {', '.join(COSTS)} was expected.")
    start = knapsack(ask, bit_drops=bit_drops)
    rungs = _near(ask, start, assumed_drops(bit_drops))
    study = _study(storage, seed, trade, _identity(ask, rungs, trade))
    search_ = _Search(ask, rungs, limits(ask), trade)
    measured = _measured(study)
    if len(measured) < trials and all(t.params != _indices(rungs, start) for t in measured):
        study.enqueue_trial(_indices(rungs, start))  # of a new study, or of one that ended in its first candidate
    while len(_measured(study)) < trials and len(study.trials) < 20 * trials:
        study.optimize(search_.objective, n_trials=1)
    return _outcome(ask, rungs, study, start, _controlled(ask, trials, seed, bit_drops) if control else None)


def _near(ask: Ask, start: Draft, assumed: dict[int, float]) -> Nearby:
    widths, bits = {}, {}
    for group in ask.graph.free:
        each = group_rungs(ask.profile, group)
        widths[group.name] = _window(each, start.widths.get(group.name, group.width))
    for layer in ask.graph.layers:
        if layer.takes_bits and layer.name not in ask.bits:
            each = bit_rungs(ask.profile, layer.name, assumed)
            each = each[1:] if start.bits else each[:1]  # a file is in integers as a whole, or not at all
            bits[layer.name] = _window(each, start.bits.get(layer.name, FLOAT))
    return Nearby(widths, bits)


def _window(rungs: tuple[Rung, ...], level: int) -> tuple[Rung, ...]:
    at = next(i for i, r in enumerate(rungs) if r.level == level)
    return rungs[max(0, at - REACH) : at + REACH + 1]


def _indices(rungs: Nearby, draft: Draft) -> dict[str, int]:
    """A draft as trial parameters."""
    found = {}
    for prefix, each, levels in (("width", rungs.widths, draft.widths), ("bits", rungs.bits, draft.bits)):
        for name, choices in each.items():
            if len(choices) > 1:
                dense = max(r.level for r in choices)
                level = levels.get(name, dense)
                found[f"{prefix} {name}"] = next(i for i, r in enumerate(choices) if r.level == level)
    return found


def _study(storage: str | Path | None, seed: int, trade: str | None, identity: str) -> Any:
    with needing("optuna", "search", "planner 'search'"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kept = None
    if storage is not None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        kept = JournalStorage(JournalFileBackend(str(storage)))
    directions: list[Any] = ["maximize"] if trade is None else ["maximize", "minimize"]
    study = optuna.create_study(storage=kept, study_name=identity, directions=directions, load_if_exists=True)
    drawn = seed + len(study.trials)  # a search that goes on draws anew
    study.sampler = (
        optuna.samplers.TPESampler(seed=drawn) if trade is None else optuna.samplers.NSGAIISampler(seed=drawn)
    )
    return study


def _identity(ask: Ask, rungs: Nearby, trade: str | None) -> str:
    """A study belongs to one profile, budget, settled bits, levels to draw from, trade, and milliseconds that these levels are predicted
    to take: another question never reads its trials.
    """
    levels = [{name: [r.level for r in each] for name, each in ladder.items()} for ladder in (rungs.widths, rungs.bits)]
    asked = {"profile": ask.profile, "budget": ask.budget, "bits": dict(ask.bits)}
    timed: dict[str, Any] = {} if ask.latency is None else {"ms": _milliseconds(ask.latency, ask.graph, levels[0])}
    return digest({**asked, "levels": levels, "trade": trade, **timed})


def _milliseconds(latency: Predictor, graph: Graph, levels: Mapping[str, list[int]]) -> dict[str, list[float]]:
    """What the network takes with one group at each of its levels, and under "" what shares are of."""
    alone = {name: [latency.predict(graph, {name: n}, {}) for n in each] for name, each in levels.items()}
    return {"": [dense_ms(latency, graph)], **alone}


@dataclass
class _Search:
    ask: Ask
    rungs: Nearby
    limit_of: Mapping[str, float]
    trade: str | None
    best: float = -math.inf

    def objective(self, trial: Any) -> float | tuple[float, float]:
        """The measured score of a proposal; TrialPruned for one over the budget, and for one that can no longer win."""
        import optuna

        widths = {n: self._drawn(trial, f"width {n}", rungs) for n, rungs in self.rungs.widths.items()}
        bits = {n: self._drawn(trial, f"bits {n}", rungs) for n, rungs in self.rungs.bits.items()}
        every = {**self.ask.bits, **bits}
        if over(self.ask, self.limit_of, widths, every):
            raise optuna.TrialPruned("over the budget")
        trial.set_user_attr("measured", True)
        assert self.ask.measure is not None
        score = final_score(self.ask.measure, widths, every, self._to_beat)
        if score is None:
            raise optuna.TrialPruned("cannot win")
        self.best = max(self.best, score)
        return score if self.trade is None else (score, costs(self.ask, widths, every)[self.trade])

    @property
    def _to_beat(self) -> float:
        return _to_beat(self.best, self.ask.profile) if self.trade is None else -math.inf

    @staticmethod
    def _drawn(trial: Any, name: str, rungs: tuple[Rung, ...]) -> int:
        return rungs[trial.suggest_int(name, 0, len(rungs) - 1) if len(rungs) > 1 else 0].level


def _to_beat(best: float, profile: Profile) -> float:
    """The score below which a candidate may be dropped: a metric of the task's own has no highest score to hope for."""
    return best if profile.metric == "accuracy" else -math.inf


def final_score(measure: Scorer, widths: Mapping[str, int], bits: Mapping[str, int], best: float) -> float | None:
    """The score; None as soon as a stream of (score so far, share seen) shows that even a perfect rest would not reach `best`."""
    found: Any = measure(widths, bits)
    if not isinstance(found, Iterable):
        return float(found)
    score = 0.0
    for score, share in found:
        if score * share + (1 - share) < best:
            return None
    return float(score)


def _measured(study: Any) -> list[Any]:
    """The trials whose candidate was measured; not those that an error or a kill cut short."""
    ended = ("COMPLETE", "PRUNED")
    return [t for t in study.trials if t.user_attrs.get("measured") and t.state.name in ended]


def _complete(study: Any) -> list[Any]:
    return [t for t in study.trials if t.values is not None and t.state.name == "COMPLETE"]


def _outcome(ask: Ask, rungs: Nearby, study: Any, start: Draft, control: tuple[float, Draft] | None) -> Draft:
    done = _complete(study)
    if not done:
        return start
    best = max(done, key=lambda t: t.values[0])
    first = next((t.values[0] for t in done if t.params == _indices(rungs, start)), None)
    notes = tuple(_notes(study, best.values[0], first, None if control is None else control[0], ask.profile.metric))
    front = _front(ask, rungs, study) if len(study.directions) > 1 else ()
    base = 100 * ask.profile.baseline.value
    if control is not None and control[0] > best.values[0]:
        notes = (*notes, "the best of those is the plan")
        choices = [replace(c, score=score_at(ask.profile, c.group, c.width)) for c in control[1].choices]
        drop = base - 100 * control[0]
        return Draft(choices=choices, bits=control[1].bits, drop=drop, measured=True, notes=notes, front=front)
    widths, bits = _levels(rungs.widths, "width", best), _levels(rungs.bits, "bits", best)
    scores = {n: {r.level: r.score for r in each} for n, each in rungs.widths.items()}
    choices = [
        Choice(group=n, width=w, score=scores[n][w]) for n, w in widths.items() if w < ask.graph.group_of[n].width
    ]
    return Draft(
        choices=choices,
        bits=in_integers(bits),
        drop=base - 100 * best.values[0],
        measured=True,
        notes=notes,
        front=front,
    )


def _front(ask: Ask, rungs: Nearby, study: Any) -> tuple[FrontRow, ...]:
    """What was measured and is beaten by no other candidate in both, most costly first."""
    base, rows = ask.profile.baseline.value, {}
    for trial in study.best_trials:
        widths, bits = _levels(rungs.widths, "width", trial), _levels(rungs.bits, "bits", trial)
        score, spent = trial.values
        now = cost(ask.graph, widths, file_bits(ask.graph, {**ask.bits, **bits}))
        rows[score, spent] = FrontRow(
            limit=spent, predicted=now, predicted_score=score, drop=100 * (base - score), measured_score=score
        )
    return tuple(rows[key] for key in sorted(rows, key=lambda key: -key[1]))


def _levels(rungs: Mapping[str, tuple[Rung, ...]], prefix: str, trial: Any) -> dict[str, int]:
    return {n: each[trial.params.get(f"{prefix} {n}", 0)].level for n, each in rungs.items()}


def _notes(study: Any, best: float, first: float | None, control: float | None, metric: Metric) -> list[str]:
    measured = len(_measured(study))
    notes = [f"predicted_score is measured: the best of {measured} candidates ({len(study.trials)} proposed)"]
    if first is not None:
        verdict = "beat" if best > first else "did not beat"
        notes.append(f"the search {verdict} its knapsack start: {told(best, metric)} against {told(first, metric)}")
    if control is not None:
        verdict = "beat" if best > control else "did not beat"
        notes.append(
            f"the search {verdict} {measured} knapsack plans from jittered curves: {told(best, metric)} against {told(control, metric)}"
        )
    if len(study.directions) > 1:
        front = sorted({(t.values[0], t.values[1]) for t in study.best_trials})
        notes.append("front (score, cost): " + ", ".join(f"({s:.4f}, {c:,.0f})" for s, c in front))
    return notes


def _controlled(ask: Ask, count: int, seed: int, bit_drops: Mapping[int, float] | str | None) -> tuple[float, Draft]:
    """The best of as many knapsack plans, measured: the first from the curves as they are, the rest from jittered ones."""
    rng, best = random.Random(seed), (-math.inf, Draft(choices=[]))
    assert ask.measure is not None
    for i in range(count):
        curves = ask.profile if i == 0 else jittered(ask.profile, rng)
        draft = knapsack(replace(ask, profile=curves), bit_drops=bit_drops, gap=1e-2)
        widths = {g.name: draft.widths.get(g.name, g.width) for g in ask.graph.free}
        score = final_score(ask.measure, widths, {**ask.bits, **draft.bits}, _to_beat(best[0], ask.profile))
        if score is not None and score > best[0]:
            best = score, draft
    return best


def jittered(profile: Profile, rng: random.Random) -> Profile:
    """Every target's drops times a factor of its own."""
    factors = {(p.target, p.knob): 1.0 for p in profile.points}
    factors = {key: math.exp(rng.gauss(0, JITTER)) for key in factors}
    base = profile.baseline.value

    def moved(point: Point) -> Point:
        value = profile.possible(base - factors[point.target, point.knob] * (base - point.score.value))
        return replace(point, score=replace(point.score, value=value, low=min(value, 0.0), high=max(value, 1.0)))

    return replace(profile, points=tuple(moved(p) for p in profile.points))
