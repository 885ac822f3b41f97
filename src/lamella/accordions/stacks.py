"""Many small dense networks trained at once, as one: their weights side by side in batched matrices.

    stack = Stack([Net((4, 2, 4), 0), Net((4, 2, 4), 1), Net((8, 6, 8), 0)], inputs=29, outputs=29)
    train(stack, task, recipe)                    # each ends as fit() would end it alone, within float error
    stack.module(2)                               # an ordinary nn.Module

A single network of a thousand parameters leaves a processor idle: a step is mostly the overhead of its calls. Networks of other
widths join by padding with zeros, which is exact: a unit whose weights in and out are zero gets no gradient, and weight decay and
Adam leave it at zero.
Shapes: S networks, K inputs they share, B samples of a batch, I inputs and O outputs of a layer, D inputs of the network, C outputs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from ..errors import DataError, LamellaError
from ..training import OPTIMIZERS, Batches, Loader, PerSample, Recipe, Task, empty_loader, mixed, one_epoch, rates_of
from ..training.batches import explained
from ..zoo import make_model
from .shapes import Widths, named

Scores = Tensor

# Of a recipe: what `fit` does for one network only.
ALONE = ("patience", "label_smoothing", "distil", "devices", "precision")


@dataclass(frozen=True, slots=True)
class Net:
    """A shape, and the seed of its initial weights and of the order of its batches."""

    widths: Widths
    seed: int


# The activations of `zoo`, in place, and their slope as a function of what they gave. All are 0 at 0, so padding stays exact.
IN_PLACE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (torch.relu_, lambda state: state > 0),
    "elu": (functional.elu_, lambda state: state.clamp(max=0).add_(1)),
    "tanh": (torch.tanh_, lambda state: 1 - state * state),
}


class Stack:
    """The weights of S networks of equal depth: per layer (S, I, O) and (S, 1, O), all of them views of two flat tensors."""

    def __init__(self, nets: Sequence[Net], inputs: int, outputs: int, activation: str = "relu") -> None:
        self.nets, self.inputs, self.outputs, self.activation = tuple(nets), inputs, outputs, activation
        widest = tuple(max(column) for column in zip(*(net.widths for net in nets), strict=True))
        sizes = (inputs, *widest, outputs)
        shapes = [((len(nets), i, o), (len(nets), 1, o)) for i, o in pairwise(sizes)]
        self.flat = tuple(_flat([shape[part] for shape in shapes]) for part in (0, 1))
        self.weights, self.biases = (_views(f, [s[k] for s in shapes]) for k, f in enumerate(self.flat))
        self.gradients = tuple(_views(f.grad, [s[k] for s in shapes]) for k, f in enumerate(self.flat))  # type: ignore[arg-type]
        for index, net in enumerate(self.nets):
            self._fill(index, fresh(net, inputs, outputs, activation))

    def _fill(self, index: int, model: nn.Module) -> None:
        for layer, (weight_OI, bias_O) in enumerate(_layers(model)):
            o, i = weight_OI.shape
            self.weights[layer][index, :i, :o] = weight_OI.T
            self.biases[layer][index, 0, :o] = bias_O

    def forward(self, x_KBD: Tensor) -> list[Tensor]:
        """The input of every layer, and the outputs (S, B, C) last. Of K inputs, network i reads number i modulo K."""
        activate, _ = IN_PLACE[self.activation]
        states = [x_KBD, self._first(x_KBD)]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            activate(states[-1])
            states.append(torch.baddbmm(bias, states[-1], weight))
        return states

    def _first(self, x_KBD: Tensor) -> Tensor:
        """The first layer, (S, B, O). Networks with the same input share one wide product: the input is read once."""
        weight, bias, shared = self.weights[0], self.biases[0], len(x_KBD)
        if shared == len(self.nets):
            return torch.baddbmm(bias, x_KBD, weight)
        side_by_side = weight.view(-1, shared, *weight.shape[1:]).permute(1, 2, 0, 3).flatten(2)
        outputs = torch.bmm(x_KBD, side_by_side).view(*x_KBD.shape[:2], -1, weight.shape[2])
        return outputs.permute(2, 0, 1, 3).flatten(0, 1).add_(bias)

    def backward(self, states: Sequence[Tensor], slope_SBC: Tensor) -> None:
        """Gradients of all weights, given the loss's slope at the outputs."""
        weight_gradients, bias_gradients = self.gradients
        _, sloped = IN_PLACE[self.activation]
        slope = slope_SBC
        for layer in range(len(self.weights) - 1, -1, -1):
            torch.sum(slope, 1, keepdim=True, out=bias_gradients[layer])
            if layer:
                torch.bmm(states[layer].transpose(1, 2), slope, out=weight_gradients[layer])
                slope = torch.bmm(slope, self.weights[layer].transpose(1, 2)).mul_(sloped(states[layer]))
        self._first_gradient(states[0], slope)

    def _first_gradient(self, x_KBD: Tensor, slope_SBO: Tensor) -> None:
        gradient, shared = self.gradients[0][0], len(x_KBD)
        if shared == len(self.nets):
            torch.bmm(x_KBD.transpose(1, 2), slope_SBO, out=gradient)
            return
        side_by_side = slope_SBO.view(-1, shared, *slope_SBO.shape[1:]).permute(1, 2, 0, 3).flatten(2)
        found = torch.bmm(x_KBD.transpose(1, 2), side_by_side).view(shared, x_KBD.shape[2], -1, slope_SBO.shape[2])
        gradient.view(-1, shared, *gradient.shape[1:]).copy_(found.permute(2, 0, 1, 3))

    def outputs_of(self, x_ND: Tensor) -> Tensor:
        """Every network's outputs on the same samples, (S, N, C)."""
        return self.forward(x_ND.unsqueeze(0))[-1]

    def module(self, index: int) -> nn.Module:
        """One network as an ordinary module, in evaluation mode."""
        model = fresh(self.nets[index], self.inputs, self.outputs, self.activation)
        for layer, (weight_OI, bias_O) in enumerate(_layers(model)):
            o, i = weight_OI.shape
            weight_OI.copy_(self.weights[layer][index, :i, :o].T)
            bias_O.copy_(self.biases[layer][index, 0, :o])
        return model.eval()


def _flat(shapes: Sequence[tuple[int, ...]]) -> Tensor:
    flat = torch.zeros(sum(math.prod(shape) for shape in shapes))
    flat.grad = torch.zeros_like(flat)
    return flat


def _views(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    ends = list(accumulate(math.prod(shape) for shape in shapes))
    return [flat[end - math.prod(shape) : end].view(shape) for end, shape in zip(ends, shapes, strict=True)]


def fresh(net: Net, inputs: int, outputs: int, activation: str = "relu") -> nn.Module:
    """The network with the weights its seed draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(net.seed)
        return make_model("autoencoder", widths=net.widths, inputs=inputs, outputs=outputs, activation=activation)


def _layers(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(m.weight.detach(), m.bias.detach()) for m in model.modules() if isinstance(m, nn.Linear)]


@torch.no_grad()
def train(stack: Stack, task: Task, recipe: Recipe) -> None:
    """Train every network of the stack, in place, as `fit(model, task, recipe, seed=net.seed)` would train it alone.

    The task's loss must be a mean over samples. LamellaError for a recipe that a stack cannot follow; DataError names the network
    whose loss is not finite.
    """
    check_together(recipe)
    seeds = list(dict.fromkeys(net.seed for net in stack.nets))
    place_S = torch.tensor([seeds.index(net.seed) for net in stack.nets])
    in_turn = torch.equal(place_S, torch.arange(len(place_S)) % len(seeds)) and len(place_S) % len(seeds) == 0
    optimizer = _optimizer(stack, recipe)
    for epoch in range(recipe.epochs):
        rates = rates_of(task.train, recipe, epoch)
        count = 0
        for index, (x_KBD, targets) in enumerate(_together(task.train, seeds, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = rates(index)
            x_SBD = x_KBD if in_turn else x_KBD[place_S]
            with explained(index, task.loss, targets):
                _step(stack, x_SBD, tree_map_only(Tensor, lambda t: t[place_S], targets), task, epoch)
            optimizer.step()
            count += 1
        if not count:
            raise empty_loader()


def check_together(recipe: Recipe) -> None:
    """LamellaError for a recipe that asks for what networks trained side by side do not have."""
    plain = Recipe(epochs=recipe.epochs)
    asked = [f"{name}={getattr(recipe, name)!r}" for name in ALONE if getattr(recipe, name) != getattr(plain, name)]
    if asked:
        raise LamellaError(
            f"a recipe with {', '.join(asked)}: the networks of an accordion are trained side by side, all for the same epochs, on the "
            f"task's own loss, in float32 in one process. Leave {', '.join(ALONE)} as they are by default."
        )


def _optimizer(stack: Stack, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the two flat tensors: as everywhere, decay pulls on weights only."""
    weights, biases = stack.flat
    decays = {"params": [weights], "weight_decay": recipe.weight_decay}
    stays = {"params": [biases], "weight_decay": 0.0}
    return OPTIMIZERS[recipe.optimizer]([decays, stays], recipe)


def _step(stack: Stack, x_KBD: Tensor, targets: Any, task: Task, epoch: int) -> None:
    """Gradients of one batch. All batches are equally long, so S times the mean over all samples is the sum of the networks' own means."""
    states = stack.forward(x_KBD)
    outputs = states[-1].requires_grad_()
    with torch.enable_grad():
        loss = task.loss(outputs.flatten(0, 1), tree_map_only(Tensor, lambda t: t.flatten(0, 1), targets))
        (slope,) = torch.autograd.grad(loss * len(stack.nets), outputs)
    if not math.isfinite(float(loss)):
        raise _not_finite(stack, outputs, float(loss), epoch)
    stack.backward(states, slope)


def _not_finite(stack: Stack, outputs_SBC: Tensor, loss: float, epoch: int) -> DataError:
    broken = torch.nonzero(~torch.isfinite(outputs_SBC).flatten(1).all(1)).flatten().tolist()
    net = stack.nets[broken[0]] if broken else stack.nets[0]
    return DataError(
        f"the loss of {named(net.widths)} (seed {net.seed}) became {loss} in epoch {epoch + 1}; a finite number was expected. Train with a "
        "lower lr, and look for NaN or huge numbers in the inputs."
    )


def _together(loader: Loader, seeds: Sequence[int], epoch: int) -> Iterator[tuple[Tensor, Any]]:
    """The epoch's batches of several seeds, side by side: inputs (K, B, D), and targets."""
    if isinstance(loader, Batches) and loader.transform is None and isinstance(loader.inputs, Tensor):
        orders = [loader.order(torch.Generator().manual_seed(mixed(seed, epoch))) for seed in seeds]
        for rows_KB in torch.split(torch.stack(orders), loader.batch_size, dim=1):
            yield loader.inputs[rows_KB].flatten(2), tree_map_only(Tensor, lambda t: t[rows_KB], loader.targets)  # noqa: B023
        return
    for batches in zip(*(one_epoch(loader, seed, epoch) for seed in seeds), strict=True):
        inputs = torch.stack([flattened(x) for x, _ in batches])
        yield inputs, _stacked([targets for _, targets in batches])


def _stacked(trees: Sequence[Any]) -> Any:
    if isinstance(trees[0], dict):
        return {key: _stacked([tree[key] for tree in trees]) for key in trees[0]}
    return torch.stack(list(trees))


def flattened(inputs: Any) -> Tensor:
    """A batch of inputs as rows (B, D)."""
    if not isinstance(inputs, Tensor):
        raise DataError(f"dense networks take one tensor of inputs; the task gives a {type(inputs).__name__}.")
    if inputs.ndim < 2:
        raise DataError(
            f"dense networks take rows of inputs, (N, D); the task gives {tuple(inputs.shape)}: unsqueeze(1)."
        )
    return inputs.flatten(1)


@torch.no_grad()
def scores(stack: Stack, loader: Loader, score: PerSample) -> Scores:
    """Every network's score on every sample, (S, N), float64."""
    found = []
    for inputs, targets in loader:
        outputs_SBC = stack.outputs_of(flattened(inputs))
        count = len(stack.nets)
        repeated = tree_map_only(Tensor, lambda t: t.repeat(count, *[1] * (t.ndim - 1)), targets)  # noqa: B023
        found.append(score(outputs_SBC.flatten(0, 1), repeated).double().view(count, -1))
    if not found:
        raise empty_loader()
    return torch.cat(found, dim=1)
