"""Laws of the other formats: a file says what the model says in its own runtime, or it is not there; what is slower is refused."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lamella
from lamella.errors import LamellaError, MissingExtra, TraceError
from lamella.exporting import OpenvinoModel, convert_to_openvino, export, file_bytes, quantize_onnx
from lamella.exporting.capturing import error_share
from lamella.schema import Graph, Group
from lamella.stages.deployment import FileFacts, check_faster, misaligned, refusal
from lamella.timing import Latency, latency, prepared
from lamella.timing.files import median_interval

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

DEPLOYING = (Path(__file__).parent.parent / "docs" / "deploying.md").read_text()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))).mean((2, 3)))


class Masked(nn.Module):
    """Its scores are masked by what nothing is multiplied by, and its third output is a class."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        value = self.value(x)
        return scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf), value, value.argmax(-1)


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def files(model, images, tmp_path_factory):
    """model.onnx, its twins in integers, and model.pt2."""
    folder = tmp_path_factory.mktemp("formats")
    found = {"onnx": export(model, images, folder / "model.onnx"), "pt2": export(model, images, folder / "model.pt2")}
    for name, bits in (("int8", {}), ("int4", {"body": 4}), ("int2", {"body": 2})):
        found[name] = quantize_onnx(found["onnx"], folder / f"{name}.onnx", [images], bits=bits)
    return found


def answers(path, x, **how):
    return prepared(path, x, **how)()[0]


def test_a_pt2_file_says_what_the_model_says_at_any_batch_and_names_no_path(model, files):
    for count in (1, 3):
        x = torch.randn(count, 1, 8, 8)
        np.testing.assert_allclose(answers(files["pt2"], x), model(x).detach().numpy(), atol=1e-6)
    assert str(Path(__file__).parent).encode() not in files["pt2"].read_bytes()
    assert file_bytes(files["pt2"]) == files["pt2"].stat().st_size


def test_the_same_onnx_file_runs_in_openvino(files, images):
    pytest.importorskip("openvino")
    for name, tolerance in (("onnx", 1e-5), ("int8", 0.05), ("int4", 0.05)):
        here, there = answers(files[name], images), answers(files[name], images, runtime="openvino")
        assert np.abs(here - there).max() <= tolerance * np.abs(here).max()
    call = prepared(files["int8"], images, runtime="openvino")
    first, second = call()[0], call()[0]
    second[:] = 0  # an array of its own
    assert np.array_equal(call()[0], first)
    held = prepared(files["onnx"], images.double(), runtime="openvino")  # inputs that nobody else holds
    others = [np.full(images.shape, 1e9, np.float32) for _ in range(100)]
    np.testing.assert_allclose(held()[0], answers(files["onnx"], images), atol=1e-5)
    assert len(others) == 100
    with pytest.raises(LamellaError, match=r"INT4 weights it takes, INT2 it does not: give those layers 4 bits"):
        prepared(files["int2"], images, runtime="openvino")


def test_openvinos_own_pair_of_files(model, files, images, tmp_path):
    pytest.importorskip("openvino")
    written = export(model, images, tmp_path / "model.xml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert file_bytes(written) == sum(p.stat().st_size for p in tmp_path.iterdir())
    np.testing.assert_allclose(answers(written, images), model(images).detach().numpy(), atol=1e-5)
    whole = convert_to_openvino(files["int8"], tmp_path / "int8.xml", images)
    again = convert_to_openvino(files["int8"], tmp_path / "again.xml", images)
    assert again.read_bytes() == whole.read_bytes()
    assert again.with_suffix(".bin").read_bytes() == whole.with_suffix(".bin").read_bytes()
    assert np.abs(answers(whole, images) - answers(files["int8"], images)).max() < 0.05
    with pytest.raises(LamellaError, match="INT2 it does not"):
        convert_to_openvino(files["int2"], tmp_path / "int2.xml", images)
    assert not list(tmp_path.glob("int2*"))
    with pytest.raises(LamellaError, match=r"input 'x' has shape \(4, 1, 8, 7\); the file takes \(any, 1, 8, 8\)"):
        prepared(written, images[..., :7])


def test_a_file_of_openvino_answers_as_a_module_at_any_batch_in_the_models_form(model, files, images, tmp_path):
    pytest.importorskip("openvino")
    written = convert_to_openvino(files["int8"], tmp_path / "int8.xml", images)
    answering = OpenvinoModel(written, like={"out": images, "aux": None})
    for x in (images, images[:1], images[1:]):
        found = answering(x)
        assert found["aux"] is None
        np.testing.assert_allclose(found["out"].numpy(), answers(written, x), rtol=1e-5, atol=1e-6)
    assert torch.equal(OpenvinoModel(written)(images), answering(images)["out"])


def test_masks_among_the_outputs_of_integers_are_no_errors_in_openvino(tmp_path):
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    x = torch.randn(32, 5, 8)
    source = export(Masked().eval(), x, tmp_path / "model.onnx")
    whole = quantize_onnx(source, tmp_path / "model.int8.onnx", [x])
    scores, *_ = prepared(convert_to_openvino(whole, tmp_path / "model.int8.xml", x), x)()
    assert np.array_equal(np.isinf(scores[0]), np.triu(np.ones((5, 5), dtype=bool), 1))


def test_how_far_outputs_are_apart():
    here = np.array([3.0, -np.inf, 4.0], dtype=np.float32)
    assert error_share(here + np.float32(0.5), here) == pytest.approx(0.5 * 2**0.5 / 5)
    assert error_share(np.array([3.0, -np.inf, np.nan]), here) == np.inf
    assert error_share(np.array([1, 2]), np.array([2, 1])) == 0


def test_executorch(model, images, tmp_path):
    pytest.importorskip("executorch")
    path = export(model, images[:1], tmp_path / "model.pte")
    np.testing.assert_allclose(answers(path, images[:1]), model(images[:1]).detach().numpy(), atol=1e-5)
    with pytest.raises(LamellaError, match=r"input 0' has shape \(4, 1, 8, 8\); the file takes \(1, 1, 8, 8\)"):
        prepared(path, images)
    with pytest.raises(
        TraceError, match=r"ExecuTorch has no counterpart for the operator .*bessel_j0, which '1' calls"
    ):
        export(nn.Sequential(nn.ReLU(), Bessel()), images, tmp_path / "never.pte")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pte"]


def test_an_operator_onnx_lacks_is_named_with_its_layer(images, tmp_path):
    with pytest.raises(TraceError, match=r"ONNX has no counterpart for the operator prims\.bessel_j0, which '1' calls"):
        export(nn.Sequential(nn.ReLU(), Bessel()), images, tmp_path / "never.onnx")
    assert list(tmp_path.iterdir()) == []


def odd_file(path, operator, domain=""):
    from onnx import TensorProto, helper

    node = helper.make_node(operator, ["x"], ["y"], name="block.odd", domain=domain)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 4])]
    ends += [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)]
    graph = helper.make_graph([node], "odd", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_operators_a_runtime_lacks_are_named_with_their_nodes(tmp_path):
    x = torch.zeros(1, 4, 4)
    with pytest.raises(
        LamellaError, match=r"ONNX Runtime [\d.]+ lacks my\.domain:Fancy \('block\.odd'\)\. Replace that layer"
    ):
        prepared(odd_file(tmp_path / "fancy.onnx", "Fancy", "my.domain"), x)
    pytest.importorskip("openvino")
    with pytest.raises(LamellaError, match=r"OpenVINO [\d.]+ lacks Det \('block\.odd'\)"):
        prepared(odd_file(tmp_path / "det.onnx", "Det"), x, runtime="openvino")


@pytest.mark.parametrize(
    ("library", "suffix", "extra"),
    [("openvino", ".xml", "openvino"), ("executorch", ".pte", "executorch"), ("onnxruntime", ".onnx", "onnx")],
)
def test_a_runtime_that_is_not_installed_names_its_extra(library, suffix, extra, model, images, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=rf"needs {library}, .*pip install 'lamella\[{extra}\]'"):
        export(model, images, tmp_path / f"model{suffix}")
    (tmp_path / f"old{suffix}").write_bytes(b"x")
    with pytest.raises(MissingExtra, match=rf"needs {library}"):
        prepared(tmp_path / f"old{suffix}", images)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".xml"])
def test_damaged_files_and_unknown_names(suffix, files, model, images, tmp_path):
    if suffix == ".xml":
        pytest.importorskip("openvino")
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(files["onnx"].read_bytes()[:-100] if suffix == ".onnx" else b"nothing")
    with pytest.raises(LamellaError, match=rf"damaged\{suffix}: .* cannot load it .*export it again"):
        prepared(damaged, images)
    with pytest.raises(LamellaError, match="no such file"):
        prepared(tmp_path / f"absent{suffix}", images)
    with pytest.raises(
        LamellaError, match=r"the suffix names the format, and '\.tflite' names none\. Known: \.onnx \(onnx\)"
    ):
        export(model, images, tmp_path / "model.tflite")
    with pytest.raises(LamellaError, match="unknown runtime 'onnxruntim'; did you mean 'onnxruntime'"):
        prepared(damaged, images, runtime="onnxruntim")


def test_files_of_several_runtimes_are_timed_in_one_run(files, images):
    times = latency({"onnx": files["onnx"], "pt2": files["pt2"]}, images[:1], slots=3, seconds=0.005)
    assert all(t.ratio_low <= t.ratio <= t.ratio_high for t in times.values())
    assert (times["onnx"].ratio_low, times["onnx"].ratio_high) == (1.0, 1.0)


def test_the_interval_of_a_median():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = median_interval(sorted(rng.lognormal(size=12)))
        held += low <= 1.0 <= high
    assert held / 400 > 0.93
    assert median_interval([2.0, 5.0]) == (2.0, 5.0)


# What is slower than dense


def facts(variant, ratio, spread=0.01):
    times = Latency(latency_ms=1, median_ms=1, ratio=ratio, ratio_low=ratio - spread, ratio_high=ratio + spread, n=9)
    return FileFacts(format="onnx", variant=variant, path=f"r/{variant}.onnx", bytes=10, latency=times)


@pytest.fixture(scope="module")
def graph(model, images):
    return lamella.trace(model, images, round_to=1)


def test_slower_means_the_whole_interval(graph):
    assert facts("model", 1.2).slower
    assert not facts("model", 1.2, spread=0.2).slower
    assert not facts("model", 1.04).slower


def test_a_refusal_names_the_widths_and_what_to_do(graph):
    group = next(g.name for g in graph.free)
    assert misaligned(graph, {group: 11}) == [(group, 11, 4)]
    assert misaligned(graph, {group: 12}) == []
    says = refusal([facts("model", 1.24)], [facts("model", 1.24)], graph, {group: 11})
    assert "r/model.onnx: slower than dense float32 in ONNX Runtime: 1.24x [1.23, 1.25] of its time" in says
    assert f"'{group}' keeps 11 of 16 (step 4)" in says
    assert re.search(rf"--option round_to=4; or these widths .*'{group}' 12.*--allow-slower", says, re.DOTALL)


def test_the_widths_it_names_are_ones_the_group_may_have():
    halves = Group(
        name="halves", width=24, parts=(0, 1) * 12, round_to=2
    )  # of 2 parts: a step of 4 will do, and 24 is dense
    thirds = Group(name="thirds", width=24, parts=(0, 1, 2) * 8)  # a multiple of 3 and of 4
    rungs = Group(name="rungs", width=7, parts=(0, 0, 0, 0, 1, 1, 1), ladder=((1, 1), (2, 1), (4, 3)))  # 2, 3 or 7
    graph = Graph(model="", layers=(), parameters=(), tensors=(), groups=(halves, thirds, rungs))
    widths = {"halves": 22, "thirds": 15, "rungs": 3}
    assert dict(w[::2] for w in misaligned(graph, widths)) == {"halves": 4, "thirds": 4, "rungs": 4}
    says = refusal([facts("model", 1.24)], [facts("model", 1.24)], graph, widths)
    assert "`lamella plan RUN --text`: 'halves' 20, 'thirds' 12.\n" in says


def test_a_refusal_of_integers_alone_says_why(graph):
    found = [facts("dense", 1.0), facts("model", 0.5), facts("int8", 1.4)]
    assert "quantizing activations costs more than integers save" in refusal(found[2:], found, graph, {})
    assert "calling the layers takes the time" in refusal([facts("model", 1.2)], found[:1], graph, {})


def test_a_refusal_never_advises_the_dense_width():
    wide = Group(name="wide", width=64)  # a step of 16: the nearest to 58 is 64
    low = Group(name="low", width=64, floor=50)  # and nothing is left below it
    graph = Graph(model="", layers=(), parameters=(), tensors=(), groups=(wide, low))
    says = refusal([facts("model", 1.24)], [facts("model", 1.24)], graph, {"wide": 58, "low": 58})
    assert "--option round_to=16; or these widths in `lamella plan RUN --text`: 'wide' 48." in says


def test_integers_are_judged_beside_the_float_file_they_were_made_from(graph):
    run = SimpleNamespace(read=lambda *_: SimpleNamespace(widths={}), graph=lambda: graph)
    fast, slow = facts("model", 0.5), facts("model", 1.4)
    check_faster(run, [facts("dense", 1.0), slow, facts("int8", 0.9)], "int8")
    with pytest.raises(LamellaError, match="Deploy the float file"):
        check_faster(run, [facts("dense", 1.0), fast, facts("int8", 1.4)], "int8")
    with pytest.raises(LamellaError, match="calling the layers takes the time"):  # the float file is no better
        check_faster(run, [facts("dense", 1.0), slow, facts("int8", 1.4)], "int8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", DEPLOYING, re.DOTALL))
def test_the_documented_examples_run(block, model, files, images, tmp_path, monkeypatch):
    """Each example of docs/deploying.md, of ten lines at most, prints the classes that the model gives."""
    suffix = re.search(r"model(?:\.int8)?(\.\w+)", block)[1]
    library = {".xml": "openvino", ".pte": "executorch"}.get(suffix) or ("openvino" if "openvino" in block else "onnx")
    pytest.importorskip(library)
    assert len(block.strip().splitlines()) <= 10
    np.save(tmp_path / "images.npy", images[:1].numpy())
    if suffix == ".onnx":
        (tmp_path / "model.onnx").write_bytes(files["onnx"].read_bytes())
    else:
        export(model, images[:1], tmp_path / f"model{suffix}")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "docs/deploying.md", "exec"), names)
    assert np.asarray(names["classes"]).tolist() == model(images[:1]).argmax(1).tolist()
