"""Schemes that round linear layers alone: fewer bytes, near the float file's outputs, or no file."""

import pytest
import torch
from torch import nn

from lamella.errors import LamellaError
from lamella.exporting import export_onnx, linear_layers, onnx_bytes, quantize_linear, run_onnx

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
    ("scheme", "bytes_each", "error"), [("dynamic-fc", 1.0, 0.03), ("nbits-fc", 0.5 + 4 / 32, 0.15)]
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
