"""What results depend on beside the network, told without drawing from a loader: journals bind to it.

training_data(task.train)            # "1077 samples, targets 20c9599e0e2e9ab8"
learned_from(task)                   # {"loss": "cross_entropy", "training inputs": ..., "transform": ...}
calibrated_by(task)                  # {"calibration inputs": ..., "calibration transform": ...}
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
    return {"loss": name_of(task.loss), **statistics_from(task)}


def statistics_from(task: Task) -> dict[str, str]:
    """What statistics of batch norms depend on, as far as it can be told."""
    return _held(task.train, "training inputs", "transform")


def calibrated_by(task: Task) -> dict[str, str]:
    """What ranges and matched layers depend on, as far as it can be told."""
    return _held(task.calibration, "calibration inputs", "calibration transform")


def _held(loader: Loader, inputs: str, transform: str) -> dict[str, str]:
    """What a loader holds, under these names; nothing of one that would have to be drawn from."""
    batches = loader.loader if isinstance(loader, Portion) else loader
    if not isinstance(batches, Batches):
        return {}
    return {inputs: data_digest([batches.inputs]), transform: name_of(batches.transform)}


def name_of(function: object) -> str:
    """A function's own; of a partial one, that of the function within and its plain options; of an object that is called, its type's.

    >>> from functools import partial
    >>> name_of(partial(sorted, reverse=True))
    'sorted(reverse=True)'
    """
    inner = getattr(function, "func", function)
    options = getattr(function, "keywords", {}) if inner is not function else {}
    plain = ", ".join(f"{k}={v!r}" for k, v in sorted(options.items()) if isinstance(v, bool | int | float | str))
    name = str(getattr(inner, "__qualname__", type(inner).__qualname__))
    return f"{name}({plain})" if plain else name
