"""Operators written as convolutions before a file gets integers: the same numbers, and nothing left that is slow in integers."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from lamella import grids
from lamella.exporting import OnnxModel, export_onnx, layers_in_float, quantize_onnx
from lamella.exporting.convolving import WIDEST_PICK, as_convolutions
from lamella.exporting.nodes import forget_unread
from lamella.timing import open_session
from lamella.zoo import PaddedShortcut

SLOW = {"BatchNormalization", "AveragePool", "Concat", "Pad", "Slice", "Expand"}


class Between(nn.Module):
    """What `middle` makes of a convolution's output, and a convolution behind it."""

    def __init__(self, middle, inputs=6, outputs=6):
        super().__init__()
        self.first = nn.Conv2d(3, inputs, 3, padding=1)
        self.middle = middle
        self.last = nn.Conv2d(outputs, 4, 1)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


class Fn(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def norm():
    made = nn.BatchNorm2d(6, eps=1e-2)
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean):
            tensor.normal_()
        made.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.ReLU(), made)  # not behind a convolution: it cannot be folded


def joined(before, after):
    def join(x):
        n, _, h, w = x.shape
        return torch.cat([x.new_zeros(n, before, h, w), x, x.new_zeros(n, after, h, w)], 1)

    return Fn(join)


REWRITTEN = {
    "norm": (norm, 6),
    "mean": (lambda: nn.AvgPool2d(2), 6),
    "mean of nine, with a border": (lambda: nn.AvgPool2d(3, stride=2, padding=1), 6),
    "oblong mean": (lambda: nn.AvgPool2d((1, 4), stride=(2, 1)), 6),
    "adaptive mean": (lambda: nn.AdaptiveAvgPool2d(4), 6),
    "option A": (lambda: PaddedShortcut(6, 11, 2), 11),
    "option A in a function": (lambda: Fn(lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3))), 11),
    "padded by one, oblong steps": (lambda: Fn(lambda x: functional.pad(x[:, :, ::3, ::2], (0, 0, 0, 0, 0, 1))), 7),
    "padded, all pixels": (lambda: Fn(lambda x: functional.pad(x, (0, 0, 0, 0, 1, 0))), 7),
    "zeros made in forward": (lambda: joined(1, 2), 9),
}
LEFT = {
    "mean without its border": (lambda: nn.AvgPool2d(3, padding=1, count_include_pad=False), 6, "AveragePool"),
    "mean of what is left over": (lambda: nn.AvgPool2d(3, ceil_mode=True), 6, "AveragePool"),
    "two real parts": (lambda: Fn(lambda x: torch.cat([x, x.relu()], 1)), 12, "Concat"),
    "padded by ones": (lambda: Fn(lambda x: functional.pad(x, (0, 0, 0, 0, 1, 0), value=1.0)), 7, "Pad"),
    "padded pixels": (lambda: Fn(lambda x: functional.pad(x, (1, 1, 0, 0, 1, 0))), 7, "Pad"),
    "mirrored pixels": (lambda: nn.ReflectionPad2d(1), 6, "Pad"),
    "joined along the height": (lambda: Fn(lambda x: torch.cat([x, torch.zeros_like(x)], 2)), 6, "Concat"),
}
# One pixel is left out: what remains is no multiple of a step from the first one.
OFFSET = (lambda: Fn(lambda x: functional.pad(x[:, :, 1::2, :-1], (0, 0, 0, 0, 2, 3))), 11)


def ready(model, tmp_path):
    """The float file with its shapes known, as the quantizer gets it, before and after."""
    from onnxruntime.quantization import quant_pre_process

    file = export_onnx(model, (torch.randn(2, 3, 12, 12),), tmp_path / "float.onnx")
    quant_pre_process(str(file), str(tmp_path / "before.onnx"), auto_merge=True)
    before = onnx.load(tmp_path / "before.onnx")
    after = copy.deepcopy(before)
    as_convolutions(after)
    onnx.checker.check_model(after, full_check=True)
    onnx.save(after, tmp_path / "after.onnx")
    return before, after


def kinds(proto):
    return {node.op_type for node in proto.graph.node}


def alike(tmp_path, model):
    x = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        expected = model(x)
    seen = OnnxModel(tmp_path / "after.onnx")(x)
    assert torch.allclose(seen, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", REWRITTEN)
def test_convolutions_in_its_place_give_the_same_numbers(name, tmp_path):
    torch.manual_seed(0)
    make, outputs = REWRITTEN[name]
    model = Between(make(), outputs=outputs).eval()
    before, after = ready(model, tmp_path)
    assert kinds(before) & SLOW
    assert not kinds(after) & SLOW
    alike(tmp_path, model)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_no_convolution_stays(name, tmp_path):
    torch.manual_seed(0)
    make, outputs, kind = LEFT[name]
    model = Between(make(), outputs=outputs).eval()
    before, after = ready(model, tmp_path)
    assert kind in kinds(after)
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    alike(tmp_path, model)


def test_pixels_that_are_taken_otherwise_are_taken_before(tmp_path):
    torch.manual_seed(0)
    model = Between(OFFSET[0](), outputs=OFFSET[1]).eval()
    _, after = ready(model, tmp_path)
    assert "Slice" in kinds(after)
    assert "Pad" not in kinds(after)
    alike(tmp_path, model)


class CalledAsAnOperator(nn.Module):
    """A layer whose weight is named as the weight of an operator's convolution might be."""

    def __init__(self):
        super().__init__()
        self.first, self.cat = nn.Conv2d(3, 6, 3), nn.Conv2d(9, 4, 1)

    def forward(self, x):
        x = self.first(x)
        return self.cat(torch.cat([x, torch.zeros_like(x[:, :3])], 1))


def test_a_layer_may_be_called_as_an_operator_is(tmp_path):
    torch.manual_seed(0)
    model = CalledAsAnOperator().eval()
    before, after = ready(model, tmp_path)
    assert "cat.weight" in {i.name for i in before.graph.initializer}
    assert len({i.name for i in after.graph.initializer}) == len(after.graph.initializer)
    alike(tmp_path, model)


def test_what_only_a_branch_reads_stays():
    make = onnx.helper.make_node
    inner = [make("Add", ["halves", "weight"], ["sum"])], [make("Identity", ["halves"], ["same"])]
    branches = [onnx.helper.make_graph(nodes, "branch", [], [value(nodes[0].output[0])]) for nodes in inner]
    nodes = [
        make("Relu", ["x"], ["halves"]),
        make("If", ["some"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        make("Abs", ["x"], ["unread"]),
    ]
    constants = [onnx.numpy_helper.from_array(np.ones(4, np.float32), name) for name in ("weight", "nobody")]
    inputs = [value("x"), value("some", onnx.TensorProto.BOOL, ())]
    graph = onnx.helper.make_graph(nodes, "graph", inputs, [value("y")], constants)
    forget_unread(graph)
    assert [node.op_type for node in graph.node] == ["Relu", "If"]
    assert [constant.name for constant in graph.initializer] == ["weight"]


def value(name, kind=onnx.TensorProto.FLOAT, shape=(4,)):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def test_wide_shortcuts_are_moved_and_not_multiplied(tmp_path):
    wide = Between(
        Fn(lambda x: functional.pad(x, (0, 0, 0, 0, 1, 0))), inputs=WIDEST_PICK + 1, outputs=WIDEST_PICK + 2
    ).eval()
    _, after = ready(wide, tmp_path)
    assert "Pad" in kinds(after)


@pytest.mark.parametrize("name", REWRITTEN)
def test_the_file_is_integers_throughout_and_moves_no_axes_inside(name, tmp_path):
    torch.manual_seed(0)
    make, outputs = REWRITTEN[name]
    model = Between(make(), outputs=outputs).eval()
    images = torch.randn(16, 3, 12, 12)
    file = export_onnx(model, (images[:2],), tmp_path / "float.onnx")
    whole = quantize_onnx(file, tmp_path / "int8.onnx", [images])
    assert layers_in_float(whole) == ()
    run = fused(whole, tmp_path)
    assert not kinds(run) & (SLOW | {"QLinearAveragePool", "QLinearConcat"})
    assert [n.op_type for n in run.graph.node].count("Transpose") <= 2  # the pictures come, and leave, channels first
    with torch.no_grad():
        expected = model(images)
    error = (OnnxModel(whole)(images) - expected).abs().max() / expected.abs().max()
    assert error < 0.05


def test_means_along_one_axis_have_a_grid_of_their_own(tmp_path):
    torch.manual_seed(0)
    means = (nn.AvgPool1d(4), nn.AvgPool1d(3, stride=2, padding=1))
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), means[0], nn.Conv1d(8, 8, 3), means[1], nn.Conv1d(8, 4, 3))
    x = torch.randn(8, 2, 64)
    file = export_onnx(model.eval(), (x[:2],), tmp_path / "float.onnx")
    whole = quantize_onnx(file, tmp_path / "int8.onnx", [x])
    assert kinds(fused(whole, tmp_path)) & {"QLinearConv"}
    assert not kinds(fused(whole, tmp_path)) & {"AveragePool", "QLinearAveragePool"}
    with torch.no_grad():
        expected = model(x)
    assert (OnnxModel(whole)(x) - expected).abs().max() < 0.03 * expected.abs().max()


def fused(path, tmp_path):
    """The graph as ONNX Runtime runs it, layouts chosen."""
    import onnxruntime

    open_session(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(tmp_path / "run.onnx")


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (1, 4), (7, 7)])
def test_equal_weights_lie_on_their_grid(shape):
    weight = torch.full((5, 1, *shape), -1 / np.prod(shape).item())
    rounded = grids.rounded_weight(weight, 8, 0)
    assert torch.allclose(rounded, weight, rtol=1e-6, atol=0)
    scale_O = grids.pair_scale(grids.summed(weight, 0, convolves=True))
    assert (2 * (weight[:, 0, 0, 0] / scale_O).abs().round() <= 128).all()
