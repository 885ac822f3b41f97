"""Training through Lightning Fabric: the same network on one device, nearly the same from two processes, and errors that say what to do."""

import sys

import pytest
import torch
from torch import nn

from lamella.errors import DivergedError, LamellaError, MissingExtra, RecordError
from lamella.grids import put_on_grids, take_off_grids
from lamella.training import Batches, Recipe, Task, evaluate, fit
from lamella.training.processes import _cores

two_cores = pytest.mark.skipif(_cores() < 2, reason="two processes want two CPU cores")
BRIGHT = torch.randn(256, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def task():
    pytest.importorskip("lightning_fabric")
    data = Batches(BRIGHT, (BRIGHT.mean((1, 2, 3)) > 0).long(), 30, shuffle=True)  # the last batch has 16
    return Task((BRIGHT[:1],), train=data, validation=data, test=data)


def net():
    torch.manual_seed(1)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 2))
    return nn.Sequential(*layers)


def accuracy(model, task):
    return float(evaluate(model, task.validation).mean())


def equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_one_device_trains_bit_for_bit_as_none(task):
    losses = {None: [], 1: []}
    nets = [
        fit(net(), task, Recipe(epochs=2, lr=0.05, devices=d), on_epoch=lambda *seen, d=d: losses[d].append(seen))
        for d in losses
    ]
    assert equal(*nets)
    assert losses[None] == losses[1]


@two_cores
def test_two_processes_train_to_the_same_kind_of_result_and_resume(task, tmp_path):
    recipe, checkpoint = Recipe(epochs=3, lr=0.05, devices=2), tmp_path / "fit.pt"
    alone, losses = accuracy(fit(net(), task, Recipe(epochs=3, lr=0.05)), task), []
    together = fit(net(), task, recipe, on_epoch=lambda *seen: losses.append(seen))
    assert accuracy(together, task) == pytest.approx(alone, abs=0.04)
    assert alone > 0.75
    assert [epoch for epoch, _ in losses] == [1, 2, 3]
    assert losses[-1][1] < 0.8 * losses[0][1]
    with pytest.raises(LamellaError, match=r"training in 2 processes failed: .*power cut.* devices=1"):
        fit(net(), task, recipe, checkpoint=checkpoint, after_batch=PowerCut())
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 2
    assert equal(fit(net(), task, recipe, checkpoint=checkpoint), together)


class PowerCut:
    until = 0.0

    def __call__(self, index, before, after):
        if after > 0.7:
            raise RuntimeError("power cut")


def test_half_the_bits_train_to_the_same_kind_of_result(task):
    whole = fit(net(), task, Recipe(epochs=3, lr=0.05))
    half = fit(net(), task, Recipe(epochs=3, lr=0.05, precision="bf16-mixed"))
    assert accuracy(half, task) == pytest.approx(accuracy(whole, task), abs=0.03)
    assert not equal(half, whole)
    assert {p.dtype for p in half.parameters()} == {torch.float32}


@pytest.mark.parametrize(("precision", "half"), [("32-true", False), ("bf16-mixed", True)])
def test_a_teacher_computes_in_the_precision_of_the_training(task, precision, half):
    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            answers = self.net(x)
            seen.append(answers.dtype)
            return answers

    seen = []
    pupil = fit(net(), task, Recipe(epochs=1, lr=0.05, distil=0.5, precision=precision), teacher=Teacher())
    assert set(seen) == {torch.bfloat16 if half else torch.float32}
    assert {p.dtype for p in pupil.parameters()} == {torch.float32}


@two_cores
def test_weights_on_grids_and_a_head_that_rests_train_in_two_processes(task):
    class Rested(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.auxiliary = net(), nn.Linear(64, 2)

        def forward(self, x):
            return self.net(x)

    model = put_on_grids(Rested(), {"net.5": 4})
    fit(model, task, Recipe(epochs=1, lr=0.05, devices=2, distil=0.5, patience=1), teacher=net())
    take_off_grids(model, ["net.5"])
    assert max(len(row.unique()) for row in model.net[5].weight) <= 15
    assert model.net[5].weight.std() > 0


@two_cores
def test_errors_come_back_as_they_are(task, monkeypatch):
    with pytest.raises(DivergedError, match=r"fit, epoch 1: the loss became (inf|nan) at batch"):
        fit(net(), task, Recipe(epochs=1, lr=1e30, devices=2))
    with pytest.raises(
        LamellaError, match=r"devices=4096: this machine has \d+ (CPU core|GPU)s? to train on\. Ask for at most"
    ):
        fit(net(), task, Recipe(epochs=1, devices=4096))
    with pytest.raises(RecordError, match="precision: '16-mixed' is not one of 32-true, bf16-mixed"):
        Recipe(epochs=1, precision="16-mixed")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingExtra, match=r"needs lightning-fabric, .* pip install 'lamella\[fabric\]'"):
        fit(net(), task, Recipe(epochs=1, devices=1))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_optimizer_begins_where_its_model_was_moved_to(monkeypatch, tmp_path, optimizer):
    """Another type stands for another device here: state that lies elsewhere than its parameters stops the first step, or a resumed one."""
    monkeypatch.setattr("lamella.training.processes.Alone.wrapped", lambda self, model: model.double())
    inputs = BRIGHT.double()
    data = Batches(inputs, (inputs.mean((1, 2, 3)) > 0).long(), 64)
    task = Task((inputs[:1],), train=data, validation=data, test=data)
    recipe = Recipe(epochs=2, lr=0.01, optimizer=optimizer)
    whole = fit(net(), task, recipe, checkpoint=tmp_path / "whole.pt")

    def killed(done, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net(), task, recipe, checkpoint=tmp_path / "fit.pt", on_epoch=killed)
    assert equal(fit(net(), task, recipe, checkpoint=tmp_path / "fit.pt"), whole)
