"""What torch refuses in a batch, told by the batch's number and with what to do.

with explained(index, task.loss, targets):
    loss = one_number(task.loss(model(inputs), targets), index)
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from ..errors import DataError
from .loaders import CLASS_NUMBERS, Loss

ALONE = "more than 1 value per channel"  # of a batch norm's message
OUTSIDE = re.compile(r"Target (-?\d+) is out of bounds")  # of cross entropy's, on the CPU
NO_TENSOR = re.compile(r"argument 'input' \(position 1\) must be Tensor, not (\w+)")  # likewise
CLASSES = ("Long", "multi-target")  # of a loss's: the type of class numbers, and their shape


@contextmanager
def explained(index: int, loss: Loss | None = None, targets: Any = None) -> Iterator[None]:
    """Around the work on batch `index`. DataError where a batch norm sees one value per channel, or outputs are no logits, targets not
    their classes."""
    try:
        yield
    except ValueError as error:
        if ALONE not in str(error):
            raise
        raise DataError(
            f"batch {index} is too small for a batch norm: it gives one value per channel, and a spread takes at least two. Drop the "
            "last batch, or take another batch_size."
        ) from error
    except IndexError as error:
        if not (seen := OUTSIDE.search(str(error))):
            raise
        raise _no_such_class(index, int(seen[1]), targets) from error
    except (RuntimeError, TypeError) as error:
        if loss is cross_entropy and (given := NO_TENSOR.search(str(error))):
            raise DataError(
                f"the network gave {given[1]} for batch {index}, and the default loss takes logits of shape (N, C). Pass Task(loss=..., "
                "score=...), functions of (outputs, targets): the loss one number, the score one for each sample."
            ) from error
        told = any(words in str(error) for words in CLASSES) or "argument 'target'" in str(error)
        if not (told and loss is cross_entropy):
            raise
        kind = (
            f"{targets.dtype} of shape {tuple(targets.shape)}"
            if isinstance(targets, Tensor)
            else f"a {type(targets).__name__}"
        )
        raise DataError(
            f"the targets of batch {index} are {kind}, and the default loss expects class "
            "numbers, a tensor of int64, one per sample, or a share of every class. Give targets.long(), of a column "
            "targets.flatten(), of a list torch.tensor(targets), or for a regression Task(loss=..., score=...)."
        ) from error


def _no_such_class(index: int, number: int, targets: Any) -> DataError:
    """`number`: a target that the network has no output for."""
    reach = (
        f"reach from {int(targets.min())} to {int(targets.max())}" if isinstance(targets, Tensor) else f"hold {number}"
    )
    return DataError(
        f"the targets of batch {index} {reach}, and the network has no output for class {number}: {CLASS_NUMBERS}."
    )


def one_number(loss: Any, index: int) -> Tensor:
    """The loss of batch `index`. DataError where it is not one number."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    seen = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise DataError(
        f"the loss of batch {index} is {seen}; one number, a tensor, was expected. End the task's loss(outputs, targets) with "
        ".mean()."
    )


def check_numbers(index: int, **parts: Any) -> None:
    """DataError where a tensor of the batch's parts (`inputs=`, `targets=`) holds values that are not finite."""
    for name, part in parts.items():
        for tensor in (leaf for leaf in tree_leaves(part) if isinstance(leaf, Tensor) and leaf.is_floating_point()):
            broken = ~torch.isfinite(tensor)
            if bool(broken.any()):
                raise DataError(
                    f"the {name} of batch {index} hold {int(broken.sum()):,} of {tensor.numel():,} values that are not finite, first in "
                    f"sample {int(broken.nonzero()[0, 0]) if tensor.ndim else 0} of the batch, and what the network makes of them is not "
                    "finite either. Mend the data, or its transform: no learning rate helps."
                )
