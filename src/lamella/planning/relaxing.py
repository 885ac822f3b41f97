"""A bound on every plan, and what each choice costs at best: limits turned into prices, the rest solved exactly.

    pricing = Pricing.of(CostTables(ask, widths, bits, factors))
    bound = best_bound(pricing, "max_drop", {"bytes": 109034})
    bound.value                                                 # no plan does better
    bound.widths["conv1"]                                       # per width of the group: no plan with it does better than this
    bound.candidate                                             # the best plan met on the way that keeps every limit, or None

With a price on every limit the program falls apart into tables over the widths around a layer, its bits minimized inside, and
`elimination` solves it. Prices that give the highest bound are found by cutting planes (Kelley 1960).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .asking import keeps
from .elimination import Floats
from .pricing import Priced, Pricing

ROUNDS = 60
ENOUGH = 3e-4  # of the bound: where the search for prices stops
STEEPEST = 30.0  # the highest price of a limit, as a multiple of what the goal ranges over


@dataclass(frozen=True, slots=True)
class Bound:
    """What the prices prove, per level that is left of every variable, the best plan met that keeps the limits, and the prices."""

    value: float
    widths: dict[str, Floats]
    candidate: "Candidate | None"
    prices: Floats
    top: float  # no price is above this


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value of the goal, and the levels (indices into the rungs) that give it."""

    value: float
    widths: dict[str, int]
    bits: dict[str, int]


def best_bound(
    pricing: Pricing, goal: str, limits: Mapping[str, float], before: Bound | None = None, enough: float = np.inf
) -> Bound:
    """The highest bound that prices on these limits give for minimizing `goal`, or the first above `enough`.

    `before`: where the search may start. The pricing stands at the best prices afterwards.
    """
    return _Search(pricing, goal, limits, enough).run(before)


class _Search:
    def __init__(self, pricing: Pricing, goal: str, limits: Mapping[str, float], enough: float) -> None:
        self.pricing, self.goal, self.names, self.enough = pricing, goal, list(limits), enough
        self.keys = ["points" if n == "max_drop" else n for n in self.names]
        self.limits = np.array([limits[n] for n in self.names])
        self.cuts: list[tuple[float, Floats, Floats]] = []  # bound, prices, slope
        self.best = (-np.inf, np.zeros(len(limits)))
        self.candidate: Candidate | None = None

    def run(self, before: Bound | None) -> Bound:
        top = STEEPEST * max(1e-3, self.pricing.span(self.goal)) if before is None else before.top
        prices = np.zeros(len(self.names)) if before is None else before.prices
        for round_ in range(ROUNDS):
            self._evaluate(prices)
            if not self.names or self.best[0] > min(self.enough, self.pricing.impossible / 2):
                break
            ceiling, aim = self._model(top)
            if ceiling - self.best[0] <= ENOUGH * abs(ceiling):
                break
            prices = aim if round_ < 2 else 0.5 * aim + 0.5 * self.best[1]  # half way: the model oscillates
        value, _ = self._priced(self.best[1])
        offset = value - self.pricing.value
        widths = {name: costs + offset for name, costs in self.pricing.width_costs().items()}
        return Bound(value, widths, self.candidate, self.best[1], top)

    def _priced(self, prices: Floats) -> tuple[float, Priced]:
        weights = dict.fromkeys([self.goal], 1.0)
        for key, price, limit in zip(self.keys, prices, self.limits, strict=True):
            weights[key] = weights.get(key, 0.0) + price / limit
        priced = self.pricing.at(weights)
        return priced.value - float(prices.sum()), priced

    def _evaluate(self, prices: Floats) -> None:
        value, priced = self._priced(prices)
        reached = [priced.reached[k] for k in self.keys]
        excess = np.array(reached) / self.limits - 1
        self.cuts.append((value, prices, excess))
        if value > self.best[0]:
            self.best = (value, prices)
        spent = priced.reached[self.goal]
        possible = value < self.pricing.impossible / 2 and all(map(keeps, reached, self.limits))
        if possible and (self.candidate is None or spent < self.candidate.value):
            self.candidate = Candidate(spent, priced.widths, priced.bits)

    def _model(self, top: float) -> tuple[float, Floats]:
        """The most that any prices can give, as the cuts so far know it, and where."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # not at the top: see programs

        n = len(self.names)
        rows = np.array([[*(-slope), 1.0] for _, _, slope in self.cuts])
        sides = np.array([value - float(slope @ prices) for value, prices, slope in self.cuts])
        bounds = Bounds([0.0] * n + [-np.inf], [top] * n + [np.inf])
        found = milp([0.0] * n + [-1.0], constraints=LinearConstraint(rows, -np.inf, sides), bounds=bounds)
        return -float(found.fun), np.asarray(found.x[:n])
