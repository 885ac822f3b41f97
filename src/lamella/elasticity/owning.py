"""What belongs to one level alone, packed: one vector of scales and shifts, one of statistics, and matrices one by one.

    own.tensor("bn1.weight")
    own.tensor("conv1.level_gain")      # in a network without batch norms: by what the layer's outputs are scaled, and shifted

Beside the statistics of norms these are the buffers that a network's own modules update as it trains (`moving_buffers`).
A level of ResNet-20 owns 84 small tensors. As tensors of their own their names would take more of a file than their numbers.
Numbers of several types are not packed together, where they would all become one type: statistics have a vector for each, and
parameters of another type than the first vector's lie one by one.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..errors import LamellaError
from ..matching import rescale, rescaled
from ..training import device_of, seeded

COUNTER = "num_batches_tracked"
GAIN, SHIFT = "level_gain", "level_shift"  # parameters of a level's layer


class Own(nn.Module):
    """The tensors of a level that are not shared, by name. `places[name]`: which store, the start in it, the shape.

    `trained`: of the parameters among them, whether each is trained. What is frozen lies among the others, so that a file looks
    the same whoever reads it, and gets no gradient.
    """

    statistics: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], trained: Mapping[str, bool]) -> None:
        super().__init__()
        self.places: dict[str, tuple[str, int, torch.Size]] = {}
        self.frozen = frozenset(n for n, each in trained.items() if not each)
        vectors = {n: t for n, t in tensors.items() if n in trained and t.dim() <= 1}
        vectors = next(iter(_by_type(vectors).values()), {})
        matrices = {n: t for n, t in tensors.items() if n in trained and n not in vectors}
        self.vectors = nn.Parameter(self._packed("vectors", vectors), requires_grad=bool(vectors.keys() - self.frozen))
        self._register_statistics({n: t for n, t in tensors.items() if n not in trained})
        self.matrices = nn.ParameterList(
            nn.Parameter(t.detach().clone(), requires_grad=trained[n]) for n, t in matrices.items()
        )
        self.places |= {n: ("matrices", i, t.shape) for i, (n, t) in enumerate(matrices.items())}

    def _register_statistics(self, rest: Mapping[str, Tensor]) -> None:
        """`statistics`, and of further types of numbers `statistics_1` and so on: packed together, all would be of one type."""
        for number, alike in enumerate(list(_by_type(rest).values()) or [{}]):
            store = f"statistics_{number}" if number else "statistics"
            self.register_buffer(store, self._packed(store, alike))

    def _packed(self, store: str, tensors: Mapping[str, Tensor]) -> Tensor:
        start = 0
        for name, tensor in tensors.items():
            self.places[name] = (store, start, tensor.shape)
            start += tensor.numel()
        flat = [t.detach().flatten() for t in tensors.values()]
        return torch.cat(flat).clone() if flat else torch.zeros(0)

    def tensor(self, name: str) -> Tensor:
        """One tensor: a view of where it is packed."""
        store, start, shape = self.places[name]
        if store == "matrices":
            matrix: Tensor = self.matrices[start]
            return matrix
        packed: Tensor = getattr(self, store)
        packed = packed.detach() if name in self.frozen else packed
        return packed[start : start + shape.numel()].view(shape)

    def rescale(self, layer: str, factor_O: Tensor, shift_O: Tensor) -> None:
        """Scale and shift a layer's outputs once more, in place."""
        gain, shift = (self.tensor(name) for name in affine_names(layer))
        shift.copy_(factor_O * shift + shift_O)
        gain.mul_(factor_O)


def _by_type(tensors: Mapping[str, Tensor]) -> dict[torch.dtype, dict[str, Tensor]]:
    """The tensors of each type of numbers, in the order in which the types come."""
    found: dict[torch.dtype, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found.setdefault(tensor.dtype, {})[name] = tensor
    return found


def affine_names(layer: str) -> tuple[str, str]:
    """Of the two vectors that a level scales and shifts a layer's outputs by."""
    return f"{layer}.{GAIN}", f"{layer}.{SHIFT}"


def check_affine(net: nn.Module, layers: Iterable[str]) -> None:
    """LamellaError for a layer that is not there, or cannot be scaled and shifted by a weight and a bias."""
    known = {name for name, _ in net.named_parameters()}
    for layer in layers:
        if not {f"{layer}.weight", f"{layer}.bias"} <= known:
            what = f"affine: {layer!r} is no layer of this {type(net).__name__} with a weight and a bias"
            raise LamellaError(f"{what}. The family belongs to another network.")


def affine(module: Any, inputs: Any, outputs: Tensor) -> Tensor:
    """A forward hook of a level's layer: its outputs scaled and shifted as a batch norm would, without statistics."""
    return rescaled(module, outputs, getattr(module, GAIN), getattr(module, SHIFT))


def fold_affine(module: nn.Module, layer: str) -> None:
    """Put what scales and shifts the layer's outputs into its weight and bias, in place."""
    holder = module.get_submodule(layer)
    gain, shift = (holder._parameters.pop(name) for name in (GAIN, SHIFT))
    assert gain is not None
    assert shift is not None
    for key in [key for key, hook in holder._forward_hooks.items() if hook is affine]:
        del holder._forward_hooks[key]
    with torch.no_grad():
        rescale(module, layer, gain, shift)


def moving_buffers(model: nn.Module, inputs: Sequence[Any]) -> tuple[str, ...]:
    """The buffers in floats that a pass in training mode changes, those of norms aside: a running mean in a user's own module."""
    twin = copy.deepcopy(model).train()
    for module in twin.modules():
        if _has_statistics(module):
            module.eval()  # it may refuse to train on a single sample
    before = {n: b.clone() for n, b in twin.named_buffers() if b.is_floating_point()}
    try:
        with torch.no_grad(), seeded(0, 0, device_of(model)):
            twin(*inputs)
    except Exception:  # in training mode it wants more than inputs, such as targets: then levels share what it updates
        return ()
    return tuple(n for n, b in twin.named_buffers() if n in before and not torch.equal(b, before[n]))


def own_names(net: nn.Module, asked: Sequence[str]) -> tuple[str, ...]:
    """The tensors of which each level has its own: those of norms with statistics, and those asked for: buffers, and modules with all
    that is in them.
    """
    first = aliases_of(net)
    buffers = {name for name, _ in net.named_buffers()}
    names: dict[str, None] = {first.get(n, n): None for n in asked if n in buffers}
    for path, module in net.named_modules():
        if _has_statistics(module) or any(f"{path}.".startswith(f"{each}.") for each in asked):
            tensors = (*module.named_parameters(path, recurse=False), *module.named_buffers(path, recurse=False))
            names |= {first.get(n, n): None for n, _ in tensors if not n.endswith(COUNTER)}
    for each in asked:
        if each not in buffers:
            _check_weights(net, each)
    return tuple(names)


def _has_statistics(module: nn.Module) -> bool:
    """Batch norms, and instance norms that keep statistics: training a larger level would change those of smaller ones."""
    return isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and module.track_running_stats)


def _check_weights(net: nn.Module, path: str) -> None:
    """LamellaError for a module that is not there, or holds nothing that a level could have of its own."""
    module = dict(net.named_modules()).get(path)
    if module is None or not [*module.parameters(), *module.buffers()]:
        what = f"is no module of this {type(net).__name__}" if module is None else "holds no weights"
        raise LamellaError(f"own: {path!r} {what}. Name a module with weights, such as the classifier.")


def aliases_of(net: nn.Module) -> dict[str, str]:
    """The first name of every tied parameter and buffer that has several."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in (*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)):
        if first.setdefault(id(tensor), name) != name:
            found[name] = first[id(tensor)]
    return found
