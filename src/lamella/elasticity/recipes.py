"""How the levels of one set of weights are trained: a table from a recipe's name to a function.

    none        batch-norm statistics per level, nothing else
    sandwich    each step: the largest level on the task; the smallest and two at random taught by it (Yu, Huang 2019)
    grow        the core first; then each round's channels are given back and only they train

A recipe is a module over the elastic network whose `forward` says what one step looks at; `fit` trains it like any other, with
its checkpoints. In `grow` the weights of inner levels are constants of the step: no optimizer can move them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, mse_loss
from torch.utils._pytree import tree_leaves

from ..training import Loss, Recipe, Task, device_of, fit, mixed, recalibrate_bn, seeded
from .growing import Growing
from .networks import ElasticModel

AT_RANDOM = 2  # levels drawn for every step of `sandwich`

OnEpoch = Callable[[int, float], object]


@dataclass(frozen=True, slots=True)
class Stage:
    """One training that is finished before the next begins: its name, and what `fit` is called with."""

    name: str
    make: Callable[[], nn.Module]
    loss: Loss


def none(net: ElasticModel, task: Task) -> list[Stage]:
    """No training: every level has the weights it is cut from, and statistics of its own."""
    return []


def sandwich(net: ElasticModel, task: Task) -> list[Stage]:
    """All levels at once; the largest teaches the others."""
    return [Stage("sandwich", partial(Sandwich, net), partial(sandwich_loss, task.loss))]


def grow(net: ElasticModel, task: Task) -> list[Stage]:
    """The core, and then one level after the other; what belongs to smaller levels stays bit for bit."""
    inner = (None, *net.family.names)
    return [
        Stage(name, partial(Growing, net, name, before), task.loss)
        for name, before in zip(net.family.names, inner, strict=False)
    ]


RECIPES: dict[str, Callable[[ElasticModel, Task], list[Stage]]] = {"grow": grow, "none": none, "sandwich": sandwich}


def train_stage(
    net: ElasticModel, stage: Stage, task: Task, recipe: Recipe, seed: int, checkpoint: Path | None, on_epoch: OnEpoch
) -> None:
    """Train one stage in place; a checkpoint after every epoch."""
    module = stage.make()
    if any(p.requires_grad for p in module.parameters()):
        fit(module, replace(task, loss=stage.loss), recipe, seed=seed, checkpoint=checkpoint, on_epoch=on_epoch)
    if isinstance(module, Growing):
        module.put_back()
    net.eval()


def recalibrate(net: ElasticModel, task: Task, seed: int) -> None:
    """Give every level but the largest statistics of its own, from training batches."""
    net.eval()
    for number, level in enumerate(net.levels[:-1]):
        with seeded(mixed(seed, number), 0, device_of(net)):
            recalibrate_bn(net.view(level.name), task.train)


# -- sandwich


class Sandwich(nn.Module):
    """The outputs of the largest level, the smallest, and others drawn at random: what a step learns from."""

    def __init__(self, net: ElasticModel) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(self.net.run(name, *inputs) for name in self._drawn())

    def _drawn(self) -> list[str]:
        smallest, *middle, largest = self.net.family.names
        chosen = torch.randperm(len(middle))[:AT_RANDOM].tolist()
        return [largest, smallest, *(middle[i] for i in sorted(chosen))]


def sandwich_loss(loss: Loss, outputs: Sequence[Any], targets: Any) -> Tensor:
    """The task's loss of the first outputs, and how far the others are from them."""
    teacher, *pupils = outputs
    return loss(teacher, targets) + sum((distance(loss, pupil, teacher) for pupil in pupils), torch.zeros(()))


def distance(loss: Loss, pupil: Any, teacher: Any) -> Tensor:
    """Cross-entropy with the teacher's probabilities where the task is classification, mean squared difference elsewhere."""
    if loss is cross_entropy:
        crossed: Tensor = -(teacher.detach().softmax(1) * log_softmax(pupil, 1)).sum(1).mean()
        return crossed
    pairs = zip(tree_leaves(pupil), tree_leaves(teacher), strict=True)
    return sum((mse_loss(p, t.detach()) for p, t in pairs if p.is_floating_point()), torch.zeros(()))
