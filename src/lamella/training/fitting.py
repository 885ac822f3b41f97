"""`fit`: walk the batches of every epoch, step the optimizer, write a checkpoint, go on from one."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import DivergedError, LamellaError, with_context
from ..simulations import check_real
from .batches import check_numbers, explained, one_number
from .checkpoints import Best, identify, resume, save
from .evaluation import evaluate, modes_kept
from .layouts import Layout, first_laid
from .loaders import Loader, Task, as_pair, device_of, empty_loader, mixed, on_device, one_epoch
from .objectives import Objective, objective
from .processes import Process, placed
from .recipes import Recipe, make_optimizer, rate_at


class AfterBatch(Protocol):
    """What is called after batch `index` of an epoch, with the shares of the training done before and after it.

    `until`: the share from which on the weights have the form they end in, so that no epoch before it can be the best.
    """

    until: float

    def __call__(self, index: int, before: float, after: float) -> object: ...


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
    after_batch: AfterBatch | None = None,
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Train the model **in place**, on the device it is on, and return it. Give it a copy to keep the one you have.

    With a `checkpoint` path the state is written there after every epoch, and the same call, with the model as it was
    at the start, goes on from there; the result is that of an uninterrupted run, bit for bit (on a GPU, as far as its
    kernels are deterministic). After every epoch comes `on_epoch(epochs_done, mean_loss)`; after every batch
    `after_batch(index, before, after)`, the shares of the training done, which may change the weights; patience begins once it
    has done so (`after_batch.until`). `teacher` answers where the recipe distils. DataError: an empty loader, a batch too small for a
    batch norm, targets that are no classes, a loss that is not one number; inputs or targets that are not finite, where the loss is
    not. LamellaError: a simulation of integers. DivergedError: a loss or weights that are not finite. MismatchError: a checkpoint of
    another training.

    Where the recipe names devices or a precision, that is where it trains (`processes`); the model is back on its own device afterwards.
    With several devices `on_epoch` hears of the epochs at the end, and a batch norm sees a device's share of the batch.
    """

    check_real(model, "fit")

    def epochs(process: Process) -> Iterator[tuple[int, float]]:
        called = process.wrapped(model)  # an optimizer's state lies where its parameters do: they are moved first
        loss, optimizer = objective(task.loss, recipe, teacher, process.precision), make_optimizer(model, recipe)
        return _epochs(_Course(model, called, task, recipe, seed, process, after_batch), loss, optimizer, checkpoint)

    for done, mean_loss in placed(epochs, model, recipe):
        if on_epoch:
            on_epoch(done, mean_loss)
    return model


@dataclass(frozen=True, slots=True)
class _Course:
    """What does not change in the course of a training. `called`: the model as its process calls it."""

    model: nn.Module
    called: nn.Module
    task: Task
    recipe: Recipe
    seed: int
    process: Process
    after_batch: AfterBatch | None


def _epochs(
    course: _Course, loss: Objective, optimizer: torch.optim.Optimizer, checkpoint: str | Path | None
) -> Iterator[tuple[int, float]]:
    """Train, and after every epoch give the number done and the mean loss."""
    model, task, recipe, process = course.model, course.task, course.recipe, course.process
    identity = identify(model, task, recipe, course.seed) if checkpoint else {}
    done, best = resume(checkpoint, identity, model, optimizer) if checkpoint else (0, None)
    for epoch in range(done, recipe.epochs):
        if best and epoch - best.epoch >= (recipe.patience or recipe.epochs):
            break
        with with_context(f"fit, epoch {epoch + 1}"), _training_mode(model), _drawing(course, epoch):
            mean_loss = _train_epoch(course, loss, optimizer, epoch)
            process.sync_buffers(model)
            _check_weights(model)
        if recipe.patience and (epoch + 1) / recipe.epochs >= (course.after_batch.until if course.after_batch else 0):
            best = _better(best, epoch + 1, model, task)
        if checkpoint and process.rank == 0:
            save(checkpoint, identity, model, optimizer, epoch + 1, best)
        yield epoch + 1, mean_loss
    if best:
        model.load_state_dict(best.model)


def _drawing(course: _Course, epoch: int) -> AbstractContextManager[None]:
    """What torch draws follows from seed and epoch, and differs between processes, whose samples do."""
    rank = course.process.rank
    return seeded(mixed(course.seed, rank) if rank else course.seed, epoch, device_of(course.model))


def _better(best: Best | None, epoch: int, model: nn.Module, task: Task) -> Best:
    """The best epoch so far, by the mean validation score; of equal ones the first."""
    score = float(evaluate(model, task.validation, task.score).mean())
    if best and score <= best.score:
        return best
    return Best(epoch, score, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


def rates_of(loader: Loader, recipe: Recipe, epoch: int) -> Callable[[int], float]:
    """Batch index -> learning rate: that in the middle of the batch, or of the epoch where its length is not known."""
    count = _length(loader) or 0
    return lambda index: rate_at(recipe, epoch + (min(index + 0.5, count) / count if count else 0.5))


def _length(loader: Loader) -> int | None:
    """The number of batches, where it is known: a DataLoader over a stream has a length only where the stream has."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def _shares(
    loader: Loader, recipe: Recipe, epoch: int, after_batch: AfterBatch | None
) -> Callable[[int], object] | None:
    """Batch index -> the call of `after_batch` with the shares of the whole training before and after that batch."""
    if after_batch is None:
        return None
    count, total = _length(loader), max(1, recipe.epochs)
    if count is None:
        raise LamellaError(
            "channels that leave gradually need a training loader with a length; pass a Batches or a DataLoader."
        )
    return lambda index: after_batch(index, (epoch + index / count) / total, (epoch + (index + 1) / count) / total)


def _train_epoch(course: _Course, loss: Objective, optimizer: torch.optim.Optimizer, epoch: int) -> float:
    """One pass over the batches; the mean of their losses."""
    model, train, process = course.model, course.task.train, course.process
    rates, after = rates_of(train, course.recipe, epoch), _shares(train, course.recipe, epoch, course.after_batch)
    losses: list[float] = []
    lay: Layout | None = None
    for index, batch in enumerate(one_epoch(train, course.seed, epoch)):
        for group in optimizer.param_groups:
            group["lr"] = rates(index)
        own, counts = process.share(batch)
        inputs, targets = as_pair(on_device(own, device_of(model)), index)
        step = partial(_gradients, course, loss, optimizer, index, (targets, counts))
        lay, mean_loss = (lay, step(lay(inputs))) if lay else first_laid(model, step, inputs)
        if not math.isfinite(mean_loss):
            whole_inputs, whole_targets = as_pair(batch, index)  # of all processes, so that all of them say the same
            check_numbers(index, inputs=whole_inputs, targets=whole_targets)
            raise _diverged(mean_loss, index, rates(index))
        losses.append(mean_loss)
        optimizer.step()
        if after:
            after(index)
    if not losses:
        raise empty_loader()
    return math.fsum(losses) / len(losses)


def _gradients(
    course: _Course,
    loss: Objective,
    optimizer: torch.optim.Optimizer,
    index: int,
    wanted: tuple[Any, float],
    inputs: Any,
) -> float:
    """Those of one batch, in place of the last one's; its mean loss. `wanted`: the targets, and what the loss counts."""
    targets, counts = wanted
    optimizer.zero_grad(set_to_none=True)
    with explained(index, course.task.loss, targets):
        return course.process.backward(counts * one_number(loss(course.called, inputs, targets), index))


def _diverged(loss: float, batch: int, rate: float) -> DivergedError:
    return DivergedError(
        f"the loss became {loss} at batch {batch}; a finite number was expected. Train with a lower lr (it was "
        f"{rate:.3g} there) or a longer warmup, and look for NaN in the starting weights."
    )


def _check_weights(model: nn.Module) -> None:
    """The last batch of an epoch has no loss after it that would tell."""
    bad = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if bad:
        raise DivergedError(
            f"{bad[0]} holds values that are not finite after the last batch; finite weights were expected. Train with a "
            "lower lr or a longer warmup."
        )


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
