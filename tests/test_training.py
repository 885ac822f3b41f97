"""Training: the same seed gives the same bits, resumed training those of an uninterrupted one, nonsense a paragraph."""

import copy
import itertools
import math
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lamella import records, runs
from lamella.coarsening import observe
from lamella.errors import DataError, DivergedError, LamellaError, MismatchError, RecordError, RunError
from lamella.harm import watch
from lamella.profiling import profile
from lamella.training import (
    Batches,
    Portion,
    Recipe,
    Task,
    correct,
    evaluate,
    first_inputs,
    fit,
    rate_at,
    recalibrate_bn,
    scored,
)
from lamella.training.layouts import as_given, channels_last


@pytest.fixture(autouse=True)
def one_thread():
    """Nets this small wait for their threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noisy(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def make_data(n=70, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 2
    return torch.randn(n, 2, 4, 4, generator=generator) + 0.4 * targets.view(-1, 1, 1, 1), targets


def make_net(seed=0):
    """Batch norm and dropout: everything in which one training step may differ from another."""
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    return nn.Sequential(stem, nn.Dropout(0.3), nn.Linear(96, 2))


@pytest.fixture
def task():
    inputs, targets = make_data()
    train = Batches(inputs, targets, 16, shuffle=True, transform=noisy)
    held = Batches(*make_data(40, seed=1), 16)
    return Task((inputs[:1],), train=train, validation=held, test=held)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# -- batches


def test_an_epoch_follows_from_seed_and_number_alone(task):
    train = task.train
    torch.manual_seed(5)
    first = list(train.epoch(1, 2))
    torch.manual_seed(6)
    again = list(train.epoch(1, 2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], next(train.epoch(1, 3))[0])
    assert not torch.equal(first[0][0], next(train.epoch(2, 2))[0])
    assert not torch.equal(next(train.epoch(0, 1))[0], next(train.epoch(1, 0))[0])


def test_an_epoch_holds_every_sample_once():
    batches = Batches(torch.arange(10.0)[:, None], torch.arange(10), 4, shuffle=True)
    assert len(batches) == 3
    assert batches.samples == 10
    seen = torch.cat([targets for _, targets in batches])
    assert seen.tolist() != list(range(10))
    assert sorted(seen.tolist()) == list(range(10))
    assert all(torch.equal(x[:, 0].long(), y) for x, y in batches)
    assert [len(y) for _, y in Batches(torch.zeros(10, 1), torch.zeros(10), 4)] == [4, 4, 2]


def test_tuples_of_inputs_stay_together():
    a = torch.arange(6.0)
    for (x, y), targets in Batches((a, a * 2), {"twice": a * 2}, 4, shuffle=True):
        assert torch.equal(x * 2, y)
        assert torch.equal(y, targets["twice"])


def test_batches_refuse_what_does_not_match():
    with pytest.raises(DataError, match=r"hold \[3, 4\] samples"):
        Batches(torch.zeros(3, 1), torch.zeros(4), 2)
    with pytest.raises(DataError, match="batch_size is 0"):
        Batches(torch.zeros(3, 1), torch.zeros(3), 0)


# -- task


def test_a_task_fills_in_what_follows(task):
    assert task.calibration is task.train
    inputs = task.example_inputs[0]
    assert isinstance(Task(inputs, train=[], validation=[], test=[]).example_inputs, tuple)


def test_a_generator_is_refused_with_what_to_pass_instead():
    once = (pair for pair in [(torch.zeros(1, 1), torch.zeros(1))])
    with pytest.raises(DataError, match=r"Task 'custom', validation: a generator was given; .* Pass a Batches"):
        Task((torch.zeros(1),), train=[], validation=once, test=[])


# -- fit


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def test_a_batch_of_one_sample_is_passed_by_where_statistics_are_taken_and_told_where_they_are_needed():
    x, y = torch.randn(33, 4), torch.randint(0, 3, (33,))
    batches, whole = Batches(x, y, 16), Batches(x[:32], y[:32], 16)
    taken, without = recalibrate_bn(normed(), batches), recalibrate_bn(normed(), whole)
    assert torch.equal(taken[1].running_mean, without[1].running_mean)
    told = r"batch 2 is too small for a batch norm: .* Drop the last batch, or take another batch_size"
    with pytest.raises(DataError, match="epoch 1: " + told):
        fit(normed(), Task(x[:1], train=batches, validation=[], test=[]), Recipe(epochs=1))
    with pytest.raises(DataError, match=told.replace("2", "0", 1)):
        recalibrate_bn(normed(), Batches(x, y, 1))
    spread = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2))  # several values per channel even so
    assert recalibrate_bn(spread, Batches(x[:3, None], y[:3], 1))[1].num_batches_tracked == 3


@pytest.mark.parametrize(
    ("targets", "loss", "words"),
    [
        (torch.zeros(16), cross_entropy, r"batch 0 are torch\.float32 of shape \(8,\), .* Give targets\.long\(\)"),
        (
            torch.zeros(16, dtype=torch.int64),
            partial(cross_entropy, reduction="none"),
            r"the loss of batch 0 is a tensor of shape \(8,\); one number.* \.mean\(\)",
        ),
        (
            torch.zeros(16, 1, dtype=torch.int64),
            cross_entropy,
            r"batch 0 are torch\.int64 of shape \(8, 1\), .*flatten\(\)",
        ),
        (torch.zeros(16), lambda outputs, targets: 0.5, "the loss of batch 0 is a float; one number"),
    ],
)
def test_targets_and_losses_that_do_not_fit_are_told(targets, loss, words):
    x = torch.randn(16, 4)
    task = Task(x[:1], train=Batches(x, targets, 8), validation=[], test=[], loss=loss)
    with pytest.raises(DataError, match=words):
        fit(normed(), task, Recipe(epochs=1))


def test_the_default_score_blames_targets_that_are_no_class_numbers():
    logits = torch.randn(8, 3)
    for targets in (torch.zeros(8, 1, dtype=torch.int64), torch.full((8, 3), 1 / 3)):
        with pytest.raises(
            DataError, match=rf"shape \(8,\), and the targets are .* numbers of shape \(8, {targets.shape[1]}\)\. Give"
        ):
            correct(logits, targets)


class Stream(IterableDataset):
    """Samples one by one, how many nobody knows."""

    def __iter__(self):
        return iter([(torch.full((4,), float(i)), i % 3) for i in range(8)])


def test_a_stream_without_a_length_trains():
    loader = DataLoader(Stream(), batch_size=4)
    model = normed()
    before = model[0].weight.detach().clone()
    fit(model, Task(torch.zeros(1, 4), train=loader, validation=[], test=[]), Recipe(epochs=1))
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_learns_and_leaves_modes_and_generators(task, optimizer):
    model = make_net().eval()
    before = evaluate(model, task.validation).mean()
    torch.manual_seed(9)
    drawn = torch.rand(3)
    torch.manual_seed(9)
    losses = []
    recipe = Recipe(epochs=8, lr=0.05 if optimizer == "sgd" else 0.01, optimizer=optimizer, warmup=1)
    returned = fit(model, task, recipe, on_epoch=lambda epoch, loss: losses.append((epoch, loss)))
    assert returned is model
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.rand(3), drawn)
    assert [epoch for epoch, _ in losses] == list(range(1, 9))
    assert losses[-1][1] < losses[0][1]
    assert evaluate(model, task.validation).mean() > max(before, 0.7)


def test_same_seed_same_bits_and_another_seed_others(task):
    recipe = Recipe(epochs=2)
    first, again, other = (fit(make_net(), task, recipe, seed=seed).state_dict() for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 3])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(task, tmp_path, optimizer, stop):
    recipe = Recipe(epochs=4, lr=0.01, optimizer=optimizer, warmup=0.5, label_smoothing=0.1)
    whole = fit(make_net(), task, recipe, seed=3)

    def interrupt(epoch, loss):
        if epoch == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), task, recipe, seed=3, checkpoint=tmp_path / "fit.pt", on_epoch=interrupt)
    epochs = []
    resumed = make_net()
    torch.rand(17)  # a resumed process has another history
    fit(resumed, task, recipe, seed=3, checkpoint=tmp_path / "fit.pt", on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == list(range(stop + 1, 5))
    assert same(whole.state_dict(), resumed.state_dict())


def test_a_kill_within_an_epoch_loses_only_that_epoch(task, tmp_path):
    recipe = Recipe(epochs=3)
    broken = copy.copy(task.train)
    calls = itertools.count()

    def kill(inputs, generator):
        if next(calls) == 7:  # in the second epoch of five batches
            raise KeyboardInterrupt
        return noisy(inputs, generator)

    broken.transform = kill
    dying = Task(task.example_inputs, train=broken, validation=task.test, test=task.test)
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), dying, recipe, checkpoint=tmp_path / "fit.pt")
    resumed = fit(make_net(), task, recipe, checkpoint=tmp_path / "fit.pt")
    assert same(fit(make_net(), task, recipe).state_dict(), resumed.state_dict())
    assert [p.name for p in tmp_path.iterdir()] == ["fit.pt"]


def test_finished_training_is_loaded_and_not_repeated(task, tmp_path):
    recipe = Recipe(epochs=2)
    first = fit(make_net(), task, recipe, checkpoint=tmp_path / "fit.pt")
    again = fit(make_net(), task, recipe, checkpoint=tmp_path / "fit.pt", on_epoch=lambda *_: pytest.fail("trained"))
    assert same(first.state_dict(), again.state_dict())


def test_a_shuffling_dataloader_resumes_too(tmp_path):
    loader = DataLoader(TensorDataset(*make_data()), batch_size=16, shuffle=True)
    task = Task((torch.zeros(1, 2, 4, 4),), train=loader, validation=loader, test=loader)
    whole = fit(make_net(), task, Recipe(epochs=2))
    with pytest.raises(ZeroDivisionError):
        fit(make_net(), task, Recipe(epochs=2), checkpoint=tmp_path / "c", on_epoch=lambda epoch, _: 1 / (epoch - 1))
    assert same(whole.state_dict(), fit(make_net(), task, Recipe(epochs=2), checkpoint=tmp_path / "c").state_dict())


@pytest.mark.parametrize("change", ["epochs", "seed", "starting weights"])
def test_a_checkpoint_of_other_training_is_refused(task, tmp_path, change):
    path = tmp_path / "fit.pt"
    fit(make_net(), task, Recipe(epochs=1), checkpoint=path)
    recipe = Recipe(epochs=2 if change == "epochs" else 1)
    model = make_net(seed=4 if change == "starting weights" else 0)
    with pytest.raises(MismatchError, match=f"belongs to other training: {change} was .* and is .* delete this one"):
        fit(model, task, recipe, seed=8 if change == "seed" else 0, checkpoint=path)


@pytest.mark.parametrize("change", ["training data", "loss"])
def test_a_checkpoint_knows_what_was_learned_unless_it_is_older(task, tmp_path, change):
    path = tmp_path / "fit.pt"
    fit(make_net(), task, Recipe(epochs=1), checkpoint=path)
    flipped = Batches(task.train.inputs, 1 - task.train.targets, 16, shuffle=True, transform=noisy)
    other = replace(task, train=flipped) if change == "training data" else replace(task, loss=nn.MultiMarginLoss())
    with pytest.raises(MismatchError, match=f"belongs to other training: {change} was .* and is .* delete this one"):
        fit(make_net(), other, Recipe(epochs=1), checkpoint=path)
    state = torch.load(path, weights_only=True)
    del state["identity"][change]
    torch.save(state, path)
    fit(make_net(), other, Recipe(epochs=1), checkpoint=path, on_epoch=lambda *_: pytest.fail("trained"))


def test_a_checkpoint_from_before_an_option_existed_still_counts(task, tmp_path):
    path = tmp_path / "fit.pt"
    fit(make_net(), task, Recipe(epochs=1), checkpoint=path)
    state = torch.load(path, weights_only=True)
    del state["identity"]["distil"]
    torch.save(state, path)
    fit(make_net(), task, Recipe(epochs=1), checkpoint=path, on_epoch=lambda *_: pytest.fail("trained"))
    with pytest.raises(MismatchError, match=r"distil was 0\.0 and is 0\.5"):
        fit(make_net(), task, Recipe(epochs=1, distil=0.5), checkpoint=path, teacher=make_net())


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_says_what_to_do(task, tmp_path, damage):
    path = tmp_path / "fit.pt"
    fit(make_net(), task, Recipe(epochs=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-700] if damage is None else damage)
    with pytest.raises(RecordError, match=r"fit.pt: not a whole checkpoint .* train afresh"):
        fit(make_net(), task, Recipe(epochs=1), checkpoint=path)


def test_a_full_disk_keeps_the_last_checkpoint(task, tmp_path, monkeypatch):
    path, recipe = tmp_path / "fit.pt", Recipe(epochs=3)

    def fill(epoch, loss):
        if epoch == 2:
            monkeypatch.setattr(runs, "_write_bytes", full)

    def full(path, data):
        raise OSError(28, os.strerror(28))

    with pytest.raises(RunError, match="the disk is full"):
        fit(make_net(), task, recipe, checkpoint=path, on_epoch=fill)
    monkeypatch.undo()
    assert same(fit(make_net(), task, recipe).state_dict(), fit(make_net(), task, recipe, checkpoint=path).state_dict())


def test_a_diverging_loss_names_the_place_and_the_rate(task):
    with pytest.raises(
        DataError, match=r"fit, epoch \d: the loss became (nan|inf) at batch \d.*lower lr \(it was"
    ) as caught:
        fit(make_net(), task, Recipe(epochs=8, lr=1e30, schedule="constant"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("part", "words"), [("inputs", "hold 3 of 512"), ("targets", "hold 1 of 16")])
def test_data_that_is_not_finite_is_named_and_no_divergence(task, part, words):
    inputs, targets = make_data()
    targets = targets.float()
    if part == "inputs":
        inputs[20, 0, 0, :3] = math.inf
    else:
        targets[20] = math.nan
    broken = replace(
        task, train=Batches(inputs, targets, 16), loss=lambda outputs, y: (outputs[:, 0] - y).square().mean()
    )
    with pytest.raises(
        DataError, match=f"fit, epoch 1: the {part} of batch 1 {words} values.*sample 4 of the batch"
    ) as caught:
        fit(make_net(), broken, Recipe(epochs=1, lr=1e-3))
    assert not isinstance(caught.value, DivergedError)


def test_statistics_of_data_that_are_not_finite_name_the_data(task):
    inputs, targets = make_data()
    inputs[20, 0, 0, 0] = math.nan
    with pytest.raises(
        DataError, match=r"recalibrate_bn: the inputs of batch 1 hold 1 of 512 values.* sample 4 of the batch"
    ):
        recalibrate_bn(make_net(), Batches(inputs, targets, 16))


@pytest.mark.parametrize("loader", [[], Batches(torch.zeros(0, 2, 4, 4), torch.zeros(0, dtype=torch.long), 8)])
def test_an_empty_loader_is_no_training(loader):
    nothing = Task((torch.zeros(1, 2, 4, 4),), train=loader, validation=loader, test=loader)
    with pytest.raises(DataError, match="fit, epoch 1: the loader gave no batch"):
        fit(make_net(), nothing, Recipe(epochs=1))
    with pytest.raises(DataError, match="evaluate: the loader gave no batch"):
        evaluate(make_net(), nothing.validation)
    with pytest.raises(DataError, match="recalibrate_bn: the loader gave no batch"):
        recalibrate_bn(make_net(), nothing.train)


@pytest.mark.parametrize("other", [lambda x, y: {"x": x, "y": y}, lambda x, y: (x, x, y), lambda x, y: x])
def test_batches_of_another_form_are_told(task, other):
    batches = [other(*batch) for batch in task.train]
    strange = replace(task, train=batches, validation=batches)
    with pytest.raises(
        DataError, match=r"fit, epoch 1: batch 0 is a \w+ of \d+; a pair \(inputs, targets\) was expected"
    ):
        fit(make_net(), strange, Recipe(epochs=1))
    with pytest.raises(DataError, match="evaluate: batch 0 is a"):
        evaluate(make_net(), strange.validation)


def test_batches_of_arrays_and_lists_are_told_before_torch_fails_on_them():
    inputs, targets = make_data(8)
    arrays, listed = [(inputs.numpy(), targets)], [(inputs, targets.tolist())]
    told = r"the inputs of batch 0 are ndarrays, and no tensor is among them; .*torch.from_numpy\(array\)"
    ready = Task((inputs[:1],), train=listed, validation=arrays, test=arrays, calibration=arrays)
    with pytest.raises(DataError, match="evaluate: " + told):
        evaluate(make_net(), arrays)
    with pytest.raises(DataError, match=told):
        profile(make_net(), ready, pruning_ratios=(0.5,))
    with pytest.raises(DataError, match="fit, epoch 1: " + told):
        fit(make_net(), replace(ready, train=arrays), Recipe(epochs=1))
    with pytest.raises(DataError, match=r"fit, epoch 1: the targets of batch 0 are a list, .*torch.tensor\(targets\)"):
        fit(make_net(), ready, Recipe(epochs=1))
    for given in (targets.tolist(), targets.numpy(), None):
        with pytest.raises(DataError, match=r"Batches: .* (int|ndarray|NoneType) where tensors"):
            Batches(inputs, given, 4)


@pytest.mark.parametrize("other", [torch.float64, torch.int64, torch.uint8, torch.float16])
def test_inputs_of_other_numbers_are_told(task, other):
    batches = [(x.to(other), y) for x, y in task.train]
    strange = replace(task, train=batches, validation=batches)
    words = f"the network cannot compute with inputs of {str(other)[6:]}: its weights are float32 .*inputs.float()"
    for look in (
        lambda net: fit(net, strange, Recipe(epochs=1)),
        lambda net: evaluate(net, strange.validation),
        lambda net: recalibrate_bn(net, strange.train),
        lambda net: profile(net, replace(task, validation=batches), pruning_ratios=(0.5,)),
    ):
        with pytest.raises(DataError, match=words) as caught:
            look(make_net())
        assert "\n" not in str(caught.value)


def test_a_network_that_makes_its_own_numbers_takes_any(task):
    net = nn.Sequential(make_net())
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    assert len(evaluate(net, [(x.double(), y) for x, y in task.validation]))


INPUTS_ALONE = {
    "recalibrate": recalibrate_bn,
    "first inputs": lambda net, some: first_inputs(some, 4),
    "ranges": lambda net, some: observe(net, [], some),
}


@pytest.mark.parametrize("name", INPUTS_ALONE)
def test_where_inputs_alone_count_there_need_be_no_targets(task, name):
    look = INPUTS_ALONE[name]
    look(make_net(), [(x,) for x, _ in task.train])
    for batches in ([x for x, _ in task.train], [{"x": x} for x, _ in task.train], [()]):
        with pytest.raises(DataError, match="batch 0 is a"):
            look(make_net(), batches)


def test_no_epochs_change_nothing(task):
    assert same(state(make_net()), fit(make_net(), task, Recipe(epochs=0)).state_dict())


def test_frozen_parameters_stay(task):
    model = make_net()
    model[0].requires_grad_(False)
    before = model[0][0].weight.clone()
    fit(model, task, Recipe(epochs=1))
    assert torch.equal(model[0][0].weight, before)
    with pytest.raises(LamellaError, match="nothing to train"):
        fit(model.requires_grad_(False), task, Recipe(epochs=1))


def test_a_loss_of_ones_own_sees_the_whole_output():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, y):
            return {"sum": self.layer(x), "other": y}

    def loss(outputs, targets):
        return (outputs["sum"] - targets["wanted"]).square().mean()

    def closeness(outputs, targets):
        return -(outputs["sum"] - targets["wanted"]).abs().mean(1)

    x = torch.randn(12, 3)
    batches = Batches((x, x), {"wanted": torch.zeros(12, 2)}, 5)
    task = Task((x[:1], x[:1]), train=batches, validation=batches, test=batches, loss=loss, score=closeness)
    model = TwoHeads()
    before = evaluate(model, task.test, task.score)
    assert before.shape == (12,)
    fit(model, task, Recipe(epochs=10))
    assert evaluate(model, task.test, task.score).mean() > before.mean()
    values, told = iter((1.0, 2.0, 6.0)), []
    counted = replace(task, loss=lambda outputs, targets: 0.0 * outputs["sum"].sum() + next(values))
    fit(model, counted, Recipe(epochs=1), on_epoch=lambda done, mean_loss: told.append(mean_loss))
    assert told == [3.0]
    with pytest.raises(LamellaError, match=r"label_smoothing=0.1 belongs to the default loss"):
        fit(model, task, Recipe(epochs=1, label_smoothing=0.1))


# -- recipe


def test_rates_warm_up_and_fall():
    recipe = Recipe(epochs=10, lr=0.2, warmup=2)
    assert [rate_at(recipe, e) for e in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.1, 0.2, 0.1, 0])
    assert rate_at(Recipe(epochs=4, schedule="constant"), 3.9) == 0.1
    assert rate_at(Recipe(epochs=2, warmup=2), 1.5) == pytest.approx(0.075)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("lr", 0.0),
        ("lr", math.inf),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("optimizer", "lion"),
        ("schedule", "step"),
        ("warmup", 6.0),
        ("label_smoothing", 1.0),
    ],
)
def test_a_recipe_rejects_nonsense_by_field(field, value):
    with pytest.raises(RecordError) as caught:
        Recipe(**{"epochs": 5, field: value})
    assert caught.value.path == field


def test_a_recipe_is_a_record():
    recipe = Recipe(epochs=5, optimizer="adamw", warmup=1.5)
    assert records.loads(records.dumps(recipe), Recipe) == recipe


# -- evaluate


def test_scores_are_per_sample_in_order_and_nothing_changes(task):
    model = make_net().train()
    model[1].eval()
    before, modes = state(model), [m.training for m in model.modules()]
    scores = evaluate(model, task.validation, task.score)
    assert scores.shape == (40,)
    assert scores.dtype == torch.float64
    assert same(before, state(model))
    assert modes == [m.training for m in model.modules()]
    inputs, targets = make_data(40, seed=1)
    with torch.no_grad():
        assert torch.equal(scores, (model.eval()(inputs).argmax(1) == targets).double())


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (
            lambda o, t: torch.full((len(t),), math.nan),
            r"16 of 16 scores of batch 0 are not finite \(the first, nan, at sample",
        ),
        (lambda o, t: torch.where(t == 1, math.inf, 0.0), "are not finite"),
        (lambda o, t: (o.argmax(1) == t).double().mean(), r"shape \(\) was seen; a tensor of shape \(16,\)"),
        (lambda o, t: o, r"shape \(16, 2\) was seen"),
        (lambda o, t: 0.5, "a float was seen"),
    ],
)
def test_scores_that_are_none_are_refused(task, score, words):
    with pytest.raises(DataError, match=r"evaluate: .*" + words) as caught:
        evaluate(make_net(), task.validation, score)
    assert "\n" not in str(caught.value)


def test_a_broken_network_is_not_taken_for_a_guessing_one(task):
    model = make_net()
    model[2].bias.data[1] = math.nan
    with pytest.raises(
        DataError, match=r"16 of 16 scores of batch 0 are not finite .* after a training, take a lower lr"
    ):
        evaluate(model, task.validation)


class Tabled(nn.Module):
    """Makes its table at the first forward, as rotary positions and masks do, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head, self.table = nn.Linear(4, 4), nn.Linear(4, 3), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.cos(torch.arange(4.0))
        return self.head(self.linear(x) * self.table)


TABLED = Batches(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3, 4)
TABLED_TASK = Task(TABLED.inputs[:1], train=TABLED, validation=TABLED, test=TABLED)


@pytest.mark.parametrize(
    "look",
    [
        lambda model: evaluate(model, TABLED),
        lambda model: scored(model, TABLED, TABLED_TASK),
        lambda model: watch(model, TABLED_TASK, np.ones(8)),
        lambda model: observe(model, ["head"], TABLED, 1),
        lambda model: profile(model, TABLED_TASK, pruning_ratios=(0.5,), bits=(4,)),
    ],
    ids=["evaluate", "scored", "watch", "observe", "profile"],
)
def test_a_network_that_keeps_a_table_is_trained_after_it_was_looked_at(look):
    torch.manual_seed(0)
    model = Tabled()
    look(model)
    fit(model, TABLED_TASK, Recipe(epochs=1, lr=0.01))


def test_the_default_score_asks_for_logits():
    with pytest.raises(DataError, match=r"logits of shape \(N, C\), and the network gave dict"):
        correct({"logits": 1}, torch.zeros(2))


# -- batch norm


def test_statistics_become_the_mean_over_the_batches(task):
    model = make_net()
    model(torch.randn(8, 2, 4, 4) * 50)  # statistics that must be forgotten
    model.eval()
    batches = [(x * 3 + 1, y) for x, y in Batches(*make_data(64), 16)]
    weights = state(model)
    assert recalibrate_bn(model, batches, count=3) is model
    conv, norm = model[0][0], model[0][1]
    with torch.no_grad():
        outputs = [conv(x) for x, _ in batches[:3]]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variance = torch.stack([o.transpose(0, 1).flatten(1).var(1) for o in outputs]).mean(0)
    assert torch.allclose(norm.running_mean, mean, atol=1e-6)
    assert torch.allclose(norm.running_var, variance, rtol=1e-5)
    assert norm.momentum == 0.1
    assert not any(m.training for m in model.modules())
    assert same({k: v for k, v in weights.items() if "running" not in k and "num" not in k},
                {k: v for k, v in state(model).items() if "running" not in k and "num" not in k})  # fmt: skip


def test_without_batch_norms_nothing_is_read():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    recalibrate_bn(model, iter(pytest.fail, None))


class Flattening(nn.Module):
    """A convolution, and a flattening that wants its pictures in one piece; notes how they lay in training."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.conv, self.linear, self.view, self.seen = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 2), view, set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        x = self.conv(x)
        outputs = self.linear(x.view(len(x), -1) if self.view else x.flatten(1))
        if self.training:
            self.seen.add(last)
        return outputs


@pytest.mark.parametrize("view", [False, True])
def test_pictures_lie_channels_last_in_training_where_the_network_takes_them_so(view):
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 4, 4), torch.randint(0, 2, (16,))
    task = Task((images[:1],), train=[(images, labels)], validation=[], test=[])
    model = fit(Flattening(view), task, Recipe(epochs=2, lr=0.01))
    assert model.seen == {not view}


class Mapping(nn.Module):
    """Statistics and chance before a map of outputs, and a branch that trains alone and may want its pictures in one piece."""

    def __init__(self, view: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.aside, self.view = nn.Linear(64, 1), view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.norm(self.conv(x)))
        aside = self.aside(x.view(len(x), -1)) if self.training and self.view else self.aside(x.flatten(1))
        return x + aside[..., None, None]


class Widening(torch.autograd.Function):
    """The same, whose gradient wants what it saw in one piece."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x.view(-1) == x.view(-1)).view(x.shape)


def flat_loss(outputs, targets):
    return (outputs.view(-1) - targets.flatten()).square().mean()


def even_loss(outputs, targets):
    return (outputs.flatten() - targets.flatten()).square().mean()


def backward_loss(outputs, targets):
    return (Widening.apply(outputs).square() * (1 + targets)).mean()


@pytest.mark.parametrize(
    ("loss", "view", "teacher"),
    [
        (flat_loss, False, None),
        (backward_loss, False, None),
        (even_loss, True, None),
        (even_loss, False, Flattening(view=True)),
    ],
    ids=["loss", "backward", "training alone", "teacher"],
)
def test_whoever_cannot_read_channels_last_trains_as_if_it_had_never_been_tried(loss, view, teacher, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images, maps = torch.randn(16, 3, 4, 4, generator=generator), torch.randn(16, 4, 4, 4, generator=generator)
    task = Task((images[:1],), train=Batches(images, maps, 8), validation=[], test=[], loss=loss)
    ended = []
    for laid in (channels_last, as_given):
        monkeypatch.setattr("lamella.training.layouts.channels_last", laid)
        torch.manual_seed(0)
        model = Mapping(view)
        if teacher:
            model = nn.Sequential(model, nn.Flatten(), nn.Linear(64, 2))
            task = replace(task, train=Batches(images, torch.arange(16) % 2, 8), loss=cross_entropy)
        recipe = Recipe(epochs=2, lr=0.01, distil=0.5 if teacher else 0.0)
        ended.append(state(fit(model, task, recipe, teacher=teacher)))
    assert same(*ended)


def test_channels_last_changes_no_gradient():
    torch.manual_seed(0)
    model, images = Flattening(view=False).double(), torch.randn(8, 3, 4, 4, dtype=torch.float64)
    gradients = []
    for lay in (channels_last, as_given):
        model.zero_grad()
        model(lay(images)).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for mine, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("targets", "seen"), [([0, 7, 1], "reach from 0 to 7"), ([1, -1, 0], "reach from -1 to 1")])
def test_labels_without_an_output_are_told(targets, seen):
    """Of the default loss, alone or within another one, and of the default score."""
    torch.manual_seed(0)
    x, labels = torch.randn(3, 4), torch.tensor(targets)
    batches = [(x, torch.tensor([0, 1, 1])), (x, labels)]
    for loss in (cross_entropy, lambda outputs, targets: 2 * cross_entropy(outputs, targets)):
        task = Task(x[:1], train=batches, validation=batches, test=batches, loss=loss)
        with pytest.raises(
            DataError, match=rf"fit, epoch 1: the targets of batch 1 {seen}, and the network has no output"
        ):
            fit(nn.Linear(4, 2), task, Recipe(epochs=1))
        with pytest.raises(DataError, match=rf"evaluate: the targets {seen}, and the network answers for 2 classes"):
            evaluate(nn.Linear(4, 2), batches)
    assert evaluate(nn.Linear(4, 8), batches[:1]).shape == (3,)


def test_outputs_that_are_no_logits_are_told():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    batches = [(torch.randn(3, 4), torch.tensor([0, 1, 1]))]
    task = Task(batches[0][0], train=batches, validation=batches, test=batches)
    with pytest.raises(
        DataError, match=r"fit, epoch 1: the network gave tuple for batch 0, and the default loss takes logits"
    ):
        fit(Two(4, 2), task, Recipe(epochs=1))


def test_labels_to_ignore_are_none_of_the_default_loss():
    x = torch.randn(3, 4)
    ignored = [(x, torch.tensor([0, -100, 1]))]
    fit(nn.Linear(4, 2), Task(x[:1], train=ignored, validation=[], test=[]), Recipe(epochs=1))


def portions():
    x, y = torch.arange(20.0)[:, None], torch.arange(20)
    whole = Batches(x, y, 8)
    data = DataLoader(TensorDataset(x, y), batch_size=8)
    return {"batches": whole, "portion": Portion(whole, 18), "list": list(whole), "data loader": data}


@pytest.mark.parametrize("kind", ["batches", "portion", "list", "data loader"])
def test_a_portion_is_the_first_samples_of_any_loader(kind):
    few = Portion(portions()[kind], 11)
    lengths = [len(x) for x, _ in few]
    assert lengths == ([8, 3] if kind in ("batches", "portion") else [8, 8])
    assert len(few) == len(lengths)
    assert [len(x) for x, _ in few.epoch(1, 2)] == lengths


def test_a_portion_of_a_portion_is_no_larger_and_no_deeper():
    whole = Batches(torch.zeros(20, 1), torch.zeros(20), 8)
    inner = Portion(whole, 10)
    assert Portion(inner, 15).samples == 10
    assert Portion(inner, 15).loader is whole
    assert Portion(whole, 50).samples == 20


def test_a_portion_of_a_stream_has_no_length_and_trains():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.zeros(1), 0)] * 20)

    with pytest.raises(TypeError, match="no known number of batches"):
        len(Portion(iter, 6))
    few = Portion(DataLoader(Stream(), batch_size=4), 6)
    with pytest.raises(TypeError, match="has no len"):
        len(few)
    task = Task(torch.zeros(1, 1), train=few, validation=[], test=[])
    fit(nn.Linear(1, 2), task, Recipe(epochs=1, lr=0.01))
    assert sum(len(x) for x, _ in few) == 8
