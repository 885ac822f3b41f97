"""Channels that reach far beyond the others: brought down, without a change of what the network computes."""

import json

import pytest
import torch
import zoo
from torch import nn
from typer.testing import CliRunner

from lamella import equalizing
from lamella.cli import app
from lamella.compression import compress
from lamella.costs import cost
from lamella.equalizing import equalize
from lamella.errors import TraceError
from lamella.quantization import quantize
from lamella.schema import Plan
from lamella.surgery import copied, narrow
from lamella.tasks import make_task
from lamella.tracing import trace
from lamella.training import Recipe, Task, evaluate, fit


@pytest.fixture(scope="module")
def digits():
    return make_task("digits", limit=600)


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    return fit(model, digits, Recipe(epochs=12, lr=0.05)).eval()


def spoiled(model, times=1000.0):
    """The same function, a channel of which reaches far: of a norm, and of a layer in front of a flattening."""
    model = copied(model, {})
    with torch.no_grad():
        for parameter in (model[1].weight, model[1].bias):
            parameter[3] *= times
        model[4].weight[:, 3] /= times
        model[4].weight[5] *= times
        model[4].bias[5] *= times
        model[7].weight[:, 5 * 16 : 6 * 16] /= times
    return model


def in_eight_bits(model, digits):
    graph = trace(model, digits.example_inputs)
    plan = Plan(structure=graph.structure, planner="none", steps=(), predicted=cost(graph), dense=cost(graph))
    coarse, result = quantize(*compress(model, plan, digits, graph=graph), digits)
    return float(evaluate(coarse, digits.validation, digits.score).mean()), result.notes


def test_eight_bits_come_back_where_a_channel_took_them_all(trained, digits):
    model = spoiled(trained)
    even = equalize(model, trace(model, digits.example_inputs), digits)
    x = digits.example_inputs[0]
    torch.testing.assert_close(even(x), model(x), rtol=1e-4, atol=1e-4)
    dense, _ = in_eight_bits(trained, digits)
    lost, notes = in_eight_bits(model, digits)
    assert lost < dense - 0.3
    assert any("lamella.equalize" in note for note in notes)
    found, notes = in_eight_bits(even, digits)
    assert found >= dense - 0.01
    assert not any("unevenly far" in note for note in notes)


def test_a_network_of_even_channels_stays_bit_for_bit(trained, digits):
    even = equalize(trained, trace(trained, digits.example_inputs), digits)
    assert even is not trained
    for name, tensor in trained.state_dict().items():
        assert torch.equal(even.state_dict()[name], tensor), name


def test_the_graph_of_another_network_is_refused(trained, digits):
    graph = trace(trained, digits.example_inputs)
    with pytest.raises(TraceError, match="belongs to another model"):
        equalize(narrow(trained, graph, {"0": 6}), graph, digits)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_no_network_computes_anything_else_afterwards(name, monkeypatch):
    monkeypatch.setattr(equalizing, "FAR", 1.0)
    model, inputs, graph = zoo.traced(name)
    loader = [(inputs if len(inputs) > 1 else inputs[0], torch.zeros(1))]
    task = Task(inputs, train=loader, validation=loader, test=loader)
    even = equalize(model, graph, task)
    for seen, expected in zip(zoo.outputs(even, inputs), zoo.outputs(model, inputs), strict=True):
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["flattened", "residual", "dense_concat"])
def test_groups_are_scaled_wherever_they_lie(name, monkeypatch):
    monkeypatch.setattr(equalizing, "FAR", 1.0)
    model, inputs, graph = zoo.traced(name)
    loader = [(inputs[0], torch.zeros(1))]
    even = equalize(model, graph, Task(inputs, train=loader, validation=loader, test=loader))
    assert any(not torch.equal(tensor, even.state_dict()[each]) for each, tensor in model.state_dict().items())


def test_a_run_is_equalized_before_it_is_quantized(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(spoiled(trained).state_dict(), "spoiled.pt")
    (tmp_path / "uneven_nets.py").write_text(NETS)
    invoke = CliRunner().invoke
    words = ["--model", "uneven_nets.py:make", "--task", "digits", "--option", "limit=600", "--weights", "spoiled.pt"]
    assert invoke(app, ["trace", "r", *words]).exit_code == 0
    scores = []
    for extra in ([], ["--equalize"]):
        done = invoke(app, ["quantize", "r", "--allow-slower", "--json", *extra])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        scores.append({file["path"]: file["validation_accuracy"] for file in told["files"]})
    assert scores[1]["r/model.onnx"] == scores[0]["r/model.onnx"]
    assert scores[1]["r/model.int8.onnx"] > scores[0]["r/model.int8.onnx"] + 0.3


NETS = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
    )
"""
