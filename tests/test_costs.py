"""Costs are arithmetic: they equal what counting the narrowed model gives."""

import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lamella.axes import best, groups_of
from lamella.costs import FILE_OVERHEAD, cost, file_bits, layer_cost, layer_costs, numel
from lamella.errors import RecordError
from lamella.exporting import export_onnx, onnx_bytes, quantize_onnx
from lamella.planning import plan
from lamella.quantization import integers_file
from lamella.records import from_plain, to_plain
from lamella.schema import SCHEMES, Budget, Graph, Point, Profile, Score
from lamella.surgery import narrow
from lamella.tracing import trace
from lamella.training import Batches, Task
from lamella.zoo import make_model

every_net = pytest.mark.parametrize("name", zoo.NAMES)
aten = torch.ops.aten


def halves(graph):
    return {g.name: g.legal(g.width / 2) for g in graph.free}


def counted_macs(model, inputs):
    """Multiply-accumulates per sample of convolutions and linear layers, as torch's own counter sees them."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    ops = counter.get_flop_counts()["Global"]
    wanted = {aten.convolution, aten.mm, aten.addmm} | (
        {aten.bmm} if "matrix" in dict(model.named_parameters()) else set()
    )
    return sum(n for op, n in ops.items() if op in wanted) // 2 // len(inputs[0])


@every_net
def test_params_and_macs_equal_counting(name):
    model, inputs, graph = zoo.traced(name)
    for widths in ({}, halves(graph), {g.name: g.legal(2) for g in graph.free}):
        small = narrow(model, graph, widths)
        predicted = cost(graph, widths)
        assert predicted.params == sum(p.numel() for p in small.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert predicted.macs == counted_macs(small, inputs)


@every_net
def test_layers_sum_to_the_model(name):
    _, _, graph = zoo.traced(name)
    each = [layer_cost(graph, layer.name, halves(graph)) for layer in graph.layers]
    whole = cost(graph, halves(graph))
    assert sum(c.macs for c in each) == whole.macs
    tensors = {n for layer in graph.layers for n in (layer.weight, layer.bias) if n}
    loose = [p for p in graph.parameters if p.trained and p.name not in tensors]
    full = graph.completed(halves(graph))
    if name not in ("tied", "tied_modules"):
        assert sum(c.params for c in each) + sum(numel(p, full) for p in loose) == whole.params


def test_a_graph_from_before_there_were_products_is_read_and_is_the_same_structure():
    _, _, graph = zoo.traced("mixer")
    plain = to_plain(graph)
    del plain["products"]
    old = from_plain(plain, Graph)
    assert old.structure == graph.structure
    assert cost(old) == cost(graph)
    assert cost(old, halves(graph)).macs > cost(graph, halves(graph)).macs


def test_a_product_of_no_layer_is_refused_with_its_path():
    _, _, graph = zoo.traced("mixer")
    with pytest.raises(RecordError, match=r"products\[0\].layer: 'nope' is not a layer"):
        replace(graph, products=(replace(graph.products[0], layer="nope"),))


def test_bytes_fall_with_bits_and_widths():
    graph = trace(make_model("resnet20"), (torch.randn(1, 3, 32, 32),), prove=False)
    dense, bits = cost(graph), {layer.name: 8 for layer in graph.layers if layer.kind != "batch_norm"}
    int8, half = cost(graph, bits=bits), cost(graph, halves(graph))
    assert dense.bytes > 4 * (dense.params - 1500)
    assert int8.bytes < 0.4 * dense.bytes
    assert half.bytes < 0.4 * dense.bytes
    assert half.memory < dense.memory
    assert cost(graph, bits=dict.fromkeys(bits, 32)) == dense
    assert sum(layer_cost(graph, layer.name, bits=bits).bytes for layer in graph.layers) + FILE_OVERHEAD == int8.bytes


@pytest.mark.parametrize("batch", [1, 8])
def test_a_batch_is_told_by_inputs_of_one_axis_and_of_any_name(batch):
    class Pairs(nn.Module):  # users and items, each a number a sample
        def __init__(self):
            super().__init__()
            self.users, self.items = nn.Embedding(10, 8), nn.Embedding(12, 8)
            self.body, self.out = nn.Linear(16, 16), nn.Linear(16, 1)

        def forward(self, b_users, c_items):
            return self.out(torch.relu(self.body(torch.cat((self.users(b_users), self.items(c_items)), 1))))

    class Step(nn.Module):  # one moment for all pictures
        def __init__(self):
            super().__init__()
            self.time, self.body, self.out = nn.Linear(1, 8), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, p_time, b_x):
            return self.out(torch.relu(self.body(b_x)) + self.time(p_time)[:, None, None])

    pairs = torch.randint(10, (batch,)), torch.randint(10, (batch,))
    assert cost(trace(Pairs(), pairs, prove=False)).macs == 16 * 16 + 16
    found = cost(trace(Step(), (torch.rand(1), torch.randn(batch, 3, 4, 4)), prove=False))
    assert found.macs == 8 + 4 * (27 * 8 + 8 * 2)
    assert found.memory == cost(trace(Step(), (torch.rand(1), torch.randn(3, 3, 4, 4)), prove=False)).memory


def test_memory_is_the_peak_of_live_activations():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 8, 1), nn.Conv2d(14, 2, 1)

        def forward(self, x):
            a = self.a(x)
            return self.c(torch.cat([a, self.b(a)], 1))

    graph = trace(Net(), (torch.randn(1, 1, 4, 4),), prove=False, round_to=1)
    assert cost(graph).memory == 4 * 16 * (6 + 8 + 14)  # while the two are joined
    assert cost(graph, {"a": 2, "b": 3}).memory == 4 * 16 * (2 + 3 + 5)
    assert layer_cost(graph, "b", {"b": 3}).memory == 4 * 16 * 3


def test_an_impossible_width_is_refused_with_its_path():
    _, _, graph = zoo.traced("grouped")
    with pytest.raises(RecordError, match=r"\['nope'\]: no such group"):
        cost(graph, {"nope": 1})
    with pytest.raises(RecordError, match=r"\['1.0'\]: 6 is not a multiple of 4"):
        cost(graph, {"1.0": 6})


def test_ten_thousand_costs_a_second():
    graph = trace(make_model("resnet20"), (torch.randn(1, 3, 32, 32),), prove=False)
    widths = halves(graph)
    cost(graph, widths)
    started = time.process_time()
    for _ in range(500):
        cost(graph, widths)
    assert time.process_time() - started < 0.5  # ten times as long as on an idle machine


def test_ties_go_to_the_lower_index():
    assert best(np.array([1.0, 2.0, 2.0, 2.0]), [2]) == [1, 2]
    assert best(np.array([1.0, 2.0, 3.0, 0.0]), [1, 1], [0, 0, 1, 1]) == [1, 2]


def test_groups_of_an_axis_in_order():
    _, _, graph = zoo.traced("dense_concat")
    assert groups_of(graph.parameter_of["out.2.weight"].axes[1]) == ("stem.0", "one.0", "two.0")


@pytest.mark.parametrize(("scheme", "bits"), [("nbits-fc", 4), ("dynamic-fc", 8), ("static-nbits-fc", 4)])
def test_bytes_of_linear_layers_in_forms_of_their_own_are_those_of_the_file(scheme, bits, tmp_path):
    pytest.importorskip("onnxruntime")
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 200), nn.ReLU(), nn.Linear(200, 10)
    )
    x = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = Batches(x, torch.zeros(32, dtype=torch.int64), 32)
    task = Task((x[:2],), train=data, validation=data, test=data)
    given = {"3": bits, "5": bits} | ({"0": 8} if SCHEMES[scheme].calibrated else {})
    source = export_onnx(model, task.example_inputs, tmp_path / "model.onnx")
    weighs = onnx_bytes(integers_file(source, tmp_path / "small.onnx", given, task, scheme=scheme))
    graph, form = trace(model, task.example_inputs), SCHEMES[scheme].linear
    predicted = cost(graph, bits=given, linear=form).bytes
    assert predicted == pytest.approx(weighs, rel=0.03)
    assert (predicted > cost(graph, bits=given).bytes) == (form == "blocks")
    assert sum(each.bytes for each in layer_costs(graph, bits=given, linear=form).values()) + FILE_OVERHEAD == predicted


@pytest.mark.parametrize("name", ["autoencoder", "lenet5"])
def test_bytes_of_small_files_are_predicted_too(name, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = make_model(name).eval()
    shape = (1, 28, 28) if name == "lenet5" else (next(model.parameters()).shape[1],)
    x = torch.randn(8, *shape)
    graph = trace(model, (x,), prove=False)
    layers = [layer.name for layer in graph.multiplying]
    source = export_onnx(model, (x,), tmp_path / "float.onnx")
    assert cost(graph).bytes == pytest.approx(onnx_bytes(source), rel=0.04)
    for bits in (8, 4):
        given = dict.fromkeys(layers, bits)
        weighs = onnx_bytes(quantize_onnx(source, tmp_path / "integers.onnx", [x], bits=given))
        assert cost(graph, bits=given).bytes == pytest.approx(weighs, rel=0.05)


class Worded(nn.Module):
    """What a file of integers rounds though no plan gives it bits: a table, attention's own weight, a function's; and what it leaves."""

    def __init__(self):
        super().__init__()
        self.words, self.attention = nn.Embedding(500, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.free = nn.Parameter(torch.randn(64, 32))
        self.rows, self.out = nn.GRU(64, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        h = self.words(x)
        h = nn.functional.linear(h + self.attention(h, h, h)[0], self.free)
        return self.out(self.rows(h.relu())[0][:, -1])


@pytest.mark.filterwarnings("ignore:The tensor attributes self.rows")  # torch.export's, of its own GRU
def test_bytes_of_what_is_rounded_without_being_asked_are_predicted_too(tmp_path):
    torch.manual_seed(0)
    model, x = Worded().eval(), torch.randint(0, 500, (4, 12))
    graph = trace(model, (x,))
    bits = {layer.name: 8 for layer in graph.layers if layer.takes_bits}
    assert file_bits(graph, {}) == {}
    assert set(file_bits(graph, bits)) - set(bits) == {"words", "attention.in_proj", "free"}
    file = quantize_onnx(export_onnx(model, (x,), tmp_path / "m.onnx"), tmp_path / "m.int8.onnx", [x])
    assert cost(graph, {}, file_bits(graph, bits)).bytes == pytest.approx(onnx_bytes(file), rel=0.08)


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.conv, self.out = nn.Embedding(500, 32), nn.Conv1d(32, 48, 3), nn.Linear(48, 4)

    def forward(self, x):
        return self.out(self.conv(self.words(x).transpose(1, 2)).relu().amax(2))


def test_a_budget_of_bytes_counts_the_table_of_an_embedding_as_the_file_holds_it():
    graph = trace(Texts().eval(), (torch.randint(0, 500, (4, 12)),), round_to=4)
    curves = [
        Point(target=layer.name, knob="bits", level=8, score=Score(value=0.9, low=0.88, high=0.92, n=500))
        for layer in graph.layers
        if layer.takes_bits
    ]
    curves += [
        Point(
            target=g.name,
            knob="pruning_ratio",
            level=0.5,
            width=g.legal(g.width / 2),
            score=Score(value=0.5, low=0.45, high=0.55, n=500),
        )
        for g in graph.free
    ]
    profile = Profile(
        graph=graph, baseline=Score(value=0.9, low=0.88, high=0.92, n=500), method="exact", points=tuple(curves)
    )
    made = plan(profile, Budget(bytes="45%"), planner="knapsack")
    assert made.widths == {}
    assert made.predicted.bytes < 0.45 * made.dense.bytes
    tight = plan(profile, Budget(bytes="20%"), planner="knapsack")
    assert tight.widths
    assert tight.predicted.bytes <= 0.2 * tight.dense.bytes
    assert tight.predicted == cost(graph, tight.widths, file_bits(graph, tight.bits))
