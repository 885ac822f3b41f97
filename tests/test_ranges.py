"""Ranges of activations: what the chosen ends leave of the values, and that a file and its simulation choose alike."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import onnx
import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from lamella import ranges
from lamella.calibrating import unusual
from lamella.coarsening import InputGrid, coarsen, folded, observe_places
from lamella.exporting import OnnxModel, export_onnx, quantize_onnx, ranging, run_onnx
from lamella.exporting.ranging import activation_ranges
from lamella.ranges import Spread

SHAPES = {
    "normal": lambda g: g.standard_normal(20_000),
    "after a relu": lambda g: np.maximum(g.standard_normal(20_000), 0),
    "heavy tails": lambda g: g.standard_t(2.5, 20_000),
    "few large": lambda g: np.where(g.random(20_000) < 1e-3, 30.0, g.standard_normal(20_000)),
    "all alike": lambda g: np.full(20_000, g.uniform(-2, 2)),
    "one side": lambda g: -g.gamma(0.3, 1.0, 20_000),
    "away from zero": lambda g: 5 + 0.1 * g.standard_normal(20_000),
    "nothing": lambda g: np.zeros(20_000),
}


def spread(values):
    made = Spread()
    made.add(values)
    return made


def left(values, low, high):
    x = torch.from_numpy(values)
    return float((InputGrid(low, high).rounded(x) - x).square().sum())


@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_no_more_error_is_left_than_by_the_whole_range(shape, seed, scale):
    values = (scale * SHAPES[shape](np.random.default_rng(seed))).astype(np.float32)
    low, high = spread(values).ends()
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
    assert left(values, low, high) <= 1.05 * left(values, float(values.min()), float(values.max())) + 1e-9


@pytest.mark.parametrize("draw", ["standard_normal", "laplace"])
def test_less_error_is_left_where_few_values_lie_far_out(draw):
    values = getattr(np.random.default_rng(0), draw)(size=100_000).astype(np.float32)
    low, high = spread(values).ends()
    assert 1.1 * left(values, low, high) < left(values, float(values.min()), float(values.max()))


def test_a_single_value_far_out_is_cut_off_where_many_gain():
    values = np.random.default_rng(0).standard_normal(500_000).astype(np.float32)
    values[7] = 30.0
    low, high = spread(values).ends()
    assert -6 < low < -3
    assert 3 < high < 20


@given(st.integers(1, 5000), st.integers(1, 7), st.integers(1, 3000))
def test_parts_of_a_tensor_count_as_the_whole(size, parts, at_most):
    flat = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    cuts = np.linspace(0, size, parts + 1).astype(int)
    whole, together = Spread(), Spread()
    with patch.object(ranges, "SAMPLED", at_most):
        whole.add(flat)
        for a, b in pairwise(cuts):
            if a < b:
                together.add(flat[a:b], size, int(a))
    assert np.array_equal(whole.counts, together.counts)
    assert (whole.low, whole.high) == (together.low, together.high) == (flat.min(), flat.max())
    assert 0 < whole.counts.sum() <= 2 * at_most + 1


@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 2**32 - 1))
def test_the_bulk_holds_nearly_all(shape, seed):
    values = SHAPES[shape](np.random.default_rng(seed)).astype(np.float32)
    low, high = spread(values).bulk()
    far = max(abs(low), abs(high)) / 100
    assert (values < low - far).mean() <= 6e-4
    assert (values > high + far).mean() <= 6e-4
    assert values.min() <= low <= high <= values.max()


class Pooled(nn.Module):
    """A pool, a change of shape and an addition between layers: places where grids are handed on, and where they meet."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two, self.three = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8 * 9, 5)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.one(x))), 2)
        x = torch.relu(self.two(x) + self.three(x))
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


@pytest.fixture
def files(tmp_path):
    from onnxruntime.quantization import quant_pre_process

    torch.manual_seed(0)
    model = Pooled().eval()
    batches = [2 * torch.randn(24, 3, 12, 12) ** 3 for _ in range(3)]
    dense = export_onnx(model, (batches[0][:2],), tmp_path / "dense.onnx")
    quant_pre_process(str(dense), str(tmp_path / "ready.onnx"))
    return model, batches, dense, onnx.load(tmp_path / "ready.onnx")


def test_a_file_and_its_simulation_choose_the_same_ranges(files):
    model, batches, _, proto = files
    (name,) = (value.name for value in proto.graph.input)
    found = activation_ranges(proto, ({name: batch.numpy()} for batch in batches))
    layers = ["one", "two", "three", "head"]
    seen = observe_places(folded(model, (batches[0],)), layers, [(batch, None) for batch in batches]).ranges()
    makers = {node.output[0]: node for node in proto.graph.node}
    for node in (node for node in proto.graph.node if node.name in layers):
        tensor = node.input[0]
        assert found[tensor] == pytest.approx(seen[node.name], rel=1e-5)
        while tensor in makers and makers[tensor].op_type in ("MaxPool", "Flatten", "Reshape"):
            tensor = makers[tensor].input[0]  # which is rounded to the grid of what comes out
            assert found[tensor] == pytest.approx(seen[node.name], rel=1e-5)
    (added,) = (node for node in proto.graph.node if node.op_type == "Add")
    places = ["convolution.1", "convolution.2"]
    assert [found[name] for name in added.input] == [pytest.approx(seen[place], rel=1e-5) for place in places]
    (output,) = (value.name for value in proto.graph.output)
    assert found[output] == pytest.approx(seen["(output)"], rel=1e-5)
    assert max(found[name][1], -found[name][0]) < max(float(batch.abs().max()) for batch in batches)  # tails were cut


def test_attention_in_integers_is_attention(tmp_path):
    model, inputs, _ = zoo.traced("multihead_module")
    dense = export_onnx(model.eval(), inputs, tmp_path / "dense.onnx")
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(inputs[0].shape, generator=generator) for _ in range(7)]
    whole = quantize_onnx(dense, tmp_path / "whole.onnx", batches[1:])
    exact, seen = run_onnx(dense, batches[0]), run_onnx(whole, batches[0])
    assert (seen - exact).square().mean().sqrt() < 0.15 * exact.square().mean().sqrt()


def test_a_graph_whose_shapes_the_runtime_cannot_find_out_quantizes(tmp_path):
    model, inputs, _ = zoo.traced("spatial_attention")
    dense = export_onnx(model.eval(), inputs, tmp_path / "dense.onnx")
    whole = quantize_onnx(dense, tmp_path / "whole.onnx", [inputs[0], -inputs[0]])
    exact, seen = run_onnx(dense, inputs[0]), run_onnx(whole, inputs[0])
    assert (seen - exact).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


def test_batches_that_do_not_fit_at_once_give_the_same_file(files, tmp_path, monkeypatch):
    _, batches, dense, _ = files
    whole = quantize_onnx(dense, tmp_path / "whole.onnx", batches)
    monkeypatch.setattr(ranging, "AT_ONCE", 5 * 4 * (3 * 8 * 144))
    parts = quantize_onnx(dense, tmp_path / "parts.onnx", batches)
    assert parts.read_bytes() == whole.read_bytes()


class Levels(nn.Module):
    """Returns what a pool reads, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 4, 3), nn.MaxPool2d(4)

    def forward(self, x):
        y = self.conv(x)
        return y, self.pool(y)


def test_an_output_has_its_own_range_though_only_a_pool_reads_it(tmp_path):
    torch.manual_seed(0)
    model, x = Levels().eval(), torch.randn(4, 1, 18, 18)
    path = export_onnx(model, (x,), tmp_path / "m.onnx")
    y = model(x)[0].detach()
    proto = onnx.load(path)
    found = activation_ranges(proto, [{proto.graph.input[0].name: x.numpy()}])
    assert found[proto.graph.output[0].name] == pytest.approx((float(y.min()), float(y.max())), rel=1e-5)


class Causal(nn.Module):
    """Attention that does not look ahead, by one of several masks."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.register_buffer("later", torch.ones(5, 5, dtype=torch.bool).triu(1))
        self.register_buffer("mask", torch.zeros(5, 5).masked_fill(self.later, -torch.inf))

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.how == "attention":
            return self.out(
                functional.scaled_dot_product_attention(*(h[:, None] for h in (q, k, v)), is_causal=True)[:, 0]
            )
        if self.how == "padding":
            late = (x.sum((0, 2)) > 0).float() * torch.finfo(torch.float32).min
            return self.out((q @ k.transpose(1, 2) + late).softmax(-1) @ v)
        scores = q @ k.transpose(1, 2)
        if self.how == "relu":
            return self.out(scores.masked_fill(self.later, -torch.inf).relu() @ v)
        masked = scores + self.mask if self.how == "added" else scores.masked_fill(self.later, self.how)
        return masked, self.out(masked.softmax(-1) @ v)


@pytest.mark.parametrize("how", [-torch.inf, -1e9, "added", "attention", "padding", "relu"])
def test_marks_stay_in_float_in_the_file_as_in_the_simulation(how, tmp_path):
    torch.manual_seed(0)
    model, x = Causal(how).eval(), torch.randn(16, 5, 8)
    path = export_onnx(model, (x,), tmp_path / "m.onnx")
    file = OnnxModel(quantize_onnx(path, tmp_path / "m.int8.onnx", [x]))
    plain = folded(model, (x,))
    bits = dict.fromkeys(("q", "k", "v", "out"), 8)
    coarse = coarsen(plain, bits, observe_places(plain, bits, [(x, None)]).ranges())
    for exact, seen, simulated in zip(*(tree_leaves(m(x)) for m in (model, file, coarse)), strict=True):
        number = exact.isfinite() & (exact > -1e8)
        torch.testing.assert_close(seen[~number], exact[~number])
        torch.testing.assert_close(simulated, seen, rtol=1e-4, atol=1e-4)
        assert (seen - exact)[number].square().mean() < 0.06**2 * exact[number].square().mean()


def test_marks_are_told_of():
    torch.manual_seed(0)
    model, x = Causal("padding").eval(), torch.randn(64, 5, 8)
    plain = folded(model, (x,))
    notes = unusual(observe_places(plain, ["q", "k", "v"], [(x, None)]).by_reader())
    assert [note for note in notes if "'add.3'" in note and "stay in float" in note]
    assert not [note for note in notes if "outliers" in note]
