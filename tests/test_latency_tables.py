"""Latency tables: one layer as a file, kept figures, the fit, and a knapsack under a latency budget."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from reporting_records import resnet
from test_planning import measured
from torch import nn

from lamella import processors, trace
from lamella.errors import BudgetError, LamellaError, RecordError
from lamella.planning import plan
from lamella.schema import Budget
from lamella.surgery import narrow
from lamella.timing import (
    LatencyPredictor,
    LatencyTable,
    LayerShape,
    accuracy,
    fit_predictor,
    free_step,
    layer_shape,
    open_session,
)
from lamella.timing.calls import compiled
from lamella.timing.predicting import shapes_of
from lamella.timing.shapes import input_sizes, write_layer
from lamella.timing.tables import CHUNK, PASSES, machine

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

SHAPES = [
    LayerShape(inputs=4, outputs=8, kernel=(3, 3), stride=(1, 1), sides=(8, 8)),
    LayerShape(inputs=4, outputs=8, kernel=(3, 3), stride=(2, 2), sides=(4, 4)),
    LayerShape(inputs=8, outputs=8, kernel=(3, 3), stride=(1, 1), sides=(8, 8), blocks=8),
    LayerShape(inputs=8, outputs=4, kernel=(1, 1), stride=(2, 2), sides=(4, 4)),
    LayerShape(inputs=8, outputs=4, kernel=(5,), stride=(1,), sides=(16,)),
    LayerShape(inputs=12, outputs=5, rows=3),
]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.key)
def test_every_shape_is_a_file_that_runs(shape, precision, tmp_path):
    shape = replace(shape, precision=precision)
    write_layer(shape, tmp_path / "layer.onnx")
    session = open_session(tmp_path / "layer.onnx")
    kind = np.uint8 if precision == "int8" else np.float32
    (out,) = session.run(None, {"x": np.ones(input_sizes(shape), kind)})
    assert out.dtype == kind
    expected = (1, shape.outputs, *shape.sides) if shape.kernel else (shape.rows, shape.outputs)
    assert out.shape == expected


class Scripted(LatencyTable):
    """A table whose layers take what a formula says: rounding up to a multiple of 8 is free."""

    def __init__(self, directory=None):
        super().__init__(directory)
        self.timed = 0

    def _timed(self, shapes, slots):
        self.timed += len(shapes)
        area = lambda s: float(np.prod(s.sides)) if s.kernel else 1.0
        return [1e-6 * area(s) * s.inputs * (-(-s.outputs // 8) * 8) + 1e-4 for s in shapes]


def test_a_table_is_kept_and_never_measured_twice(tmp_path):
    table = Scripted(tmp_path)
    table.measure([*SHAPES, SHAPES[0]])
    assert table.timed == PASSES * len(SHAPES)
    again = Scripted(tmp_path)
    assert [again.ms(s) for s in SHAPES] == [table.ms(s) for s in SHAPES]
    assert again.timed == 0
    assert table.path.name == f"{machine()}-fp32.json"
    table.path.write_text(json.dumps({"ms": {"conv": "fast"}}))
    with pytest.raises(RecordError, match="not a latency table; delete it and it is measured anew"):
        Scripted(tmp_path)
    with pytest.raises(RecordError, match=r"precision: unknown precision 'int4'"):
        LatencyTable(precision="int4")


def many_shapes(count):
    return [LayerShape(inputs=1, outputs=n) for n in range(1, count + 1)]


def test_what_was_measured_before_a_kill_is_kept(tmp_path):
    class Killed(Scripted):
        def _timed(self, shapes, slots):
            if self.timed >= PASSES * CHUNK:
                raise KeyboardInterrupt
            return super()._timed(shapes, slots)

    shapes, told = many_shapes(2 * CHUNK), []
    with pytest.raises(KeyboardInterrupt):
        Killed(tmp_path).measure(shapes)
    again = Scripted(tmp_path)
    assert len(again.known) == CHUNK
    again.measure(shapes, lambda _, done, total: told.append((done, total)))
    assert again.timed == PASSES * CHUNK
    assert len(again.known) == len(shapes)
    assert told[-1] == (CHUNK, CHUNK)
    told.clear()
    Scripted().measure(shapes, lambda _, done, total: told.append((done, total)))
    assert told == sorted(told)


def test_tables_of_two_processes_lose_nothing_of_each_other(tmp_path):
    class Slower(Scripted):
        def _timed(self, shapes, slots):
            return [2 * ms for ms in super()._timed(shapes, slots)]

    one, other = Scripted(tmp_path), Slower(tmp_path)
    one.measure(SHAPES[:3])
    other.measure(SHAPES[2:])
    assert set(Scripted(tmp_path).known) == {s.key for s in SHAPES}
    assert other.ms(SHAPES[2]) == one.ms(SHAPES[2])  # kept first


CPUS = {
    "model name\t: AMD EPYC\nflags\t\t: fpu avx2\n": "AMD EPYC",
    "model name\t: AMD EPYC\nflags\t\t: fpu avx_vnni avx512_vnni\n\nmodel name\t: other\n": "AMD EPYC with VNNI",
    "processor\t: 0\nFeatures\t: fp asimddp i8mm\nmodel name\t: Cortex\n": "Cortex with DOTPROD",
}


@pytest.mark.parametrize("told", CPUS)
def test_a_cpu_is_another_one_with_integer_products(told, tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(told)
    assert processors.processor() == CPUS[told]
    assert machine().endswith(CPUS[told].lower().replace(" ", "-"))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_real_measurement_is_a_small_positive_time_in_either_runtime(runtime, tmp_path):
    pytest.importorskip(runtime)
    table = LatencyTable(tmp_path, slots=2, seconds=0.001, runtime=runtime)
    table.measure(SHAPES)
    assert all(0 < table.ms(s) < 50 for s in SHAPES)
    assert table.path.name == f"{machine(runtime)}-fp32.json"
    assert table.path.name.startswith(f"{runtime}-")


def test_runtimes_without_tables_are_refused():
    with pytest.raises(LamellaError, match=r"unknown runtime 'torch'"):
        LatencyTable("never", runtime="torch")


def test_strides_of_lone_convolutions_are_no_pools_in_openvino(tmp_path):
    pytest.importorskip("openvino")
    shape = LayerShape(inputs=32, outputs=64, kernel=(1, 1), stride=(2, 2), sides=(8, 8), precision="int8")
    LatencyTable(precision="int8", runtime="openvino")._call(shape, tmp_path / "layer.onnx")
    nodes = compiled(tmp_path / "layer.onnx").get_runtime_model().get_ordered_ops()
    assert not {"Pooling", "Convert"} & {node.get_rt_info()["layerType"].astype(str) for node in nodes}


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_layers_in_integers_are_computed_in_integers_by_both_runtimes(kernel, tmp_path):
    """What the table times in them is an operator of theirs in integers, and no float one between changes of type."""
    sides = (8, 8) if kernel else ()
    shape = LayerShape(inputs=32, outputs=16, kernel=kernel, stride=(1,) * len(kernel), sides=sides, precision="int8")
    write_layer(shape, tmp_path / "layer.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "seen.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(tmp_path / "layer.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "seen.onnx").graph.node}
    assert kinds == ({"QLinearConv"} if kernel else {"QLinearMatMul"})
    pytest.importorskip("openvino")
    nodes = compiled(tmp_path / "layer.onnx").get_runtime_model().get_ordered_ops()
    known = {
        node.get_rt_info()["layerType"].astype(str): node.get_rt_info()["primitiveType"].astype(str) for node in nodes
    }
    (primitive,) = (known[kind] for kind in ("Convolution", "FullyConnected", "MatMul") if kind in known)
    assert primitive.lower().endswith("i8")


def test_the_free_step_is_that_of_the_table():
    shape = LayerShape(inputs=16, outputs=64, kernel=(3, 3), stride=(1, 1), sides=(8, 8))
    assert free_step(Scripted(), shape) == 8


GROUPED = (
    "grouped",
    "inverted_residual",
    "depthwise_multiplier",
    "transposed",
    "grouped_transposed",
    "depthwise_transposed",
)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_convolutions_are_timed_with_their_groups(name, share):
    model, _, graph = zoo.traced(name)
    widths = {g.name: g.legal(g.width * share) for g in graph.free}
    convolutions = dict(narrow(model, graph, widths).named_modules())
    layers = [layer for layer in graph.multiplying if layer.kernel]
    for layer, shape in zip(layers, shapes_of(Scripted(), graph, widths), strict=False):
        seen = convolutions[layer.name]
        assert (shape.inputs, shape.outputs, shape.blocks) == (seen.in_channels, seen.out_channels, seen.groups)
    assert any(convolutions[layer.name].groups > 1 for layer in layers) == (name != "transposed")


@pytest.mark.parametrize("name", GROUPED)
def test_a_free_step_of_convolutions_in_groups_asks_for_layers_that_exist(name):
    _, _, graph = zoo.traced(name, 16)
    table = LatencyTable(slots=1, seconds=1e-5)
    for shape in dict.fromkeys(shapes_of(table, graph, {})):
        assert free_step(table, shape) >= 1


def test_free_steps_of_blocks_are_steps_that_every_block_can_take():
    class Asked(Scripted):
        def _timed(self, shapes, slots):
            asked.extend(shapes)
            return super()._timed(shapes, slots)

    asked = []
    shape = LayerShape(inputs=48, outputs=96, kernel=(3, 3), stride=(1, 1), sides=(8, 8))
    assert {n: free_step(Asked(), replace(shape, blocks=n)) for n in (1, 3, 4, 16)} == {1: 8, 3: 1, 4: 8, 16: 1}
    assert all(s.outputs % s.blocks == 0 for s in asked)
    asked.clear()
    free_step(Asked(), replace(shape, blocks=48))  # depthwise, two outputs for every input
    assert {(s.blocks, s.outputs) for s in asked} == {(s.inputs, 2 * s.inputs) for s in asked}
    assert {1, 48} <= {s.inputs for s in asked}


@pytest.fixture(scope="module")
def graph():
    return resnet(1, (8, 16, 32))


def random_plans(graph, count, seed=0):
    rng = np.random.default_rng(seed)
    return [{g.name: int(rng.integers(1, g.width + 1)) for g in graph.free} for _ in range(count)]


def test_a_fit_finds_the_coefficients_and_says_how_good_it_is(graph):
    table = Scripted()
    truth = LatencyPredictor(table, graph, scale=1.3, per_layer=-2e-5, per_element=-1e-9, block=8)
    plans, others = random_plans(graph, 12), random_plans(graph, 6, 1)
    found = fit_predictor(table, graph, plans, [truth.predict(graph, p, {}) for p in plans])
    assert (found.scale, found.per_layer, found.per_element) == pytest.approx((1.3, -2e-5, -1e-9), rel=1e-3)
    assert found.block == 8
    seen = accuracy(found, graph, others, [truth.predict(graph, p, {}) for p in others])
    assert seen.worst_error < 1e-3
    assert "rank correlation 1.00 on 6 plans" in seen.text
    with pytest.raises(LamellaError, match="2 plans and 2 measurements: at least three pairs"):
        fit_predictor(table, graph, plans[:2], [1.0, 2.0])


def test_a_prediction_is_the_sum_over_layers(graph):
    table = Scripted()
    predictor = LatencyPredictor(table, graph, scale=1.3, per_layer=0.002, per_element=1e-6)
    widths = random_plans(graph, 1)[0]
    full = graph.completed(widths)
    layers = sum(predictor.layer_ms(x, x.inputs.at(full), x.outputs.at(full), 32) for x in graph.layers)
    assert predictor.predict(graph, widths, {}) == pytest.approx(layers)
    nothing = LatencyPredictor(table, graph, per_layer=-1.0)
    assert nothing.predict(graph, widths, {}) == 0.0  # and never less
    assert len(shapes_of(table, graph, widths)) == len(graph.layers)


def test_a_shape_follows_the_layer(graph):
    layer = graph.layer_of["layer2.0.conv1"]
    shape = layer_shape(graph, layer, 5, 7, "fp32")
    assert (shape.inputs, shape.outputs, shape.kernel, shape.blocks) == (5, 7, (3, 3), 1)
    assert np.prod(shape.sides) == layer.positions


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_convolutions_that_name_no_stride_have_shapes_and_files(precision, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 4))
    graph = trace(model, (torch.zeros(1, 1, 8, 8),))
    assert graph.layers[0].stride == (1,)  # torch.export leaves defaults out
    shapes = shapes_of(LatencyTable(precision=precision), graph, {})
    assert [shape.stride for shape in shapes] == [(1, 1), (1, 1), ()]
    for shape in shapes:
        write_layer(shape, tmp_path / "layer.onnx")
        assert input_sizes(shape)[2:] == list(shape.sides)


def test_knapsack_keeps_a_latency_budget(graph):
    predictor = LatencyPredictor(Scripted(), graph, scale=1.1, per_layer=0.001, per_element=1e-7)
    profile = measured(graph, bits=())
    made = plan(profile, Budget(latency_ms="60%"), planner="knapsack", latency=predictor)
    assert made.latency_ms == pytest.approx(predictor.predict(graph, made.widths, {}))
    assert made.latency_ms <= 0.6 * made.dense_latency_ms
    assert made.proof.gap <= 1e-3
    quickest = plan(profile, Budget(max_drop=2.0), planner="knapsack", latency=predictor, minimize="latency_ms")
    assert quickest.latency_ms < quickest.dense_latency_ms
    assert (
        plan(profile, Budget(latency_ms="80%"), planner="uniform", latency=predictor).latency_ms
        <= 0.8 * made.dense_latency_ms
    )
    with pytest.raises(BudgetError, match=r"reaches latency_ms <= 0\.0001"):
        plan(profile, Budget(latency_ms=0.0001), planner="knapsack", latency=predictor)
