"""Serving a run's elastic network: its levels switched under load, and through a day of changing load.

found = served(session, Policy(load=0.7))       # {"precision", "levels", "notes", "switching", "day"}
"""

import math
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import LamellaError
from ..exporting import in_form
from ..progress import Progress, silent
from ..schema import Level
from ..serving import Clock, Day, Governor, OnnxFamily, Policy, Served, choose, day_of, open_family, serve
from ..sessions import Session
from ..training import PerSample, Task, as_pair, batch_length, cut_batch, example_outputs
from .levels import FOLDER

REQUESTS = 1000  # samples that a day asks for at most, again and again
AT_HAND = 2**28  # bytes of samples that are held at most
SCORED = 64  # answers at once
ENOUGH = 100  # requests that tell something of a day
CALLS = 60  # by which a level is timed before it serves


@dataclass(frozen=True, slots=True)
class Requests:
    """Samples that are asked for one by one: each one's inputs as arrays of batch 1, their targets, and the task's score."""

    inputs: Sequence[tuple[Any, ...]]
    targets: Sequence[Any]
    score: PerSample

    def scores(self, outputs: Sequence[Any]) -> Any:
        """The score of every answer, (N,), where the samples are asked for again and again; an answer given twice is scored once."""
        asked = [(index % len(self.targets), id(output)) for index, output in enumerate(outputs)]
        answers = dict(zip(asked, outputs, strict=True))
        scores: dict[tuple[int, int], float] = {}
        every = list(answers)
        for start in range(0, len(every), SCORED):
            keys = every[start : start + SCORED]
            found = tree_map(lambda *each: torch.from_numpy(np.concatenate(each)), *(answers[key] for key in keys))
            targets = tree_map(lambda *each: torch.cat(each), *(self.targets[sample] for sample, _ in keys))
            scores |= zip(keys, self.score(found, targets).double().tolist(), strict=True)
        return np.array([scores[key] for key in asked])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How a day went with a governor, or with one level all day: shares of requests, and milliseconds with waiting."""

    name: str
    score: float
    in_time: float
    right_in_time: float
    median_ms: float
    p99_ms: float
    switches: int = 0
    shares: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Switching:
    """Switches in one thread while others send requests: how many, how long one takes, and what the requests saw."""

    requests: int
    switches: int
    median_us: float
    longest_us: float
    wrong: int


def served(
    session: Session,
    policy: Policy,
    *,
    precision: str = "fp32",
    seconds: float = 12.0,
    threads: int = 2,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The family's levels switched under load, and a day of changing load: {"precision", "levels", "notes", "switching", "day"}."""
    with open_family(session.directory / FOLDER, precision=precision) as family:
        requests = samples(_scoring_files(session), REQUESTS)
        family_levels = timed_here(family, requests.inputs)
        alone = choose(family_levels, policy)  # before any request has come
        return {
            "precision": precision,
            "levels": family_levels,
            "notes": (alone.text,) if alone.missed else (),
            "switching": switched(family, requests.inputs, seconds=min(2.0, seconds), threads=threads),
            "day": a_day(family, family_levels, requests, policy, seconds, progress),
        }


def _scoring_files(session: Session) -> Task:
    """The run's task, its score taking what files give, which have the network's outputs one by one."""
    task = session.task
    like = example_outputs(session.dense(), task)
    return replace(task, score=lambda outputs, targets: task.score(in_form(outputs, like), targets))


def samples(task: Task, count: int) -> Requests:
    """The first `count` test samples one by one, or as many as fit into `AT_HAND` bytes."""
    inputs: list[tuple[Any, ...]] = []
    targets: list[Any] = []
    size = 0
    for number, batch in enumerate(task.test):
        several, labels = as_pair(batch, number)
        for place in range(batch_length(several)):
            here = slice(place, place + 1)
            one = tree_leaves(cut_batch(several, itemgetter(here)))
            inputs.append(tuple(x.numpy() for x in one))
            targets.append(tree_map(lambda y, here=here: y[here], labels))
            size += sum(x.nbytes for x in inputs[-1])
            if len(inputs) >= count or size >= AT_HAND:
                return Requests(inputs, targets, task.score)
    return Requests(inputs, targets, task.score)


def timed_here(family: OnnxFamily, requests: Sequence[tuple[Any, ...]]) -> tuple[Level, ...]:
    """The levels with this moment's median milliseconds per request, and as a ratio to the largest level's."""
    took = {}
    for level in family.levels:
        family.set_active_subnet(level.name)
        times = []
        for index in range(CALLS):
            started = time.thread_time()
            family.run(*requests[index % len(requests)])
            times.append(1e3 * (time.thread_time() - started))
        took[level.name] = float(np.median(times))
    whole = took[family.levels[-1].name]
    return tuple(replace(x, latency_ms=took[x.name], latency_ratio=took[x.name] / whole) for x in family.levels)


def switched(family: OnnxFamily, requests: Sequence[tuple[Any, ...]], *, seconds: float, threads: int) -> Switching:
    """Switch through all levels while `threads` threads send requests; every answer must be one of the levels' own."""
    names = family.family.names
    probe = requests[0]
    expected = []
    for name in names:
        family.set_active_subnet(name)
        expected.append(family.run(*probe)[0])
    stop, wrong, count = threading.Event(), [0] * threads, [0] * threads

    def ask(place: int) -> None:
        while not stop.is_set():
            answer = family.run(*probe)[0]
            wrong[place] += not any(np.array_equal(answer, e) for e in expected)
            count[place] += 1

    workers = [threading.Thread(target=ask, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        family.set_active_subnet(names[len(times) % len(names)])
        times.append(1e6 * (time.perf_counter() - started))
        time.sleep(0.002)
    stop.set()
    for worker in workers:
        worker.join()
    return Switching(
        requests=sum(count),
        switches=len(times),
        median_us=float(np.median(times)),
        longest_us=max(times),
        wrong=sum(wrong),
    )


def a_day(
    family: OnnxFamily,
    levels: Sequence[Level],
    requests: Requests,
    policy: Policy,
    seconds: float,
    progress: Progress = silent,
) -> dict[str, Any]:
    """A day whose peak keeps the smallest level busy for 60 % of the time: governed, and with each level fixed.

    {"deadline_ms", "shifts", "plot": hour by hour the rate, the governor's mean level and everyone's 99th percentile}. The governed
    shift is the first of each. LamellaError where so few seconds bring no request.
    """
    smallest, largest = (1e3 / float(level.latency_ms or 1) for level in (levels[0], levels[-1]))
    day = _asked(day_of(peak=0.6 * smallest, quiet=0.1 * largest, seconds=seconds))
    deadline_ms = 5 * float(levels[-1].latency_ms or 1)
    progress("serve", 0, len(levels) + 1, f"{len(day.arrivals)} requests, governed")
    policy = replace(policy, window=seconds / 200, patience=seconds / 100)
    with warnings.catch_warnings():
        # That no level keeps the policy at some instant is what the figures show.
        warnings.simplefilter("ignore", UserWarning)
        governor = Governor(levels, family.set_active_subnet, policy, clock=Clock())
        governed, right = _scored(serve(family, day, requests.inputs, governor), requests)
    runs, rights = {}, [right]
    for number, level in enumerate(levels, 1):
        progress("serve", number, len(levels) + 1, f"with {level.name!r} all day")
        family.set_active_subnet(level.name)
        runs[level.name], right = _scored(serve(family, day, requests.inputs), requests)
        rights.append(right)
    progress("serve", len(levels) + 1, len(levels) + 1)
    names = family.family.names
    everyone = {_governed_name(names): governed, **runs}
    shifts = [
        _shift(name, run, right, deadline_ms, names)
        for (name, run), right in zip(everyone.items(), rights, strict=True)
    ]
    shifts[0] = replace(shifts[0], switches=governor.switches)
    return {"deadline_ms": deadline_ms, "shifts": shifts, "plot": _plot(day, governed, everyone, names)}


def _scored(run: Served, requests: Requests) -> tuple[Served, Any]:
    """The day without its outputs, which may be large, and their scores."""
    return replace(run, outputs=()), requests.scores(run.outputs)


def _governed_name(names: Sequence[str]) -> str:
    """What the governed day is called beside levels of these names, none of which holds a space."""
    return "the governor" if "governor" in names else "governor"


def _asked(day: Day) -> Day:
    """The day, where anybody asks for anything. LamellaError with the seconds that so slow a network needs."""
    if not len(day.arrivals):
        rate = float(day.rates.mean())
        raise LamellaError(
            f"no request comes in a day of {day.seconds:g} seconds: the levels are so slow that {rate:.2g} requests per second keep them "
            f"busy. Give it more seconds: {math.ceil(ENOUGH / rate)} (--seconds) bring about {ENOUGH}."
        )
    return day


def _shift(name: str, run: Served, right: Any, deadline_ms: float, names: Sequence[str]) -> Shift:
    in_time = run.latency_ms <= deadline_ms
    return Shift(
        name=name,
        score=float(right.mean()),
        in_time=float(in_time.mean()),
        right_in_time=float((right * in_time).mean()),
        median_ms=float(np.median(run.latency_ms)),
        p99_ms=float(np.quantile(run.latency_ms, 0.99)),
        shares={n: float((run.levels == i).mean()) for i, n in enumerate(names)},
    )


def _plot(day: Day, governed: Served, runs: Mapping[str, Served], names: Sequence[str]) -> dict[str, Any]:
    """Hour by hour: requests per second, the governor's mean place among the levels, and everyone's 99th percentile, the governed first."""
    hours = len(day.rates)
    hour = np.minimum((day.arrivals * hours / day.seconds).astype(int), hours - 1)
    per = {
        name: [float(np.quantile(run.latency_ms[hour == h], 0.99)) if (hour == h).any() else None for h in range(hours)]
        for name, run in runs.items()
    }
    levels = governed.levels
    place = [float(levels[hour == h].mean()) if (hour == h).any() else None for h in range(hours)]
    return {"rate": day.rates.tolist(), "levels": list(names), "governor_level": place, "p99_ms": per}
