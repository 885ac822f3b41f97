"""A run directory opened for work: its records by name, and the task, the dense network and the graph, each made when asked for."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..digests import weights_digest
from ..errors import MismatchError, RunError
from ..records import load_record, save_record
from ..runs import check_made
from ..schema import FILES, Graph, Metric, Profile, RunInfo
from ..storage import read_into, save_tensors
from ..timing import Precision
from ..tracing import aligned, trace
from ..training import Task, metric_of
from .opening import build_model, check_options, open_task, weighted, whole_option

R = TypeVar("R")

MEASURED_STEPS: dict[str, Precision] = {"measured": "fp32", "measured_int8": "int8"}
BOUND = ("model", "task", "data", "weights", "seed", "options")  # what must not change within a run directory


@dataclass
class Session:
    """A run directory and what `run.json` says of it. Models and data are made when first asked for."""

    directory: Path
    info: RunInfo

    def path(self, name: str) -> Path:
        """Where a file of the run lies, by its name in `schema.FILES`."""
        return self.directory / FILES[name][0]

    def has(self, name: str) -> bool:
        return self.path(name).exists()

    def read(self, name: str, kind: type[R]) -> R:
        """A record of the run; RunError names the verb that makes it where it is absent."""
        check_made(self.path(name), f"{FILES[name][1]} {self.directory}")
        return load_record(self.path(name), kind)

    def write(self, name: str, record: Any) -> None:
        save_record(self.path(name), record)

    @cached_property
    def task(self) -> Task:
        return open_task(self.info)

    @property
    def metric(self) -> Metric:
        """What the scores of the run are."""
        return metric_of(self.task)

    def fresh(self) -> nn.Module:
        """The dense network, new weights drawn from the run's seed."""
        return build_model(self.info)

    def dense(self) -> nn.Module:
        """The dense network with the run's weights; before any are there, those the run names (or fresh ones)."""
        if not self.has("weights"):
            return weighted(self.info).eval()
        return read_into(self.fresh(), self.path("weights")).eval()

    def keep_dense(self, model: nn.Module) -> None:
        save_tensors(self.path("weights"), model)

    def graph(self) -> Graph:
        """The run's Graph: read where it was written, traced where not."""
        if not self.has("graph"):
            self.write("graph", self.traced(self.dense()))
        return self.read("graph", Graph)

    def profile(self) -> Profile:
        """The run's curves. RunError where there are none, MismatchError where they are another network's."""
        found, structure = self.read("profile", Profile), self.graph().structure
        if found.structure != structure:
            raise MismatchError(
                f"{self.path('profile')}: the curves of another network ({found.graph.model!r}, structure {found.structure}); those of "
                f"structure {structure} were expected. Remove the file and measure this one: lamella profile {self.directory}."
            )
        return found

    def traced(self, model: nn.Module) -> Graph:
        """The dense network traced, with the run's own `ignored_layers` (comma separated), `round_to` and `floor`."""
        options = {name: str(value) for name, value in self.info.options.items() if value is not None}
        graph = trace(
            model,
            self.task.example_inputs,
            ignored_layers=tuple(filter(None, options.get("ignored_layers", "").split(","))),
            round_to=self._steps(model),
            floor=whole_option(self.info, "floor") or 1,
        )
        return replace(graph, model=self.info.model)

    def _steps(self, model: nn.Module) -> Any:
        """`round_to` of the run: a number, the rule (decision 0002), or per group what the runtime shows."""
        asked = self.info.options.get("round_to")
        if asked not in MEASURED_STEPS:
            return whole_option(self.info, "round_to", MEASURED_STEPS) or aligned
        from ..latencies import measured_steps

        graph = trace(model, self.task.example_inputs, round_to=1)
        return measured_steps(graph, MEASURED_STEPS[str(asked)])


def start(directory: str | Path, info: RunInfo) -> Session:
    """Open a run directory for this model and task. MismatchError where work on another has begun there."""
    check_options(info)
    directory = Path(directory)
    path = directory / FILES["run"][0]
    bound = any((directory / FILES[name][0]).exists() for name in ("weights", "graph"))
    if path.exists() and bound:
        before = load_record(path, RunInfo)
        check_same(directory, before, info)
        return Session(directory, before)
    save_record(path, info)
    return Session(directory, info)


def check_same(directory: Path, before: RunInfo, info: RunInfo) -> None:
    """MismatchError, with what differs, where a run directory is asked to hold another run than it does."""
    was, now = ({k: getattr(each, k) for k in BOUND if k != "options"} for each in (before, info))
    was |= {f"option {name}": before.options.get(name) for name in {**before.options, **info.options}}
    now |= {f"option {name}": info.options.get(name) for name in {**before.options, **info.options}}
    facts = "; ".join(f"{name} was {was[name]!r} and is {now[name]!r}" for name in was if was[name] != now[name])
    if facts:
        raise MismatchError(f"{directory}: holds another run: {facts}. Name another run directory.")


def check_unchanged(session: Session, *, trained: bool = False) -> None:
    """MismatchError where the network that a run names is another one by now than the one whose weights the run keeps.

    `trained`: by the run itself, whose weights are then its own. Weights whose file is gone, and those that a function draws anew at
    every call, are held to nothing but their shapes.
    """
    info = session.info
    if not session.has("weights") or (info.weights and not Path(info.weights).exists()):
        return
    now, kept = weighted(info), session.dense()
    brought = info.weights or (":" in info.model and not trained)
    other = brought and weights_digest(now) != weights_digest(kept)
    drawn = other and not info.weights and weights_digest(weighted(info)) != weights_digest(now)
    if _shapes(now) != _shapes(kept) or (other and not drawn):
        raise MismatchError(
            f"{session.path('weights')}: keeps other weights than {info.weights or info.model} gives now, which has changed since, and "
            "all that lies there follows from the old ones. Name another run directory, or remove this one to begin anew."
        )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def resume(directory: str | Path) -> Session:
    """Open an existing run directory."""
    directory = Path(directory)
    path = directory / FILES["run"][0]
    if not path.exists():
        raise RunError(f"{directory}: no run directory ({path.name} is not there). Start one with `{FILES['run'][1]}`.")
    return Session(directory, load_record(path, RunInfo))


def untrained(session: Session) -> bool:
    """Whether the run's weights are fresh ones of the zoo."""
    return ":" not in session.info.model and session.info.weights is None and not session.has("weights")
