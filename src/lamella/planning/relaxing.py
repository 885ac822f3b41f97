"""A bound on every plan, and what each choice costs at best: limits turned into prices, the rest solved exactly.

    tables = CostTables(ask, widths, bits, factors)             # every cost as a sum of small tables
    bound = best_bound(tables, "max_drop", {"bytes": 109034})   # None where the network of groups is too wide for it
    bound.value                                                 # no plan does better
    bound.widths["conv1"]                                       # per width of the group: no plan with it does better than this
    bound.candidate                                             # the best plan met on the way that keeps every limit, or None

With a price on every limit the program falls apart into tables over the widths around a layer, its bits minimized inside, and
`elimination` solves it. Prices that give the highest bound are found by cutting planes (Kelley 1960).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .elimination import Floats, Result, Table, TooWideError, eliminate
from .tabling import CostTables, Term

ROUNDS = 60
ENOUGH = 3e-4  # of the bound: where the search for prices stops
STEEPEST = 30.0  # the highest price of a limit, as a multiple of what the goal ranges over


@dataclass(frozen=True, slots=True)
class Bound:
    """What the prices prove, per level of every group and layer, the best plan met that keeps the limits, and the prices."""

    value: float
    widths: dict[str, Floats]
    bits: dict[str, Floats]
    candidate: "Candidate | None"
    prices: Floats


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value of the goal, and the levels (indices into the rungs) that give it."""

    value: float
    widths: dict[str, int]
    bits: dict[str, int]


def best_bound(tables: CostTables, goal: str, limits: Mapping[str, float], before: Bound | None = None) -> Bound | None:
    """The highest bound that prices on these limits give for minimizing `goal`. `before`: where the search may start."""
    try:
        return _Search(tables, goal, limits).run(before)
    except TooWideError:
        return None


class _Search:
    def __init__(self, tables: CostTables, goal: str, limits: Mapping[str, float]) -> None:
        self.tables, self.goal, self.names = tables, goal, list(limits)
        self.limits = np.array([limits[n] for n in self.names])
        self.cuts: list[tuple[float, Floats, Floats]] = []  # bound, prices, slope
        self.best = (-np.inf, np.zeros(len(limits)))
        self.candidate: Candidate | None = None

    def run(self, before: Bound | None) -> Bound:
        top = STEEPEST * max(1e-3, self.tables.span(self.goal))
        prices = np.zeros(len(self.names)) if before is None else before.prices
        for round_ in range(ROUNDS):
            self._evaluate(prices)
            if not self.names:
                break
            ceiling, aim = self._model(top)
            if ceiling - self.best[0] <= ENOUGH * abs(ceiling):
                break
            prices = aim if round_ < 2 else 0.5 * aim + 0.5 * self.best[1]  # half way: the model oscillates
        return self._bound()

    def _weights(self, prices: Floats) -> dict[str, float]:
        weights = dict.fromkeys([self.goal], 1.0)
        for name, price, limit in zip(self.names, prices, self.limits, strict=True):
            key = "points" if name == "max_drop" else name
            weights[key] = weights.get(key, 0.0) + price / limit
        return weights

    def _solved(self, prices: Floats) -> tuple[float, Result, list[tuple[Term, Floats]]]:
        weights = self._weights(prices)
        weighed = [(t, t.weighed(weights)) for t in self.tables.terms]
        result = eliminate(self.tables.sizes, [*self.tables.ties, *(Table(t.names, w.min(-1)) for t, w in weighed)])
        constant = sum(w * self.tables.constant.get(n, 0.0) for n, w in weights.items())
        return result.value + constant - float(prices.sum()), result, weighed

    def _evaluate(self, prices: Floats) -> None:
        value, result, weighed = self._solved(prices)
        reached = self.tables.reached(result.choice, weighed)
        keys = ["points" if n == "max_drop" else n for n in self.names]
        excess = np.array([reached[k] for k in keys]) / self.limits - 1
        self.cuts.append((value, prices, excess))
        if value > self.best[0]:
            self.best = (value, prices)
        if (excess <= 0).all() and (self.candidate is None or reached[self.goal] < self.candidate.value):
            widths = {name: result.choice[name] for name in self.tables.widths}
            self.candidate = Candidate(reached[self.goal], widths, self.tables.bits_chosen(result.choice, weighed))

    def _model(self, top: float) -> tuple[float, Floats]:
        """The most that any prices can give, as the cuts so far know it, and where."""
        from scipy.optimize import linprog  # not at the top: see programs

        n = len(self.names)
        rows = np.array([[*(-slope), 1.0] for _, _, slope in self.cuts])
        sides = np.array([value - float(slope @ prices) for value, prices, slope in self.cuts])
        found = linprog([0.0] * n + [-1.0], A_ub=rows, b_ub=sides, bounds=[(0, top)] * n + [(None, None)])
        return -float(found.fun), np.asarray(found.x[:n])

    def _bound(self) -> Bound:
        value, result, weighed = self._solved(self.best[1])
        offset = value - result.value
        widths = {name: result.within((name,)) + offset for name in self.tables.widths}
        bits = {}
        for term, costs in weighed:
            if term.layer is not None:
                others = (
                    result.within(term.names) - costs.min(-1) if term.names else np.array(result.value - costs.min())
                )
                bits[term.layer] = (others[..., None] + costs).reshape(-1, costs.shape[-1]).min(0) + offset
        return Bound(value, widths, bits, self.candidate, self.best[1])
