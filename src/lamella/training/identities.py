"""What a training learns from, told without drawing from it: a journal binds to it.

training_data(task.train)            # "1077 samples, targets 20c9599e0e2e9ab8"
learned_from(task)                   # {"loss": "cross_entropy", "training inputs": ..., "transform": ...}
"""

from ..digests import data_digest
from .loaders import Batches, Loader, Portion, Task


def training_data(loader: Loader) -> str:
    """What can be said of training data without drawing from it: the targets and how many samples an epoch takes."""
    if isinstance(loader, Portion):
        return f"{loader.samples} of {training_data(loader.loader)}"
    if not isinstance(loader, Batches):
        return type(loader).__name__
    return f"{loader.samples} samples, targets {data_digest([loader.targets])}"


def learned_from(task: Task) -> dict[str, str]:
    """What else a tuning depends on, as far as it can be told: the inputs, and the names of the loss and of what makes inputs ready.

    An edited function of the same name is not seen.
    """
    batches = task.train.loader if isinstance(task.train, Portion) else task.train
    facts = {"loss": _name(task.loss)}
    if isinstance(batches, Batches):
        facts |= {"training inputs": data_digest([batches.inputs]), "transform": _name(batches.transform)}
    return facts


def _name(function: object) -> str:
    """A function's own; of a partial one, that of the function within; of an object that is called, its type's."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__qualname__", type(inner).__qualname__))
