"""Laws of exported files: they say what the model says, in the same bytes every time, or they are not written."""

import copy
import sys
import tempfile
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lamella import grids
from lamella.errors import DataError, LamellaError, MissingExtra, RecordError, TraceError
from lamella.exporting import (
    NarrowedExports,
    OnnxModel,
    export,
    export_onnx,
    integers,
    layers_in_float,
    onnx_bytes,
    onnx_file,
    packing,
    quantize_linear,
    quantize_onnx,
    run_onnx,
)
from lamella.exporting.capturing import difference
from lamella.exporting.ranging import activation_ranges
from lamella.surgery import narrow

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

CONVS = ("stem", "a", "b", "skip")


class Net(nn.Module):
    """A residual block with a projection, as in the ResNets of the zoo, for 8x8 images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.a, self.n1 = nn.Conv2d(6, 9, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(9)
        self.b, self.n2 = nn.Conv2d(9, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.skip, self.n3 = nn.Conv2d(6, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.n0(self.stem(x)))
        y = self.n2(self.b(functional.relu(self.n1(self.a(x)))))
        return self.head(functional.adaptive_avg_pool2d(functional.relu(y + self.n3(self.skip(x))), 1).flatten(1))


def images(count, seed):
    """Four shapes, each in noise, and which it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    shapes = torch.zeros(4, 1, 8, 8)
    shapes[0, 0, 2:4], shapes[1, 0, :, 2:4], shapes[2, 0, 2:6, 2:6] = 1, 1, 1
    shapes[3, 0].fill_diagonal_(1.5)
    return shapes[labels] + 0.35 * torch.randn(count, 1, 8, 8, generator=generator), labels


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net, (x, labels) = Net(), images(512, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    with torch.no_grad():  # a channel that batch norm has all but closed, and one that it has closed
        net.n1.weight[3], net.n1.bias[3], net.n1.weight[4], net.n1.bias[4] = 1e-12, 0.5, 0.0, 0.0
    return net.eval()


@pytest.fixture(scope="module")
def calibration():
    return list(images(200, seed=2)[0].split(50))


@pytest.fixture(scope="module")
def dense(model, tmp_path_factory):
    return export_onnx(model, images(4, seed=3)[0], tmp_path_factory.mktemp("onnx") / "dense.onnx")


@pytest.fixture(scope="module")
def int8(dense, calibration):
    return quantize_onnx(dense, dense.with_name("int8.onnx"), calibration)


def operators(path):
    return [node.op_type for node in integers._fused(path).node]


# The float file


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_file_says_what_the_model_says(model, dense, count):
    x, _ = images(count, seed=4)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(OnnxModel(dense)(x), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_the_same_model_gives_the_same_bytes_and_stays_as_it_was(model, dense, tmp_path):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = export_onnx(model, (images(1, seed=5)[0],), tmp_path / "again.onnx")
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert again.read_bytes() == dense.read_bytes()


def test_weights_and_nodes_carry_the_layers_names_and_nothing_else_is_told(model, dense):
    graph = onnx.load(dense).graph
    weights = {i.name: i for i in graph.initializer}
    for layer in (*CONVS, "head"):
        assert tuple(weights[f"{layer}.weight"].dims) == tuple(model.get_submodule(layer).weight.shape)
        assert any(node.name == layer for node in graph.node)
    assert [value.name for value in (*graph.input, *graph.output)] == ["x", "output"]
    assert [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim][:1] == ["batch"]
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    assert b".py" not in dense.read_bytes()


def test_weights_above_the_limit_lie_beside_the_file_and_are_counted(model, dense, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT", 2000)
    path = export_onnx(model, images(2, seed=3)[0], tmp_path / "big.onnx", dynamic_batch=False)
    side = tmp_path / "big.onnx.data"
    assert sorted(tmp_path.iterdir()) == [path, side]
    assert onnx_bytes(path) == path.stat().st_size + side.stat().st_size
    assert onnx_bytes(dense) == dense.stat().st_size
    x, _ = images(2, seed=6)
    torch.testing.assert_close(run_onnx(path, x), run_onnx(dense, x))

    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(*args):
        raise LamellaError("not the model's")

    other = copy.deepcopy(model)
    other.a.weight.data.neg_()
    monkeypatch.setattr(onnx_file, "compare", refuse)
    with pytest.raises(LamellaError, match="not the model's"):
        export_onnx(other, images(2, seed=3)[0], path, dynamic_batch=False)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before  # the weights beside it too


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(3, 6, bias=False)

    def forward(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = functional.relu(self.a(image) + self.b(mask))
        return {"hidden": hidden, "class": hidden.argmax(1)}


def test_several_inputs_and_outputs(tmp_path):
    torch.manual_seed(0)
    model, inputs = Several(), (torch.randn(5, 4), torch.randn(5, 3))
    path = export_onnx(model, inputs, tmp_path / "several.onnx")
    hidden, chosen = OnnxModel(path)(*inputs)
    torch.testing.assert_close(hidden, model(*inputs)["hidden"].detach())
    assert torch.equal(chosen, model(*inputs)["class"])
    with pytest.raises(LamellaError, match=r"1 inputs were given; the file takes 2 \('image', 'mask'\)"):
        run_onnx(path, inputs[0])
    with pytest.raises(LamellaError, match=r"input 'mask' has shape \(5, 4\); the file takes \(batch, 3\)"):
        run_onnx(path, (inputs[0], inputs[0]))


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class OneBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(4, 12))


def test_a_file_that_differs_from_its_model_is_not_written(tmp_path):
    with pytest.raises(LamellaError, match=r"noisy.onnx: output 'output' of the file is not the model's: off by .* at"):
        export_onnx(Noisy(), torch.zeros(2, 3), tmp_path / "noisy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_size_written_into_a_model(tmp_path):
    with pytest.raises(TraceError, match=r"OneBatch fails on inputs of shapes \(1, 3, 4\).*dynamic_batch=False"):
        export_onnx(OneBatch(), torch.zeros(4, 3, 4), tmp_path / "one.onnx")
    path = export_onnx(OneBatch(), torch.ones(4, 3, 4), tmp_path / "one.onnx", dynamic_batch=False)
    assert run_onnx(path, torch.ones(4, 3, 4)).shape == (4, 5)


@pytest.mark.parametrize("read", [onnx_bytes, OnnxModel, layers_in_float])
def test_a_damaged_or_absent_file_is_named(read, dense, tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(dense.read_bytes()[:-100])
    for path in (damaged, tmp_path / "absent.onnx"):
        with pytest.raises((RecordError, LamellaError), match=path.name):
            read(path)


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_names_the_extra(library, model, calibration, dense, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    says = rf"needs {library}, .*pip install 'lamella\[onnx\]'"
    with pytest.raises(MissingExtra, match=says):
        export_onnx(model, calibration[0], tmp_path / "dense.onnx")
    with pytest.raises(MissingExtra, match=says):
        quantize_onnx(dense, tmp_path / "int8.onnx", calibration)


# The integer file


def test_int8_keeps_the_classes_and_all_layers_run_in_integers(model, dense, int8):
    x, labels = images(500, seed=7)
    exact, whole = OnnxModel(dense)(x), OnnxModel(int8)(x)
    assert (exact.argmax(1) == labels).float().mean() > 0.97
    assert (whole.argmax(1) == exact.argmax(1)).float().mean() >= 0.99
    assert layers_in_float(int8) == ()
    fused = operators(int8)
    assert (fused.count("QLinearConv"), fused.count("QGemm"), fused.count("QLinearAdd")) == (len(CONVS), 1, 1)
    assert set(layers_in_float(dense)) == {*CONVS, "head"}


def overhead(path, model):
    """The bytes of a file beyond weights, and a scale and a bias per channel."""
    layers = [model.get_submodule(layer) for layer in (*CONVS, "head")]
    return onnx_bytes(path) - sum(layer.weight.numel() + 8 * len(layer.weight) for layer in layers)


def test_int8_bytes_are_few_and_the_same_each_time(model, dense, int8, calibration, tmp_path):
    again = quantize_onnx(dense, tmp_path / "again.onnx", iter(calibration))
    assert again.read_bytes() == int8.read_bytes()
    assert overhead(int8, model) < 450 * (len(CONVS) + 1)


def test_the_short_file_computes_what_the_quantizers_own_would(model, dense, calibration, tmp_path):
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    ready, own = tmp_path / "ready.onnx", tmp_path / "own.onnx"
    quant_pre_process(str(dense), str(ready))
    ranges = activation_ranges(onnx.load(ready), ({"x": batch.numpy()} for batch in calibration))
    told = {"TensorQuantOverrides": {name: [integers._override(*ends)] for name, ends in ranges.items()}}
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "extra_options": told}
    reader = integers._Once({"x": calibration[0].numpy()})
    quantize_static(str(ready), str(own), reader, quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    short = quantize_onnx(dense, tmp_path / "short.onnx", calibration, full_range=True)

    x, _ = images(100, seed=8)
    assert torch.equal(run_onnx(own, x), run_onnx(short, x))
    assert sorted(operators(own)) == sorted(operators(short))
    assert overhead(own, model) > 3 * overhead(short, model)


def test_int8_gives_the_same_sums_where_products_are_added_exactly(int8):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # slower instructions, which cannot overflow
    exact = ort.InferenceSession(str(int8), options, providers=["CPUExecutionProvider"])
    x = 3 * images(100, seed=9)[0]
    assert torch.equal(run_onnx(exact, x), run_onnx(int8, x))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([1, 3]), st.booleans())
def test_no_two_neighbouring_weights_come_to_more_than_128(seed, channels, kernel, heavy):
    generator = np.random.default_rng(seed)
    weight_OIKK = generator.standard_normal((3, channels, kernel, kernel)).astype(np.float32)
    if heavy:
        weight_OIKK **= 5
    summed_OK = grids.summed(torch.from_numpy(weight_OIKK), 0, convolves=True).numpy()
    pairs = np.rint(summed_OK / grids.pair_scale(torch.from_numpy(summed_OK)).numpy()[:, None]).reshape(3, -1, 2)
    assert np.abs(pairs.sum(axis=2)).max() <= 128
    assert np.abs(pairs).max() <= 127
    flat = weight_OIKK.transpose(0, 2, 3, 1).reshape(3, -1)
    assert np.array_equal(summed_OK[:, : flat.shape[1]], flat)


MIXED = {"stem": 8, "a": 4, "b": 3, "skip": 2, "head": 4}


@pytest.fixture(scope="module")
def mixed(dense, calibration):
    return quantize_onnx(dense, dense.with_name("mixed.onnx"), calibration, bits=MIXED)


def test_few_bits_lie_packed_and_all_layers_still_run_in_integers(model, int8, mixed):
    kinds = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in onnx.load(mixed).graph.initializer}
    assert {layer: kinds[f"{layer}.weight"] for layer in MIXED} == {
        "stem": "INT8",
        "a": "INT4",
        "b": "INT4",
        "skip": "INT2",
        "head": "INT4",
    }
    saved = sum(
        model.get_submodule(layer).weight.numel() * (8 - {3: 4}.get(width, width)) / 8 for layer, width in MIXED.items()
    )
    assert onnx_bytes(int8) - onnx_bytes(mixed) == pytest.approx(saved, abs=64 * sum(w < 8 for w in MIXED.values()))
    assert layers_in_float(mixed) == ()
    assert sorted(operators(mixed)) == sorted(operators(int8))


def test_a_file_of_few_bits_computes_what_the_grids_say(dense, mixed, calibration):
    """The same values as int8 weights give the same outputs: packing loses nothing."""
    held = {t.name: onnx.numpy_helper.to_array(t).astype(np.int64) for t in onnx.load(mixed).graph.initializer}
    for layer, width in MIXED.items():
        assert np.abs(held[f"{layer}.weight"]).max() <= grids.levels(width)
    unpacked = onnx.load(mixed)
    for node in [n for n in unpacked.graph.node if n.op_type == "Cast"]:
        tensor = next(t for t in unpacked.graph.initializer if t.name == node.input[0])
        tensor.CopyFrom(onnx.numpy_helper.from_array(held[tensor.name].astype(np.int8), tensor.name))
        reader = next(n for n in unpacked.graph.node if node.output[0] in n.input)
        reader.input[0] = tensor.name
        unpacked.graph.node.remove(node)
    plain = dense.with_name("unpacked.onnx")
    onnx.save(unpacked, plain)
    x, _ = images(100, seed=11)
    assert torch.equal(run_onnx(plain, x), run_onnx(mixed, x))


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        ({"nonsense": 4}, "bits were given to 'nonsense', .* it has 'a', 'b', 'head', 'skip', 'stem'"),
        ({"a": 1}, r"bits\['a'\]: 1 bits were asked; a whole number from 2 to 8"),
        ({"a": 16}, r"bits\['a'\]: 16 bits"),
    ],
)
def test_bits_for_no_layer_or_impossible_ones_are_refused(bits, says, dense, calibration, tmp_path):
    with pytest.raises(LamellaError, match=says):
        quantize_onnx(dense, tmp_path / "never.onnx", calibration, bits=bits)
    assert list(tmp_path.iterdir()) == []


@given(st.integers(1, 40), st.sampled_from([2, 4]), st.integers(0, 2**32 - 1))
def test_packed_integers_read_back(count, bits, seed):
    values = np.random.default_rng(seed).integers(-grids.levels(bits), grids.levels(bits) + 1, count).astype(np.int8)
    kind = {2: onnx.TensorProto.INT2, 4: onnx.TensorProto.INT4}[bits]
    tensor = onnx.TensorProto(name="w", data_type=kind, dims=[count], raw_data=packing.packed(values, bits).tobytes())
    assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), values)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_the_scale_of_few_bits_leaves_less_error_than_the_largest_weight_does(bits):
    weight_OK = torch.randn(5, 200, generator=torch.Generator().manual_seed(bits))

    def error(scale_O):
        top = grids.levels(bits)
        step = scale_O[:, None]
        return ((weight_OK / step).round().clamp(-top, top) * step - weight_OK).square().sum(1)

    naive = error(weight_OK.abs().amax(1).double() / grids.levels(bits))
    assert (error(grids.weight_scale(weight_OK, bits)) <= naive).all()
    signs = torch.tensor([1.0, -2.0, 0.5, -1.0, 3.0])[:, None]  # as a folded batch norm multiplies
    assert torch.allclose(
        grids.weight_scale(weight_OK * signs, bits), grids.weight_scale(weight_OK, bits) * signs.abs()[:, 0]
    )


def test_a_file_without_a_layer_in_integers_is_not_written(tmp_path):
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "relu.onnx"
    )
    with pytest.raises(LamellaError, match=r"no layer of it in integers, so nothing was written\. Quantization needs"):
        quantize_onnx(tmp_path / "relu.onnx", tmp_path / "never.onnx", [torch.randn(4, 3)])
    assert [path.name for path in tmp_path.iterdir()] == ["relu.onnx"]


def spoiled(batch):
    batch = batch.clone()
    batch[0, 0, 0, :2] = float("nan")
    return batch


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda good: [], "hold no batch; .* at least one was expected"),
        (lambda good: [good[0], spoiled(good[1])], "batch 1: 2 of the 3200 values of input 'x' are not finite"),
        (
            lambda good: [good[0][:, :, :7]],
            r"batch 0: input 'x' has shape \(50, 1, 7, 8\); the file takes \(batch, 1, 8, 8\)",
        ),
        (lambda good: [good[0][:0]], "batch 0: input 'x' has shape .0, 1, 8, 8., no values"),
        (lambda good: [(good[0], torch.zeros(50))], r"batch 0: 2 inputs were given; the file takes 1 \('x'\)"),
    ],
)
def test_bad_calibration_data_are_refused_and_leave_nothing(spoil, says, dense, calibration, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    with pytest.raises(DataError, match=says):
        quantize_onnx(dense, tmp_path / "int8.onnx", spoil(calibration))
    assert list(scratch.iterdir()) == []
    assert list(tmp_path.iterdir()) == [scratch]


class Skipped(nn.Module):
    """Half the size and back, beside what was there before: resizing makes a new name for the free batch."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (16, 4)))

    def forward(self, x):
        x = self.one(x)
        small = self.two(functional.max_pool2d(x, 2))
        return self.three(torch.cat((x, functional.interpolate(small, scale_factor=2)), 1))


def test_what_is_resized_and_joined_quantizes(tmp_path):
    torch.manual_seed(0)
    network, x = Skipped().eval(), torch.randn(16, 3, 8, 8)
    whole = export_onnx(network, (x[:2],), tmp_path / "whole.onnx")
    path = quantize_onnx(whole, tmp_path / "int8.onnx", [x])
    assert layers_in_float(path) == ()
    with torch.no_grad():
        expected = network(x)
    assert float((run_onnx(path, x) - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_constant_inputs_quantize(dense, tmp_path):
    path = quantize_onnx(dense, tmp_path / "zero.onnx", [torch.zeros(8, 1, 8, 8)])
    assert torch.isfinite(run_onnx(path, torch.zeros(2, 1, 8, 8))).all()


class Starred(nn.Module):
    """forward takes a first input and whatever else there is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, first, *rest, scale=2.0):
        return scale * self.linear(first) + sum(rest)


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_a_forward_that_takes_any_number_of_inputs(rest, tmp_path):
    model, inputs = Starred().eval(), (torch.randn(3, 4), *(torch.randn(3, 3) for _ in range(rest)))
    path = export_onnx(model, inputs, tmp_path / "starred.onnx")
    more = tuple(torch.cat([x, x]) for x in inputs)
    assert torch.allclose(run_onnx(path, more), model(*more), atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_that_do_not_compute_in_float32_are_told_what_to_do(kind, tmp_path):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval().to(kind),
        torch.randn(8, 1, 8, 8),
    )
    if kind == torch.float16:
        half = export_onnx(model, x.to(kind), tmp_path / "half.onnx")  # ONNX Runtime computes it
        for make in (
            lambda: quantize_onnx(half, half.with_name("never.onnx"), [x]),
            lambda: quantize_linear(half, half, x),
        ):
            with pytest.raises(
                LamellaError, match=r"half\.onnx: holds FLOAT16 numbers, .* Export copy\.deepcopy\(model\)\.float\(\)"
            ):
                make()
    else:
        for never in (tmp_path / "never.onnx", tmp_path / "never.xml")[: 1 + bool(find_spec("openvino"))]:
            with pytest.raises(
                LamellaError, match=r"holds (bfloat16|float64) numbers, .*Export a float32 copy"
            ) as told:
                export(model, x.to(kind), never)
            assert str(told.value).startswith(f"{never}: the network holds")
            assert "model.onnx" not in str(told.value)
        assert list(tmp_path.iterdir()) == []
    assert export(model, x.to(kind), tmp_path / "model.pt2").exists()


@pytest.mark.parametrize("inputs", [None, np.zeros((1, 4), np.float32), (), [np.zeros((1, 4))]])
def test_example_inputs_without_a_tensor_are_told(inputs, tmp_path):
    with pytest.raises(
        TraceError, match=rf"example inputs are a {type(inputs).__name__} without a tensor; .*from_numpy"
    ):
        export(nn.Linear(4, 2), inputs, tmp_path / "never.onnx")


def test_fractions_are_no_whole_numbers(tmp_path):
    class Pixels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float() / 255

    path = export_onnx(Pixels(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), tmp_path / "pixels.onnx")
    assert run_onnx(path, torch.full((1, 1, 4, 4), 255, dtype=torch.int32)).max() == 1
    with pytest.raises(LamellaError, match=r"input 'x' holds float32 numbers; the file takes uint8"):
        run_onnx(path, torch.zeros(1, 1, 4, 4))


def test_the_exporters_table_is_built_once_and_copied(monkeypatch):
    from torch.onnx._internal.exporter import _registration as registration

    from lamella.exporting.operators import built_once

    built = []

    def build(_, opset_version):
        built.append(opset_version)
        return SimpleNamespace(opset_version=opset_version, functions={"aten::relu": ["Relu"]})

    monkeypatch.setattr(registration.ONNXRegistry, "from_torchlib", classmethod(build))
    for opset in (20, 20, 18):
        with built_once():
            table = registration.ONNXRegistry().from_torchlib(opset_version=opset)
        assert (table.opset_version, table.functions) == (opset, {"aten::relu": ["Relu"]})
        table.functions["aten::relu"].clear()  # what one export adds or drops is not the next one's
    assert built == [20, 18]
    assert registration.ONNXRegistry.from_torchlib(20) is not registration.ONNXRegistry.from_torchlib(20)
    monkeypatch.delattr(registration, "ONNXRegistry")
    with built_once():
        pass


def narrowed(name):
    model, inputs, graph = zoo.traced(name)
    return model, inputs, narrow(model, graph, {g.name: g.legal(g.width * 0.5) for g in graph.free})


@pytest.mark.parametrize("name", ["residual", "inverted_residual"])
def test_a_narrowed_network_in_the_file_of_the_dense_one_is_its_own_export(name, tmp_path, monkeypatch):
    model, inputs, small = narrowed(name)
    dense = export_onnx(model, inputs, tmp_path / "dense.onnx")
    exported = export_onnx(small, inputs, tmp_path / "exported.onnx")
    monkeypatch.setattr("lamella.exporting.likeness.export_onnx", lambda *_: pytest.fail("exported after all"))
    filled = NarrowedExports(dense)(small, inputs, tmp_path / "filled.onnx")
    assert filled.read_bytes() == exported.read_bytes() != dense.read_bytes()
    again = NarrowedExports(tmp_path / "absent.onnx", filled)(model, inputs, tmp_path / "again.onnx")
    assert again.read_bytes() == dense.read_bytes()


def test_what_does_not_fit_the_dense_file_is_exported_after_all(tmp_path, monkeypatch):
    model, inputs, small = narrowed("channel_shuffle")
    dense = export_onnx(model, inputs, tmp_path / "dense.onnx")
    exported = []
    monkeypatch.setattr(
        "lamella.exporting.likeness.export_onnx", lambda model, _, path: exported.append((model, path)) or path
    )
    path = tmp_path / "small.onnx"
    export = NarrowedExports(dense)
    assert export(small, inputs, path) == path
    assert export.like == [dense, path]
    doubled = copy.deepcopy(model)
    with torch.no_grad():
        next(doubled.parameters()).mul_(2)
    monkeypatch.setattr("lamella.exporting.likeness._refilled", lambda proto, _: proto)  # numbers left behind
    NarrowedExports(dense)(doubled, tuple(torch.zeros_like(x) for x in inputs), path)
    assert exported == [(small, path), (doubled, path)]
    assert not path.exists()


def test_a_graph_that_does_not_fit_is_tried_in_silence(tmp_path, capfd):
    """What the runtime says of it would stand between the lines of a command that goes well."""
    dense, narrow = (nn.Sequential(nn.Conv2d(3, width, 3), nn.PReLU(width)) for width in (8, 4))
    export = NarrowedExports()
    for name, model in (("dense", dense), ("narrow", narrow)):
        assert export(model.eval(), (torch.zeros(1, 3, 8, 8),), tmp_path / f"{name}.onnx").is_file()
    assert capfd.readouterr().err == ""


def test_numbers_of_classes_and_signs_of_infinity_are_right_or_they_are_not():
    assert difference(np.array([50000, 7]), np.array([50000, 3]), 1e-4)
    assert difference(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]), 1e-4) == "other values are not finite"
    assert difference(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 1e-4) is None
    assert difference(np.array([1.00001, np.inf]), np.array([1.0, np.inf]), 1e-4) is None


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, times):
        return times * self.layer(x)


@pytest.mark.parametrize(
    ("inputs", "free"), [((torch.randn(2, 4), 2), "x"), ((torch.randn(2, 4), torch.tensor(2.0)), "x")]
)
def test_what_is_no_batch_does_not_bind_it(tmp_path, inputs, free):
    model = Scaled().eval()
    path = export_onnx(model, inputs, tmp_path / "m.onnx")
    dims = {
        i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load(path).graph.input
    }
    assert isinstance(next(iter(dims.values()))[0], str)
