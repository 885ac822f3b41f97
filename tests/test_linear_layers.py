"""Schemes that round linear layers alone: fewer bytes, near the float file's outputs, or no file."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lamella.coarsening.linear import coarsen_linear
from lamella.compression import compress
from lamella.costs import cost
from lamella.errors import LamellaError
from lamella.exporting import export_onnx, layers_in_float, linear_layers, onnx_bytes, quantize_linear, run_onnx
from lamella.grids import rounded_in_blocks, rounded_weight
from lamella.quantization import integers_file, quantize
from lamella.schema import Plan
from lamella.tracing import trace
from lamella.training import Batches, Task

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def images():
    return torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def source(images, tmp_path_factory):
    torch.manual_seed(0)
    head = (nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), *head)
    return export_onnx(model, images, tmp_path_factory.mktemp("linear") / "model.onnx")


@pytest.mark.parametrize(
    ("scheme", "bytes_each", "error"), [("dynamic-fc", 1.0, 0.03), ("nbits-fc", 0.5 + 4 / 128, 0.15)]
)
def test_linear_layers_take_few_bits_and_say_nearly_the_same(scheme, bytes_each, error, source, images, tmp_path):
    path = quantize_linear(source, tmp_path / "small.onnx", images, scheme=scheme)
    weights = 512 * 256 + 256 * 10
    assert onnx_bytes(source) - onnx_bytes(path) == pytest.approx((4 - bytes_each) * weights, rel=0.03)
    exact, rounded = run_onnx(source, images), run_onnx(path, images)
    assert (exact - rounded).square().mean().sqrt() < error * exact.square().mean().sqrt()
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Conv" in kinds
    assert {"dynamic-fc": "MatMulInteger", "nbits-fc": "MatMulNBits"}[scheme] in kinds


def test_what_cannot_be_done_leaves_nothing(source, images, tmp_path, monkeypatch):
    with pytest.raises(LamellaError, match="unknown scheme 'dynamic'; did you mean 'dynamic-fc'"):
        quantize_linear(source, tmp_path / "never.onnx", images, scheme="dynamic")
    monkeypatch.setitem(linear_layers.TOLERANCES, "nbits-fc", 1e-6)
    with pytest.raises(LamellaError, match=r"from the float file's; at most .* give the linear layers more bits"):
        quantize_linear(source, tmp_path / "never.onnx", images, scheme="nbits-fc")
    convolution = export_onnx(nn.Conv2d(1, 2, 3), images, tmp_path / "conv.onnx")
    with pytest.raises(LamellaError, match=r"has no linear layer, and dynamic-fc rounds nothing else"):
        quantize_linear(convolution, tmp_path / "never.onnx", images)
    assert [p.name for p in tmp_path.iterdir()] == ["conv.onnx"]


# Convolutions in int8 and linear layers in blocks, one file


class Excited(nn.Module):
    """Linear layers after a convolution, after each other and after a product of streams; one of them without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)
        self.wide, self.head = nn.Linear(512, 200), nn.Linear(200, 10, bias=False)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return self.head(self.wide((x * gate[:, :, None, None]).flatten(1)).relu())


@pytest.fixture(scope="module")
def excited(tmp_path_factory):
    torch.manual_seed(0)
    model, x = Excited().eval(), torch.randn(64, 1, 8, 8)
    data = Batches(x, torch.randint(10, (64,)), 16)
    task = Task((x[:1],), train=data, validation=data, test=data)
    graph = trace(model, task.example_inputs)
    plan = Plan(structure=graph.structure, planner="uniform", steps=(), predicted=cost(graph), dense=cost(graph))
    source = export_onnx(model, task.example_inputs, tmp_path_factory.mktemp("excited") / "model.onnx")
    return SimpleNamespace(model=model, task=task, source=source, result=compress(model, plan, task, graph=graph)[1])


LINEAR = {"squeeze", "excite", "wide", "head"}


@pytest.mark.parametrize(
    ("scheme", "bits", "apart", "in_float"),
    [
        ("static-nbits-fc", {"conv": 8} | dict.fromkeys(LINEAR, 4), 0.03, ()),
        ("nbits-fc", dict.fromkeys(LINEAR, 4), 1e-3, ("conv",)),  # now and then a tie is rounded the other way
        ("dynamic-fc", dict.fromkeys(LINEAR, 8), 1e-3, ("conv",)),
    ],
)
def test_the_simulation_of_a_scheme_computes_what_its_file_does(scheme, bits, apart, in_float, excited, tmp_path):
    coarse, result = quantize(excited.model, excited.result, excited.task, scheme=scheme)
    file = integers_file(excited.source, tmp_path / "few.onnx", result.bits, excited.task, scheme=scheme)
    assert (result.bits, result.scheme, result.history[-1].name) == (bits, scheme, scheme)
    assert layers_in_float(file) == in_float
    x = excited.task.validation.inputs[:16]
    with torch.no_grad():
        simulated, exact, seen = coarse(x), excited.model(x), run_onnx(file, x)
    size = exact.square().mean().sqrt()
    assert (simulated - seen).square().mean().sqrt() < apart * size
    assert (simulated - exact).square().mean().sqrt() > 3e-3 * size
    assert onnx_bytes(file) < onnx_bytes(excited.source) / 3


def test_ranges_are_kept_where_the_file_rounds(excited):
    """After a convolution and after a product of streams the file has whole numbers; between linear layers it has not."""
    _, result = quantize(excited.model, excited.result, excited.task, scheme="static-nbits-fc")
    layers = {place for place in result.ranges if "." not in place}
    assert layers == {"conv", "squeeze", "wide"}


def test_a_scheme_for_linear_layers_needs_one(excited):
    with pytest.raises(LamellaError, match=r"unknown scheme 'nbits'; did you mean 'nbits-fc'"):
        quantize(excited.model, excited.result, excited.task, scheme="nbits")
    with pytest.raises(LamellaError, match=r"no linear layer, and the scheme nbits-fc is for these"):
        quantize(nn.Conv2d(1, 1, 1), excited.result, excited.task, scheme="nbits-fc")


@pytest.mark.parametrize("bits", [2, 4])
def test_what_lies_on_a_grid_lies_in_blocks(bits):
    """Weights tuned on a grid per output lose nothing when they are held in blocks of 4 bits."""
    weight_OK = rounded_weight(torch.randn(6, 300, generator=torch.Generator().manual_seed(0)), bits)
    assert torch.allclose(rounded_in_blocks(weight_OK, 4), weight_OK, atol=1e-6)


@pytest.mark.parametrize("how", ["blocks", "dynamic"])
def test_a_weight_that_is_computed_is_rounded_too(how):
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(32, 8))).eval()
    x = torch.randn(4, 32)
    coarse = coarsen_linear(model, ["0"], how)
    assert 0 < (coarse(x) - model(x)).abs().max() < 0.3 * model(x).abs().max()


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 8)

    def forward(self, x):
        y = self.layer(x)
        return y, y > 100, y.masked_fill(torch.arange(8) > 5, -torch.inf)


def test_masks_and_what_they_blot_out_are_no_error(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(4, 32)
    path = export_onnx(Masked().eval(), (x,), tmp_path / "m.onnx")
    assert quantize_linear(path, tmp_path / "q.onnx", (x,)).exists()
