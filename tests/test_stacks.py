"""Stacks: many networks trained at once end as each would end alone."""

import pytest
import torch

from lamella.accordions.stacks import Net, Stack, flattened, fresh, scores, train
from lamella.errors import DataError
from lamella.tasks import make_task
from lamella.training import Batches, Recipe, Task, evaluate, fit

RECIPE = Recipe(epochs=3, lr=0.01, optimizer="adamw", weight_decay=1e-3)


@pytest.mark.parametrize(("n", "batch_size"), [(17, 16), (3, 1)])
def test_batches_of_one_sample_train_as_alone(n, batch_size):
    task, nets = copying(n=n, batch_size=batch_size), [Net((5, 2, 5), seed) for seed in range(2)]
    stack = Stack(nets, 6, 6, "elu")
    train(stack, task, RECIPE)
    for index, net in enumerate(nets):
        expected = alone(net, task, RECIPE, "elu", 6)
        for mine, theirs in zip(stack.module(index).parameters(), expected.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5), net


def test_inputs_that_are_no_rows_are_told():
    with pytest.raises(DataError, match=r"rows of inputs, \(N, D\); the task gives \(4,\)"):
        flattened(torch.zeros(4))


def copying(n=90, width=6, batch_size=16):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
    train = Batches(x, x, batch_size, shuffle=True)
    held = Batches(x[:30], x[:30], batch_size)
    return Task((x[:1],), train=train, validation=held, test=held, loss=squared, score=closeness)


def squared(outputs, targets):
    return (outputs - targets).square().mean()


def closeness(outputs, targets):
    return -(outputs - targets).abs().mean(1)


def alone(net, task, recipe, activation, outputs):
    model = fresh(net, task.example_inputs[0].flatten(1).shape[1], outputs, activation)
    return fit(model, task, recipe, seed=net.seed).eval()


@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
@pytest.mark.parametrize(
    "nets",
    [
        [Net((5, 2, 5), s) for s in range(3)],
        [Net(w, s) for w in ((5, 2, 5), (2, 4, 2), (1, 1, 1)) for s in range(2)],
        [Net((5, 2, 5), 0), Net((2, 4, 2), 1), Net((3, 3, 3), 0)],
    ],
    ids=["one shape", "shapes share inputs", "odd ones"],
)
def test_a_stack_equals_the_loop(nets, activation):
    task = copying()
    stack = Stack(nets, 6, 6, activation)
    train(stack, task, RECIPE)
    found = scores(stack, task.test, task.score)
    for index, net in enumerate(nets):
        expected = alone(net, task, RECIPE, activation, 6)
        for mine, theirs in zip(stack.module(index).parameters(), expected.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5), net
        assert torch.allclose(found[index], evaluate(expected, task.test, task.score), atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_augmented_pictures_and_either_optimizer(optimizer):
    task = make_task("digits", limit=200)
    recipe = Recipe(epochs=2, lr=0.01, optimizer=optimizer, warmup=1)
    nets = [Net((12, 6, 12), seed) for seed in (3, 4)]
    stack = Stack(nets, 64, 10)
    train(stack, task, recipe)
    for index, net in enumerate(nets):
        expected = alone(net, task, recipe, "relu", 10)
        for mine, theirs in zip(stack.module(index).parameters(), expected.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)


def test_padding_stays_zero():
    stack = Stack([Net((5, 5), 0), Net((2, 3), 0)], 6, 6, "elu")
    train(stack, copying(), RECIPE)
    assert not stack.weights[0][1, :, 2:].any()
    assert not stack.weights[1][1, 2:].any()
    assert not stack.weights[1][1, :, 3:].any()
    assert not stack.biases[0][1, :, 2:].any()
    assert stack.weights[0][1, :, :2].all()


def test_neighbours_do_not_matter():
    task, net = copying(), Net((4, 2, 4), 7)
    found = []
    for others in ([], [Net((6, 6, 6), 1)], [Net((1, 5, 1), 7), Net((6, 1, 6), 7)]):
        stack = Stack([net, *others], 6, 6)
        train(stack, task, RECIPE)
        found.append(scores(stack, task.test, task.score)[0])
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert torch.allclose(found[0], found[2], atol=1e-6)


def test_a_loss_that_is_no_number_names_the_network():
    task = copying()
    task.train.inputs[3] = float("inf")
    with pytest.raises(DataError, match=r"the loss of 4-2-4 \(seed 5\) became (nan|inf) in epoch 1.*lower lr"):
        train(Stack([Net((4, 2, 4), 5)], 6, 6), task, RECIPE)
