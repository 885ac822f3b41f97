"""What removing channels would cost, from one backward pass: mean |activation x gradient| per channel (Molchanov et al. 2017, eq. 8).

The rise of the loss is estimated as the sum over the channels that leave, and the score as baseline x exp(-rise): for ranking targets
and levels, not for thresholds. `rank_agreement` says how well an estimate ranks what was measured.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from ..axes import channel_positions, groups_of, kept_mask
from ..errors import LamellaError
from ..schema import Graph, Profile, Score, lowered
from ..surgery import resolve
from ..training import call, device_of, hooked
from .engine import Engine
from .points import Item

SAMPLES = 1024


def estimated(engine: Engine, item: Item, baseline: Score) -> list[Score]:
    """A score per level of the item; none where no layer that makes its channels is called as a module, which the notes say.

    A score's interval says only that it lies below the baseline's upper end.
    """
    if not item.knob.endswith("ratio"):
        raise LamellaError(
            "method 'estimate' speaks of channels, not of bits. Measure bits with method='exact' or 'race'."
        )
    subject = engine.subject
    saliency = _kept_saliency(engine)
    layers = subject.graph.group_of[item.target].layers if item.knob == "pruning_ratio" else (item.target,)
    if saliency.keys().isdisjoint(layers):
        engine.notes.append(f"{item.target}: no estimate, for no layer that makes its channels is called as a module")
        return []
    scores = []
    for level in item.levels:
        if item.knob == "masked_ratio":
            rise = _lost(saliency, item.target, _smallest(subject.model, subject.graph, item.target, level.width or 0))
        else:
            rise = _group_rise(subject.model, subject.graph, saliency, item.target, level.width or 0)
        value = lowered(baseline.value, math.exp(-rise))
        scores.append(
            Score(value=value, low=min(0.0, value), high=max(baseline.high, value), n=min(SAMPLES, baseline.n))
        )
    return scores


def _kept_saliency(engine: Engine) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] | None = engine.__dict__.get("saliency")
    if found is None:
        found = engine.__dict__["saliency"] = saliencies(engine)
        if not found:
            raise LamellaError(
                "method 'estimate' watches what layers give as modules, and no layer of this network that makes channels is called "
                "as one. Measure with method='exact' or 'race', which need no modules."
            )
    return found


def saliencies(engine: Engine) -> dict[str, np.ndarray]:
    """Per layer that makes channels, mean |sum over positions of activation x gradient| per output channel, shape (C,)."""
    subject = engine.subject
    outputs = _places(engine.model, subject.graph)
    sums: dict[str, Tensor] = {}
    samples = 0
    for chunk in islice(engine.samples, max(1, SAMPLES // engine.samples.chunk)):
        seen, logits = _watched(engine.model, outputs, chunk.inputs)
        if not seen:
            return {}
        loss = subject.task.loss(logits, chunk.targets) * len(chunk)
        gradients = torch.autograd.grad(loss, list(seen.values()), allow_unused=True)
        for name, gradient in zip(seen, gradients, strict=True):
            if gradient is not None:
                each = _per_channel(seen[name].detach() * gradient, outputs[name])
                sums[name] = sums.get(name, torch.zeros(())) + each
        samples += len(chunk)
    return {name: (total / samples).double().cpu().numpy() for name, total in sums.items()}


def _per_channel(product: Tensor, module: nn.Module) -> Tensor:
    """Sum over samples of |sum over positions|; channels lie on axis 1, behind a linear layer or an embedding on the last."""
    if isinstance(module, nn.Linear | nn.Embedding):
        product = product.movedim(-1, 1)
    return product.flatten(2).sum(2).abs().sum(0) if product.dim() > 2 else product.abs().sum(0)


def _places(model: nn.Module, graph: Graph) -> dict[str, nn.Module]:
    """Where a layer's channels are watched: after the batch norm that follows directly, else at the layer itself."""
    modules = dict(model.named_modules())
    places = {x.name: modules[x.name] for x in graph.layers if x.positions and x.name in modules}
    for layer in graph.layers:
        if (
            layer.kind == "batch_norm"
            and len(layer.sources) == 1
            and layer.name in modules
            and layer.sources[0] in places
        ):
            places[layer.sources[0]] = modules[layer.name]
    return places


def _watched(model: nn.Module, places: dict[str, nn.Module], inputs: tuple[Any, ...]) -> tuple[dict[str, Tensor], Any]:
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
            if not isinstance(output, Tensor) or name in seen:
                return output
            seen[name] = output if output.requires_grad else output.requires_grad_()
            return seen[name].clone()  # what an in-place operator writes over is the clone

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in places.items()]
    with hooked(hooks), torch.enable_grad():
        moved = tuple(x.to(device_of(model)) if isinstance(x, Tensor) else x for x in inputs)
        logits = call(model, moved)
    return {name: value for name, value in seen.items() if value.requires_grad}, logits


def _smallest(model: nn.Module, graph: Graph, layer: str, width: int) -> np.ndarray:
    """True for the filters of a layer that leave: all but the `width` of largest l2 norm."""
    weight = dict(model.named_parameters(remove_duplicate=False))[graph.layer_of[layer].weight or ""].detach()
    norms = weight.flatten(1).double().norm(dim=1)
    leaves = np.ones(len(norms), dtype=bool)
    leaves[norms.topk(width).indices.cpu().numpy()] = False
    return leaves


def _lost(saliency: dict[str, np.ndarray], layer: str, leaves: np.ndarray) -> float:
    values = saliency.get(layer)
    return 0.0 if values is None or len(values) != len(leaves) else float(values[leaves].sum())


def _group_rise(model: nn.Module, graph: Graph, saliency: dict[str, np.ndarray], group: str, width: int) -> float:
    """What the channels that leave a group add up to, over all the layers that make them."""
    kept = resolve(model, graph, {group: width})
    rise = 0.0
    for name in graph.group_of[group].layers:
        layer = graph.layer_of[name]
        axis = (
            next((a for a in graph.parameter_of[layer.weight].axes if a.role == "out"), None) if layer.weight else None
        )
        if axis is not None and group in groups_of(axis):
            leaves = ~kept_mask(axis, kept) & (channel_positions(axis, group) >= 0)
            rise += _lost(saliency, name, leaves)
    return rise


def rank_agreement(estimate: Profile, measured: Profile) -> float:
    """Spearman's rank correlation between two profiles over the points they share."""
    scores = {(p.target, p.knob, p.level): p.score.value for p in measured.points}
    pairs: Sequence[tuple[float, float]] = [
        (p.score.value, scores[key]) for p in estimate.points if (key := (p.target, p.knob, p.level)) in scores
    ]
    if len(pairs) < 3:
        raise LamellaError(f"the two profiles share {len(pairs)} points; at least 3 were expected.")
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


__all__ = ["estimated", "rank_agreement", "saliencies"]
