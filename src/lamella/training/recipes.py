"""How to train: a `Recipe`, the optimizers and schedules it names, the rate at any moment.

    Recipe(epochs=30, lr=0.1, warmup=1)                    # SGD with Nesterov momentum, cosine to zero
    Recipe(epochs=5, lr=1e-3, optimizer="adamw", schedule="constant")

A new optimizer or schedule is one function and one row of its table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..errors import LamellaError
from ..records import check


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train: rates per batch follow `schedule` after `warmup` epochs of linear growth; only matrices decay.

    `distil` is the share of the loss that comes from a teacher's answers: softened at `temperature` (Hinton et al. 2015) where the
    task's loss is cross entropy, beside a loss of its own by their differences in units of their spread.
    With `patience`, training ends after so many epochs without a better validation score, and the best epoch's weights stay.
    `devices`: so many GPUs, or CPU processes where there is none, each taking its share of every batch; None: where the model is.
    """

    epochs: int
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    distil: float = 0.0
    temperature: float = 4.0
    patience: int | None = None
    devices: int | None = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        check(self.epochs >= 0, "epochs", f"{self.epochs} is negative")
        check(self.lr > 0 and math.isfinite(self.lr), "lr", f"{self.lr} is not a positive rate")
        check(0 <= self.momentum < 1, "momentum", f"{self.momentum} is not in [0, 1)")
        check(self.weight_decay >= 0, "weight_decay", f"{self.weight_decay} is negative")
        check(self.optimizer in OPTIMIZERS, "optimizer", f"{self.optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        check(self.schedule in SCHEDULES, "schedule", f"{self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        check(0 <= self.warmup <= self.epochs, "warmup", f"{self.warmup} epochs of {self.epochs}")
        check(0 <= self.distil <= 1, "distil", f"{self.distil} is not a share in [0, 1]")
        check(self.temperature > 0, "temperature", f"{self.temperature} is not positive")
        check(self.patience is None or self.patience >= 1, "patience", f"{self.patience} epochs: at least 1, or None")
        check(self.devices is None or self.devices >= 1, "devices", f"{self.devices}: at least 1, or None")
        check(self.precision in PRECISIONS, "precision", f"{self.precision!r} is not one of {', '.join(PRECISIONS)}")
        check(0 <= self.label_smoothing < 1, "label_smoothing", f"{self.label_smoothing} is not in [0, 1)")


PRECISIONS = ("32-true", "bf16-mixed")  # as Lightning names them; weights are float32 in both

# One pass over the weights instead of one per operation (`fused`): a step of AlexNet's 23 million takes a sixth of the time.


def _sgd(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    nesterov = recipe.momentum > 0
    optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    # A fused step fails where some parameters have had a gradient before and others have not: all begin at zero instead.
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter) if nesterov else None
    return optimizer


def _adamw(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw}

SCHEDULES: dict[str, Callable[[float], float]] = {  # the share of training done -> the share of the rate
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}


def rate_at(recipe: Recipe, epoch: float) -> float:
    """The learning rate after `epoch` epochs, a fraction of one included."""
    if epoch < recipe.warmup:
        return recipe.lr * epoch / recipe.warmup
    return recipe.lr * SCHEDULES[recipe.schedule]((epoch - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1e-9))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over every parameter of the model that requires a gradient."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise LamellaError(
            f"{type(model).__name__} has no parameter that requires a gradient: there is nothing to train."
        )
    # Decay pulls on weights only: biases and batch-norm scales need none (He et al. 2019, Bag of tricks, section 3.1).
    decays = [{"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay}]
    stays = [{"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}]
    return OPTIMIZERS[recipe.optimizer](decays + stays, recipe)
