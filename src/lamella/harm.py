"""Whether a tuning does harm: it leaves less than nine tenths of the score, or loses the network on the way.

    harmed(before_N, after_N)                            # scores of the same validation samples
    fit(..., on_epoch=watch(model, task, before_N))      # DivergedError at the first epoch that loses the network

Lost is a network that gives all inputs the same answer: no input reaches its units any more, so no gradient brings them back. A low
score alone does not tell: at a large rate, or warming up, a network stays at chance for epochs and comes back (docs/decisions/0018).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .errors import DivergedError
from .statistics import paired_difference
from .texts import told
from .training import Task, call, device_of, evaluate, first_inputs, metric_of, modes_kept, on_device, seeded

HARMED = 0.9  # of the score before it, that a tuning must leave at least; of one below zero it may take as much as of one above
LOOKED_AT = 64  # validation samples whose answers are compared
ALIKE = 1e-6  # of the largest answer

Scores = npt.NDArray[np.float32]


def scores_of(model: nn.Module, task: Task) -> Scores:
    """Of every validation sample, (N,)."""
    found: Scores = evaluate(model, task.validation, task.score).numpy()
    return found


def harmed(before_N: Scores, after_N: Scores) -> bool:
    """Whether a tuning lost more than a tenth of the score, and more than chance takes.

    Of a score below zero, an error say, it is a tenth of its size: an error more than a tenth larger. A score of about zero has no size
    to go by, and what chance takes decides alone: a small loss and a large one are told apart by nothing else.
    """
    before = float(before_N.mean())
    lost = float(after_N.mean()) < before - (1 - HARMED) * abs(before)
    return bool(lost and paired_difference(before_N, after_N)[1] > 0)


def watch(model: nn.Module, task: Task, before_N: Scores) -> Callable[[int, float], None]:
    """To be called after every epoch of a tuning: DivergedError where the network is lost, and was not at the start."""
    with seeded(0, 0, device_of(model)):  # loaders may draw, and a resumed walk draws what an uninterrupted one does
        some = on_device(first_inputs(task.validation, LOOKED_AT), device_of(model))
    varied = not _answers_alike(model, some)

    def look(done: int, loss: float) -> None:
        if not (varied and _answers_alike(model, some)):
            return
        now_N = scores_of(model, task)
        if harmed(before_N, now_N):
            now, before = (told(float(each_N.mean()), metric_of(task), 1) for each_N in (now_N, before_N))
            raise DivergedError(
                f"after epoch {done} the network gives every input the same answer (score {now}; {before} before tuning). Train "
                "with a lower lr or a longer warmup."
            )

    return look


def _answers_alike(model: nn.Module, inputs: Any) -> bool:
    """Whether all of these inputs get the same answer, but for the last digits. Outputs of no more than one answer tell nothing."""
    with modes_kept(model), torch.no_grad():
        answers = [
            y for y in tree_leaves(call(model.eval(), inputs)) if isinstance(y, Tensor) and y.is_floating_point()
        ]
    several = [y for y in answers if y.ndim and len(y) > 1 and y.numel()]
    return bool(several) and all(_alike(y) for y in several)


def _alike(answers_N: Tensor) -> bool:
    """Along the first axis."""
    return bool((answers_N - answers_N[:1]).abs().max() <= ALIKE * answers_N.abs().max())
