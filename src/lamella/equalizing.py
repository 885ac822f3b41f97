"""equalize(): channels that reach far beyond the others are brought down, and what reads them makes up for it.

    small = equalize(small, trace(small, task.example_inputs), task)         # computes the same; then export, quantize
    small = equalize(small, retraced(graph, result.kept), task)              # without tracing anew

Activations share one range per tensor, so that a channel that reaches a thousand leaves no level to those that reach one. Between layers,
through what is positively homogeneous (ReLU, pooling, sums), a channel may be divided by any number and its readers' weights multiplied
by it (Nagel et al. 2019, section 4.1; the square root: Xiao et al. 2023). The channels of a group are scaled wherever they lie, so sums,
concatenations and shared layers are no special cases. A group that something else comes between (a sigmoid, ReLU6) stays as it is.

Networks without such channels are left bit for bit: there it gains nothing (decision 0025).
Legend: C channels of a group, P positions of an axis.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .axes import channel_positions
from .coarsening import observe_reaches
from .equivalence import harmless, twin_of
from .proof import TOLERANCE
from .schema import Axis, Graph
from .surgery import check_graph, copied
from .training import Task, device_of, first_inputs, on_device

M = TypeVar("M", bound=nn.Module)
Factors = Mapping[str, Tensor]  # of a group, what its channels are divided by: (C,)

FAR = 8.0  # times the median channel of the group: what reaches further is brought down
SAMPLES = 256  # of calibration data: as far as channels reach in these


def equalize(model: M, graph: Graph, task: Task) -> M:
    """A copy that gives the same outputs in evaluation mode, without channels that reach far beyond the others of their group.

    What was scaled is proven on `task.example_inputs` in float64, group by group if need be; where the model does not take float64, or
    nothing reaches far, the copy is the model as it was. TraceError for a graph that is not the model's own.
    """
    check_graph(model, graph)
    factors = _factors(model, graph, task)
    if not factors:
        return copied(model, {})
    twin = twin_of(model, on_device(task.example_inputs, device_of(model)))
    if twin.tolerance > TOLERANCE:
        return copied(model, {})
    return _scaled(model, graph, harmless(twin, factors, lambda some: _scaled(twin.model, graph, some)))


def _factors(model: nn.Module, graph: Graph, task: Task) -> dict[str, Tensor]:
    """Of every group with channels that reach far: the square root of how far, times how small the weights are that read them."""
    found = {}
    reach = _reaches(model, graph, task)
    for name, (reach_C, weight_C) in reach.items():
        alive_C = (reach_C > 0) & (weight_C > 0)
        if not bool(alive_C.any()):
            continue
        far_C = alive_C & (reach_C > FAR * reach_C[alive_C].median())
        if bool(far_C.any()):
            over_C = reach_C / reach_C[alive_C].median() * weight_C[alive_C].median() / weight_C.clamp_min(1e-30)
            found[name] = torch.where(far_C, over_C.sqrt().clamp_min(1.0), 1.0)
    return found


def _reaches(model: nn.Module, graph: Graph, task: Task) -> dict[str, tuple[Tensor, Tensor]]:
    """Per group how far each channel reaches where layers read it, and the largest weight that reads it: (C,) and (C,), float64."""
    found = dict[str, tuple[Tensor, Tensor]]()
    batch = (first_inputs(task.calibration, SAMPLES), None)
    seen_P = observe_reaches(model, dict.fromkeys(name for name, _, _ in _readers(model, graph)), [batch])
    for layer, dim, axis in _readers(model, graph):
        weight = model.get_submodule(layer).get_parameter("weight").detach().double().abs()
        largest_P = weight.movedim(dim, 0).flatten(1).amax(1).cpu()
        if layer not in seen_P or len(seen_P[layer]) != len(largest_P):  # not called, or not on its columns
            continue
        for group in graph.free:
            positions_P = torch.from_numpy(channel_positions(axis, group.name))
            if bool((positions_P >= 0).any()):
                reach_C, weight_C = found.get(group.name, (torch.zeros(group.width).double(),) * 2)
                reach_C = _most(reach_C, positions_P, seen_P[layer].double())
                found[group.name] = reach_C, _most(weight_C, positions_P, largest_P)
    return found


def _most(before_C: Tensor, positions_P: Tensor, values_P: Tensor) -> Tensor:
    there_P = positions_P >= 0
    return before_C.scatter_reduce(0, positions_P[there_P], values_P[there_P], "amax")


def _readers(model: nn.Module, graph: Graph) -> Iterator[tuple[str, int, Axis]]:
    """The layers whose weight has a column for every channel that they read, with that axis."""
    modules = dict(model.named_modules())
    for layer in graph.multiplying:
        module: Any = modules.get(layer.name)
        parameter = graph.parameter_of.get(f"{layer.name}.weight")
        own = None if module is None else module._parameters.get("weight")
        if parameter is None or own is None or not own.numel() or not isinstance(module, (nn.Linear, _ConvNd)):
            continue
        for dim, axis in enumerate(parameter.axes):
            if axis.role == "in" and axis.blocks == 1:
                yield layer.name, dim, axis


def _scaled(model: M, graph: Graph, factors: Factors) -> M:
    """A copy in which these channels are divided wherever they are made and held, and multiplied where they are read."""
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    changed = {}
    for parameter in graph.parameters:
        tensor = held[parameter.name].detach()
        for dim, axis in enumerate(parameter.axes):
            power = _power(axis, parameter.name)
            factor_P = _along(axis, factors) if power else None
            if factor_P is not None:
                shape = [-1 if d == dim else 1 for d in range(tensor.dim())]
                tensor = tensor * (factor_P.to(tensor) ** power).view(shape)
                changed[parameter.name] = tensor
    return copied(model, changed)


def _power(axis: Axis, name: str) -> int:
    """What a tensor is multiplied by, as a power of the factor: its rows make channels, its columns read them, a shift goes along."""
    if axis.blocks > 1:
        return 0
    shifts = name.endswith((".bias", ".running_mean"))
    return {"in": 1, "out": -1, "each": -1 if shifts else 0, "fixed": 0}[axis.role]


def _along(axis: Axis, factors: Factors) -> Tensor | None:
    """The factor of every position, (P,); None where there is none."""
    found = None
    for group, factor_C in factors.items():
        positions_P = torch.from_numpy(channel_positions(axis, group))
        there_P = positions_P >= 0
        if bool(there_P.any()):
            found = torch.ones(len(positions_P)).double() if found is None else found
            found[there_P] = factor_C[positions_P[there_P]]
    return found


__all__ = ["equalize"]
