"""Groups that lose all their channels: what a residual block is without its branch, from the proof to the file in integers."""

import copy
import json
import pickle
from dataclasses import replace

import onnx
import pytest
import torch
import zoo
from onnx import numpy_helper
from torch import nn
from typer.testing import CliRunner

from lamella.cli import app
from lamella.compression import compress
from lamella.costs import cost
from lamella.elasticity import elasticize, load_elastic, publish, save_elastic
from lamella.emptied import EmptiedConv2d
from lamella.errors import RecordError
from lamella.exporting import OnnxModel, export_onnx, onnx_bytes, quantize_onnx
from lamella.latencies import Timing
from lamella.matching import match_outputs
from lamella.planning import editable, edited, plan
from lamella.profiling import Sweep, profile
from lamella.quantization import agreement, integers_file, quantize
from lamella.records import load_record
from lamella.reporting.facts import facts_at
from lamella.schema import Budget, Group, LatencyFit, Level, Plan, Point, Profile, Score, Step
from lamella.surgery import masked, narrow, refitted, retraced
from lamella.tasks import make_task
from lamella.timing.predicting import shapes_of
from lamella.timing.tables import LatencyTable
from lamella.tracing import trace
from lamella.training import Recipe, evaluate, fit
from lamella.zoo import make_model

# What something leads around, by network; of all others no group.
REMOVABLE = {
    "padded_shortcut": {"down.0.0"},
    "padded_by_buffers": {"down", "down#2"},
    "inverted_residual": {"expand.0"},
    "dense_concat": {"one.0", "two.0"},
    "shuffle_units": {"1.body.0.0", "2.body.0.0"},
    "res2net": {"two.0"},
    "cross_stage": {"b.0.0", "b.1.0"},
    "uneven_split": {"a.0"},
    "fixed_slice": {"a.0#2", "b.0"},
    "squeeze_excite": {"gate.0"},
    "layer_scaled": {"one"},
    "multihead_module": {"mlp.0"},
    "vision_transformer": {"qkv", "mlp.0"},
    "shared_head": {"b.0"},
    "embedded": {"table"},
    "mixer": {"tokens.0", "channels.0"},
}
some_nets = pytest.mark.parametrize("name", REMOVABLE)


@pytest.fixture(scope="module")
def digits():
    return make_task("digits", limit=600)


@pytest.fixture(scope="module")
def small_resnet(digits):
    torch.manual_seed(0)
    model = make_model("resnet14", in_channels=1, num_classes=10)
    fit(model, digits, Recipe(epochs=3, lr=0.1))
    return model.eval()


def planned_by_hand(graph, widths):
    dense = cost(graph)
    return Plan(
        structure=graph.structure, planner="by hand", steps=(Step(widths=widths),), predicted=dense, dense=dense
    )


def emptied(name):
    model, inputs, graph = zoo.traced(name)
    return model, inputs, graph, {group.name: () for group in graph.groups if group.removable}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_what_something_leads_around_is_removable(name):
    _, _, _, kept = emptied(name)
    assert set(kept) == REMOVABLE.get(name, set())


@some_nets
def test_without_these_groups_the_network_is_the_masked_one_and_costs_what_is_counted(name):
    model, inputs, graph, kept = emptied(name)
    small, twin = narrow(model, graph, kept), masked(model, graph, kept)
    for seen, expected in zip(zoo.outputs(small, inputs), zoo.outputs(twin, inputs), strict=True):
        torch.testing.assert_close(seen, expected)
    assert cost(graph, dict.fromkeys(kept, 0)).params == sum(p.numel() for p in small.parameters())
    assert cost(retraced(graph, kept)) == cost(graph, dict.fromkeys(kept, 0))


@some_nets
def test_the_file_holds_nothing_of_what_is_gone(name, tmp_path):
    model, inputs, graph, kept = emptied(name)
    path = export_onnx(narrow(model, graph, kept), inputs, tmp_path / "small.onnx")
    shapes = {i.name: tuple(i.dims) for i in onnx.load(path).graph.initializer}
    assert not {name: shape for name, shape in shapes.items() if 0 in shape}
    assert onnx_bytes(path) < onnx_bytes(export_onnx(model, inputs, tmp_path / "dense.onnx"))


def test_a_constant_that_a_branch_leaves_is_held_once_and_zeros_not_at_all(tmp_path):
    model = make_model("resnet14", in_channels=1, num_classes=10).eval()
    inputs = torch.randn(2, 1, 8, 8)
    graph = trace(model, inputs)
    small = narrow(model, graph, {"layer1.1.conv1": (), "layer2.1.conv1": ()})
    sums = lambda path: [n for n in onnx.load(path).graph.node if n.op_type == "Add"]
    before = len(sums(export_onnx(model, inputs, tmp_path / "dense.onnx")))
    assert len(sums(export_onnx(small, inputs, tmp_path / "zeros.onnx"))) == before - 2
    nn.init.normal_(small.layer1[1].bn2.bias)
    path = export_onnx(small, inputs, tmp_path / "constant.onnx")
    assert len(sums(path)) == before - 1
    held = {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    (constant,) = (array for name, array in held.items() if array.shape == (1, 16, 1, 1) and name.endswith("_once"))
    torch.testing.assert_close(torch.from_numpy(constant.ravel().copy()), small.layer1[1].bn2.bias.detach())


class Branches(nn.Module):
    """A bottleneck, and three linear layers with a shortcut around them."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.over, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 16, 1)
        self.first, self.second, self.third = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 16)
        self.last = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.up(torch.relu(self.over(torch.relu(self.down(x)))))).mean((2, 3))
        return self.last(x + self.third(torch.relu(self.second(torch.relu(self.first(x))))))


def test_layers_behind_a_constant_are_worked_out(tmp_path):
    model, inputs = Branches().eval(), torch.randn(2, 1, 8, 8)
    graph = trace(model, inputs)
    assert {"down", "over", "first", "second"} <= {group.name for group in graph.groups if group.removable}
    path = export_onnx(narrow(model, graph, {"down": (), "first": ()}), inputs, tmp_path / "small.onnx")
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("Conv") == 1
    assert kinds.count("Gemm") == 1


def test_groups_are_cut_beside_one_that_is_gone(digits):
    torch.manual_seed(0)
    model, inputs = Branches().eval(), digits.example_inputs[0]
    graph = trace(model, digits.example_inputs)
    first, then = {"down": ()}, {"stem": tuple(range(8)), "over": (0, 2)}
    once = narrow(model, graph, {**first, **then})
    twice = narrow(narrow(model, graph, first), retraced(graph, first), then)
    assert torch.equal(once(inputs), twice(inputs))


def test_a_layer_that_only_an_emptied_one_reads_has_no_bits(digits, tmp_path):
    torch.manual_seed(0)
    model, graph = Branches().eval(), trace(Branches(), digits.example_inputs)
    small, result = compress(model, planned_by_hand(graph, {"over": 0, "first": 0}), digits, graph=graph)
    twin, done = quantize(small, result, digits)
    assert set(done.bits) == {"stem", "last"}
    path = export_onnx(small, digits.example_inputs, tmp_path / "small.onnx")
    file = OnnxModel(integers_file(path, tmp_path / "small.int8.onnx", done.bits, digits))
    assert agreement(file, twin, digits) >= 0.995


def test_an_emptied_network_is_traced_by_either_tracer(digits):
    model, inputs = Branches().eval(), digits.example_inputs
    graph = trace(model, inputs)
    small = narrow(model, graph, {"down": (), "first": ()})
    assert {"stem", "last"} <= trace(small, inputs).group_of.keys()
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.trace(small, inputs)
    assert torch.equal(scripted(inputs[0]), small(inputs[0]))


def test_constants_of_networks_that_lost_nothing_stay_in_their_files(tmp_path):
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
            self.token, self.place = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(1, 1, 8))

        def forward(self, x):
            x = x / (x.abs().max() + 1e-6)
            token = self.token.expand(x.shape[0], -1, -1) + self.place
            return self.out(torch.cat([token, self.lift(x)], 1).mean(1))

    model, inputs = Token().eval(), torch.randn(1, 4, 6)
    path = export_onnx(model, inputs, tmp_path / "token.onnx")
    several = inputs.expand(5, -1, -1).contiguous()
    torch.testing.assert_close(OnnxModel(path)(several), model(several))
    quantize_onnx(path, tmp_path / "token.int8.onnx", [several])


def test_an_emptied_network_trains_travels_and_is_read_back(small_resnet, digits):
    model, inputs = small_resnet, digits.example_inputs
    graph = trace(model, inputs)
    small = narrow(model, graph, {group.name: () for group in graph.groups if group.removable}).train()
    small(*inputs).sum().backward()
    tensors = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), refitted(model, tensors)):
        for seen, expected in zip(zoo.outputs(other.eval(), inputs), zoo.outputs(small.eval(), inputs), strict=True):
            assert torch.equal(seen, expected)
        assert [type(m) for m in other.modules()] == [type(m) for m in small.modules()]


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (9, 7)),
        (nn.Conv2d(4, 6, (3, 1), padding="same", padding_mode="reflect"), (9, 7)),
        (nn.Conv1d(4, 6, 5), (11,)),
        (nn.Conv3d(4, 4, 3, groups=4), (5, 6, 7)),
    ],
)
def test_an_emptied_convolution_has_the_shape_and_the_bias_of_one_of_zeros(conv, size):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return self.conv(x)

    zero = copy.deepcopy(conv)
    nn.init.zeros_(zero.weight)
    expected = zero(torch.randn(2, 4, *size))
    weight = conv.weight.detach()[:, :0] if conv.groups == 1 else conv.weight.detach()[:0]
    small = refitted(Around(), {"conv.weight": weight, "conv.bias": conv.bias.detach()[: 6 * (conv.groups == 1)]})
    seen = small(torch.randn(2, 0, *size))
    assert seen.shape[2:] == expected.shape[2:]
    torch.testing.assert_close(seen, expected[:, : seen.shape[1]])
    assert seen.shape[1] == (6 if conv.groups == 1 else 0)


def test_of_two_branches_beside_each_other_one_stays():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)) for _ in range(2))
            self.out = nn.Linear(5, 3)

        def forward(self, x):
            return self.out(torch.relu(self.one(x) + self.two(x)))

    graph = trace(Beside(), torch.randn(2, 6))
    assert [group.name for group in graph.groups if group.removable] == ["one.0"]


def test_what_nothing_leads_around_keeps_a_channel():
    model, _, graph = zoo.traced("chain")
    with pytest.raises(RecordError, match="0 channels asked, and nothing leads around these layers: one must stay"):
        narrow(model, graph, {graph.free[0].name: []})
    with pytest.raises(RecordError, match="at least one channel, or is frozen without any"):
        Group(name="g", width=0)
    with pytest.raises(RecordError, match="fraction removed"):
        Point(target="g", knob="pruning_ratio", level=1.0, width=2, score=Score(value=1, low=1, high=1, n=1))


@pytest.mark.parametrize("sweep", [Sweep(whole=True), Sweep(whole=True, recalibrate=True)])
def test_a_profile_with_whole_groups_scores_what_narrowing_gives(small_resnet, digits, sweep):
    found = profile(small_resnet, digits, pruning_ratios=(0.5,), sweep=sweep)
    graph = found.graph
    gone = {point.target: point for point in found.points if point.width == 0}
    assert set(gone) == {group.name for group in graph.groups if group.removable}
    assert all(point.level == 1 for point in gone.values())
    if not sweep.recalibrate:
        for name, point in gone.items():
            small = narrow(small_resnet, graph, {name: ()})
            assert point.score.value == float(evaluate(small, digits.validation, digits.score).mean())
    without = profile(small_resnet, digits, pruning_ratios=(0.5,), sweep=Sweep())
    assert not any(point.width == 0 for point in without.points)


def test_a_whole_block_is_planned_where_that_is_the_best_there_is(small_resnet, digits):
    found = profile(small_resnet, digits, pruning_ratios=(0.5,), sweep=Sweep(whole=True))
    made = plan(found, Budget(macs="30%"), planner="knapsack")
    assert 0 in made.widths.values()  # half of every inner width leaves more than 30 % of the MACs
    assert made.predicted.macs <= 0.3 * made.dense.macs


@pytest.fixture
def branch_curves():
    """Curves of a network with branches: points lost per group and width, made up."""
    lost = {"down": (0.9, 1.0), "over": (0.7, 0.8), "first": (0.5, 0.5), "second": (0.4, 0.4)}
    graph = trace(Branches().eval(), torch.randn(2, 1, 8, 8))
    points = tuple(
        Point(target=name, knob="pruning_ratio", level=level, width=width, score=lost_points(drop))
        for name, drops in lost.items()
        for level, width, drop in zip((0.5, 1.0), (4, 0), drops, strict=True)
    )
    return Profile(graph=graph, baseline=lost_points(0), points=points)


def lost_points(points):
    value = 0.9 - points / 100
    return Score(value=value, low=value, high=value, n=1000)


@pytest.mark.parametrize("largest", [2_000_000, 1])
@pytest.mark.parametrize(
    ("budget", "points"), [(Budget(macs="20%"), 1.0), (Budget(max_drop=1.0), 1.0), (Budget(max_drop=1.5), 1.5)]
)
def test_a_branch_of_two_groups_is_lost_but_once(monkeypatch, branch_curves, largest, budget, points):
    monkeypatch.setattr("lamella.planning.tabling.LARGEST", largest)  # of 1: one program instead of prices
    made = plan(branch_curves, budget, planner="knapsack")
    assert {"down": 0, "over": 0}.items() <= made.widths.items()
    assert ("first" in made.widths) == ("second" in made.widths) == (points == 1.5)
    assert made.predicted_score == pytest.approx(0.9 - points / 100)
    assert made.steps[-1].expected == pytest.approx(made.predicted_score)


def test_planners_and_edited_plans_count_a_branch_once_too(branch_curves):
    made = plan(branch_curves, Budget(), planner="threshold", factor=0.95)
    assert set(made.widths.values()) == {0}
    again = edited(editable(made, branch_curves.graph), branch_curves)
    for each in (made, again):
        assert each.predicted_score == each.steps[-1].expected == pytest.approx(0.9 - 0.015)


def test_a_network_without_a_block_in_integers_is_what_was_simulated(small_resnet, digits, tmp_path):
    graph = trace(small_resnet, digits.example_inputs)
    gone = {"layer1.1.conv1": 0, "layer3.1.conv1": 0}
    small, result = compress(small_resnet, planned_by_hand(graph, gone), digits, graph=graph)
    assert isinstance(small.layer1[1].conv1, EmptiedConv2d)
    twin, done = quantize(small, result, digits)
    assert not {"layer1.1.conv1", "layer1.1.conv2"} & set(done.bits)
    whole = export_onnx(small, digits.example_inputs, tmp_path / "small.onnx")
    file = OnnxModel(integers_file(whole, tmp_path / "small.int8.onnx", done.bits, digits))
    assert agreement(file, twin, digits) >= 0.995


def test_bits_are_for_layers_that_are_left(small_resnet, digits):
    found = profile(small_resnet, digits, pruning_ratios=(0.5,), sweep=Sweep(whole=True))
    made = plan(found, Budget(macs="30%"), planner="knapsack", bits=4)
    gone = {name for name, width in made.widths.items() if width == 0 and name.endswith("conv1")}
    assert gone
    assert not gone & set(made.bits)
    by_hand = replace(made, steps=(*made.steps[:-1], Step(bits={**made.bits, next(iter(gone)): 4})))
    small, result = compress(small_resnet, by_hand, digits, graph=found.graph)
    _, done = quantize(small, result, digits)
    assert not gone & set(done.bits)


def test_levels_of_an_elastic_network_may_lack_blocks(small_resnet, digits, tmp_path):
    flat = Level(name="flat", widths={"layer1.1.conv1": 0, "layer2.1.conv1": 0, "layer3.1.conv1": 0})
    mixed = Level(
        name="mixed", widths={"layer2.1.conv1": 16, "layer3.1.conv1": 0}, bits={"layer3.1.conv2": 4, "linear": 4}
    )
    net = elasticize(small_resnet, [flat, mixed], digits, recipe=Recipe(epochs=1, lr=0.02))
    inputs = digits.example_inputs[0]
    for level in net.levels:
        net.set_active_subnet(level.name)
        torch.testing.assert_close(net(inputs), net.extract(level.name)(inputs))
    assert isinstance(net.extract("flat").layer3[1].conv2, EmptiedConv2d)
    save_elastic(tmp_path, net)
    again = load_elastic(tmp_path, lambda: make_model("resnet14", in_channels=1, num_classes=10))
    assert torch.equal(again.view("flat")(inputs), net.view("flat")(inputs))
    publish(net, digits, tmp_path / "files", slots=1)
    file = OnnxModel(tmp_path / "files" / "flat.onnx")
    torch.testing.assert_close(file(inputs), net.extract("flat")(inputs), rtol=1e-3, atol=1e-3)


def test_without_batch_norm_a_constant_becomes_the_mean_of_the_branch_that_went(digits):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
            self.back, self.out = nn.Conv2d(12, 8, 3, padding=1), nn.Linear(8, 10)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return self.out(torch.relu(x + self.back(torch.relu(self.inner(x)))).mean((2, 3)))

    torch.manual_seed(0)
    model = Residual().eval()
    inputs, graph = digits.example_inputs[0], trace(model, digits.example_inputs)
    small = match_outputs(narrow(model, graph, {"inner": ()}), model, graph, {"inner": ()}, inputs)
    with torch.no_grad():
        branch = model.back(torch.relu(model.inner(torch.relu(model.stem(inputs)))))
    torch.testing.assert_close(small.back.bias, branch.mean((0, 2, 3)))


def test_layers_that_are_gone_take_no_time_and_are_drawn_so(small_resnet, digits, tmp_path):
    graph = trace(small_resnet, digits.example_inputs)
    table = LatencyTable(tmp_path, slots=1)
    dense, gone = shapes_of(table, graph, {}), shapes_of(table, graph, {"layer1.1.conv1": 0})
    assert len(gone) == len(dense) - 2
    facts = {fact.name: fact for fact in facts_at(graph, {"layer1.1.conv1": 0}, {})}
    assert facts["layer1.1.conv1"].kept == facts["layer1.1.conv2"].kept == 0
    assert facts["layer1.1.conv2"].macs_kept == 0
    assert "0 of 16 channels" in str(facts["layer1.1.conv2"])
    assert "bits" not in str(facts["layer1.1.conv2"])


def test_latencies_are_learned_from_plans_like_those_to_be_predicted(small_resnet, digits):
    graph = trace(small_resnet, digits.example_inputs)
    gone = {name for widths in Timing(whole=True).plans(graph) for name, width in widths.items() if not width}
    assert gone == {group.name for group in graph.groups if group.removable}
    assert not any(0 in widths.values() for widths in Timing().plans(graph))


def test_a_run_removes_blocks_from_trace_to_report(tmp_path):
    run, command = str(tmp_path / "run"), CliRunner()

    def lamella(*words):
        found = command.invoke(app, list(words))
        assert found.exit_code == 0, found.output
        return found.output

    options = ("--option", "limit=200", "--option", "model.in_channels=1")
    traced = lamella("trace", run, "--model", "resnet14", "--task", "digits", *options)
    assert "yes, or all of it" in traced
    lamella("profile", run, "--pruning-ratios", ".5", "--bits", "8", "--sweep", "whole=1")
    few = ("--measure", "fits=3", "--measure", "holds=0")
    lamella("plan", run, "--planner", "knapsack", "--budget", "latency_ms=90%", "--bits", "8", *few)
    timed = load_record(tmp_path / "run" / "latency.int8.json", LatencyFit).plans
    assert any(0 in each.widths.values() for each in timed)
    lamella("plan", run, "--planner", "knapsack", "--budget", "macs=25%", "--order", "reverse")
    steps = json.loads((tmp_path / "run/plan.json").read_text())["value"]["steps"]
    assert any(0 in step["widths"].values() for step in steps)
    lamella("compress", run, "--tuning-samples", "64")
    lamella("quantize", run)
    lamella("export", run)
    lamella("compress", run, "--tuning-samples", "64", "--replan", "2")
    lamella("report", run)
    assert "0/" in (tmp_path / "run/report.html").read_text()
