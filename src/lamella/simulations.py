"""A network that simulates integers is for looking: no file of it would hold what it rounds between its layers, and gradients stop there.

coarse = as_simulation(coarse)      # as `quantize` returns it
check_real(coarse, "save")          # LamellaError: what to save, export and write instead
"""

from typing import TypeVar

from torch import nn

from .errors import LamellaError

M = TypeVar("M", bound=nn.Module)
MARK = "simulates_integers"  # an attribute, which copies keep


def as_simulation(model: M) -> M:
    """The same model, known from now on to simulate integers."""
    vars(model)[MARK] = True
    return model


def check_real(model: nn.Module, verb: str) -> None:
    """LamellaError for a model that simulates integers."""
    if MARK in vars(model):
        raise LamellaError(
            f"{verb}: this network simulates integers, as quantize returned it: gradients stop where it rounds between layers, and no file "
            "would hold that. Take the float network (fit and compress tune it, on grids where a plan gives few bits): save(directory, "
            "small, result) with the Result of quantize, export(small, task.example_inputs, 'model.onnx'), and for the integers "
            "integers_file('model.onnx', 'model.int8.onnx', result.bits, task, scheme=result.scheme)."
        )
