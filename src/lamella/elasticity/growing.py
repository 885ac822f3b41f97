"""Growing: train what a level adds to the level inside it, and nothing else.

A tensor that holds both is put together at every step, where(new, parameter, constant). Weight decay and momentum may move the
parameter's other entries: they are never read, and never put back. So the inner levels stay as they are, bit for bit, whatever
the optimizer does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .networks import ElasticModel


class Growing(nn.Module):
    """One level whose new weights, and own numbers, are parameters; the weights of the level inside it are constants."""

    def __init__(self, net: ElasticModel, name: str, inner: str | None) -> None:
        super().__init__()
        self.name = name
        self.unregistered = (net,)  # in a tuple: a submodule's weights would all be trained
        self.leaves = nn.ParameterDict()
        self._new: dict[str, Tensor] = {}
        self._constant: dict[str, Tensor] = {}
        self._places: dict[str, Tensor] = {}
        for tensor, shared in net.net.named_parameters():
            if not net.is_own(tensor):
                self._split(tensor, shared.detach(), inner, trained=shared.requires_grad)
        self._register_own(net)

    def _split(self, tensor: str, shared: Tensor, inner: str | None, *, trained: bool) -> None:
        """What of a shared tensor this level takes, and which of it the inner level does not."""
        places = _places(self.unregistered[0], self.name, tensor, shared)
        fresh = torch.ones(shared.numel(), dtype=torch.bool, device=shared.device)
        if inner is not None:
            fresh[_places(self.unregistered[0], inner, tensor, shared)] = False
        self._constant[tensor] = shared.flatten()[places]
        if trained and fresh[places].any():
            self._new[tensor], self._places[tensor] = fresh[places], places
            self.leaves[_key(tensor)] = nn.Parameter(self._constant[tensor].clone())

    def _register_own(self, net: ElasticModel) -> None:
        own = net.own_of(self.name)
        if own is not None:
            self.own = own
            return
        for tensor, parameter in net.net.named_parameters():
            if net.is_own(tensor):
                self.register_parameter(_key(tensor), parameter)
        for tensor, buffer in net.net.named_buffers():
            self.register_buffer(_key(tensor), buffer)

    def forward(self, *inputs: Any) -> Any:
        (net,) = self.unregistered
        together = dict(self._constant)
        for tensor, new in self._new.items():
            together[tensor] = torch.where(new, self.leaves[_key(tensor)], together[tensor])
        return functional_call(net.view(self.name), net.tensors(self.name, together), inputs)

    def put_back(self) -> None:
        """Write the new weights, and only those, into the elastic network."""
        shared = dict(self.unregistered[0].net.named_parameters())
        with torch.no_grad():
            for tensor, new in self._new.items():
                flat = shared[tensor].flatten()
                flat[self._places[tensor][new]] = self.leaves[_key(tensor)][new]
                shared[tensor].copy_(flat.view(shared[tensor].shape))

    def _apply(self, fn: Any, recurse: bool = True) -> "Growing":
        """What torch moves a module by: constants and the elastic network go with the leaves."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._new, self._constant, self._places = (
            {name: fn(tensor) for name, tensor in each.items()} for each in (self._new, self._constant, self._places)
        )
        self.unregistered[0]._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> "Growing":
        self.unregistered[0].train(mode)
        return super().train(mode)


def _places(net: ElasticModel, level: str, tensor: str, shared: Tensor) -> Tensor:
    """Where in the flattened shared tensor the level's entries lie, in the level's shape."""
    index = torch.arange(shared.numel(), device=shared.device).view(shared.shape)
    cut = net.cut_of(level, tensor)
    return index if cut is None else cut.take(index)


def _key(tensor: str) -> str:
    return tensor.replace(".", "/")  # a module's names hold no dots
