"""quantize(): apply a plan's bits, calibrate on data the choices may see, measure.

    coarse, result = quantize(small, result, task)                             # an eager model that computes as the file does
    integers = integers_file("model.onnx", "model.int8.onnx", result.bits, task)     # the file that holds them
    agreement(OnnxModel(integers), coarse, task)                               # share of validation samples of the same class

The eager model is for looking and tuning; what is deployed, and what tables quote, is the file.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .coarsening import coarsen, folded, observe_ranges, quantizable
from .errors import LamellaError
from .exporting import quantize_onnx
from .schema import Measure, Result
from .training import PerSample, Task, correct, device_of, evaluate, seeded
from .walking import measured

CALIBRATION_BATCHES = 8


def quantize(small: nn.Module, result: Result, task: Task) -> tuple[nn.Module, Result]:
    """The model rounded as its plan says, 8 bits where it is silent or asks for 32, and the Result with bits and ranges.

    The rounded model has its batch norms folded, and rounds what a file in integers rounds, activations included.
    """
    bits = dict.fromkeys(multiplying_layers(small), 8) | {n: b for n, b in result.plan.bits.items() if b < 32}
    unknown = set(bits) - set(quantizable(small, bits))
    if unknown:
        raise LamellaError(
            f"the plan gives bits to {sorted(unknown)[:3]}, which are not layers with a weight of this model."
        )
    with seeded(result.seed, 0, device_of(small)):
        ranges = observe_ranges(small, bits, task.calibration, CALIBRATION_BATCHES, joins=True)
    bits = {
        name: width for name, width in bits.items() if name in ranges
    }  # a layer that forward leaves out is in no file
    coarse = coarsen(folded(small, task.example_inputs), bits, ranges).eval()
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


def integers_file(source: str | Path, target: str | Path, bits: Mapping[str, int], task: Task) -> Path:
    """Write an exported ONNX file in integers, each layer's weights at its bits, calibrated on the task's calibration data."""
    with seeded(0, 0, torch.device("cpu")):
        batches = (batch[0] for batch in islice(task.calibration, CALIBRATION_BATCHES))
        return quantize_onnx(source, target, batches, bits=bits)


def agreement(one: nn.Module, other: nn.Module, task: Task) -> float:
    """The share of validation samples to which two networks give the same class (the same score where outputs are no logits)."""
    answers = [evaluate(model, task.validation, _answer(task)) for model in (one, other)]
    return float((answers[0] == answers[1]).double().mean())


def _answer(task: Task) -> PerSample:
    def answer(outputs: Any, targets: Any) -> torch.Tensor:
        is_logits = isinstance(outputs, torch.Tensor) and outputs.dim() == 2 and task.score is correct
        return outputs.argmax(1).double() if is_logits else task.score(outputs, targets)

    return answer
