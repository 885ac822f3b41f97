"""What a training minimizes: the task's loss, smoothed labels, a teacher's answers."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from ..errors import LamellaError
from .loaders import Loss, call, device_of
from .recipes import Recipe

Objective = Callable[[nn.Module, Any, Any], Tensor]


def objective(loss: Loss, recipe: Recipe, teacher: nn.Module | None = None) -> Objective:
    """(model, inputs, targets) -> loss: (1 - distil) of the task's, and distil of what the teacher says."""
    own = smoothed(loss, recipe.label_smoothing)
    if not recipe.distil:
        return lambda model, inputs, targets: own(call(model, inputs), targets)
    if teacher is None:
        raise LamellaError(f"distil={recipe.distil} needs a teacher: pass fit(teacher=...), or set distil to 0.")
    wise, share, heat = copy.deepcopy(teacher).eval(), recipe.distil, recipe.temperature

    def mixed(model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        with torch.no_grad():
            answers = call(wise.to(device_of(model)), inputs)
        outputs = call(model, inputs)
        return (1 - share) * own(outputs, targets) + share * distance(outputs, answers, heat)

    return mixed


def distance(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(answers / T) || softmax(outputs / T)) over classes, mean over the rest; logits of shape (N, C, ...).

    (Hinton et al. 2015.) LamellaError for outputs of another form.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape != answers.shape:
        seen = " and ".join(
            str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in (outputs, answers)
        )
        raise LamellaError(
            f"a teacher's answers are compared as logits of one shape (N, C, ...), and the networks gave {seen}. Give the "
            "task a loss of its own, or train without a teacher."
        )
    answered = outputs.numel() // outputs.shape[1]
    taught = softmax(answers / temperature, 1)
    return temperature**2 * kl_div(log_softmax(outputs / temperature, 1), taught, reduction="sum") / answered


def compares_logits(loss: Loss) -> bool:
    """Whether the loss is cross entropy, of smoothed labels too: then what a network says can be softened, and taught."""
    return getattr(loss, "func", loss) is cross_entropy


def smoothed(loss: Loss, smoothing: float) -> Loss:
    """Cross entropy of labels smoothed by so much; LamellaError for another loss."""
    if not smoothing:
        return loss
    if loss is not cross_entropy:
        raise LamellaError(
            f"label_smoothing={smoothing} belongs to the default loss, and this task has its own. Set it to 0, "
            "or smooth there."
        )
    return partial(loss, label_smoothing=smoothing)
