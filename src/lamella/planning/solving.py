"""The search behind knapsack: bounds by prices, integer programs over what the bounds leave open, and the proof.

    draft = solved(ask, [in_integers, in_float], "max_drop", {"bytes": 109034})

1. `relaxing` gives a bound L, and for every combination of levels what it costs at best.
2. The combinations within a window above L make a small integer program (`closing`, HiGHS), which gives a plan of value U.
3. A level that costs at best more than U cannot be in a better plan. What is left is parted by the levels of a group that many
   layers see (the stream of a residual network), whose choice no price can settle: every part gets prices of its own, and far closer
   bounds. A part without such a group is settled by programs over wider and wider windows, until they reach U.
Where the network of groups is too wide for the bound, all levels go to one integer program at once.
"""

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..costs import layer_cost
from .asking import Ask, Draft, over
from .closing import OpenProgram
from .drafting import drafted, near, proven, read, value_of, within
from .elimination import Floats, TooWideError
from .failing import fallback
from .modelling import Setting, modelled, with_drop
from .pricing import Pricing
from .relaxing import Bound, Candidate, best_bound
from .tabling import CostTables

TOLERANCE = 2e-6  # by which the solver may break a row, as a share of the limit
FIRST_LEVELS = 1.25  # levels per group and layer, on average, in the first window: small programs are solved at once
GROWTH = 1.4  # levels of the next window
ATTEMPTS = 4  # at a plan that keeps its limits in exact arithmetic
STREAM = 6  # layers that see a group: from so many on, its levels are worth a bound each


def solved(ask: Ask, settings: Sequence[Setting], goal: str, limit_of: Mapping[str, float]) -> Draft:
    """The best draft of any of these settings in the time. BudgetError where there is none."""
    search = _Search(ask, settings, goal, limit_of)
    possible = [setting for setting in settings if not _hopeless(ask, setting, limit_of)]
    roots = [search.root(setting) for setting in possible]
    for setting, root in zip(possible, roots, strict=True):
        if root is None:
            search.at_once(setting)
    return search.parted([root for root in roots if root is not None])


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Some of the plans: those with the levels that this pricing has left, and what prices prove of them."""

    value: float
    number: int
    setting: Setting = field(compare=False)
    seen_by: Mapping[str, int] = field(compare=False)
    pricing: Pricing = field(compare=False)
    bound: Bound = field(compare=False)

    @property
    def offset(self) -> float:
        """What the bound adds to the least weighted sum."""
        return self.bound.value - self.pricing.value


class _Search:
    """The best draft so far, what is proved, and the time that is left."""

    def __init__(self, ask: Ask, settings: Sequence[Setting], goal: str, limit_of: Mapping[str, float]) -> None:
        self.ask, self.settings, self.goal, self.limit_of = ask, settings, goal, limit_of
        self.setting = settings[0]  # of its time and gap, which all have
        self.end = time.perf_counter() + self.setting.seconds
        self.best: Draft | None = None
        self.proved = np.inf  # no plan that was looked at and given up is below this
        self.parts, self.late, self.possible = 0, False, False

    @property
    def value(self) -> float:
        return np.inf if self.best is None else value_of(self.best)

    @property
    def cutoff(self) -> float:
        """Plans above this are of no use: they are not better than the best one by more than the gap."""
        return self.value if self.value <= 1e-9 else self.value * (1 - 0.9 * self.setting.gap)

    @property
    def seconds(self) -> float:
        return max(0.05, self.end - time.perf_counter())

    def close(self, bound: float) -> bool:
        """Whether a bound is near enough to the best plan to be a proof."""
        return self.best is not None and near(self.value, bound, self.setting.gap)

    def _priced(self, attempt: int = 0) -> dict[str, float]:
        """The limits that get a price: all but memory, which the tables keep."""
        return {n: limit for n, limit in self._tight(attempt).items() if n != "memory"}

    def _tight(self, attempt: int) -> dict[str, float]:
        """Every limit, a little lower at every attempt: the solver breaks rows by its tolerance."""
        every = with_drop(self.ask, self.limit_of)
        return {name: limit * (1 - attempt * TOLERANCE) for name, limit in every.items()}

    def root(self, setting: Setting) -> Part | None:
        """All plans of a setting; None where prices give no bound."""
        if self.goal == "memory":
            return None
        try:
            tables = CostTables(self.ask, setting.widths, setting.bits, setting.factors)
            if "memory" in self.limit_of:
                tables.keep_memory(self.limit_of["memory"])
            if setting.align > 1:
                tables.keep_multiples(setting.align)
            pricing = Pricing.of(tables)
        except TooWideError:
            return None
        return self._part(setting, tables.seen_by, pricing, None)

    def _part(self, setting: Setting, seen_by: Mapping[str, int], pricing: Pricing, before: Bound | None) -> Part:
        bound = best_bound(pricing, self.goal, self._priced(), before, self.cutoff)
        self.parts += 1
        part = Part(bound.value, self.parts, setting, seen_by, pricing, bound)
        self._take(self._kept(setting, bound.candidate))
        return part

    def _kept(self, setting: Setting, found: Candidate | None) -> Draft | None:
        """The draft of a candidate, if exact costs agree that it keeps the limits."""
        if found is None:
            return None
        widths = {n: rungs[found.widths.get(n, 0)].level for n, rungs in setting.widths.items()}
        bits = {n: rungs[found.bits[n]].level for n, rungs in setting.bits.items()}
        draft = drafted(self.ask, setting, self.goal, widths, bits)
        return draft if within(self.ask, self.limit_of, draft) else None

    def _take(self, draft: Draft | None) -> None:
        if draft is not None and value_of(draft) < self.value:
            self.best = draft

    def at_once(self, setting: Setting) -> None:
        """Every level in one program."""
        for attempt in range(ATTEMPTS):
            program, network, objective = modelled(self.ask, setting, self.goal, self._tight(attempt))
            solution = program.minimize(objective, seconds=self.seconds, gap=setting.gap / 2)
            if attempt == 0:
                self.late |= solution.timed_out
                self.possible |= solution.possible
                self.proved = min(self.proved, solution.bound if solution.possible else np.inf)
            if solution.values is None:
                return
            draft = read(self.ask, setting, network, solution, self.goal)
            if within(self.ask, self.limit_of, draft):
                self._take(draft)
                return

    def parted(self, roots: Sequence[Part]) -> Draft:
        """Parts of lowest bound first, until the bound of all that is left is as good as the best plan."""
        heap = [root for root in roots if root.value < root.pricing.impossible / 2]
        heapq.heapify(heap)
        while heap and not self.late and not self.close(heap[0].value):
            part = heapq.heappop(heap)
            stream = _stream(part, self.value)
            if stream is None:
                self._close_by_programs(part)
                continue
            if part in roots:
                self._attempt(part, part.value + _first_window(part))
            for child in self._children(part, stream):
                heapq.heappush(heap, child)
            if time.perf_counter() > self.end:
                self.late = True
        return self._answer(min(self.proved, heap[0].value if heap else np.inf))

    def _children(self, part: Part, group: str) -> Iterator[Part]:
        """A part per level of the group that a better plan can have."""
        costs = part.bound.widths[group]
        for index in np.argsort(costs, kind="stable"):
            if self.close(costs[index]) or costs[index] >= part.pricing.impossible / 2:
                self.proved = min(self.proved, float(costs[index]))
                continue
            open_ = {name: np.flatnonzero(each < self.value) for name, each in part.bound.widths.items()}
            pricing = part.pricing.only({**open_, group: index[None]})
            yield self._part(part.setting, part.seen_by, pricing, part.bound)

    def _close_by_programs(self, part: Part) -> None:
        """Programs over wider and wider windows, until nothing in the part can be better by more than the gap."""
        window = _first_window(part)
        while True:
            ceiling = part.value + window
            reached = self._attempt(part, ceiling)
            if self.late or ceiling >= min(self.value, part.pricing.impossible / 2) or self.close(reached):
                self.proved = min(self.proved, max(part.value, reached))
                return
            window = _wider(part, window, self.value - part.value)

    def _attempt(self, part: Part, ceiling: float) -> float:
        """Solve what is open below the ceiling; a bound on all plans of the part."""
        cutoff, reached = self.cutoff, -np.inf
        for attempt in range(ATTEMPTS):
            program = OpenProgram(part.pricing, self.goal, part.offset, min(ceiling, part.pricing.impossible / 2))
            program.at_most(self._priced(attempt))
            solution, found = program.minimize(cutoff, seconds=self.seconds, gap=self.setting.gap / 2)
            if attempt == 0:
                self.late |= solution.timed_out
                self.possible |= solution.possible
                reached = min(solution.bound if solution.possible else np.inf, cutoff, ceiling)
            draft = self._kept(part.setting, found)
            self._take(draft)
            if found is None or draft is not None:
                break
        return reached

    def _answer(self, bound: float) -> Draft:
        if self.best is not None:
            return proven(self.best, bound, self.setting.gap, timed_out=self.late)
        if self.late or self.possible:
            return fallback(self.ask, self.settings, self.goal, self.limit_of, bound if np.isfinite(bound) else 0.0)
        return fallback(self.ask, self.settings, self.goal, self.limit_of, ruled_out=True)


def _hopeless(ask: Ask, setting: Setting, limit_of: Mapping[str, float]) -> bool:
    """Whether even the narrowest plan in bits of fewest bytes breaks a limit; not one on latency, which may rise with fewer channels.

    Small layers weigh least in 8 bits: fewer are packed, and packing has a price.
    """
    falling = {name: limit for name, limit in limit_of.items() if name != "latency_ms"}
    widths = {name: rungs[-1].level for name, rungs in setting.widths.items()}
    weighs = lambda name, bits: layer_cost(ask.graph, name, widths, {name: bits}).bytes
    bits = {n: min((r.level for r in rungs), key=partial(weighs, n)) for n, rungs in setting.bits.items()}
    return bool(over(ask, falling, widths, {**ask.bits, **bits}))


def _stream(part: Part, value: float) -> str | None:
    """The group that most layers see, among those of which a better plan can have several levels."""
    seen = {name: part.seen_by[name] for name in part.seen_by if (part.bound.widths[name] < value).sum() > 1}
    group = max(seen, key=lambda name: seen[name], default=None)
    return group if group is not None and seen[group] >= STREAM else None


def _levels(part: Part) -> Floats:
    costs = [*part.bound.widths.values(), *part.pricing.bit_costs(part.offset).values()]
    return np.sort(np.concatenate(costs)) - part.value if costs else np.zeros(1)


def _first_window(part: Part) -> float:
    levels, picks = _levels(part), len(part.bound.widths) + len(part.setting.bits)
    wanted = float(levels[min(len(levels) - 1, int(FIRST_LEVELS * picks))])
    met = np.inf if part.bound.candidate is None else part.bound.candidate.value - part.value
    return max(min(wanted, met), 1e-6 * abs(part.value), 1e-9)


def _wider(part: Part, window: float, needed: float) -> float:
    """Some more levels, or just as far as a better plan can lie."""
    levels = _levels(part)
    count = int(GROWTH * (levels <= window).sum()) + 1
    grown = float(levels[count]) if count < len(levels) else np.inf
    return min(max(grown, window * 1.2), needed * (1 + 1e-9) + 1e-9)
