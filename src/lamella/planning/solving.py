"""The search behind knapsack: a bound by prices, an integer program over what the bound leaves open, and the proof.

    draft = solved(ask, setting, "max_drop", {"bytes": 109034})

1. `relaxing` gives a bound L, and for every level of every group and layer what it costs at best.
2. The levels within a window above L make a small integer program (`programs`, HiGHS), which gives a plan of value U.
3. A level that costs at best more than U cannot be in a better plan: once the window reaches U, or U is within the gap of L, it is
   proved. Else the plans are parted by the levels of a group that many layers see (the stream of a residual network), whose choice
   no price can settle: every part gets prices of its own, and far closer bounds. Without such a group the window widens.
Where the network of groups is too wide for the bound, all levels go to the integer program at once.
"""

import heapq
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import LamellaError
from .asking import Ask, Draft, over
from .curves import Rung
from .drafting import drafted, drop_of, proven, read, stated, value_of
from .elimination import IMPOSSIBLE, TooWideError
from .failing import descended, unreachable
from .modelling import Rungs, Setting, modelled
from .programs import Solution
from .relaxing import Bound, best_bound
from .tabling import CostTables

TOLERANCE = 2e-6  # by which the solver may break a row, as a share of the limit
FIRST_LEVELS = 1.25  # levels per group and layer, on average, in the first window: small programs are solved at once
GROWTH = 1.4  # levels of the next window
STREAM = 6  # layers that see a group: from so many on, its levels are worth a bound each


def solved(ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float]) -> Draft:
    """The best draft in the time. BudgetError where there is none."""
    search = _Search(ask, setting, goal, limit_of)
    root = search.root()
    if root is None:
        return search.at_once()
    return search.parted(root)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Some of the plans: those with the levels of this setting, and what prices prove of them."""

    value: float
    number: int
    setting: Setting = field(compare=False)
    tables: CostTables = field(compare=False)
    bound: Bound = field(compare=False)


class _Search:
    """The best draft so far, and the time that is left."""

    def __init__(self, ask: Ask, setting: Setting, goal: str, limit_of: Mapping[str, float]) -> None:
        self.ask, self.setting, self.goal, self.limit_of = ask, setting, goal, limit_of
        self.end = time.perf_counter() + setting.seconds
        self.best: Draft | None = None
        self.parts = 0

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
        return self.best is not None and self.value - bound <= self.setting.gap * abs(self.value) + 1e-9

    def root(self) -> Part | None:
        """All plans; None where prices give no bound."""
        if self.goal == "memory":
            return None
        try:
            tables = CostTables(self.ask, self.setting.widths, self.setting.bits, self.setting.factors)
            if "memory" in self.limit_of:
                tables.keep_memory(self.limit_of["memory"])
        except TooWideError:
            return None
        return self._part(self.setting, tables, None)

    def _part(self, setting: Setting, tables: CostTables, before: Bound | None) -> Part | None:
        drop = {} if self.ask.budget.max_drop is None else {"max_drop": max(self.ask.budget.max_drop, 1e-6)}
        limits = {n: limit for n, limit in {**self.limit_of, **drop}.items() if n != "memory"}
        bound = best_bound(tables, self.goal, limits, before)
        if bound is None:
            return None
        self.parts += 1
        part = Part(bound.value, self.parts, setting, tables, bound)
        self._take(self._met(part))
        return part

    def at_once(self) -> Draft:
        """Every level in one program."""
        solution, draft = self._attempt(self.setting)
        self._take(draft)
        return self._answer(solution.bound, solution.timed_out, solution.possible)

    def parted(self, root: Part) -> Draft:
        """Parts of lowest bound first, until the bound of all that is left is as good as the best plan."""
        heap, proved, possible = [root], np.inf, False
        while heap and not self.close(heap[0].value):
            part = heapq.heappop(heap)
            if part.value >= IMPOSSIBLE / 2:
                continue
            stream = _stream(part, self.value)
            settled, late, maybe = self._settled(part, first=stream is not None)
            possible |= maybe
            if late:
                heapq.heappush(heap, part)
                break
            if settled is not None or stream is None:
                proved = min(proved, part.value if settled is None else settled)
                continue
            for child in self._children(part, stream):
                if child.value < self.value:
                    heapq.heappush(heap, child)
        lowest = min(proved, heap[0].value if heap else np.inf)
        return self._answer(lowest, bool(heap) and not self.close(lowest), possible)

    def _children(self, part: Part, group: str) -> Iterator[Part]:
        """A part per level of the group that a better plan can have."""
        for index, value in enumerate(part.bound.widths[group]):
            if value < self.value:
                rungs = {**part.setting.widths, group: (part.setting.widths[group][index],)}
                child = self._part(replace(part.setting, widths=rungs), part.tables.at(group, index), part.bound)
                if child is not None:
                    yield child

    def _settled(self, part: Part, first: bool) -> tuple[float | None, bool, bool]:
        """(bound, False, _) once nothing in the part can be better by more than the gap; (None, late, possible) else.

        Windows widen until that is known; with `first`, only the first is tried.
        """
        window = _first_window(part.bound)
        while True:
            within = replace(_within(part.setting, part.bound, part.value + window), seconds=self.seconds)
            solution, draft = self._attempt(within)
            self._take(draft)
            proved = min(solution.bound if solution.possible else self.cutoff, part.value + window)
            if self.best is not None and (proved >= self.value or self.close(proved)):
                return min(proved, self.value), False, True
            if solution.timed_out or time.perf_counter() > self.end:
                return None, True, True
            if not np.isfinite(window):
                return proved, False, solution.possible
            if first:
                return None, False, solution.possible
            window = _wider(part.bound, window, None if self.best is None else self.value - part.value)

    def _take(self, draft: Draft | None) -> None:
        if draft is not None and value_of(draft) < self.value:
            self.best = draft

    def _answer(self, bound: float, late: bool, possible: bool) -> Draft:
        if self.best is not None:
            return proven(self.goal, self.best, bound, timed_out=late)
        if late or possible:
            return descended(self.ask, self.setting, self.goal, self.limit_of, bound if np.isfinite(bound) else 0.0)
        raise unreachable(self.ask, self.setting, self.limit_of)

    def _met(self, part: Part) -> Draft | None:
        """The plan that the search for prices met, if exact costs agree that it keeps the limits."""
        found, setting = part.bound.candidate, part.setting
        if found is None or setting.align > 1:
            return None
        widths = {n: rungs[found.widths.get(n, 0)].level for n, rungs in setting.widths.items()}
        bits = {n: rungs[found.bits[n]].level for n, rungs in setting.bits.items()}
        if over(self.ask, self.limit_of, widths, {**self.ask.bits, **bits}):
            return None
        drop = drop_of(setting.widths, widths) + drop_of(setting.bits, bits)
        if self.ask.budget.max_drop is not None and drop > self.ask.budget.max_drop:
            return None
        return drafted(self.ask, setting.widths, widths, bits, drop, stated(self.goal, found.value))

    def _attempt(self, setting: Setting) -> tuple[Solution, Draft | None]:
        """Solve; where packed bytes were rounded up over a limit (or the solver's tolerance was), tighten it and solve again."""
        tight, excess = dict(self.limit_of), dict[str, float]()
        for attempt in range(1, 5):
            program, network, objective = modelled(self.ask, setting, self.goal, tight)
            if np.isfinite(self.cutoff):
                program.at_most(objective, self.cutoff)
            solution = program.minimize(objective, seconds=self.seconds, gap=setting.gap / 2)
            if solution.values is None:
                return solution, None
            draft = read(self.ask, network, solution, self.goal)
            excess = over(self.ask, self.limit_of, draft.widths, {**self.ask.bits, **draft.bits})
            if not excess:
                return solution, draft
            rounding = {"bytes": attempt * len(setting.bits)}
            tight = {name: tight[name] * (1 - attempt * TOLERANCE) - rounding.get(name, 0) for name in tight}
        raise LamellaError(f"the solver does not keep {', '.join(excess)}; please report it.")


def _stream(part: Part, value: float) -> str | None:
    """The group that most layers see, among those of which a better plan can have several levels."""
    seen = {name: part.tables.seen_by[name] for name, costs in part.bound.widths.items() if (costs < value).sum() > 1}
    group = max(seen, key=lambda name: seen[name], default=None)
    return group if group is not None and seen[group] >= STREAM else None


def _levels(bound: Bound) -> np.ndarray:
    return np.sort(np.concatenate([*bound.widths.values(), *bound.bits.values()])) - bound.value


def _first_window(bound: Bound) -> float:
    levels, picks = _levels(bound), len(bound.widths) + len(bound.bits)
    wanted = float(levels[min(len(levels) - 1, int(FIRST_LEVELS * picks))])
    met = np.inf if bound.candidate is None else bound.candidate.value - bound.value
    return max(min(wanted, met), 1e-6 * abs(bound.value), 1e-9)


def _wider(bound: Bound, window: float, needed: float | None) -> float:
    """Some more levels, or just as far as a better plan can lie."""
    levels = _levels(bound)
    count = int(GROWTH * (levels <= window).sum()) + 1
    grown = float(levels[count]) if count < len(levels) else np.inf
    return grown if needed is None else min(max(grown, window * 1.2), needed * (1 + 1e-9) + 1e-9)


def _within(setting: Setting, bound: Bound, limit: float) -> Setting:
    """Only the levels that cost at best no more than the limit."""
    if not np.isfinite(limit):
        return setting

    def kept(rungs: Rungs, costs: Mapping[str, np.ndarray]) -> dict[str, tuple[Rung, ...]]:
        ok = {n: costs[n] <= max(limit, float(costs[n].min())) for n in rungs if n in costs}
        return {n: tuple(r for i, r in enumerate(each) if n not in ok or ok[n][i]) for n, each in rungs.items()}

    return replace(setting, widths=kept(setting.widths, bound.widths), bits=kept(setting.bits, bound.bits))
