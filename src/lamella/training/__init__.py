"""A task is data, a loss and a score; `fit` trains on it, `evaluate` scores every sample.

    task  = Task((images[:1],), train=Batches(images, labels, 64, shuffle=True), validation=..., test=...)
    model = fit(make_model("resnet20"), task, Recipe(epochs=30), seed=0, checkpoint="runs/r20/fit.pt")
    right = evaluate(model, task.validation, task.score)              # (N,) float64, one score per sample

A loader is anything that can be walked again and again and yields (inputs, targets): a `Batches`, a list, a DataLoader.
Inputs are a tensor or a tuple of tensors, targets and outputs any pytree. Training that was killed and resumed equals
training that was not, bit for bit. Shapes: N samples, C classes or channels, H height, W width.
"""

from .brief import Brief
from .checkpoints import weights_after
from .evaluation import (
    checked_scores,
    evaluate,
    example_outputs,
    hooked,
    modes_kept,
    recalibrate_bn,
    scored,
    statistics_batches,
)
from .fitting import fit, rates_of, seeded
from .identities import calibrated_by, learned_from, name_of, statistics_from, training_data
from .loaders import (
    Batches,
    Loader,
    Loss,
    PerSample,
    Portion,
    Task,
    Transform,
    as_pair,
    batch_length,
    call,
    carry_batch,
    correct,
    cut_batch,
    device_of,
    empty_loader,
    first_inputs,
    inputs_of,
    metric_of,
    mixed,
    on_device,
    one_epoch,
    tensors_of,
)
from .objectives import apart, compares_logits, distance, smoothed
from .recipes import OPTIMIZERS, SCHEDULES, Recipe, make_optimizer, rate_at

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Batches",
    "Brief",
    "Loader",
    "Loss",
    "PerSample",
    "Portion",
    "Recipe",
    "Task",
    "Transform",
    "apart",
    "as_pair",
    "batch_length",
    "calibrated_by",
    "call",
    "carry_batch",
    "checked_scores",
    "compares_logits",
    "correct",
    "cut_batch",
    "device_of",
    "distance",
    "empty_loader",
    "evaluate",
    "example_outputs",
    "first_inputs",
    "fit",
    "hooked",
    "inputs_of",
    "learned_from",
    "make_optimizer",
    "metric_of",
    "mixed",
    "modes_kept",
    "name_of",
    "on_device",
    "one_epoch",
    "rate_at",
    "rates_of",
    "recalibrate_bn",
    "scored",
    "seeded",
    "smoothed",
    "statistics_batches",
    "statistics_from",
    "tensors_of",
    "training_data",
    "weights_after",
]
