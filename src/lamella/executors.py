"""Where independent pieces of work run: here, in processes of this machine, or on a Ray cluster. The results are the same.

    for index, part in execute(items, setup, executor="processes", workers=4): ...

`setup()` is called once in every worker and returns a function that yields the parts of an item; both it and the items must be
picklable for anything but `serial`. Parts come as they are finished. A worker that dies costs its item the part it was at: a fresh
worker goes on with what `left(item, parts)` says is still to be done.
"""

import importlib
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol

from .errors import LamellaError, RunError, first_line, needing, unknown_name

Setup = Callable[[], Callable[[Any], Iterable[Any]]]
Left = Callable[[Any, Sequence[Any]], Any]  # an item and the parts that came of it -> the rest of it, None for nothing

ATTEMPTS = 3  # an item that kills its worker this often, with no part in between, is at fault itself
KILLED = "Usually memory ran out: use fewer workers, or executor='serial'."
FAILED = (
    "It could not start: what it printed says why. A script that uses processes keeps what it does under "
    "`if __name__ == '__main__':`, because every worker imports it."
)


class Executor(Protocol):
    """Yields (index, part) for the parts of every item, in any order of items."""

    def __call__(
        self, queue: "Queue", setup: Setup, workers: int, address: str | None
    ) -> Iterator[tuple[int, Any]]: ...


def nothing_left(item: Any, parts: Sequence[Any]) -> Any:
    """The rest of an item that comes in one part."""
    return None if parts else item


def execute(
    items: Sequence[Any],
    setup: Setup,
    *,
    left: Left = nothing_left,
    executor: str = "serial",
    workers: int = 2,
    address: str | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run every item. `address`: of a Ray cluster (default: one on this machine). Exceptions of an item are raised here."""
    check_executor(executor)
    return EXECUTORS[executor](Queue(items, left), setup, min(workers, max(1, len(items))), address)


def check_executor(name: str) -> None:
    """LamellaError for an executor that is not in the table."""
    if name not in EXECUTORS:
        raise LamellaError(unknown_name("executor", name, EXECUTORS))


def portable(setup: Setup) -> str | None:
    """Why the setup cannot be sent to another process; None if it can."""
    try:
        pickle.dumps(setup)
    except Exception as error:
        return first_line(error)
    return None


class Queue:
    """The items that wait, what came of each so far, and how often each killed its worker."""

    def __init__(self, items: Sequence[Any], left: Left) -> None:
        self.items, self.left = items, left
        self.waiting = list(range(len(items)))[::-1]
        self.deaths = [0] * len(items)
        self.parts: list[list[Any]] = [[] for _ in items]

    def take(self) -> tuple[int, Any] | None:
        """The next item that is not done, or the rest of one."""
        while self.waiting:
            index = self.waiting.pop()
            rest = self.left(self.items[index], self.parts[index]) if self.parts[index] else self.items[index]
            if rest is not None:
                return index, rest
        return None

    def note(self, index: int, part: Any) -> None:
        """A part of an item has come."""
        self.parts[index].append(part)
        self.deaths[index] = 0

    def give_back(self, index: int, how: str, advice: str) -> None:
        """The worker of this item is gone. RunError, with the advice, where the item has killed too many."""
        self.deaths[index] += 1
        if self.deaths[index] >= ATTEMPTS:
            raise RunError(f"{self.items[index]}: its worker died {ATTEMPTS} times ({how}). {advice}")
        self.waiting.append(index)


Answer = tuple[Literal["part", "over", "error"], Any]


class Worker:
    """Makes ready at its first item, then does items part by part."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.work: Callable[[Any], Iterable[Any]] | None = None
        self.parts: Iterator[Any] = iter(())

    def step(self, item: Any = None) -> Answer:
        """The first part of an item; without one, the next part of the item at work."""
        try:
            self.work = self.work or self.setup()
            if item is not None:
                self.parts = iter(self.work(item[0]))
            for part in self.parts:
                return "part", part
        except Exception as error:
            return "error", _sendable(error)
        return "over", None


def serial(queue: Queue, setup: Setup, workers: int, address: str | None) -> Iterator[tuple[int, Any]]:
    """One after the other, in this process."""
    work = setup() if queue.items else None
    while work and (taken := queue.take()):
        for part in work(taken[1]):
            yield taken[0], part


def processes(queue: Queue, setup: Setup, workers: int, address: str | None) -> Iterator[tuple[int, Any]]:
    """In fresh processes of this machine."""
    pool = _Pool(queue, setup)
    try:
        for _ in range(workers):
            pool.start()
        yield from pool.results()
    finally:
        pool.stop()


class _Pool:
    """Processes with a pipe each; an item belongs to one process until it is over."""

    def __init__(self, queue: Queue, setup: Setup) -> None:
        self.queue, self.setup = queue, setup
        self.context = multiprocessing.get_context("spawn")
        self.workers: dict[Connection, tuple[Any, int | None]] = {}

    def start(self) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.setup), daemon=True)
        process.start()
        theirs.close()
        self.workers[ours] = (process, None)
        self._hand_out(ours)

    def _hand_out(self, pipe: Connection) -> None:
        taken = self.queue.take()
        self.workers[pipe] = (self.workers[pipe][0], taken[0] if taken else None)
        if taken:
            self._send(pipe, (taken[1],))

    def _send(self, pipe: Connection, item: Any) -> None:
        try:
            pipe.send(item)
        except OSError:
            self._replace(pipe)

    def results(self) -> Iterator[tuple[int, Any]]:
        while any(index is not None for _, index in self.workers.values()):
            for pipe in wait(list(self.workers)):
                assert isinstance(pipe, Connection)
                yield from self._received(pipe)

    def _received(self, pipe: Connection) -> Iterator[tuple[int, Any]]:
        index = self.workers[pipe][1]
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            self._replace(pipe)
            return
        if kind == "error":
            raise value
        if kind == "part" and index is not None:
            self.queue.note(index, value)
            self._send(pipe, None)  # the worker goes on while the caller looks at the part
            yield index, value
        else:
            self._hand_out(pipe)

    def _replace(self, pipe: Connection) -> None:
        """The process is gone: the rest of its item goes back, and another process takes its place."""
        process, index = self.workers.pop(pipe)
        process.join(timeout=5)
        pipe.close()
        if index is not None:
            self.queue.give_back(index, f"exit code {process.exitcode}", KILLED if _was_killed(process) else FAILED)
            self.start()

    def stop(self) -> None:
        for pipe, (process, _) in self.workers.items():
            pipe.close()
            process.terminate()
        for process, _ in self.workers.values():
            process.join(timeout=5)


def _was_killed(process: Any) -> bool:
    """By a signal, rather than by an error of its own."""
    return process.exitcode is None or process.exitcode < 0


def _serve(pipe: Connection, setup: Setup) -> None:
    """A worker's life: answer until the pipe is closed."""
    worker = Worker(setup)
    try:
        while True:
            pipe.send(worker.step(pipe.recv()))
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LamellaError(f"{type(error).__name__}: {error}")
    return error


def on_ray(queue: Queue, setup: Setup, workers: int, address: str | None) -> Iterator[tuple[int, Any]]:
    """On a Ray cluster: the one at `address`, or one of so many workers on this machine."""
    with needing("ray", "ray", "the ray executor"):
        ray: Any = importlib.import_module("ray")
    started = not ray.is_initialized()
    if started:
        local = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    try:
        yield from _on_actors(ray, queue, ray.put(_travelling(setup)), workers)
    finally:
        if started:
            ray.shutdown()


def _travelling(setup: Setup) -> Setup:
    """The setup for another Python: unpacked at its first item, its modules looked for where they lie here, so that a worker says what
    it lacks. Processes of this machine are given `sys.path` anyway.
    """
    return partial(_unpacked, pickle.dumps(setup), tuple(sys.path))


def _unpacked(setup: bytes, path: Sequence[str]) -> Callable[[Any], Iterable[Any]]:
    sys.path.extend(folder for folder in path if folder not in sys.path)
    made: Callable[[Any], Iterable[Any]] = pickle.loads(setup)()
    return made


def _on_actors(ray: Any, queue: Queue, setup: Any, workers: int) -> Iterator[tuple[int, Any]]:
    actor = ray.remote(num_cpus=1)(Worker)
    running: dict[Any, tuple[Any, int]] = {}

    def hand_out(worker: Any) -> None:
        taken = queue.take()
        if taken:
            running[worker.step.remote((taken[1],))] = (worker, taken[0])

    for _ in range(workers):
        hand_out(actor.remote(setup))
    while running:
        (done, *_), _ = ray.wait(list(running))
        worker, index = running.pop(done)
        try:
            kind, value = ray.get(done)
        except ray.exceptions.RayActorError as death:
            queue.give_back(index, type(death).__name__, KILLED)
            hand_out(actor.remote(setup))
            continue
        if kind == "error":
            raise value
        if kind == "part":
            queue.note(index, value)
            running[worker.step.remote()] = (worker, index)
            yield index, value
        else:
            hand_out(worker)


EXECUTORS: dict[str, Executor] = {"serial": serial, "processes": processes, "ray": on_ray}
