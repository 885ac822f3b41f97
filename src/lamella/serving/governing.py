"""The Governor: the largest level that the moment allows, chosen from what was measured of each.

    choose(levels, Policy(latency_ms=2.0))                        # within a budget
    governor = Governor(levels, net.set_active_subnet, Policy(load=0.7))
    with governor.request(): net(images)                          # in any thread; the governor switches as load changes

Load is utilization: requests per second x seconds per request / workers. The seconds are the table's times what requests take now
against what the table said (a busy machine is slower at every level): the geometric mean over a window, so that one request that took
a thousand times as long, the first perhaps, makes no slow machine. Requests that wait count as if they came anew within a
window. Going down is immediate; going up waits until the larger
level would have kept the policy with a margin for a while (`margin`, `patience`), so a load at the border makes no flutter.
"""

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real

from ..errors import LamellaError
from ..records import check
from ..schema import Level

Clock = Callable[[], float]

AT_LEAST = 20  # requests over which slowness is averaged, however seldom they come
RETRIED = 10.0  # seconds after which a level that could not be loaded is tried again
QUICKEST = 1e-3  # of the table's time: what a request that took no time at all counts as


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the chosen level must keep: milliseconds per request, bytes of memory, a utilization; those not given are free.

    `memory` is that of a level's weights and largest activations, see `memory_of`. `load` is a share of the time that the `workers`,
    who serve at once, are busy. A larger level must keep the load, or the milliseconds of a slow machine, with this `margin` for
    `patience` seconds before it is taken; rates and slowness are averaged over `window` seconds.
    """

    latency_ms: float | None = None
    memory: float | None = None
    load: float | None = None
    workers: int = 1
    margin: float = 0.15
    patience: float = 1.0
    window: float = 1.0

    def __post_init__(self) -> None:
        for name in ("latency_ms", "memory", "load"):
            value = getattr(self, name)
            check(value is None or _positive(value), name, f"{value!r} is not a positive amount")
        check(
            self.load is None or self.load <= 1,
            "load",
            f"{self.load} is no share of the time that workers are busy: above 1, requests wait ever longer. Say 0.7 for 70 %; "
            "how many requests come, the governor sees for itself",
        )
        given = [name for name in ("latency_ms", "memory", "load") if getattr(self, name) is not None]
        check(bool(given), "", "a policy names at least one of latency_ms, memory and load")
        for name in ("margin", "patience", "window"):
            check(_number(getattr(self, name)), name, f"{getattr(self, name)!r} is not a number")
        check(0 <= self.margin < 1, "margin", f"{self.margin} is not in [0, 1)")
        check(self.patience >= 0, "patience", f"{self.patience} is negative")
        check(0 < self.window < math.inf, "window", f"{self.window} is not a positive, finite time")
        whole = isinstance(self.workers, Integral) and not isinstance(self.workers, bool)
        check(whole, "workers", f"{self.workers!r} is not a whole number of workers")
        check(self.workers >= 1, "workers", f"{self.workers} workers serve nothing")


def _positive(value: object) -> bool:
    return _number(value) and 0 < value < math.inf  # type: ignore[operator]


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Choice:
    """The level chosen, and by how much it misses what it must keep: {"latency_ms": 1.5} is half as much again; {} if it keeps it."""

    level: Level
    missed: dict[str, float]

    @property
    def text(self) -> str:
        """That no level keeps the policy, and by how much the smallest misses it."""
        facts = ", ".join(f"{name} by {_beyond(factor)}" for name, factor in self.missed.items())
        return (
            f"no level keeps the policy: the smallest, {self.level.name!r}, is beyond {facts}. It serves all the same. Allow "
            "more, or add a smaller level."
        )


def _beyond(factor: float) -> str:
    percent = 100 * (factor - 1)
    return f"{percent:.0f} %" if percent >= 1 else "less than 1 %"


def choose(levels: Sequence[Level], policy: Policy, rate: float = 0.0, slowness: float = 1.0) -> Choice:
    """The largest level that keeps the policy at `rate` requests per second; the smallest where none does.

    LamellaError where a level lacks a measured latency that the policy needs.
    """
    for level in reversed(levels):
        if not missed(level, policy, rate, slowness):
            return Choice(level, {})
    return Choice(levels[0], missed(levels[0], policy, rate, slowness))


def missed(level: Level, policy: Policy, rate: float, slowness: float) -> dict[str, float]:
    """By what factor the level is beyond each limit of the policy; empty if it keeps them all."""
    factors = {}
    if policy.memory is not None:
        factors["memory"] = memory_of(level) / policy.memory
    if policy.latency_ms is not None:
        factors["latency_ms"] = latency_of(level) * slowness / policy.latency_ms
    if policy.load is not None:
        factors["load"] = rate * latency_of(level) * slowness / 1e3 / policy.workers / policy.load
    return {name: factor for name, factor in factors.items() if factor > 1}


def latency_of(level: Level) -> float:
    """The level's measured milliseconds per request."""
    if level.latency_ms is None:
        raise LamellaError(
            f"level {level.name!r} has no measured latency, and the policy needs it. Measure the family first: "
            "`lamella elasticize` does, once its files are written."
        )
    return level.latency_ms


def memory_of(level: Level) -> int:
    """Bytes of the level's weights (its file, where one was weighed) and of its largest moment of activations per sample.

    Activations count as float32, of which those of a file in integers take a part: there it is an upper bound.
    """
    return (level.bytes or 4 * level.params) + level.memory


class Governor:
    """Switches between levels as requests come. Safe to use from several threads; `clock` in seconds.

    A level is decided on under a lock and switched to outside of it: while one thread loads it, the requests of the others run on
    the level before. So does every request where `switch` raises: a warning says so, and the level is left out for a while.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        switch: Callable[[str], object],
        policy: Policy,
        *,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.levels, self.policy = tuple(levels), policy
        if not self.levels:
            raise LamellaError(
                "a Governor was given no levels; at least one was expected. Pass those of a family: open_family(...).levels."
            )
        self.clock = clock
        self._switch = switch
        self._lock, self._switching = threading.Lock(), threading.Lock()
        self._rate, self._shots, self._last = 0.0, 0.0, clock()
        self._log_slowness, self._learned = 0.0, self._last  # when a request was last served
        self._waiting = 0  # requests that have come and are not yet served
        self._since: float | None = None  # when a larger level first would have done
        self._failed: dict[str, float] = {}  # levels that could not be loaded, and until when they are left out
        self._told = 0.0  # the largest factor by which the policy was missed that a warning has told of
        self._well_since: float | None = None  # when the policy was first kept again, with the margin
        found = choose(self.levels, policy)
        self._index = self.levels.index(found.level)  # decided on
        self._active = found.level  # switched to
        self.switches = 0
        switch(self._active.name)
        self._warn(found, found, self._last)

    @property
    def active(self) -> Level:
        """The level in use; one that has been decided on is so once it has been switched to."""
        return self._active

    @property
    def rate(self) -> float:
        """Requests per second, averaged over the policy's window."""
        return self._rate

    @property
    def _demand(self) -> float:
        """Requests per second to serve: those that come, and those that wait beyond the ones being served, within a window."""
        return self._rate + max(0, self._waiting - self.policy.workers) / self.policy.window

    @property
    def slowness(self) -> float:
        """What requests take now against what the table says."""
        return math.exp(self._log_slowness)

    @contextmanager
    def request(self) -> Iterator[Level]:
        """Around the serving of one request: counts it in, chooses a level, and learns how long it took.

        A request that fails is counted out; how soon it failed says nothing of the machine.
        """
        level = self.arrived()
        started = self.clock()
        try:
            yield level
        except BaseException:
            self._count_out()
            raise
        self.served(level, 1e3 * (self.clock() - started))

    def arrived(self) -> Level:
        """A request has come: the level to serve it with."""
        with self._lock:
            now = self.clock()
            gap, self._last = max(now - self._last, 1e-9), now
            self._count(max(gap - self.policy.patience, 0.0))
            if gap > self.policy.patience and self._larger():  # while nobody came
                self._since = now - self.policy.patience
            self._count(min(gap, self.policy.patience))
            # Each arrival weighs 1/window and fades. Just before the next one, the sum's mean is the rate.
            self._shots += 1 / self.policy.window
            self._govern(now)
            self._waiting += 1
        try:
            self._follow()
        except BaseException:
            self._count_out()
            raise
        return self._active

    def served(self, level: Level, milliseconds: float) -> None:
        """A request on this level took so long, waiting aside: how slow the machine now is against the table."""
        with self._lock:
            self._waiting -= 1
            sound = milliseconds >= 0 and math.isfinite(milliseconds)
            check(sound, "served", f"{milliseconds} is no time in milliseconds")
            if level.latency_ms is None:
                return
            now = self.clock()
            gap, self._learned = max(now - self._learned, 0.0), now
            share = min(1 - math.exp(-gap / self.policy.window), 1 / AT_LEAST)
            seen = math.log(max(milliseconds / level.latency_ms, QUICKEST))
            self._log_slowness += share * (seen - self._log_slowness)

    def _count_out(self) -> None:
        """A request that has come will not be served."""
        with self._lock:
            self._waiting -= 1

    def _count(self, seconds: float) -> None:
        """So many seconds have gone by."""
        self._rate = self._shots = self._shots * math.exp(-seconds / self.policy.window)

    def _usable(self) -> list[Level]:
        """The levels but those that could not be loaded a moment ago."""
        now = self.clock()
        return [level for level in self.levels if level is self._active or self._failed.get(level.name, now) <= now]

    def _larger(self) -> bool:
        """Whether a larger level than that decided on would do."""
        return self.levels.index(self._with_margin().level) > self._index

    def _govern(self, now: float) -> None:
        found = choose(self._usable(), self.policy, self._demand, self.slowness)
        spared = self._with_margin()
        wanted, larger = self.levels.index(found.level), self.levels.index(spared.level)
        if wanted < self._index:
            self._go(wanted)
        elif larger > self._index:
            self._since = now if self._since is None else self._since
            if now - self._since >= self.policy.patience:
                self._go(larger)
        else:
            self._since = None
        self._warn(found, spared, now)

    def _with_margin(self) -> Choice:
        """The level that keeps the policy with the margin to spare.

        On a machine no slower than the table, what the table says keeps a budget of milliseconds, or does not.
        """
        spare = 1 / (1 - self.policy.margin)
        slowness = self.slowness * spare
        if self.slowness <= 1:
            slowness = min(slowness, 1.0)
        demand = self._demand * self.slowness * spare / slowness  # the load keeps the whole margin
        return choose(self._usable(), self.policy, demand, slowness)

    def _go(self, index: int) -> None:
        self._index, self._since = index, None

    def _follow(self) -> None:
        """Switch to the level decided on, unless another thread is at it: that one sees what was decided meanwhile."""
        while self.levels[self._index] is not self._active and self._switching.acquire(blocking=False):
            try:
                wanted = self.levels[self._index]
                if wanted is not self._active:
                    self._switch_to(wanted)
            finally:
                self._switching.release()

    def _switch_to(self, wanted: Level) -> None:
        try:
            self._switch(wanted.name)
        except Exception as error:  # whatever it was, the level before still serves
            self._stay(wanted, error)
        else:
            self._active = wanted
            self.switches += 1

    def _stay(self, wanted: Level, error: Exception) -> None:
        """Serve with the level that is loaded, and leave the other out for a while."""
        with self._lock:
            self._failed[wanted.name] = self.clock() + RETRIED
            if self.levels[self._index] is wanted:
                self._go(self.levels.index(self._active))
        warnings.warn(
            f"level {wanted.name!r} cannot be switched to, and {self._active.name!r} serves on: {error} It is tried again "
            f"after {RETRIED:g} seconds.",
            stacklevel=6,
        )

    def _warn(self, found: Choice, spared: Choice, now: float) -> None:
        """Say that no level keeps the policy; again where it is missed by twice as much as was told, or once one has kept it for a
        while, with the margin.
        """
        worst = max(found.missed.values(), default=0.0)
        if worst > 2 * self._told:
            self._told = worst
            warnings.warn(found.text, stacklevel=4)
        if spared.missed:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        if self._well_since is not None and now - self._well_since >= self.policy.patience:
            self._told = 0.0
