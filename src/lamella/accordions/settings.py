"""How a width search goes about its work, beside what it searches."""

from dataclasses import dataclass

from ..errors import LamellaError, demand, unknown_name
from ..executors import check_executor
from ..schema import Budget
from ..training import Recipe
from ..zoo import ACTIVATIONS

METHODS = ("sequential", "joint", "prune")
RECIPE = Recipe(epochs=40, lr=0.003, optimizer="adamw", weight_decay=1e-4)
TOGETHER = 8  # proposals of the joint search that are trained at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of `accordion`.

    `method`: sequential, joint or prune; `metric`: what choices follow (default: the task's first); `seeds`: networks per shape.
    `budget`: with `params`, the best within it; with `max_drop`, the smallest whose metric is at most so many points below the
    baseline's; else the best.
    `race`: stop shapes that have lost before their last seed, wrong with a chance of at most `error`. `passes`: times around all pairs.
    `trials`: shapes of the joint search. `activation`: relu, elu or tanh. `executor`: serial, processes or ray, with so many
    `workers`; `address`: of a Ray cluster.
    """

    method: str = "sequential"
    metric: str | None = None
    seeds: int = 5
    first_seed: int = 0
    budget: Budget = Budget()  # noqa: RUF009 - frozen
    race: bool = True
    error: float = 0.05
    passes: int = 1
    trials: int = 64
    activation: str = "elu"
    executor: str = "serial"
    workers: int = 2
    address: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise LamellaError(unknown_name("method", self.method, METHODS))
        if self.activation not in ACTIVATIONS:
            raise LamellaError(unknown_name("activation", self.activation, ACTIVATIONS))
        check_executor(self.executor)
        demand(self.first_seed >= 0, f"seed {self.first_seed}: a whole number from 0 on.")
        demand(self.seeds >= 2, f"seeds {self.seeds}: at least two, or there is no interval.")
        demand(0 < self.error < 0.5, f"error {self.error}: a rate between 0 and 0.5.")
        demand(self.passes >= 1, f"passes {self.passes}: at least one.")
        demand(self.trials >= 1, f"trials {self.trials}: at least one.")
        demand(self.workers >= 1, f"workers {self.workers}: at least one.")
        other = [n for n in ("bytes", "macs", "latency_ms", "memory") if getattr(self.budget, n) is not None]
        demand(not other, f"a budget of {', '.join(other)}: an accordion is searched under params or max_drop.")
        both = self.budget.params is not None and self.budget.max_drop is not None
        demand(not both, "a budget of params and of max_drop together: one of them was expected.")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.first_seed, self.first_seed + self.seeds))
