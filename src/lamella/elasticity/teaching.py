"""Who teaches the levels, and by how much: a `Teaching`, and the losses that follow from it.

    Teaching()                                        # each step the largest level learns the task and teaches the others
    Teaching(teacher="dense", labels=0.3)             # the dense network teaches all levels, the largest included
    Teaching(at_random=1)                             # a cheaper step: one of the middle levels instead of two

In place (Yu, Huang 2019) nothing but the labels holds the largest level to what it was. The dense network does, for one more
forward pass a step (Cai et al. 2020, section 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import unknown_name
from ..records import check
from ..training import Loss, apart, device_of

Teacher = Literal["largest", "dense"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """How levels are taught.

    `teacher`: the largest level as it now is, or the dense network. `labels`: the share of a taught level's loss
    that is the task's own; the rest is its distance to the teacher, whose answers are softened at `temperature` (Hinton et al.
    2015). `at_random`: middle levels drawn for each step of `sandwich`.
    """

    teacher: Teacher = "largest"
    labels: float = 0.0
    temperature: float = 1.0
    at_random: int = 2

    def __post_init__(self) -> None:
        known = get_args(Teacher)
        check(self.teacher in known, "teacher", unknown_name("teacher", self.teacher, known))
        check(0 <= self.labels <= 1, "labels", f"{self.labels} is not a share in [0, 1]")
        check(self.temperature > 0, "temperature", f"{self.temperature} is not positive")
        check(self.at_random >= 0, "at_random", f"{self.at_random} levels: 0 or more")

    def loss(self, task: Loss, outputs: Any, answers: Any, targets: Any) -> Tensor:
        """A taught level's loss: its share of the task's, and of the distance to the teacher's answers."""
        taught = apart(task, outputs, answers, self.temperature)
        return taught if not self.labels else (1 - self.labels) * taught + self.labels * task(outputs, targets)


IN_PLACE = Teaching()


class Taught(nn.Module):
    """A module's outputs, while it trains beside the dense network's answers to the same inputs."""

    def __init__(self, module: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.module, self._teacher = module, (teacher.eval(),)  # in a tuple: not a submodule, whose mode would change

    def forward(self, *inputs: Any) -> Any:
        if not self.training:
            return self.module(*inputs)
        (teacher,) = self._teacher
        with torch.no_grad():
            answers = teacher.to(device_of(self.module))(*inputs)
        return answers, self.module(*inputs)


def in_place(teaching: Teaching, task: Loss, outputs: Sequence[Any], targets: Any) -> Tensor:
    """The task's loss of the first outputs, and those of the others, which the first teach."""
    largest, *pupils = outputs
    return _sum([task(largest, targets), *(teaching.loss(task, pupil, largest, targets) for pupil in pupils)])


def all_by_dense(teaching: Teaching, task: Loss, outputs: tuple[Any, Sequence[Any]], targets: Any) -> Tensor:
    """The losses of all outputs, which the dense network's answers teach."""
    answers, pupils = outputs
    return _sum([teaching.loss(task, pupil, answers, targets) for pupil in pupils])


def one_by_dense(teaching: Teaching, task: Loss, outputs: tuple[Any, Any], targets: Any) -> Tensor:
    """The loss of one level, which the dense network's answers teach."""
    answers, pupil = outputs
    return teaching.loss(task, pupil, answers, targets)


def _sum(losses: Sequence[Tensor]) -> Tensor:
    return sum(losses, torch.zeros(()))
