"""The same results from every executor; a worker that is killed costs only its item."""

import importlib.util
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from lamella.errors import LamellaError, MissingExtra, RunError
from lamella.executors import execute, portable

HAS_RAY = importlib.util.find_spec("ray") is not None


def squares():
    return square


def square(item):
    yield item * item


def fragile(folder):
    """A worker that is killed at item 3, the first time."""
    return partial(_fragile, Path(folder))


def _fragile(folder, item):
    (folder / f"{item}-{time.monotonic_ns()}").touch()
    if item == 3 and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    yield item * item


def deadly():
    return partial(os.kill, os.getpid())


def broken():
    return _broken


def _broken(item):
    raise LamellaError(f"item {item} is bad.")


class Unsendable(Exception):  # noqa: N818
    def __init__(self, a, b):
        super().__init__(a)


def strange():
    return _strange


def _strange(item):
    raise Unsendable(1, 2)


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_same_results_from_every_executor(executor):
    found = dict(execute(list(range(7)), squares, executor=executor, workers=2))
    assert found == {i: i * i for i in range(7)}
    assert dict(execute([], squares, executor=executor)) == {}


def test_a_killed_process_costs_only_its_item(tmp_path):
    found = dict(execute(list(range(6)), partial(fragile, str(tmp_path)), executor="processes", workers=2))
    assert found == {i: i * i for i in range(6)}
    tries = [p.name.split("-")[0] for p in tmp_path.iterdir() if p.name != "killed"]
    assert sorted(tries) == ["0", "1", "2", "3", "3", "4", "5"]


def test_an_item_that_kills_every_worker_is_named():
    with pytest.raises(RunError, match=r"9: its worker died 3 times .*use fewer workers"):
        list(execute([9], deadly, executor="processes", workers=1))


def unready():
    raise SystemExit(1)


def test_a_worker_that_cannot_start_is_not_called_out_of_memory():
    with pytest.raises(RunError, match=r"exit code 1\). It could not start: .*__main__"):
        list(execute([9], unready, executor="processes", workers=1))


def parted(folder):
    return partial(_parted, Path(folder))


def _parted(folder, numbers):
    """A part per number; at number 2 the worker is killed, the first time."""
    for number in numbers:
        (folder / f"{number}-{time.monotonic_ns()}").touch()
        if number == 2 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield number


def without(numbers, parts):
    return [number for number in numbers if number not in parts] or None


def test_a_killed_process_goes_on_after_its_last_part(tmp_path):
    items = [[0, 1, 2, 3], [4, 5]]
    found = list(execute(items, partial(parted, str(tmp_path)), left=without, executor="processes", workers=2))
    assert sorted(found) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]
    tries = [p.name.split("-")[0] for p in tmp_path.iterdir() if p.name != "killed"]
    assert sorted(tries) == ["0", "1", "2", "2", "3", "4", "5"]


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_an_error_of_an_item_is_raised_here(executor):
    with pytest.raises(LamellaError, match="item 0 is bad"):
        list(execute([0], broken, executor=executor, workers=1))


def test_an_error_that_cannot_travel_keeps_its_words():
    with pytest.raises(LamellaError, match="Unsendable: 1"):
        list(execute([0], strange, executor="processes", workers=1))


def test_an_unknown_executor_is_refused():
    with pytest.raises(LamellaError, match="unknown executor 'procesess'; did you mean 'processes'"):
        execute([1], squares, executor="procesess")


def test_what_cannot_be_sent_says_so():
    assert portable(squares) is None
    assert "pickle" in (portable(lambda: square) or "").lower()


class Nowhere:
    """Pickled here, and made of a module that a worker does not find."""

    def __call__(self):
        return square

    def __reduce__(self):
        return importlib.import_module, ("a_module_that_is_nowhere",)


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed: pip install 'lamella[ray]'")
def test_workers_on_ray_find_what_is_found_here_and_say_what_they_lack(tmp_path, monkeypatch):
    (tmp_path / "beside_the_tests.py").write_text("def twice():\n    return lambda item: [2 * item]\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = dict(execute([1, 2, 3], importlib.import_module("beside_the_tests").twice, executor="ray", workers=1))
    assert found == {0: 2, 1: 4, 2: 6}
    with pytest.raises(Exception, match="a_module_that_is_nowhere"):
        list(execute([1], Nowhere(), executor="ray", workers=1))


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_the_extra_is_named():
    with pytest.raises(MissingExtra, match=r"pip install 'lamella\[ray\]'"):
        list(execute([1], squares, executor="ray"))
