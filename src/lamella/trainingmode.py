"""Layers that run in training only, such as the auxiliary heads of GoogLeNet: they read channels, so they narrow too.

    training = training_of(model, inputs, program)       # None where training reads no parameter that evaluation does not
    training.program, training.inputs                    # the model as it trains, and inputs on which it can
    training.note                                        # where it cannot be exported so: what is not followed, and what to do

A network in evaluation mode never shows them. Left as they are they would refuse the narrowed channels when it is tuned.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from .proof import line_of
from .surgery import copied


@dataclass(frozen=True, slots=True)
class Training:
    """The exported model in training mode, and the inputs it was exported at; without a program, a note that says why."""

    program: ExportedProgram | None
    inputs: tuple[Any, ...]
    note: str = ""


def training_of(model: nn.Module, inputs: tuple[Any, ...], evaluation: ExportedProgram) -> Training | None:
    """The model as it trains, if it then reads parameters that its exported evaluation mode leaves alone."""
    idle = _parameters(evaluation) - _read(evaluation)
    if not idle:
        return None
    model = copied(model, {}, share=True).train()
    for tried in (inputs, tree_map_only(Tensor, _twice, inputs)):  # a batch norm refuses to train on a single value
        try:
            program = exported(model, tried)
        except Exception as error:  # what cannot be exported as it trains is traced by its evaluation mode alone
            reason = line_of(error)
            continue
        return Training(program, tried) if idle & _read(program) else None
    return Training(None, inputs, _unfollowed(sorted(idle), reason))


def _unfollowed(idle: Sequence[str], reason: str) -> str:
    more = f" and {len(idle) - 1} more parameters" if len(idle) > 1 else ""
    return (
        f"{idle[0]!r}{more} are read in training at most, and the model in training mode cannot be exported ({reason}). Layers that "
        "run in training only were not followed: where they read channels that leave, tuning fails there. Name the layers they read "
        "in ignored_layers, or leave out of forward what stops the export."
    )


def exported(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """The model in its present mode. Whatever torch.export raises comes through."""
    with quiet(), _unlogged(), redirect_stderr(io.StringIO()), torch.no_grad():
        return torch.export.export(model, inputs, strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporting warns about its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without what an export that fails logs, and prints of its graph: the error says what stopped it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _parameters(program: ExportedProgram) -> set[str]:
    return set(program.graph_signature.inputs_to_parameters.values())


def _read(program: ExportedProgram) -> set[str]:
    """The parameters that some operator reads."""
    names = program.graph_signature.inputs_to_parameters
    return {names[n.name] for n in program.graph.nodes if n.op == "placeholder" and n.name in names and n.users}


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x]) if x.dim() and len(x) == 1 else x


__all__ = ["Training", "exported", "quiet", "training_of"]
