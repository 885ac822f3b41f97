"""Where independent pieces of work run: here, in processes of this machine, or on a Ray cluster. The results are the same.

    for index, result in execute(items, setup, executor="processes", workers=4): ...

`setup()` is called once in every worker and returns the function that does an item; both it and the items must be picklable for
anything but `serial`. Results come as they are finished. A worker that dies costs its item one repetition, on a fresh worker.
"""

import importlib
import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from .errors import LamellaError, MissingExtra, RunError, unknown_name

T = TypeVar("T")
R = TypeVar("R")
Setup = Callable[[], Callable[[Any], Any]]

ATTEMPTS = 3  # an item that kills its worker this often is at fault itself


class Executor(Protocol):
    """Yields (index, result) of every item, in any order."""

    def __call__(
        self, items: Sequence[Any], setup: Setup, workers: int, address: str | None
    ) -> Iterator[tuple[int, Any]]: ...


def execute(
    items: Sequence[Any], setup: Setup, *, executor: str = "serial", workers: int = 2, address: str | None = None
) -> Iterator[tuple[int, Any]]:
    """Run every item. `address`: of a Ray cluster (default: one on this machine). Exceptions of an item are raised here."""
    if executor not in EXECUTORS:
        raise LamellaError(unknown_name("executor", executor, EXECUTORS))
    return EXECUTORS[executor](items, setup, min(workers, max(1, len(items))), address)


def portable(setup: Setup) -> str | None:
    """Why the setup cannot be sent to another process; None if it can."""
    try:
        pickle.dumps(setup)
    except Exception as error:
        return next(iter(str(error).splitlines()), type(error).__name__)
    return None


def serial(items: Sequence[Any], setup: Setup, workers: int, address: str | None) -> Iterator[tuple[int, Any]]:
    """One after the other, in this process."""
    if items:
        work = setup()
        for index, item in enumerate(items):
            yield index, work(item)


def processes(items: Sequence[Any], setup: Setup, workers: int, address: str | None) -> Iterator[tuple[int, Any]]:
    """In fresh processes of this machine."""
    pool = _Pool(setup, items)
    try:
        for _ in range(workers):
            pool.start()
        yield from pool.results()
    finally:
        pool.stop()


class _Pool:
    """Processes with a pipe each; an item belongs to one process until its answer is there."""

    def __init__(self, setup: Setup, items: Sequence[Any]) -> None:
        self.setup, self.items = setup, items
        self.waiting = list(range(len(items)))[::-1]
        self.attempts = [0] * len(items)
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
        process, _ = self.workers[pipe]
        index = self.waiting.pop() if self.waiting else None
        self.workers[pipe] = (process, index)
        if index is None:
            return
        self.attempts[index] += 1
        try:
            pipe.send((index, self.items[index]))
        except OSError:
            self._replace(pipe)

    def results(self) -> Iterator[tuple[int, Any]]:
        while any(index is not None for _, index in self.workers.values()):
            for pipe in wait(list(self.workers)):
                assert isinstance(pipe, Connection)
                try:
                    index, result, error = pipe.recv()
                except (EOFError, OSError):
                    self._replace(pipe)
                    continue
                if error is not None:
                    raise error
                yield index, result
                self._hand_out(pipe)

    def _replace(self, pipe: Connection) -> None:
        """The process is gone: its item goes back, and another process takes its place."""
        process, index = self.workers.pop(pipe)
        process.join(timeout=5)
        pipe.close()
        if index is None:
            return
        if self.attempts[index] >= ATTEMPTS:
            raise _fatal(self.items[index], f"exit code {process.exitcode}")
        self.waiting.append(index)
        self.start()

    def stop(self) -> None:
        for pipe, (process, _) in self.workers.items():
            pipe.close()
            process.terminate()
        for process, _ in self.workers.values():
            process.join(timeout=5)


def _fatal(item: Any, how: str) -> RunError:
    return RunError(
        f"{item}: its worker died {ATTEMPTS} times ({how}), usually for want of memory. Use fewer workers, or executor='serial'."
    )


def _serve(pipe: Connection, setup: Setup) -> None:
    """A worker's life: make ready, then answer until the pipe is closed."""
    work: Callable[[Any], Any] | None = None
    try:
        while True:
            index, item = pipe.recv()
            try:
                work = work or setup()
                answer: tuple[int, Any, Exception | None] = (index, work(item), None)
            except Exception as error:
                answer = (index, None, _sendable(error))
            pipe.send(answer)
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LamellaError(f"{type(error).__name__}: {error}")
    return error


def on_ray(items: Sequence[Any], setup: Setup, workers: int, address: str | None) -> Iterator[tuple[int, Any]]:
    """On a Ray cluster: the one at `address`, or one of so many workers on this machine."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise MissingExtra("ray", "ray", "the ray executor") from None
    started = not ray.is_initialized()
    if started:
        local = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    try:
        yield from _on_actors(ray, items, ray.put(setup), workers)
    finally:
        if started:
            ray.shutdown()


def _on_actors(ray: Any, items: Sequence[Any], setup: Any, workers: int) -> Iterator[tuple[int, Any]]:
    actor = ray.remote(num_cpus=1)(_Worker)
    waiting, attempts = list(range(len(items)))[::-1], [0] * len(items)
    running: dict[Any, tuple[Any, int]] = {}

    def hand_out(worker: Any) -> None:
        if waiting:
            index = waiting.pop()
            attempts[index] += 1
            running[worker.run.remote(items[index])] = (worker, index)

    for _ in range(workers):
        hand_out(actor.remote(setup))
    while running:
        (done, *_), _ = ray.wait(list(running))
        worker, index = running.pop(done)
        try:
            result, error = ray.get(done)
        except ray.exceptions.RayActorError as death:
            if attempts[index] >= ATTEMPTS:
                raise _fatal(items[index], type(death).__name__) from None
            waiting.append(index)
            hand_out(actor.remote(setup))
            continue
        if error is not None:
            raise error
        yield index, result
        hand_out(worker)


class _Worker:
    """A Ray actor: makes ready at its first item."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.work = setup, None

    def run(self, item: Any) -> tuple[Any, Exception | None]:
        try:
            self.work = self.work or self.setup()  # type: ignore[assignment]
            return self.work(item), None  # type: ignore[misc]
        except Exception as error:
            return None, _sendable(error)


EXECUTORS: dict[str, Executor] = {"serial": serial, "processes": processes, "ray": on_ray}
