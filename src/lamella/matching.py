"""The layers of a network without batch norm get back the mean and spread that their outputs had before a cut, or few bits.

    match_outputs(small, model, graph, kept, inputs)        # in place, in one forward pass of each
    rescale(small, "conv1", factor_O, shift_O)              # one layer's outputs, by its own weights

It is to these networks what re-estimated statistics are to the others (decision 0017): every channel's outputs are scaled and shifted
by the layer's own weights and bias, so nothing is added to the network (Jordan et al. 2022 for networks that are merged; the shift
alone: Nagel et al. 2019, section 4.2). Legend: O output channels, N values of a channel.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from .axes import Kept, kept_mask
from .errors import DataError
from .grids import OnGrid, channel_axis, output_axis, sharing
from .schema import Graph, Layer
from .training import (
    Task,
    calibrated_by,
    call,
    device_of,
    first_inputs,
    hooked,
    learned_from,
    modes_kept,
    on_device,
    recalibrate_bn,
    statistics_from,
)

MATCHED = 256  # calibration samples that are enough: both networks see the same ones
MOST = 4.0  # times a channel is made larger or smaller: beyond, it is another channel
DEAD = 1e-6  # of the layer's largest spread: below, a channel says nothing that could be scaled

# Of a layer, factors (O,) and shifts (O,): its outputs become factor x output + shift.
Rescale = Callable[[str, Tensor, Tensor], None]


class Moments(NamedTuple):
    """Mean and standard deviation of every output channel, each of shape (O,), float64."""

    mean: Tensor
    std: Tensor

    def of(self, channels_O: Tensor) -> "Moments":
        """Those of some channels, by a mask."""
        mask_O = channels_O.to(self.mean.device)
        return Moments(self.mean[mask_O], self.std[mask_O])


def match_outputs(
    model: nn.Module, reference: nn.Module, graph: Graph, kept: Kept, inputs: Any, by: Rescale | None = None
) -> nn.Module:
    """Scale and shift, in place, every layer that can be matched until its outputs on these inputs have the reference's moments.

    `graph` is that of `reference`, of whose channels the model has kept these. A layer is matched behind those before it, as they
    then are. `by` says how a layer is rescaled, where not by its weight and bias. Returns the model. DataError for inputs that are
    not finite.
    """
    by = by or partial(rescale, model)
    bad = sum(int((~torch.isfinite(leaf)).sum()) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    if bad:
        raise DataError(
            f"{bad} values of the calibration data are not finite, and layers are matched on them. Clean the data."
        )
    layers = matchable(model, graph)
    wanted: dict[str, Moments] = {}

    def note(name: str, module: Any, outputs_N: Tensor) -> None:
        stays_O = torch.from_numpy(kept_mask(graph.parameter_of[f"{name}.bias"].axes[0], kept))
        wanted[name] = moments(module, outputs_N).of(stays_O)

    def match(name: str, module: Any, outputs_N: Tensor) -> Tensor:
        if name not in wanted or not len(wanted[name].mean):  # nothing of it is left
            return outputs_N
        factor_O, shift_O = _towards(wanted[name], moments(module, outputs_N))
        by(name, factor_O, shift_O)
        return rescaled(module, outputs_N, factor_O, shift_O)

    for network, visit in ((reference, note), (model, match)):
        with hooked(_watched(network, layers, visit)), modes_kept(network), torch.no_grad():
            call(network.eval(), on_device(inputs, device_of(network)))
    return model


def mend(model: nn.Module, before: nn.Module, graph: Graph, kept: Kept, task: Task) -> nn.Module:
    """Bring the statistics back, in place, to what they were before a cut: of batch norms, or of all layers where there is none.

    `graph` is that of `before`, of whose channels the model has kept these. Returns the model.
    """
    if has_batch_norm(graph):
        # As training saw the batches: without its augmentation ResNet-20 on CIFAR-10 falls from 91.6 to 88.4 %.
        return recalibrate_bn(model, task.train)
    return match_outputs(model, before, graph, kept, first_inputs(task.calibration, MATCHED))


def mended_by(task: Task, graph: Graph, *, tuned: bool) -> dict[str, str]:
    """What a mended network depends on beside the one before, and what a tuned one does, as far as it can be told."""
    if has_batch_norm(graph):
        return learned_from(task) if tuned else statistics_from(task)
    return {**(learned_from(task) if tuned else {}), **calibrated_by(task)}


def has_batch_norm(graph: Graph) -> bool:
    """Whether re-estimated statistics do most of the work; there matching the few layers left makes tuning unsteady (decision 0017)."""
    return any(layer.kind == "batch_norm" for layer in graph.layers)


def matchable(model: nn.Module, graph: Graph) -> list[str]:
    """The layers that are called once, have a weight and a bias of their own, and no batch norm behind them."""
    normed = {source for layer in graph.layers if layer.kind == "batch_norm" for source in layer.sources}
    alone = {name for name, names in sharing(model).items() if len(names) == 1}
    return [x.name for x in graph.layers if x.name in alone - normed and _has_rows(model, graph, x)]


def _has_rows(model: nn.Module, graph: Graph, layer: Layer) -> bool:
    """Whether the layer's outputs are rows of a weight of its own, each with its bias."""
    module: Any = model.get_submodule(layer.name)
    if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or layer.calls != 1:
        return False
    in_groups = output_axis(module) and getattr(module, "groups", 1) != 1
    return bool(not in_groups and f"{layer.name}.bias" in graph.parameter_of and _weight(module) is not None)


def _weight(module: nn.Module) -> Tensor | None:
    """The weight that can be scaled: the layer's own, or the one that lies beneath a grid."""
    if not is_parametrized(module, "weight"):
        return module._parameters.get("weight")
    parametrizations: Any = module.parametrizations.weight  # type: ignore[union-attr]
    return parametrizations.original if all(isinstance(p, OnGrid) for p in parametrizations) else None


def _watched(model: nn.Module, layers: Iterable[str], visit: Callable[[str, Any, Tensor], Tensor | None]) -> Any:
    """Hooks that send these layers' outputs through `visit(name, module, outputs)`, which may give others."""
    look = lambda name, module, _, outputs: visit(name, module, outputs)
    return [model.get_submodule(name).register_forward_hook(partial(look, name)) for name in layers]


def moments(module: nn.Module, outputs_N: Tensor) -> Moments:
    """The moments of a layer's outputs. Channel by channel: of large pictures there is no room for all of them in float64."""
    each = [torch.std_mean(channel.double(), correction=0) for channel in outputs_N.movedim(channel_axis(module), 0)]
    std_O, mean_O = (torch.stack(values) for values in zip(*each, strict=True))
    return Moments(mean_O, std_O)


def _towards(wanted: Moments, seen: Moments) -> tuple[Tensor, Tensor]:
    """The factor and the shift of every channel that bring the moments seen to those wanted."""
    alive_O = torch.minimum(seen.std, wanted.std) > DEAD * seen.std.max()
    factor_O = torch.where(alive_O, wanted.std / seen.std.clamp_min(1e-30), 1.0).clamp(1 / MOST, MOST)
    return factor_O, wanted.mean - factor_O * seen.mean


def rescale(model: nn.Module, name: str, factor_O: Tensor, shift_O: Tensor) -> None:
    """Scale and shift the outputs of one of the `matchable` layers, in place, by its weight (or the grid it lies on) and its bias."""
    module: Any = model.get_submodule(name)
    weight, axis = _weight(module), output_axis(module)
    assert weight is not None  # as `matchable` has seen
    weight.mul_(_along(factor_O, axis, weight))
    if is_parametrized(module, "weight"):
        for grid in module.parametrizations.weight:
            grid.scale.mul_(_along(factor_O, axis, grid.scale))
    module.bias.copy_(factor_O * module.bias + shift_O)


def rescaled(module: nn.Module, outputs_N: Tensor, factor_O: Tensor, shift_O: Tensor) -> Tensor:
    """A layer's outputs, every channel of them scaled and shifted."""
    axis = channel_axis(module) % outputs_N.dim()
    return outputs_N * _along(factor_O, axis, outputs_N) + _along(shift_O, axis, outputs_N)


def _along(values_O: Tensor, axis: int, like: Tensor) -> Tensor:
    """The values, shaped to go with a tensor whose channels lie along `axis`."""
    return values_O.to(like).view([-1 if d == axis else 1 for d in range(like.dim())])


__all__ = [
    "MATCHED",
    "Moments",
    "Rescale",
    "has_batch_norm",
    "match_outputs",
    "matchable",
    "mend",
    "moments",
    "rescale",
    "rescaled",
]
