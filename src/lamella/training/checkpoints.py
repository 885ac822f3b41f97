"""The state of a training after an epoch, on disk: what it belongs to, the weights, the optimizer.

Plain tensors, numbers and texts, read without running code from the file.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..digests import weights_digest
from ..errors import MismatchError, RecordError, first_line
from ..records import to_plain
from ..runs import write_atomically
from .identities import name_of, training_data
from .loaders import Task
from .recipes import Recipe


def identify(model: nn.Module, task: Task, recipe: Recipe, seed: int) -> dict[str, str]:
    """What a checkpoint belongs to, as plain texts: every field of the recipe, the seed, the weights at the start, targets and loss."""
    return {
        **_texts(recipe),
        "seed": str(seed),
        "starting weights": weights_digest(model),
        "training data": training_data(task.train),
        "loss": name_of(task.loss),
    }


def _texts(recipe: Recipe) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in to_plain(recipe).items()}


class Best(NamedTuple):
    """The epoch with the best validation score so far, and the weights it left."""

    epoch: int
    score: float
    model: Mapping[str, Tensor]


def save(
    path: str | Path,
    identity: Mapping[str, str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    best: Best | None = None,
) -> None:
    """Write the state after `epoch` epochs, atomically."""
    state = {
        "identity": dict(identity),
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": best and {"epoch": best.epoch, "score": best.score, "model": dict(best.model)},
    }
    buffer = io.BytesIO()  # torch.save would hide a full disk behind a RuntimeError
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def resume(
    path: str | Path, identity: Mapping[str, str], model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, Best | None]:
    """Load the checkpoint, if there is one, into model and optimizer; the number of epochs already done, and the best of them."""
    if not Path(path).exists():
        return 0, None
    state = _read_checkpoint(path)
    before = {**_texts(Recipe(epochs=0)), **state["identity"]}  # what was no option yet was as it still is by default
    differing = [k for k, v in identity.items() if before.get(k, v) != v]
    if differing:
        parts = [f"{k} was {before.get(k)} and is {identity[k]}" for k in differing]
        raise MismatchError(
            f"{path}: belongs to other training: {'; '.join(parts)}. Name another checkpoint, or delete this one to "
            "start afresh."
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    best = state.get("best")
    return int(state["epoch"]), Best(**best) if best else None


def weights_after(path: str | Path) -> tuple[int, Mapping[str, Tensor]]:
    """How many epochs a checkpoint has behind it, and the weights that the last of them left."""
    state = _read_checkpoint(path)
    return int(state["epoch"]), state["model"]


def _read_checkpoint(path: str | Path) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(Path(path).read_bytes()), map_location="cpu", weights_only=True)
        missing = {"identity", "epoch", "model", "optimizer"} - set(state)
    except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
        state, missing = {}, {first_line(error)}
    if missing:
        problem = f"not a whole checkpoint ({', '.join(sorted(missing))})"
        raise RecordError(str(path), f"{problem}: delete it and run the same command to train afresh")
    return dict(state)
