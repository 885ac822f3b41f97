"""`fit`: walk the batches of every epoch, step the optimizer, write a checkpoint, go on from one."""

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..errors import DataError, LamellaError, with_context
from .checkpoints import identify, resume, save
from .evaluation import modes_kept
from .loaders import Loader, Loss, Task, call, device_of, empty_loader, mixed, on_device
from .recipes import Recipe, make_optimizer, rate_at


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
) -> nn.Module:
    """Train the model **in place**, on the device it is on, and return it. Give it a copy to keep the one you have.

    With a `checkpoint` path the state is written there after every epoch, and the same call, with the model as it was
    at the start, goes on from there; the result is that of an uninterrupted run, bit for bit (on a GPU, as far as its
    kernels are deterministic). After every epoch comes `on_epoch(epochs_done, mean_loss)`. DataError: an empty loader,
    a loss that is not finite. MismatchError: a checkpoint of another training.
    """
    loss = _smoothed(task.loss, recipe.label_smoothing)
    optimizer = make_optimizer(model, recipe)
    identity = identify(model, recipe, seed) if checkpoint else {}
    done = resume(checkpoint, identity, model, optimizer) if checkpoint else 0
    for epoch in range(done, recipe.epochs):
        batches, rates = one_epoch(task.train, seed, epoch), rates_of(task.train, recipe, epoch)
        with with_context(f"fit, epoch {epoch + 1}"), _training_mode(model), seeded(seed, epoch, device_of(model)):
            mean_loss = _train_epoch(model, batches, loss, optimizer, rates)
        if checkpoint:
            save(checkpoint, identity, model, optimizer, epoch + 1)
        if on_epoch:
            on_epoch(epoch + 1, mean_loss)
    return model


def _smoothed(loss: Loss, smoothing: float) -> Loss:
    if not smoothing:
        return loss
    if loss is not cross_entropy:
        raise LamellaError(
            f"label_smoothing={smoothing} belongs to the default loss, and this task has its own. Set it to 0, "
            "or smooth there."
        )
    return partial(loss, label_smoothing=smoothing)


def one_epoch(loader: Loader, seed: int, epoch: int) -> Iterable[Any]:
    """The loader's batches of one epoch, by seed where it knows how."""
    made: Callable[[int, int], Iterable[Any]] | None = getattr(loader, "epoch", None)
    return made(seed, epoch) if callable(made) else loader


def rates_of(loader: Loader, recipe: Recipe, epoch: int) -> Callable[[int], float]:
    """Batch index -> learning rate: that in the middle of the batch, or of the epoch where its length is not known."""
    count = len(loader) if isinstance(loader, Sized) else 0
    return lambda index: rate_at(recipe, epoch + ((index + 0.5) / count if count else 0.5))


def _train_epoch(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    rates: Callable[[int], float],
) -> float:
    """One pass over the batches; the mean of their losses."""
    losses = []
    for index, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rates(index)
        inputs, targets = on_device(batch, device_of(model))
        value = loss(call(model, inputs), targets)
        losses.append(_finite(float(value.detach()), index, rates(index)))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()
    if not losses:
        raise empty_loader()
    return math.fsum(losses) / len(losses)


def _finite(loss: float, batch: int, rate: float) -> float:
    if not math.isfinite(loss):
        raise DataError(
            f"the loss became {loss} at batch {batch}; a finite number was expected. Train with a lower lr (it was "
            f"{rate:.3g} there) or a longer warmup, and look for NaN in the inputs and the starting weights."
        )
    return loss


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    with modes_kept(model):
        model.train()
        yield


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Inside, what torch draws follows from (seed, epoch); outside, it is as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(mixed(seed, epoch))
        yield
