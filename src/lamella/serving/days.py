"""A day of changing load, served by real sessions: what a governor is worth against levels that stay.

    day      = day_of(peak=900, quiet=60, seconds=24, seed=0)     # arrivals: a night, a morning, two peaks
    governor = Governor(family.levels, family.set_active_subnet, Policy(load=0.7), clock=Clock())
    served   = serve(family, day, pictures, governor)             # every request runs; its time is measured
    served.latency_ms, served.levels, served.outputs

Time is virtual and the work is real: one worker takes requests in order, each runs its session, and the clock goes on by the
processor time that took. So a day does not depend on what else the machine does, and takes no longer than its work.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import LamellaError
from ..records import check
from .families import OnnxFamily
from .governing import Governor

Floats = NDArray[np.float64]

HOURS = 24
# A share of the way from quiet to peak, hour by hour.
NIGHT = (0.1, 0.05, 0.0, 0.0, 0.05, 0.15)
MORNING = (0.3, 0.5, 0.75, 0.9, 1.0, 0.95)
AFTERNOON = (0.8, 0.7, 0.65, 0.7, 0.75, 0.8)
EVENING = (0.9, 1.0, 0.95, 0.7, 0.4, 0.2)


@dataclass(frozen=True, slots=True)
class Day:
    """When requests arrive, (N,) seconds, ascending; and the rate of every hour, requests per second."""

    arrivals: Floats
    rates: Floats
    seconds: float


class Clock:
    """A clock that is set, not one that runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Served:
    """What became of N requests: when each came and was answered (seconds), the level's place, and its outputs.

    A request's outputs are an array, or a tuple of several; a sample that is asked for again of the same level has the same.
    """

    arrivals: Floats
    finished: Floats
    levels: NDArray[np.int64]
    outputs: tuple[Any, ...]

    @property
    def latency_ms(self) -> Floats:
        """Waiting and service, (N,)."""
        latency: Floats = 1e3 * (self.finished - self.arrivals)
        return latency


def day_of(*, peak: float, quiet: float, seconds: float = 24.0, seed: int = 0) -> Day:
    """A day of Poisson arrivals between `quiet` and `peak` requests per second, squeezed into so many seconds."""
    check(0 < quiet <= peak < math.inf, "quiet", f"{quiet} requests per second, of a peak of {peak}")
    check(0 < seconds < math.inf, "seconds", f"{seconds} is not a positive, finite time")
    rates = quiet + (peak - quiet) * np.array([*NIGHT, *MORNING, *AFTERNOON, *EVENING])
    generator = np.random.default_rng(seed)
    candidates = np.cumsum(generator.exponential(1 / peak, size=int(2 * peak * seconds) + 64))
    candidates = candidates[candidates < seconds]
    at = np.interp(candidates, (np.arange(HOURS) + 0.5) * seconds / HOURS, rates)
    return Day(candidates[generator.random(len(candidates)) * peak < at], rates, seconds)


def serve(family: OnnxFamily, day: Day, requests: Sequence[Any], governor: Governor | None = None) -> Served:
    """Serve the day's requests one after the other; request i asks for requests[i % len(requests)].

    A request is an array of batch 1, or a tuple of them where the network takes several inputs.

    With a governor every arrival lets it choose; without, the active level stays. LamellaError for a governor whose clock is
    no `Clock`, which the day sets.
    """
    if not len(requests):
        raise LamellaError("no requests were given; the arrays of at least one sample were expected.")
    clock = _clock_of(governor) if governor else None
    names = family.family.names
    finished, levels, outputs = np.zeros(len(day.arrivals)), np.zeros(len(day.arrivals), dtype=np.int64), []
    answered: dict[tuple[int, str], Any] = {}  # by sample and level: a day asks for each of them often
    free, seen = 0.0, 0
    for index, arrival in enumerate(day.arrivals):
        begin = max(free, float(arrival))
        while governor and clock and seen < len(day.arrivals) and day.arrivals[seen] <= begin:
            clock.now = float(day.arrivals[seen])
            governor.arrived()
            seen += 1
        sample, name = index % len(requests), family.active_subnet
        asked = requests[sample]
        inputs = asked if isinstance(asked, tuple) else (asked,)
        started = time.thread_time()
        answers = family.run(*inputs)
        took = time.thread_time() - started
        outputs.append(answered.setdefault((sample, name), answers[0] if len(answers) == 1 else tuple(answers)))
        free = finished[index] = begin + took
        levels[index] = names.index(name)
        if governor:
            governor.served(governor.levels[names.index(name)], 1e3 * took)
    return Served(day.arrivals, finished, levels, tuple(outputs))


def _clock_of(governor: Governor) -> Clock:
    if not isinstance(governor.clock, Clock):
        raise LamellaError(
            f"the governor's clock ({governor.clock!r}) runs by itself; one that the day can set was expected. Make it by "
            "Governor(levels, switch, policy, clock=Clock()), with `Clock` of lamella.serving."
        )
    return governor.clock
