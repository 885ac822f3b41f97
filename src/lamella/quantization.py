"""quantize(): apply a plan's bits, calibrate on data the choices may see, measure.

    coarse, result = quantize(small, result, task)                             # an eager model that computes as the file does
    coarse, result = quantize(small, result, task, scheme="static-nbits-fc")   # linear layers in 4-bit blocks; see schema.SCHEMES
    export(small, task.example_inputs, "model.onnx")
    integers = integers_file("model.onnx", "model.int8.onnx", result.bits, task)     # the file that holds them
    agreement(OnnxModel(integers), coarse, task)                               # share of validation samples of the same class

The eager model is for looking; what is deployed, and what tables quote, is the file. Few bits are tuned before, by the steps of a plan.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .calibrating import check_calibration, uneven, unusual
from .coarsening import (
    CALIBRATION_BATCHES,
    LINEAR_BITS,
    OUTPUT,
    Seen,
    coarsen,
    coarsen_linear,
    folded,
    observe_places,
    quantizable,
)
from .emptied import is_emptied, of_what_is_left
from .errors import LamellaError, ScoreError, unknown_name
from .exporting import quantize_linear, quantize_onnx
from .grids import shared_bits, sharing
from .harm import Scores, scores_of
from .schema import SCHEMES, Measure, Result, Scheme, Score
from .schema.plans import in_integers
from .simulations import as_simulation, check_real
from .statistics import paired_difference, score_interval
from .storage import check_belongs
from .surgery import copied
from .texts import told, told_drop
from .training import PerSample, Task, call, correct, device_of, evaluate, inputs_of, metric_of, on_device, seeded


def quantize(small: nn.Module, result: Result, task: Task, *, scheme: str = "static") -> tuple[nn.Module, Result]:
    """The model rounded as its plan says, 8 bits where it is silent or asks for 32, and the Result with bits and ranges.

    The rounded model has its batch norms folded, and rounds what a file of this `SCHEMES` row rounds, activations included. What is odd
    about the data that ranges come from stands in the Result's notes, and what rounding certainly costs.

    Raises LamellaError for an unknown scheme, for one that finds no linear layer, for weights that are not finite, and for a model that is
    rounded so already; DataError for calibration data that ranges cannot come from; MismatchError for the dense network with a smaller
    one's Result; ScoreError where rounding leaves no finite scores.
    """
    check_real(small, "quantize")
    check_belongs(small, result)
    _check_weights(small)
    how = scheme_named(scheme)
    unread = _unread(small, task.example_inputs)
    bits = {n: b for n, b in _bits_asked(small, result.plan.bits).items() if n not in unread}
    with drawn_alike(small):
        notes = check_calibration(task, CALIBRATION_BATCHES) if how.calibrated else []
    plain, alone = folded(small, task.example_inputs), _linear_alone(small, how, scheme)
    with drawn_alike(small):
        seen = _seen(plain, how, bits, task)
    called = {n: b for n, b in bits.items() if n in seen.inputs}  # a layer that forward leaves out is in no file
    called |= {n: LINEAR_BITS[how.linear] for n in alone if n in called}
    if how.calibrated:
        notes += unusual(seen.by_reader()) + uneven(seen)
        others = {n: called.get(n, 8) for n in seen.inputs if n not in (*alone, OUTPUT)}
        ranges = seen.ranges()
        coarse = coarsen(plain, others, ranges, linear=not how.linear)
    else:
        called, coarse, ranges = {n: b for n, b in called.items() if n in alone}, plain, {}
    coarse = coarsen_linear(coarse, [n for n in alone if n in called], how.linear).eval()
    last, rounded_N = result.history[-1], _rounded_scores(coarse, small, task)
    notes += _loss(small, last.validation, rounded_N, task)
    measure = Measure(
        name=_named(scheme, called),
        step=last.step + 1,
        validation=score_interval(rounded_N),
        params=last.params,
        macs=last.macs,
    )
    history, groups = (*result.history, measure), sharing(small)
    # As files and graphs name a weight that layers share. One that is computed is nobody else's.
    called = {groups.get(n, [n])[0]: b for n, b in called.items()}
    unwritten = replace(result, agreement=None, file_score=None)  # what an earlier file had
    done = replace(unwritten, bits=called, ranges=ranges, scheme=scheme, history=history, notes=tuple(notes))
    return as_simulation(coarse), done


def _rounded_scores(coarse: nn.Module, small: nn.Module, task: Task) -> Scores:
    """Those of the rounded model. ScoreError that blames rounding where the float network's are finite."""
    try:
        return scores_of(coarse, task)
    except ScoreError as error:
        scores_of(small, task)
        raise ScoreError(
            f"of finite scores rounding makes others: {str(error).partition(';')[0]}. An activation that is divided by, or whose root or "
            "logarithm is taken, may have become zero on its grid of 256 levels. Deploy the float file; or write a norm of your own as "
            "torch's (nn.LayerNorm, nn.RMSNorm), or add its eps, 0.01 at most, to the sum that is divided by, which then stays in float."
        ) from None


def _loss(small: nn.Module, before: Score, rounded_N: Scores, task: Task) -> list[str]:
    """What is to be said where rounding certainly costs score, on the same samples; the float network is asked where it may."""
    if float(rounded_N.mean()) >= before.value or len(rounded_N) < 2:
        return []
    float_N, metric = scores_of(small, task), metric_of(task)
    lost, least, most = paired_difference(float_N, rounded_N)
    if least <= 0:
        return []
    return [
        f"rounding costs {told_drop(100 * lost, metric)} [{told_drop(100 * least, metric)}, {told_drop(100 * most, metric)}] of the "
        f"validation score: {told(float(float_N.mean()), metric)} in float, {told(float(rounded_N.mean()), metric)} rounded, of the same "
        f"{len(float_N):,} samples. Where that is too much, give layers of fewer than 8 bits more, calibrate on more "
        "samples, or deploy the float file."
    ]


def _check_weights(small: nn.Module) -> None:
    for name, parameter in small.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise LamellaError(
                f"{name!r} holds values that are not finite, and no grid would hold them; finite weights were expected. Take those of an "
                "earlier checkpoint, or train with a lower lr."
            )


def _bits_asked(small: nn.Module, planned: Mapping[str, int]) -> dict[str, int]:
    """Of every layer that has weights left, as the plan says and 8 otherwise; LamellaError where the plan names what is no layer."""
    asked = in_integers(of_what_is_left(small, planned))
    bits = dict.fromkeys(multiplying_layers(small), 8) | asked | shared_bits(small, asked)
    unknown = set(bits) - set(quantizable(small, bits))
    if unknown:
        raise LamellaError(
            f"the plan gives bits to {sorted(unknown)[:3]}, which are not layers with a weight of this model."
        )
    return bits


def _unread(small: nn.Module, example_inputs: Any) -> set[str]:
    """Of a network with emptied layers, those from which no output follows: what makes the inputs of an emptied one."""
    if not any(map(is_emptied, small.modules())):
        return set()
    model = copied(small, {}).eval().requires_grad_()
    inputs = on_device(example_inputs, device_of(model))
    held: dict[str, Any] = {n: model.get_submodule(n).weight for n in multiplying_layers(model)}
    outputs = [t for t in tree_leaves(call(model, inputs)) if isinstance(t, torch.Tensor) and t.requires_grad]
    found = torch.autograd.grad([t.sum() for t in outputs], list(held.values()), allow_unused=True)
    return {name for name, gradient in zip(held, found, strict=True) if gradient is None}


def _seen(plain: nn.Module, how: Scheme, bits: Mapping[str, int], task: Task) -> Seen:
    """What the scheme's file rounds, on data that the choices may see. Batch norms that became convolutions are layers, too."""
    layers = dict.fromkeys([*multiplying_layers(plain), *bits])
    batches = task.calibration if how.calibrated else [(task.example_inputs, None)]
    return observe_places(plain, layers, batches, CALIBRATION_BATCHES, linear=not how.linear)


def scheme_named(name: str) -> Scheme:
    """A row of `SCHEMES`. LamellaError with the nearest names."""
    if name not in SCHEMES:
        raise LamellaError(unknown_name("scheme", name, SCHEMES))
    return SCHEMES[name]


def _linear_alone(small: nn.Module, how: Scheme, scheme: str) -> list[str]:
    """The linear layers that are held otherwise than the rest."""
    linear = [name for name, module in small.named_modules() if isinstance(module, nn.Linear)]
    if how.linear and not linear:
        raise LamellaError(
            f"the model has no linear layer, and the scheme {scheme} is for these. Use the scheme static."
        )
    return linear if how.linear else []


def _named(scheme: str, bits: Mapping[str, int]) -> str:
    if scheme != "static":
        return scheme
    return f"{min(bits.values())} bits" if len(set(bits.values())) == 1 else "mixed bits"


def multiplying_layers(model: nn.Module) -> list[str]:
    """The module paths of convolutions and linear layers that have weights left."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and not is_emptied(module)]


def integers_file(
    source: str | Path, target: str | Path, bits: Mapping[str, int], task: Task, *, scheme: str = "static"
) -> Path:
    """Write `source`, the exported ONNX file of a float32 network, in integers to `target` by a row of `SCHEMES`; returns `target`.

    `bits` of each layer's weights by the layer's name, 2 to 8, and 8 where it is silent: those of `quantize`'s Result. Ranges come
    from the first batches of the task's calibration data. The file is what is deployed and measured: `evaluate(OnnxModel(target), ...)`.

    Raises `LamellaError` for an unknown scheme, a file of other numbers than float32 or `target` itself, a name that is no layer there,
    or where no layer ends in integers; `DataError` for calibration data that ranges cannot come from, as `quantize` does;
    `RecordError` for a file that cannot be read, `RunError` for one that cannot be written; `MissingExtra` without onnx and
    onnxruntime.
    """
    if scheme_named(scheme).calibrated:
        with drawn_alike():
            check_calibration(task, CALIBRATION_BATCHES)
    return write_integers(source, target, bits, task, scheme=scheme)


def write_integers(
    source: str | Path, target: str | Path, bits: Mapping[str, int], task: Task, *, scheme: str = "static"
) -> Path:
    """`integers_file` without a look at the calibration data: `quantize` has checked them, or the file's own score is told."""
    how = scheme_named(scheme)
    if Path(source).resolve() == Path(target).resolve():
        raise LamellaError(
            f"{target}: source and target are one file, and the float file would be lost. Name another target."
        )
    if not how.calibrated:
        return quantize_linear(source, target, next(iter(task.validation))[0], scheme=scheme)
    with drawn_alike():
        batches = (inputs_of(batch, index) for index, batch in enumerate(islice(task.calibration, CALIBRATION_BATCHES)))
        return quantize_onnx(source, target, batches, bits=bits, linear_in_blocks=how.linear == "blocks")


def drawn_alike(model: nn.Module | None = None) -> AbstractContextManager[None]:
    """Inside, a loader that shuffles gives the calibration batches that it gives inside any other: one set of ranges for both."""
    return seeded(0, 0, device_of(model) if model else torch.device("cpu"))


def agreement(one: nn.Module, other: nn.Module, task: Task) -> float:
    """The share of validation samples to which two networks give the same class (the same score where outputs are no logits)."""
    return float(same_answers(one, other, task).mean())


def same_answers(one: nn.Module, other: nn.Module, task: Task) -> torch.Tensor:
    """1 for every validation sample to which two networks give the same class (the same score where outputs are no logits), else 0:
    shape (N,), float64.
    """
    answers = [evaluate(model, task.validation, _answer(task)) for model in (one, other)]
    return (answers[0] == answers[1]).double()


def apart(one: nn.Module, other: nn.Module, task: Task) -> float:
    """How far the task's scores of two networks lie apart on a validation sample, in the mean."""
    first, second = (evaluate(model, task.validation, task.score) for model in (one, other))
    return float((first - second).abs().mean())


def _answer(task: Task) -> PerSample:
    def answer(outputs: Any, targets: Any) -> torch.Tensor:
        is_logits = isinstance(outputs, torch.Tensor) and outputs.dim() == 2 and task.score is correct
        return outputs.argmax(1).double() if is_logits else task.score(outputs, targets)

    return answer
