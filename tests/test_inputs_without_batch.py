"""Networks of which not every input has a sample in every row: masks, mixing matrices, temperatures."""

import pytest
import torch
from torch import nn

from lamella.compression import compress
from lamella.elasticity import elasticize, publish
from lamella.planning import plan
from lamella.profiling import Sweep, profile
from lamella.quantization import quantize
from lamella.schema import Budget
from lamella.stages.serving import samples
from lamella.surgery import narrow
from lamella.tracing import trace
from lamella.training import Recipe, Task, carry_batch, evaluate, first_inputs


class Tempered(nn.Module):
    """Of its three inputs the first alone is of samples."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv1d(8, 16, 1), nn.Conv1d(16, 12, 1), nn.Linear(12, 4)

    def forward(self, x, mixing, temperature):
        return self.out((self.b(self.a(x).relu() @ mixing).relu()).mean(2)) * temperature


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    x, y, mixing, temperature = torch.randn(37, 8, 5), torch.arange(37) % 4, torch.rand(5, 5), torch.tensor(2.0)
    # The last batch is as long as the matrix.
    batches = [((x[i : i + 16], mixing, temperature), y[i : i + 16]) for i in range(0, 37, 16)]
    return Task((x[:2], mixing, temperature), train=batches, validation=batches, test=batches)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Tempered().eval()


def test_what_is_no_batch_is_neither_joined_nor_cut(task):
    assert carry_batch(task.example_inputs) == [True, False, False]
    assert [x.shape for x in first_inputs(task.validation, 32)] == [(32, 8, 5), (5, 5), ()]
    assert [[part.shape for part in one] for one in samples(task, 2).inputs] == [[(1, 8, 5), (5, 5), ()]] * 2


@pytest.mark.parametrize("method", ["exact", "race", "estimate"])
def test_profiles_count_as_the_narrowed_networks_do(task, model, method):
    graph = trace(model, task.example_inputs, round_to=4)
    found = profile(model, task, graph=graph, pruning_ratios=(0.25, 0.5), method=method, sweep=Sweep(chunk=16))
    assert found.baseline.n == 37
    for point in found.points if method == "exact" else ():
        small = narrow(model, graph, {point.target: point.width})
        assert point.score.value == pytest.approx(float(evaluate(small, task.validation).mean()))


def test_they_are_compressed_rounded_made_elastic_and_published(task, model, tmp_path):
    graph = trace(model, task.example_inputs, round_to=4)
    made = plan(
        profile(model, task, graph=graph, pruning_ratios=(0.5,)), Budget(params="70%"), planner="uniform", epochs=1
    )
    small, result = compress(model, made, task, graph=graph)
    _, rounded = quantize(small, result, task)
    assert set(rounded.bits) == {"a", "b", "out"}
    net = publish(
        elasticize(model, (0.5,), task, graph=graph, recipe=Recipe(epochs=1, lr=0.01)), task, tmp_path, slots=2
    )
    assert all(level.latency_ms for level in net.levels)
