"""How long files take on their runtimes: several files, interleaved in one run, each as a ratio to the first.

    times = latency({"dense": "dense.onnx", "small": "model.onnx", "int8": "model.int8.onnx"}, inputs)
    times["int8"].ratio         # 0.31: of the first file's time, from slots measured side by side
    times["int8"].ratio_low, times["int8"].ratio_high           # its 95 % interval over the rounds
    times["int8"].latency_ms    # the first file's fastest call x the ratio; milliseconds belong to the machine, ratios travel

Every file runs in the runtime of its kind (`calls`) unless another is named, on the CPU, at the batch size of `inputs`. A slot runs
one file for `seconds`; a round gives every file a slot, each round starting with another file, so that a falling clock meets all
alike. With one thread, time is that thread's CPU time: a call longer than a time slice is hardly ever left alone on a busy machine,
and a clock on the wall would charge it, and not the short calls, for its neighbours (seen: a ratio of 0.18 instead of 0.29).
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import LamellaError
from ..records import check
from .calls import prepared

TOLERATED = 1.05  # a file is slower than another when the whole interval of its ratio lies this far above the other's
BUNCH_SECONDS = 5e-4  # calls are timed in bunches of this length: reading the clock takes up to 3 microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One file's time per call, in milliseconds at the batch measured, and its ratio to the first file of the same run.

    `ratio` is the median over rounds of this file's fastest call over the first file's in the same round; 1 for the first.
    `ratio_low` and `ratio_high` bound that median: a 95 % interval by order statistics. `latency_ms` is the first file's
    fastest call (very short ones averaged over half a millisecond) times the ratio, so that milliseconds put files in the order
    in which ratios do: a file's own fastest of `n` calls may be a lucky one on a busy machine. `median_ms` is the median of its calls.
    """

    latency_ms: float
    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    n: int

    def __post_init__(self) -> None:
        for name in ("latency_ms", "median_ms", "ratio", "ratio_low", "ratio_high"):
            value = getattr(self, name)
            check(math.isfinite(value) and value > 0, name, f"{value} is not a positive time")
        check(self.n > 0, "n", f"{self.n} calls measure nothing")


def latency(
    paths: Mapping[str, str | Path],
    inputs: Tensor | Sequence[Tensor],
    *,
    runtime: str | None = None,
    threads: int = 1,
    slots: int = 12,
    seconds: float = 0.05,
) -> dict[str, Latency]:
    """Time files on the same `inputs` (their batch is the batch measured): `slots` rounds of `seconds` per file.

    The first file is what the others are a ratio of. `runtime`: instead of those of the files' kinds. Raises `LamellaError` for an
    empty table and for inputs that a file does not take, `MissingExtra` without a file's runtime.
    """
    if not paths:
        raise LamellaError("no file to time was given; name at least one, the first being the reference.")
    check(slots >= 1, "slots", f"{slots} rounds measure nothing")
    check(seconds > 0, "seconds", f"{seconds} is not a positive time")

    calls = {name: Call(path, inputs, threads, runtime) for name, path in paths.items()}
    rounds: list[dict[str, Slot]] = [_round(calls, first, seconds) for first in range(slots)]
    return {name: _summary(name, next(iter(calls)), rounds) for name in calls}


def _round(calls: "Mapping[str, Call]", first: int, seconds: float) -> "dict[str, Slot]":
    names = list(calls)
    start = first % len(names)
    return {name: calls[name].run(seconds) for name in names[start:] + names[:start]}


def _summary(name: str, reference: str, rounds: "Sequence[Mapping[str, Slot]]") -> Latency:
    times = [t for each in rounds for t in each[name].times]
    ratios = sorted(min(each[name].times) / min(each[reference].times) for each in rounds)
    low, high = median_interval(ratios)
    ratio = float(np.median(ratios))
    return Latency(
        latency_ms=min(t for each in rounds for t in each[reference].times) * 1e3 * ratio,
        median_ms=float(np.median(times)) * 1e3,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        n=sum(each[name].n for each in rounds),
    )


def beaten(times: Mapping[str, Latency]) -> dict[str, str]:
    """Of files from the smallest network to the largest, those that a larger one is faster than beyond noise, each with the
    fastest of these.
    """
    found, names = {}, list(times)
    for index, name in enumerate(names[:-1]):
        fastest = min(names[index + 1 :], key=lambda other: times[other].ratio)
        bound = max(TOLERATED * times[fastest].ratio, times[fastest].ratio_high)
        if times[name].ratio_low > bound:
            found[name] = fastest
    return found


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The order statistics that hold the median with probability 0.95 at least; the extremes below six values.

    >>> median_interval([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
    (3, 10)
    """
    n, below, outside = len(ordered), 0, 0.0
    while below < (n - 1) // 2 and 2 * (outside + math.comb(n, below) / 2**n) <= 0.05:
        outside += math.comb(n, below) / 2**n
        below += 1
    skipped = max(0, below - 1)
    return ordered[skipped], ordered[n - 1 - skipped]


@dataclass(frozen=True, slots=True)
class Slot:
    times: list[float]  # seconds per call, one per bunch
    n: int


class Call:
    """A file and its inputs, ready to run over and over."""

    def __init__(
        self, path: str | Path, inputs: Tensor | Sequence[Tensor], threads: int, runtime: str | None = None
    ) -> None:
        self.call = prepared(path, inputs, runtime=runtime, threads=threads)
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        self._timed(3)  # the first calls allocate
        self.bunch = max(1, round(BUNCH_SECONDS / max(self._timed(3), 1e-9)))

    def run(self, seconds: float) -> Slot:
        """Consecutive calls, a bunch at a time, until `seconds` have passed."""
        end = time.perf_counter() + seconds
        times = [self._timed(self.bunch)]
        while time.perf_counter() < end:
            times.append(self._timed(self.bunch))
        return Slot(times, len(times) * self.bunch)

    def _timed(self, calls: int) -> float:
        """Seconds per call."""
        start = self.clock()
        for _ in range(calls):
            self.call()
        return (self.clock() - start) / calls
