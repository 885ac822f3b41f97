"""Serving: what the governor chooses, that it does not flutter, and that it is right under threads."""

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import lamella.serving
from lamella.errors import LamellaError, RecordError
from lamella.schema import Level
from lamella.serving import Governor, Policy, choose, day_of, serve
from lamella.serving.governing import RETRIED

LEVELS = tuple(
    Level(name=name, widths={}, params=100 * (i + 1), memory=1000, bits={"a": 8 - i}, latency_ms=float(i + 1))
    for i, name in enumerate(("core", "middle", "full"))
)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def governed(policy, levels=LEVELS):
    clock, seen = Clock(), []
    return Governor(levels, seen.append, policy, clock=clock), clock, seen


def at_rate(governor, clock, rate, seconds):
    for _ in range(int(rate * seconds)):
        clock.now += 1 / rate
        level = governor.arrived()
        governor.served(level, level.latency_ms)


def at_pace(governor, slowness):
    level = governor.arrived()
    governor.served(level, slowness * level.latency_ms)
    return level


@pytest.mark.parametrize(
    ("policy", "rate", "name"),
    [
        (Policy(latency_ms=3.0), 0, "full"),
        (Policy(latency_ms=2.9), 0, "middle"),
        (Policy(latency_ms=1.0), 0, "core"),
        (Policy(memory=2300), 0, "full"),
        (Policy(memory=2000), 0, "middle"),
        (Policy(latency_ms=2.5, memory=1500), 0, "core"),
        (Policy(load=0.6), 200, "full"),
        (Policy(load=0.6), 201, "middle"),
        (Policy(load=0.6, workers=2), 400, "full"),
        (Policy(load=0.6), 600, "core"),
    ],
)
def test_the_largest_level_that_keeps_the_policy_is_chosen(policy, rate, name):
    found = choose(LEVELS, policy, rate)
    assert (found.level.name, found.missed) == (name, {})


def test_a_budget_no_level_meets_gives_the_smallest_and_says_by_how_much():
    found = choose(LEVELS, Policy(latency_ms=0.8))
    assert found.level.name == "core"
    assert found.missed == {"latency_ms": pytest.approx(1.25)}
    with pytest.warns(UserWarning, match=r"the smallest, 'core', is beyond latency_ms by 25 %"):
        governed(Policy(latency_ms=0.8))


def test_a_load_that_goes_on_rising_is_warned_of_by_how_much_it_is():
    governor, clock, _ = governed(Policy(load=0.5, window=0.2))
    with pytest.warns(UserWarning, match="no level keeps the policy") as told:
        at_rate(governor, clock, 2600, 2)
    assert [str(each.message).split(" beyond ")[1].split(". ")[0] for each in told] == [
        "load by less than 1 %",
        "load by 101 %",
        "load by 303 %",
    ]


def test_a_policy_takes_any_kind_of_number():
    policy = Policy(latency_ms=np.float32(2.5), memory=np.int64(2000), workers=np.int64(2))
    assert choose(LEVELS, policy).level.name == "middle"


def test_it_goes_down_at_once_and_up_after_a_while():
    governor, clock, seen = governed(Policy(load=0.6, margin=0.2, patience=1.0, window=0.2))
    assert seen == ["full"]
    at_rate(governor, clock, 100, 2)
    assert governor.active.name == "full"
    at_rate(governor, clock, 400, 1.5)
    assert seen == ["full", "middle", "core"]
    at_rate(governor, clock, 100, 0.9)
    assert governor.active.name == "core"
    at_rate(governor, clock, 400, 0.5)  # patience begins anew
    at_rate(governor, clock, 100, 0.9)
    assert governor.active.name == "core"
    at_rate(governor, clock, 100, 3)
    assert seen == ["full", "middle", "core", "full"]


def test_a_load_at_the_border_makes_no_flutter():
    governor, clock, _ = governed(Policy(load=0.6, margin=0.15, patience=0.5, window=0.3))
    generator = np.random.default_rng(0)
    for _ in range(20):
        at_rate(governor, clock, 200 * generator.uniform(0.97, 1.06), 0.5)
    assert governor.switches <= 2


def test_a_load_at_the_smallest_levels_border_is_warned_of_once():
    governor, clock, _ = governed(Policy(load=0.6, margin=0.15, patience=0.5, window=0.3))
    generator = np.random.default_rng(0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(20):
            at_rate(governor, clock, 600 * generator.uniform(0.97, 1.06), 0.5)
        assert len(told) == 1
        at_rate(governor, clock, 300, 2)
        at_rate(governor, clock, 900, 2)
    assert len(told) == 2


def test_a_machine_as_slow_as_the_budget_allows_makes_no_flutter():
    governor, clock, seen = governed(Policy(latency_ms=3.5, margin=0.15, patience=0.3, window=0.1))
    generator = np.random.default_rng(0)

    def served(slowness, seconds):
        for _ in range(int(100 * seconds)):
            clock.now += 0.01
            level = governor.arrived()
            governor.served(level, slowness * level.latency_ms)

    for _ in range(20):
        served(3.5 / 3 * generator.uniform(0.94, 1.06), 1.0)
    assert governor.switches <= 2
    served(0.99, 3.0)
    assert governor.active.name == "full"
    assert len(seen) == governor.switches + 1


def test_a_slow_machine_counts():
    governor, clock, _ = governed(Policy(latency_ms=3.5, window=0.1))
    for _ in range(200):
        clock.now += 0.01
        governor.served(governor.arrived(), 2 * governor.active.latency_ms)
    assert governor.active.name == "core"


def test_one_slow_request_is_no_slow_machine():
    governor, clock, _ = governed(Policy(latency_ms=3.5, window=1.0))
    clock.now += 0.01
    governor.served(governor.arrived(), 9.0)
    clock.now += 0.01
    assert governor.arrived().name == "full"


@pytest.mark.parametrize("between", [0.01, 5.0])
def test_a_slow_beginning_is_soon_forgotten(between):
    governor, clock, _ = governed(Policy(latency_ms=4.0, window=1.0))
    seen = []
    for index in range(1000):
        clock.now += between
        level = governor.arrived()
        took = level.latency_ms if index else 2000.0
        clock.now += took / 1e3
        governor.served(level, took)
        seen.append(level.name)
    assert seen.count("full") > 800


def test_after_a_quiet_hour_the_first_request_gets_the_largest_level():
    governor, clock, _ = governed(Policy(load=0.6, window=1.0))
    at_rate(governor, clock, 500, 3)
    assert governor.active.name == "core"
    clock.now += 3600
    assert governor.arrived().name == "full"


def test_a_machine_that_is_slow_for_rare_requests_too_counts():
    governor, clock, _ = governed(Policy(latency_ms=3.5, window=1.0))
    for _ in range(60):
        clock.now += 10.0
        level = governor.arrived()
        governor.served(level, 2 * level.latency_ms)
    assert governor.active.name == "core"
    assert governor.slowness == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_teaches_nothing(wrong):
    governor, _, _ = governed(Policy(latency_ms=3.5))
    with pytest.raises(RecordError, match="is no time in milliseconds"):
        governor.served(governor.arrived(), wrong)
    assert governor.slowness == 1


def test_requests_that_fail_teach_nothing_and_wait_no_more():
    governor, clock, _ = governed(Policy(latency_ms=3.5, load=0.6, window=0.05))
    for _ in range(20):
        clock.now += 1.0
        with pytest.raises(KeyError), governor.request():
            raise KeyError
    assert governor.slowness == 1
    assert governor.active.name == "full"


def test_a_governor_of_nothing_is_refused():
    with pytest.raises(LamellaError, match="given no levels"):
        Governor((), print, Policy(latency_ms=1))


def test_requests_being_served_do_not_wait():
    governor, clock, _ = governed(Policy(load=0.6, workers=2, window=0.004))
    for _ in range(3):
        clock.now += 1.0
        assert governor.arrived().name == "full"


def test_requests_that_wait_count():
    governor, clock, seen = governed(Policy(load=0.6, window=0.05))
    with warnings.catch_warnings(record=True, action="always") as told:
        for _ in range(40):
            clock.now += 0.02
            governor.arrived()
    assert seen == ["full", "middle", "core"]
    assert ["no level keeps the policy" in str(each.message) for each in told] == [True]  # once


def test_requests_in_many_threads_leave_a_governor_whole():
    seen = []
    governor = Governor(LEVELS, seen.append, Policy(load=0.5, window=0.01, patience=0.0))
    problems = []

    def ask():
        try:
            for _ in range(300):
                with governor.request() as level:
                    assert level in LEVELS
        except Exception as error:
            problems.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems
    assert len(seen) == governor.switches + 1
    assert seen[-1] == governor.active.name


def test_while_one_thread_loads_a_level_the_others_are_served_by_the_one_before():
    seen, loading, loaded = [], threading.Event(), threading.Event()

    def switch(name):
        if name != "full":
            loading.set()
            loaded.wait(20)
        seen.append(name)

    clock = Clock()
    governor = Governor(LEVELS, switch, Policy(load=0.6, window=0.2), clock=clock)
    with ThreadPoolExecutor(2) as threads:
        for _ in range(200):  # until the load is more than the largest level can take
            clock.now += 1 / 250
            first = threads.submit(governor.arrived)
            while not (first.done() or loading.is_set()):
                time.sleep(0)
            if loading.is_set():
                break
            governor.served(first.result(), 3.0)
        try:
            assert threads.submit(governor.arrived).result(timeout=10).name == "full"
            for _ in range(300):  # more than the middle one can take
                clock.now += 1 / 500
                assert governor.arrived().name == "full"
                governor.served(LEVELS[2], 3.0)
        finally:
            loaded.set()
        assert first.result(timeout=10).name == "core"
    assert seen == ["full", "middle", "core"]
    assert (governor.active.name, governor.switches) == ("core", 2)


def test_a_level_that_cannot_be_loaded_is_left_out_for_a_while_and_the_one_before_serves():
    tries = []

    def switch(name):
        tries.append(name)
        if name == "middle" and len(tries) < 4:
            raise LamellaError("no such file.")

    clock = Clock()
    governor = Governor(LEVELS, switch, Policy(latency_ms=3.5, window=0.1), clock=clock)
    served = []

    def requests():
        for _ in range(200):
            clock.now += 0.01
            served.append(at_pace(governor, 1.2).name)

    words = r"'middle' cannot be switched to, and 'full' serves on: no such file\. It is tried again after 10 seconds"
    with pytest.warns(UserWarning, match=words):
        requests()
    assert tries == ["full", "middle", "core"]
    assert set(served) == {"full", "core"}
    clock.now += RETRIED
    requests()
    assert tries == ["full", "middle", "core", "middle"]
    assert (governor.active.name, governor.switches) == ("middle", 2)


def test_requests_do_not_wait_for_levels_that_cannot_be_loaded():
    files = set()

    def switch(name):
        if name != "full" and name not in files:
            raise LamellaError("no such file.")

    clock = Clock()
    governor = Governor(LEVELS, switch, Policy(load=0.6, window=0.1), clock=clock)
    with warnings.catch_warnings(action="ignore"):
        for _ in range(100):
            clock.now += 1 / 400
            governor.served(governor.arrived(), 3.0)
    files |= {"core", "middle"}
    for _ in range(3):
        clock.now += 10.0
        governor.served(governor.arrived(), 3.0)
    assert governor.active.name == "full"


class Family:
    """Stands in for files: three levels that take as long as they should, and answer with their names."""

    family = SimpleNamespace(names=tuple(level.name for level in LEVELS))
    active_subnet = "full"

    def set_active_subnet(self, name):
        self.active_subnet = name

    def run(self, request):
        done = time.thread_time() + 1e-3 * LEVELS[self.family.names.index(self.active_subnet)].latency_ms
        while time.thread_time() < done:
            pass
        return [self.active_subnet]


def test_a_day_is_governed_by_the_governors_own_clock():
    family, day = Family(), day_of(peak=2000, quiet=50, seconds=0.5)
    policy = Policy(load=0.6, window=0.02, patience=0.02)
    governor = Governor(LEVELS, family.set_active_subnet, policy, clock=lamella.serving.Clock())
    with warnings.catch_warnings(action="ignore"):
        found = serve(family, day, [None], governor)
    assert governor.switches > 0
    assert set(found.outputs) == {"core", "middle", "full"}
    running = Governor(LEVELS, family.set_active_subnet, policy)
    with pytest.raises(LamellaError, match=r"runs by itself; .* clock=Clock\(\)"):
        serve(family, day, [None], running)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Policy(), "at least one of latency_ms, memory and load"),
        (lambda: Policy(load=-1), "load: -1 is not a positive amount"),
        (lambda: Policy(latency_ms="50%"), "latency_ms: '50%' is not a positive amount"),
        (lambda: Policy(load=7), "load: 7 is no share of the time that workers are busy"),
        (lambda: Policy(load=1, margin=1), r"margin: 1 is not in \[0, 1\)"),
        (lambda: Policy(load=1, workers=0), "0 workers serve nothing"),
        (lambda: Policy(load=1, workers=1.5), "workers: 1.5 is not a whole number of workers"),
        (lambda: Policy(load=1, patience="x"), "patience: 'x' is not a number"),
        (lambda: Policy(load=1, window=float("inf")), "window: inf is not a positive, finite time"),
        (lambda: serve(Family(), day_of(peak=5, quiet=1), []), "no requests were given"),
        (lambda: day_of(peak=float("inf"), quiet=2), "quiet: 2 requests per second, of a peak of inf"),
        (lambda: day_of(peak=5, quiet=2, seconds=float("inf")), "seconds: inf is not a positive, finite time"),
        (lambda: day_of(peak=1, quiet=2), "quiet: 2 requests per second, of a peak of 1"),
    ],
)
def test_nonsense_is_refused(make, words):
    with pytest.raises(LamellaError, match=words):
        make()


def test_a_level_without_a_latency_cannot_be_governed_by_it():
    with pytest.raises(LamellaError, match="level 'full' has no measured latency"):
        choose((Level(name="full", widths={}),), Policy(latency_ms=1))


def test_a_day_has_its_hours():
    day = day_of(peak=800, quiet=40, seconds=24, seed=1)
    per_hour = np.histogram(day.arrivals, 24, (0, 24))[0]
    assert (np.diff(day.arrivals) > 0).all()
    assert per_hour[3] < 80
    assert abs(per_hour[10] - 790) < 120
    assert np.array_equal(day.arrivals, day_of(peak=800, quiet=40, seconds=24, seed=1).arrivals)
