"""A target at a level, two ways: as a change of a replayed program, and as a model of its own.

setting = Subject(model, graph, task, sweep).setting(item, level)
setting.change                   # what the program runs with
setting.model()                  # the model the plain loop would score
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ..axes import Kept, groups_of, kept_mask, touched
from ..coarsening import InputGrid, coarsen, observe_ranges
from ..grids import output_axis, rounded_weight
from ..matching import mend
from ..replay import Change
from ..schema import Graph, Layer, Parameter
from ..surgery import copied, cut, masked, resolve
from ..training import Task, device_of, recalibrate_bn, seeded
from .points import Item, KnobLevel
from .settings import Sweep


@dataclass(frozen=True, slots=True)
class Setting:
    """One level of an item. `masked`: the same as a change that keeps every shape, where there is one.

    `kept`: the channels that the model keeps of each group; None where a part of it is silenced, which nothing shall mend.
    """

    change: Change
    model: Callable[[], nn.Module]
    masked: Callable[[], Change] | None = None
    kept: Kept | None = None


@dataclass
class Subject:
    """The dense network, its graph and task, and what is measured on it once."""

    model: nn.Module
    graph: Graph
    task: Task
    sweep: Sweep

    def setting(self, item: Item, level: KnobLevel) -> Setting:
        """The target at this level."""
        return _MAKERS[item.knob](self, item.target, level)

    def mended(self, setting: Setting) -> nn.Module:
        """The setting's model as the sweep wants it scored: recalibrated (matched, if no batch norm is in it), tuned."""
        model = setting.model()
        if self.sweep.changes_models:
            model = copied(model, {})
            with seeded(self.sweep.seed, 0, device_of(model)):
                if setting.kept is not None:
                    mend(model, self.model, self.graph, setting.kept, self.task)
                else:
                    recalibrate_bn(model, self.task.train)
        return self.sweep.brief.tune(model, self.task).eval()

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The lowest and highest input of every layer on calibration data, where the layer is called as a module."""
        known = dict(self.model.named_modules())
        layers = [x.name for x in self.graph.multiplying if x.name in known]
        return observe_ranges(self.model, layers, self.task.calibration)


def _narrowed(subject: Subject, target: str, level: KnobLevel) -> Setting:
    model, graph = subject.model, subject.graph
    kept = resolve(model, graph, {target: level.width or 0})
    small = cut(model, graph, kept, share=True)
    names = touched(graph, [target])
    rows = {p.name: _rows(p, kept, model) for p in graph.parameters if p.name in names and _loses_rows(p, target)}

    def masks() -> Change:
        return Change(_tensors(masked(model, graph, kept, share=True), _readers(graph, target)))

    if not kept[target]:  # operators take no tensors without elements
        return Setting(masks(), lambda: small, masks, kept)
    alone = graph.group_of[target].changes is None  # a norm over channels would see those that masks only silence
    return Setting(Change(_tensors(small, names), rows=rows), lambda: small, masks if alone else None, kept)


def _loses_rows(parameter: Parameter, group: str) -> bool:
    """Whether the group lies on the first axis, which makes channels, and on no other."""
    first, *others = parameter.axes
    alone = not any(group in groups_of(axis) or axis.blocks > 1 for axis in others)
    return first.role == "out" and first.blocks == 1 and len(parameter.axes) > 1 and alone


def _readers(graph: Graph, group: str) -> frozenset[str]:
    """The parameters that consume the group's channels."""
    return frozenset(p.name for p in graph.parameters if any(a.role == "in" and group in groups_of(a) for a in p.axes))


def _rows(parameter: Parameter, kept: dict[str, tuple[int, ...]], model: nn.Module) -> Tensor:
    mask = kept_mask(parameter.axes[0], kept)
    return torch.from_numpy(np.flatnonzero(mask)).to(next(model.parameters()).device)


def _tensors(model: nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {name: held[name].detach() for name in names}


def _masked(subject: Subject, target: str, level: KnobLevel) -> Setting:
    """The filters of one layer with the smallest l2 norm give zero, after the batch norm that follows directly."""
    layer = subject.graph.layer_of[target]
    norms = [x for x in subject.graph.layers if _normalizes(subject.graph, x, layer)]
    names = [n for x in (layer, *norms) for n in (x.weight, x.bias) if n]
    held = dict(subject.model.named_parameters(remove_duplicate=False))
    weight = held[layer.weight or ""].detach()
    stays = weight.flatten(1).double().norm(dim=1).topk(level.width or 0).indices.sort().values
    tensors = {name: _only_rows(held[name].detach(), stays) for name in names}
    others = any(x.kind == "batch_norm" and target in x.sources and x not in norms for x in subject.graph.layers)
    kept = {} if others else {layer.weight or "": stays}  # behind a norm of more than this layer its zeros are shifted
    return Setting(Change(tensors, kept=kept), lambda: copied(subject.model, tensors, share=True).eval())


def _normalizes(graph: Graph, norm: Layer, layer: Layer) -> bool:
    """Whether this is a batch norm of the layer's outputs, and of nothing else."""
    if norm.kind != "batch_norm" or norm.sources != (layer.name,):
        return False
    held = graph.parameter_of
    scale, weight = held.get(norm.weight or ""), held[layer.weight or ""]
    return scale is None or scale.axes[0].runs == weight.axes[0].runs


def _only_rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return torch.zeros_like(tensor).index_copy(0, rows, tensor[rows])


def _weights(subject: Subject, target: str, level: KnobLevel) -> Setting:
    bits = int(level.value)
    return Setting(
        Change({f"{target}.weight": _rounded(subject.model, target, bits)}),
        lambda: coarsen(subject.model, {target: bits}),
        kept={},
    )


def _weights_and_inputs(subject: Subject, target: str, level: KnobLevel) -> Setting:
    bits, limits = int(level.value), subject.ranges[target]
    weight = f"{target}.weight"
    return Setting(
        Change({weight: _rounded(subject.model, target, bits)}, tweaks={weight: InputGrid(*limits, bits).rounded}),
        lambda: coarsen(subject.model, {target: bits}, {target: limits}, {target: bits}),
        kept={},
    )


def _rounded(model: nn.Module, target: str, bits: int) -> Tensor:
    module = model.get_submodule(target)
    weight = module.get_parameter("weight")
    return rounded_weight(weight.detach(), bits, output_axis(module))


_MAKERS: dict[str, Callable[[Subject, str, KnobLevel], Setting]] = {
    "pruning_ratio": _narrowed,
    "masked_ratio": _masked,
    "bits": _weights,
    "bits_both": _weights_and_inputs,
}
