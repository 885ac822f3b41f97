"""Batch norms that work on the statistics of their batch, and note them: what re-estimating them needs.

    seen = {}
    program = Program(model, inputs, partial(watch, names={"bn1.running_mean"}, seen=seen))
    program.finished(program.start(inputs)); seen        # {"bn1.running_mean": (C,), "bn1.running_var": (C,)}

The batch is normalized with its biased variance; the unbiased one is noted, as batch norm itself does.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .folding import norm_of
from .operators import Listing, Operator, aten


@dataclass(frozen=True, eq=False)
class Watched:
    """One batch norm as an operator of (input, weight, bias)."""

    mean: str
    var: str
    eps: float
    alone: bool  # whether the operator it stands for has one output
    seen: dict[str, Tensor]

    def __call__(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Any:
        mean, var = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
        made = torch.batch_norm(x, weight, bias, mean, var, True, 1.0, self.eps, False)
        self.seen.update({self.mean: mean, self.var: var})
        return made if self.alone else (made, None, None)


def watch(listing: Listing, names: Collection[str], seen: dict[str, Tensor]) -> Listing:
    """The listing with the batch norms of these running means watched. ValueError where one is called twice, or not found."""
    made = [_watched(op, names, seen) for op in listing.operators]
    found = [op.target.mean for op in made if isinstance(op.target, Watched)]
    if sorted(found) != sorted(names):
        raise ValueError("not every batch norm is called exactly once")
    return replace(listing, operators=made)


def _watched(op: Operator, names: Collection[str], seen: dict[str, Tensor]) -> Operator:
    norm = norm_of(op)
    if norm is None or norm.mean.text not in names:
        return op
    target = Watched(norm.mean.text, norm.var.text, norm.eps, op.target == aten.batch_norm.default, seen)
    other = replace(op, target=target, args=(op.args[0], norm.weight, norm.bias), kwargs={})
    other.note_reads()
    return other
