"""Scores of a network, sample by sample, and batch-norm statistics that fit the network as it now is."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..errors import DataError, ScoreError, with_context
from ..schema import Score
from ..statistics import score_interval
from .batches import check_numbers, explained
from .loaders import (
    Loader,
    PerSample,
    Task,
    as_pair,
    batch_length,
    call,
    correct,
    device_of,
    empty_loader,
    inputs_of,
    on_device,
)


def example_outputs(model: nn.Module, task: Task) -> Any:
    """What the model gives for the task's example inputs: the form that a file's answers are brought into."""
    with torch.no_grad():
        return model(*task.example_inputs)


def evaluate(
    model: nn.Module, batches: Loader, score: PerSample = correct, device: torch.device | str | None = None
) -> Tensor:
    """Every sample's score, shape (N,), float64, on the CPU, in the loader's order. The model is left as it was.

    `device` (default: the model's) is where the batches go. DataError on an empty loader and on scores that are not one
    number per sample, ScoreError on numbers that are not finite.
    """
    where = device_of(model) if device is None else device
    # Without gradients, not in inference mode: what a network keeps of a pass, a table of positions, could never be trained with.
    with with_context("evaluate"), modes_kept(model), torch.no_grad():
        model.eval()
        scores = [_of_batch(model, on_device(batch, where), score, index) for index, batch in enumerate(batches)]
        if not scores:
            raise empty_loader()
    return torch.cat(scores)


def _of_batch(model: nn.Module, batch: Any, score: PerSample, index: int) -> Tensor:
    inputs, targets = as_pair(batch, index)
    return checked_scores(score(call(model, inputs), targets), batch_length(inputs), f"batch {index}")


def scored(model: nn.Module, loader: Loader, task: Task) -> Score:
    """The model's score by the task on a loader's samples, with its interval."""
    return score_interval(evaluate(model, loader, task.score).numpy())


def checked_scores(scores_N: Any, samples: int, place: str) -> Tensor:
    """The scores of these samples as float64, on the CPU. DataError for what is not one finite number per sample."""
    if not isinstance(scores_N, Tensor) or scores_N.shape != (samples,):
        seen = f"shape {tuple(scores_N.shape)}" if isinstance(scores_N, Tensor) else f"a {type(scores_N).__name__}"
        raise DataError(
            f"the scores of {place} have the wrong form: {seen} was seen; a tensor of shape ({samples},), one "
            "number per sample, was expected. Mend the task's score(outputs, targets)."
        )
    bad = torch.nonzero(~torch.isfinite(scores_N)).flatten().tolist()
    if bad:
        raise ScoreError(
            f"{len(bad)} of {samples} scores of {place} are not finite (the first, {scores_N[bad[0]].item()}, "
            f"at sample {bad[0]} of these); finite numbers were expected. Look for NaN in the inputs, weights or score function; after a "
            "training, take a lower lr."
        )
    return scores_N.double().cpu()


def recalibrate_bn(model: nn.Module, batches: Loader, count: int = 15) -> nn.Module:
    """Re-estimate, in place, the statistics of every batch norm as the mean over `count` batches; returns the model.

    Statistics from before a change of widths or weights are those of another network (Wu, Johnson 2021, section 3). A batch of one
    sample after larger ones, what was left over, is passed by: alone it would weigh as much as they do. Without batch norms it
    does nothing. DataError: no batch, one too small for a batch norm, or inputs that are not finite where the statistics are not.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return model
    if next(islice(batches, count), None) is None:
        raise DataError(f"recalibrate_bn: {empty_loader()}")
    with modes_kept(model), _averaging(norms), torch.no_grad():
        model.eval()
        for norm in norms:
            norm.train()
        for index, batch in statistics_batches(batches, count):
            with explained(index):
                call(model, on_device(batch[0], device_of(model)))
    if not all(bool(torch.isfinite(buffer).all()) for norm in norms for buffer in norm.buffers()):
        with with_context("recalibrate_bn"):
            for index, batch in statistics_batches(batches, count):
                check_numbers(index, inputs=inputs_of(batch, index))
    return model


def statistics_batches(batches: Loader, count: int) -> Iterator[tuple[int, Any]]:
    """The batches that statistics come from, numbered: the first `count` but for single samples after larger batches."""
    largest = 0
    for index, batch in enumerate(islice(batches, count)):
        samples = batch_length(inputs_of(batch, index))
        largest = max(largest, samples)
        if samples > 1 or largest == 1:
            yield index, batch


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Inside, batch norms start from nothing and take the plain mean over batches; their momentum comes back after."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """These hooks are removed afterwards."""
    hooks = list(hooks)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def working_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every module that computes when the model is called and changes mode with it.

    A module may run another that is none of its submodules, so that not all of its weights are trained: it names it in
    `unregistered`.
    """
    for module in model.modules():
        yield module
        for other in getattr(module, "unregistered", ()):
            yield from working_modules(other)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Every module's train or eval mode is afterwards what it was."""
    modes = {module: module.training for module in working_modules(model)}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
