"""Where a training computes: in this process as it is, or through Lightning Fabric on devices and in a precision that the recipe names.

    for done, mean_loss in placed(epochs, model, recipe):            # Recipe(devices=None): epochs(Alone()), as it comes
    for done, mean_loss in placed(epochs, model, Recipe(epochs=2, devices=2, precision="bf16-mixed")):        # in two processes

`epochs(process)` is the one training loop, in `fitting`: it takes its share of every batch from its process, sends losses backward through
it, and lets it bring the buffers of all processes together. Processes are forked, so that models, tasks and callbacks need not be
picklable; weights and losses come back as plain tensors and numbers.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import DataError, DivergedError, LamellaError, MismatchError, ScoreError, needing
from ..making import folder
from ..texts import counted
from .loaders import batch_length, cut_batch, device_of
from .recipes import Recipe

Epochs = Iterator[tuple[int, float]]  # epochs done, mean loss
Work = Callable[["Process"], Epochs]


class Process(Protocol):
    """One process of a training. `rank`: its number, from 0."""

    rank: int

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model, moved in place to its device, as it is to be called."""

    def precision(self) -> AbstractContextManager[Any]:
        """Inside, networks that are not wrapped compute in the precision of those that are."""

    def share(self, batch: Any) -> tuple[Any, float]:
        """This process's part of the batch, and what its mean loss counts."""

    def backward(self, loss: Tensor) -> float:
        """Gradients, the mean over processes; the mean loss over them."""

    def sync_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers."""


class Alone:
    """This process alone, the model where it lies."""

    rank = 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        return model

    def precision(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def share(self, batch: Any) -> tuple[Any, float]:
        return batch, 1.0

    def backward(self, loss: Tensor) -> float:
        torch.autograd.backward(loss)
        return float(loss.detach())

    def sync_buffers(self, model: nn.Module) -> None:
        """Nothing to do."""


class FabricProcess:
    """A process that Fabric has set up."""

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank = fabric, int(fabric.global_rank)

    def wrapped(self, model: nn.Module) -> nn.Module:
        module: nn.Module = self.fabric.setup_module(model)
        return module

    def precision(self) -> AbstractContextManager[Any]:
        inside: AbstractContextManager[Any] = self.fabric.autocast()
        return inside

    def share(self, batch: Any) -> tuple[Any, float]:
        """Every `world`-th sample, from its rank on. A batch of fewer than two samples for each process goes to all of them whole."""
        world, samples = self.fabric.world_size, batch_length(batch)
        if world == 1 or samples < 2 * world:
            return batch, 1.0
        own = cut_batch(batch, lambda leaf: leaf[self.rank :: world])
        return own, batch_length(own) * world / samples

    def backward(self, loss: Tensor) -> float:
        self.fabric.backward(loss)
        return float(self.fabric.all_reduce(loss.detach(), reduce_op="mean"))

    def sync_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            buffer.copy_(self.fabric.broadcast(buffer))


def placed(epochs: Work, model: nn.Module, recipe: Recipe) -> Epochs:
    """What `epochs` yields, done where the recipe says; the model is back on its own device afterwards. From several processes all
    comes at the end.

    MissingExtra without lightning-fabric; LamellaError for devices that are not there.
    """
    if recipe.devices is None and recipe.precision == "32-true":
        yield from epochs(Alone())
        return
    devices, home = recipe.devices or 1, device_of(model)
    _library(f"training with devices={devices}, {recipe.precision}")  # sets its loggers' levels as it is imported
    with _quiet():
        fabric = _fabric(devices, recipe.precision)
        if devices > 1:
            yield from _in_processes(fabric, epochs, model)
            return
        try:
            yield from epochs(FabricProcess(fabric))
        finally:
            model.to(home)


def _library(purpose: str) -> Any:
    with needing("lightning-fabric", "fabric", purpose):
        import lightning_fabric
    return lightning_fabric


def _fabric(devices: int, precision: str) -> Any:
    from lightning_fabric import Fabric
    from lightning_fabric.accelerators.cuda import CUDAAccelerator
    from lightning_fabric.strategies.ddp import DDPStrategy

    gpus = CUDAAccelerator.auto_device_count()  # does not open them: a process that has cannot be forked
    there, kind = (gpus, "GPU") if gpus else (_cores(), "CPU core")
    if devices > there:
        raise LamellaError(
            f"devices={devices}: this machine has {counted(there, kind)} to train on. Ask for at most {there}."
        )
    # With a static graph, parameters that no forward pass uses, an auxiliary head's perhaps, stop nobody.
    strategy: Any = DDPStrategy(start_method="fork", static_graph=True) if devices > 1 else "auto"
    options: dict[str, Any] = {"accelerator": "cuda" if gpus else "cpu", "precision": precision}
    return Fabric(devices=devices, strategy=strategy, **options)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(fabric: Any, epochs: Work, model: nn.Module) -> Epochs:
    """Exhaust `epochs` in every process; what the first one's model became is then loaded into this one."""

    def run(fabric: Any, path: Path) -> None:
        torch.set_num_threads(1)  # a forked process must not enter the thread pool that its parent had
        try:
            ended = {"epochs": list(epochs(FabricProcess(fabric))), "model": model.state_dict()}
        except LamellaError as error:  # raised by all alike: what they look at is the same
            ended = {"kind": type(error).__name__, "error": str(error)}
        if fabric.global_rank == 0:
            torch.save(ended, path)

    with folder() as scratch:
        path = scratch / "ended.pt"
        try:
            fabric.launch(run, path)
        except Exception as error:  # another process's, as text
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise LamellaError(
                f"training in {fabric.world_size} processes failed: {said[-1] if said else type(error).__name__}. Train with devices=1 "
                "to see where; GPUs must not have been used in this program before."
            ) from error
        ended = torch.load(path, map_location="cpu", weights_only=True)
    if "error" in ended:
        kinds = {kind.__name__: kind for kind in (LamellaError, DataError, DivergedError, MismatchError, ScoreError)}
        raise kinds.get(ended["kind"], LamellaError)(ended["error"])
    model.load_state_dict(ended["model"])
    yield from ended["epochs"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Fabric's announcements."""
    loggers = [logging.getLogger(name) for name in ("lightning_fabric", "lightning_utilities.core.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
