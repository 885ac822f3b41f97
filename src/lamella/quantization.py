"""quantize(): apply a plan's bits, calibrate on data the choices may see, measure.

    coarse, result = quantize(small, result, task)     # an eager model that computes as the integers will
    integers = int8_file("model.onnx", "model.int8.onnx", task)      # the file that holds them

The eager model is for looking and tuning; what is deployed, and what tables quote, is the file.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from .coarsening import coarsen, observe_ranges, quantizable
from .errors import LamellaError
from .exporting import quantize_onnx
from .schema import Measure, Result
from .training import Task, device_of, seeded
from .walking import measured

CALIBRATION_BATCHES = 8


def quantize(small: nn.Module, result: Result, task: Task) -> tuple[nn.Module, Result]:
    """The model rounded as its plan says (8 bits everywhere if the plan is silent), and the Result with bits and ranges."""
    bits = dict(result.plan.bits) or dict.fromkeys(multiplying_layers(small), 8)
    unknown = set(bits) - set(quantizable(small, bits))
    if unknown:
        raise LamellaError(
            f"the plan gives bits to {sorted(unknown)[:3]}, which are not layers with a weight of this model."
        )
    with seeded(result.seed, 0, device_of(small)):
        ranges = observe_ranges(small, bits, task.calibration, CALIBRATION_BATCHES)
    coarse = coarsen(small, bits, ranges).eval()
    last = result.history[-1]
    name = f"{min(bits.values())} bits" if len(set(bits.values())) == 1 else "mixed bits"
    measure = Measure(
        name=name, step=last.step + 1, validation=measured(coarse, task), params=last.params, macs=last.macs
    )
    return coarse, replace(result, bits=bits, ranges=ranges, history=(*result.history, measure))


def multiplying_layers(model: nn.Module) -> list[str]:
    """The module paths of convolutions and linear layers."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def int8_file(source: str | Path, target: str | Path, task: Task) -> Path:
    """Write the int8 twin of an exported ONNX file (every layer at 8 bits), calibrated on the task's calibration data."""
    with seeded(0, 0, torch.device("cpu")):
        return quantize_onnx(source, target, (batch[0] for batch in islice(task.calibration, CALIBRATION_BATCHES)))
