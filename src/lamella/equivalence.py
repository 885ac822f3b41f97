"""Changes of a network, group by group, after which it must compute the same: which of them hold, tried on its example inputs.

twin = twin_of(model, example_inputs)                  # in float64, where the network can
harmless(twin, order, lambda some: permuted(twin.model, graph, some))     # those groups that may change places
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .proof import SINGLE_TOLERANCE, TOLERANCE, runs, widened
from .training import tensors_of

C = TypeVar("C")


class Twin(NamedTuple):
    """A copy in evaluation mode, inputs for it, and how far two outputs may be apart, as a share of the largest."""

    model: nn.Module
    inputs: tuple[Any, ...]
    tolerance: float


def twin_of(model: nn.Module, inputs: tuple[Any, ...]) -> Twin:
    """In float64, or in the model's own type where its forward names one; the tolerance as in `proof`."""
    wide = copy.deepcopy(model).double().eval()
    if runs(wide, widened(inputs)):
        return Twin(wide, widened(inputs), TOLERANCE)
    return Twin(copy.deepcopy(model).eval(), inputs, SINGLE_TOLERANCE)


def harmless(
    twin: Twin, changes: Mapping[str, C], changed: Callable[[Mapping[str, C]], nn.Module | None]
) -> dict[str, C]:
    """All changes, where the network is the same after them; else those that hold alone, if they hold together.

    `changed` makes the network with some of them; None where these cannot be made.
    """
    expected = _outputs(twin.model, twin.inputs)

    def holds(some: Mapping[str, C]) -> bool:
        network = changed(some)
        return network is not None and _equal(_outputs(network, twin.inputs), expected, twin.tolerance)

    if holds(changes):
        return dict(changes)
    alone = {name: change for name, change in changes.items() if holds({name: change})}
    return alone if holds(alone) else {}


def _outputs(model: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    with torch.no_grad():
        return tensors_of(model(*inputs))


def _equal(seen: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> bool:
    """Whether outputs are the same to rounding, and masks and whole numbers to the bit."""
    return all(
        float((a - b).abs().max()) <= tolerance * max(1e-30, float(b.abs().max()))
        if b.is_floating_point() or b.is_complex()
        else torch.equal(a, b)
        for a, b in zip(seen, expected, strict=True)
    )
