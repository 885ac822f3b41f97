"""How the levels of one set of weights are trained: a table from a method's name to a function.

    none        batch-norm statistics per level (scales and shifts, where there is no batch norm), nothing else
    sandwich    each step: the largest level on the task; the smallest and two at random taught by it (Yu, Huang 2019)
    grow        the core first; then each round's channels are given back and only they train

A method's stage is a module over the elastic network whose `forward` says what one step looks at; `fit` trains it like any other, with
its checkpoints. In `grow` the weights of inner levels are constants of the step: no optimizer can move them. A `Teaching` says who
teaches: the largest level, or the dense network.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..matching import MATCHED, Rescale, match_outputs
from ..schema.plans import few_bits
from ..surgery import retraced
from ..training import Loss, PerSample, Recipe, Task, device_of, first_inputs, fit, mixed, recalibrate_bn, seeded
from .growing import Growing
from .networks import ElasticModel
from .teaching import Taught, Teaching, all_by_dense, in_place, one_by_dense

OnEpoch = Callable[[nn.Module, int, float], object]  # what is trained, epochs done, mean loss


@dataclass(frozen=True, slots=True)
class Stage:
    """One training that is finished before the next begins: its name, and what `fit` is called with."""

    name: str
    make: Callable[[], nn.Module]
    loss: Loss
    score: PerSample


def none(net: ElasticModel, dense: nn.Module, task: Task, teaching: Teaching) -> list[Stage]:
    """No training: every level has the weights it is cut from, and statistics of its own."""
    return []


def sandwich(net: ElasticModel, dense: nn.Module, task: Task, teaching: Teaching) -> list[Stage]:
    """All levels at once; the largest, or the dense network, teaches."""
    stage = Stage(
        "sandwich",
        partial(Sandwich, net, teaching.at_random),
        partial(in_place, teaching, task.loss),
        partial(_mean_score, task.score),
    )
    return (
        [stage]
        if teaching.teacher == "largest"
        else _taught(dense, [stage], partial(all_by_dense, teaching, task.loss))
    )


def grow(net: ElasticModel, dense: nn.Module, task: Task, teaching: Teaching) -> list[Stage]:
    """The core, and then one level after the other; what belongs to smaller levels stays bit for bit.

    Only the dense network can teach here: the largest level is the last to be trained.
    """
    inner = (None, *net.family.names)
    stages = [
        Stage(name, partial(Growing, net, name, before), task.loss, task.score)
        for name, before in zip(net.family.names, inner, strict=False)
    ]
    return (
        stages if teaching.teacher == "largest" else _taught(dense, stages, partial(one_by_dense, teaching, task.loss))
    )


def _taught(dense: nn.Module, stages: Sequence[Stage], loss: Loss) -> list[Stage]:
    """The stages with the dense network beside what they train."""
    teacher = copy.deepcopy(dense).requires_grad_(False)
    return [replace(stage, make=partial(_beside, stage.make, teacher), loss=loss) for stage in stages]


def _beside(make: Callable[[], nn.Module], teacher: nn.Module) -> nn.Module:
    return Taught(make(), teacher)


Stages = Callable[[ElasticModel, nn.Module, Task, Teaching], list[Stage]]

METHODS: dict[str, Stages] = {"grow": grow, "none": none, "sandwich": sandwich}


def train_stage(
    net: ElasticModel, stage: Stage, task: Task, recipe: Recipe, seed: int, checkpoint: Path | None, on_epoch: OnEpoch
) -> None:
    """Train one stage in place; a checkpoint after every epoch."""
    module = stage.make()
    if any(p.requires_grad for p in module.parameters()):
        fit(
            module,
            replace(task, loss=stage.loss, score=stage.score),
            recipe,
            seed=seed,
            checkpoint=checkpoint,
            on_epoch=partial(on_epoch, module),
        )
    trained = _pupil(module)
    if isinstance(trained, Growing):
        trained.put_back()
    net.refresh()
    net.eval()


def levels_in(module: nn.Module) -> dict[str, nn.Module]:
    """The levels that a stage's module trains, as they now are."""
    trained = _pupil(module)
    if isinstance(trained, Growing):
        return {trained.name: trained}
    net: ElasticModel = trained.net  # type: ignore[assignment]
    return {name: net.view(name) for name in net.family.names}


def _pupil(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, Taught) else module


def recalibrate(net: ElasticModel, task: Task, seed: int, *, rounded: bool = True) -> None:
    """Give every level but the largest statistics of its own, from training batches.

    Without batch norms, let its layers' outputs have the mean and spread that they have in the largest; `rounded=False` does so for
    the float weights of levels that have bits, in which they train.
    """
    for name in net.family.names[:-1]:
        _recalibrate(net, name, task, seed, partial(_match_largest, net, name, rounded=rounded))


def recalibrate_rounded(net: ElasticModel, task: Task, seed: int) -> None:
    """After a training, which is in float: give levels of few bits the statistics of their rounded weights.

    Without batch norms, let their layers' outputs have the mean and spread that their float weights give.
    """
    for level in net.levels[:-1]:
        if few_bits(level.bits):
            _recalibrate(net, level.name, task, seed, partial(_match_floats, net, level.name))


def _recalibrate(net: ElasticModel, level: str, task: Task, seed: int, match: Callable[[Any, Rescale], object]) -> None:
    """Batch norms from training batches; without any, `match` on calibration inputs."""
    own = net.eval().own_of(level)
    assert own is not None  # the largest has none
    with seeded(mixed(seed, net.family.names.index(level)), 0, device_of(net)):
        if net.family.affine:
            match(first_inputs(task.calibration, MATCHED), own.rescale)
        else:
            recalibrate_bn(net.view(level), task.train)


def _match_largest(net: ElasticModel, level: str, inputs: Any, by: Rescale, *, rounded: bool) -> None:
    matched = net.view(level) if rounded else net.extract(level, rounded=False)
    match_outputs(matched, net.net, net.graph, net.kept(level), inputs, by)


def _match_floats(net: ElasticModel, level: str, inputs: Any, by: Rescale) -> None:
    floats, graph = net.extract(level, rounded=False), retraced(net.graph, net.kept(level))
    match_outputs(net.view(level), floats, graph, {}, inputs, by)


# -- sandwich


class Sandwich(nn.Module):
    """The outputs of the largest level, the smallest, and others drawn at random: what a step learns from.

    In evaluation mode the outputs of all levels.
    """

    def __init__(self, net: ElasticModel, at_random: int) -> None:
        super().__init__()
        self.net, self.at_random = net, at_random

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        return tuple(self.net.run(name, *inputs) for name in self._drawn())

    def _drawn(self) -> list[str]:
        smallest, *middle, largest = self.net.family.names
        if not self.training:
            return list(self.net.family.names)
        chosen = torch.randperm(len(middle))[: self.at_random].tolist()
        return [largest, smallest, *(middle[i] for i in sorted(chosen))]


def _mean_score(score: PerSample, outputs: Sequence[Any], targets: Any) -> Tensor:
    """Every sample's score, (N,), the mean over the levels."""
    return torch.stack([score(each, targets).double() for each in outputs]).mean(0)
