"""Tuning that shows what training would restore, not the whole of it: before a cut, or a plan, is judged.

Brief(epochs=1, samples=5000).tune(small, task)
"""

import math
from dataclasses import dataclass

from torch import nn

from ..errors import demand
from .fitting import fit
from .loaders import Batches, Portion, Task
from .recipes import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """So many epochs, of so many of the training samples each (None: all), by SGD from the rate `lr`."""

    epochs: int
    samples: int | None = None
    lr: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        demand(self.epochs >= 0, f"tuning for {self.epochs} epochs: 0 or more were expected.")
        demand(
            self.samples is None or self.samples >= 1,
            f"tuning on {self.samples} samples an epoch: at least 1 was expected.",
        )
        demand(0 < self.lr < math.inf, f"tuning from the rate {self.lr}: a positive one was expected.")

    def tune(self, model: nn.Module, task: Task) -> nn.Module:
        """Train the model in place, and return it. What `fit` raises."""
        if not self.epochs:
            return model
        train = task.train if self.samples is None else Portion(task.train, self.samples)
        own = Task(task.example_inputs, train=train, validation=(), test=(), loss=task.loss, calibration=train)
        return fit(model, own, Recipe(epochs=self.epochs, lr=self.lr), seed=self.seed)

    def count(self, task: Task) -> int | None:
        """How many samples it trains on, all epochs together, where that is known."""
        there = task.train.samples if isinstance(task.train, Batches | Portion) else None
        each = there if self.samples is None else min(self.samples, there or self.samples)
        return None if each is None else self.epochs * each
