"""Layers that run in training only, such as the auxiliary heads of GoogLeNet: they read channels, so they narrow too.

    training = training_of(model, inputs, program)       # None where training reads no parameter that evaluation does not
    training.program, training.inputs                    # the model as it trains, and inputs on which it can

A network in evaluation mode never shows them. Left as they are they would refuse the narrowed channels when it is tuned.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from .surgery import copied


@dataclass(frozen=True, slots=True)
class Training:
    """The exported model in training mode, and the inputs it was exported at."""

    program: ExportedProgram
    inputs: tuple[Any, ...]


def training_of(model: nn.Module, inputs: tuple[Any, ...], evaluation: ExportedProgram) -> Training | None:
    """The model as it trains, if it then reads parameters that its exported evaluation mode leaves alone."""
    idle = _parameters(evaluation) - _read(evaluation)
    if not idle:
        return None
    model = copied(model, {}, share=True).train()
    for tried in (inputs, tree_map_only(Tensor, _twice, inputs)):  # a batch norm refuses to train on a single value
        try:
            program = exported(model, tried)
        except Exception:  # what cannot be exported as it trains is traced by its evaluation mode alone
            continue
        return Training(program, tried) if idle & _read(program) else None
    return None


def exported(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    """The model in its present mode. Whatever torch.export raises comes through."""
    with quiet(), torch.no_grad():
        return torch.export.export(model, inputs, strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporting warns about its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parameters(program: ExportedProgram) -> set[str]:
    return set(program.graph_signature.inputs_to_parameters.values())


def _read(program: ExportedProgram) -> set[str]:
    """The parameters that some operator reads."""
    names = program.graph_signature.inputs_to_parameters
    return {names[n.name] for n in program.graph.nodes if n.op == "placeholder" and n.name in names and n.users}


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x]) if x.dim() and len(x) == 1 else x


__all__ = ["Training", "exported", "quiet", "training_of"]
