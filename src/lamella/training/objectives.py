"""What a training minimizes: the task's loss, smoothed labels, a teacher's answers."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, smooth_l1_loss, softmax
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import LamellaError
from .loaders import Loss, call, device_of
from .recipes import Recipe

HARDLY = 1e-4  # of answers' mean square: a variance below which it says nothing of their scale

Objective = Callable[[nn.Module, Any, Any], Tensor]
Precision = AbstractContextManager[Any]


def objective(
    loss: Loss, recipe: Recipe, teacher: nn.Module | None = None, within: Callable[[], Precision] = nullcontext
) -> Objective:
    """(model, inputs, targets) -> loss: (1 - distil) of the task's, and distil of how far `apart` the teacher's answers are.

    `within`: the context that makes the teacher compute in the precision of the training.
    """
    own = smoothed(loss, recipe.label_smoothing)
    if not recipe.distil:
        return lambda model, inputs, targets: own(call(model, inputs), targets)
    if teacher is None:
        raise LamellaError(f"distil={recipe.distil} needs a teacher: pass fit(teacher=...), or set distil to 0.")
    wise, share, heat = copy.deepcopy(teacher).eval(), recipe.distil, recipe.temperature

    def mixed(model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        with torch.no_grad(), within():
            answers = call(wise.to(device_of(model)), inputs)
        answers = tree_map_only(Tensor, lambda leaf: leaf.float() if leaf.dtype == torch.bfloat16 else leaf, answers)
        outputs = call(model, inputs)
        return (1 - share) * own(outputs, targets) + share * apart(loss, outputs, answers, heat)

    return mixed


def apart(loss: Loss, pupil: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
    """How far a pupil's answers are: softened `distance` where the task is classification; elsewhere, summed over outputs, the mean
    squared difference in units of the spread of the teacher's answers, growing in proportion only beyond one spread (Huber 1964).

    So neither the unit of an output nor a narrow network that is far off at first drowns the task's own loss.
    """
    if compares_logits(loss):
        return distance(pupil, teacher, temperature)
    said, answers = _numbers(pupil), _numbers(teacher)
    if [y.shape for y in said] != [y.shape for y in answers]:
        ours, theirs = (", ".join(str(tuple(y.shape)) for y in each) or "none" for each in (said, answers))
        raise LamellaError(
            f"the network gives {len(said)} outputs while it trains, and its teacher {len(answers)}, which is not training, of shapes "
            f"{ours} and {theirs}: they cannot be compared. Let forward return the same in both modes, or train without this teacher "
            "(distil=0; for levels, teacher='largest')."
        )
    return sum((_in_spreads(p, t.detach()) for p, t in zip(said, answers, strict=True)), torch.zeros(()))


def _numbers(outputs: Any) -> list[Tensor]:
    """The outputs that can be compared by their differences."""
    return [y for y in tree_leaves(outputs) if isinstance(y, Tensor) and y.is_floating_point()]


def _in_spreads(pupil: Tensor, answers: Tensor) -> Tensor:
    """Of one output. The spread is the standard deviation; of answers that hardly differ (one sample, say) the root mean square."""
    variance, square = answers.var(correction=0), answers.square().mean()
    spread = torch.where(variance > HARDLY * square, variance, square).sqrt()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return 2 * smooth_l1_loss(pupil / spread, answers / spread)


def distance(outputs: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(answers / T) || softmax(outputs / T)) over classes, mean over the rest; logits of shape (N, C, ...).

    (Hinton et al. 2015.) LamellaError for outputs of another form.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape != answers.shape:
        seen = " and ".join(
            str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in (outputs, answers)
        )
        raise LamellaError(
            f"beside cross entropy a teacher's answers are compared as logits of one shape (N, C, ...), and the networks gave {seen}. "
            "Give the task a loss of its own, beside which outputs of any form are compared, or train without a teacher."
        )
    answered = outputs.numel() // outputs.shape[1]
    taught = softmax(answers.detach() / temperature, 1)
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
