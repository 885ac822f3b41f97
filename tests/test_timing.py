"""Latency: ratios that hold on a busy machine, records that reject nonsense, errors that name the file."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lamella.errors import LamellaError, MissingExtra, RecordError
from lamella.timing import Latency, latency
from lamella.timing.calls import _tried
from lamella.timing.files import Slot

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def products(path, count, width=96):
    """An ONNX file of `count` matrix products in a row."""
    from onnx import TensorProto, helper, numpy_helper

    names = ["x", *(f"h{i}" for i in range(1, count)), "y"]
    weights = [numpy_helper.from_array(np.eye(width, dtype=np.float32) * (i + 2), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timing")
    return {f"{n} products": products(folder / f"{n}.onnx", n) for n in (24, 4, 24)} | {
        "the first again": products(folder / "again.onnx", 24)
    }


def test_ratios_follow_the_work(files):
    times = latency(files, torch.ones(64, 96), slots=6, seconds=0.02)
    assert list(times) == ["24 products", "4 products", "the first again"]
    assert times["24 products"].ratio == 1.0
    assert 0.1 < times["4 products"].ratio < 0.35
    assert 0.8 < times["the first again"].ratio < 1.25
    assert all(0 < t.latency_ms <= t.median_ms and t.n >= 6 for t in times.values())


class Scripted:
    """A file whose fastest call of each round is given."""

    def __init__(self, path, inputs, threads, runtime):
        self.slots = iter(path)

    def run(self, seconds):
        return Slot([next(self.slots), 20e-3, 30e-3], 3)


def test_milliseconds_and_ratios_tell_the_same_order_where_one_call_was_lucky(monkeypatch):
    monkeypatch.setattr("lamella.timing.files.Call", Scripted)
    rounds = {"large": (10e-3, 8e-3, 10e-3), "small": (9e-3, 9e-3, 9e-3)}
    times = latency(rounds, torch.ones(1), slots=3)
    assert times["small"].ratio == pytest.approx(0.9)
    assert times["large"].latency_ms == pytest.approx(8.0)
    assert times["small"].latency_ms == pytest.approx(7.2)


def test_threads_are_timed_by_the_wall(files):
    assert latency(files, torch.ones(8, 96), threads=2, slots=2, seconds=0.005)["4 products"].latency_ms > 0


def test_what_cannot_be_timed(files, tmp_path, monkeypatch):
    with pytest.raises(LamellaError, match="name at least one, the first being the reference"):
        latency({}, torch.ones(1))
    with pytest.raises(LamellaError, match=r"input 'x' has shape \(64, 95\); the file takes \(batch, 96\)"):
        latency(files, torch.ones(64, 95))
    with pytest.raises(LamellaError, match=r"absent\.onnx: no such file"):
        latency({"absent": tmp_path / "absent.onnx"}, torch.ones(64, 96))
    with pytest.raises(RecordError, match="slots: 0 rounds measure nothing"):
        latency(files, torch.ones(64, 96), slots=0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"needs onnxruntime, .*pip install 'lamella\[onnx\]'"):
        latency(files, torch.ones(64, 96))


def test_a_failure_of_which_a_runtime_says_nothing(files, monkeypatch):
    def failing(*given, **named):
        raise ValueError

    with pytest.raises(LamellaError, match=r"m\.pt2: does not take inputs of shapes \(2,\) \(ValueError\)"):
        _tried(failing, Path("m.pt2"), [torch.ones(2)])
    monkeypatch.setattr("onnxruntime.InferenceSession", failing)
    with pytest.raises(LamellaError, match=r"cannot load it \(ValueError\)\. If the file is damaged"):
        latency(files, torch.ones(64, 96))


def test_a_latency_is_a_positive_time():
    with pytest.raises(RecordError, match="ratio: nan is not a positive time"):
        Latency(latency_ms=1.0, median_ms=1.0, ratio=float("nan"), ratio_low=1.0, ratio_high=1.0, n=3)
    with pytest.raises(RecordError, match="n: 0 calls measure nothing"):
        Latency(latency_ms=1.0, median_ms=1.0, ratio=1.0, ratio_low=1.0, ratio_high=1.0, n=0)
