"""Elastic networks: the laws over every network of the zoo, the methods, threads, files, and bad input."""

import copy
import threading
import time
from dataclasses import replace
from functools import cache

import pytest
import torch
import zoo
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils._pytree import tree_leaves

import lamella as lm
from lamella.elasticity import ElasticModel, Teaching, elasticize, load_elastic, make_levels, nest, save_elastic
from lamella.elasticity.building import _Trail
from lamella.elasticity.methods import METHODS, train_stage
from lamella.elasticity.sorting import permuted
from lamella.elasticity.teaching import apart
from lamella.errors import BudgetError, LamellaError, MismatchError, RecordError, TraceError
from lamella.records import save_record
from lamella.reporting.stages import read_stages
from lamella.schema import Budget, Family, Level
from lamella.surgery import narrow
from lamella.tracing import trace
from lamella.training import Batches, Recipe, Task, distance, fit, mixed, modes_kept, recalibrate_bn, seeded, smoothed

every_net = pytest.mark.parametrize("name", zoo.NAMES)
IN_ANOTHER_ORDER = ("cross_attention", "graph_product", "standardized", "windows")  # sums over weights that are views


@cache
def nested(name, ratios=(0.5, 0.25)):
    """An elastic network of two ratios, or of the one that this network can have. Made once: tests leave its weights alone."""
    model, inputs, graph = zoo.traced(name)
    try:
        levels = make_levels(graph, ratios)
    except RecordError:
        levels = make_levels(graph, ratios[:1])
    return nest(model, graph, levels, inputs), model, inputs, graph


def equal(a, b, tolerance=0.0):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape
        assert float((x - y).abs().max()) <= tolerance * max(1e-12, float(y.abs().max()))


@every_net
def test_a_level_equals_the_narrowed_model(name):
    net, model, inputs, graph = nested(name)
    for level in net.levels:
        net.set_active_subnet(level.name)
        small = net.extract(level.name)
        twin = narrow(net.net, graph, net.kept(level.name))
        for a, b in zip(small.state_dict().values(), twin.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        equal(zoo.outputs(small, inputs), zoo.outputs(twin, inputs))
        equal(zoo.outputs(net, inputs), zoo.outputs(small, inputs), 1e-6 if name in IN_ANOTHER_ORDER else 0.0)
        dense_twin = narrow(model, graph, net.dense_channels(level.name))
        equal(zoo.outputs(net, inputs), zoo.outputs(dense_twin, inputs), 3e-6)


@every_net
def test_the_largest_level_is_the_dense_network_with_its_channels_in_another_order(name):
    net, model, inputs, graph = nested(name)
    back = {g: torch.tensor(order).argsort().numpy() for g, order in net.family.order.items()}
    again = permuted(net.net, graph, back)
    for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    wide, inputs = zoo.widened(model, inputs)
    equal(zoo.outputs(copy.deepcopy(net.net).double(), inputs), zoo.outputs(wide, inputs), 1e-11)


@every_net
def test_levels_nest_and_views_copy_nothing_but_what_does_not_lie_together(name):
    net, _, _, _ = nested(name)
    for inner, outer in zip(net.levels, net.levels[1:], strict=False):
        small, large = net.kept(inner.name), net.kept(outer.name)
        assert all(set(small[g]) <= set(large[g]) for g in large)
        assert large.keys() <= small.keys()
    storages = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    for level in net.levels:
        tensors = {id(t): t for t in (*net.view(level.name).parameters(), *net.view(level.name).buffers()) if t.dim()}
        copied = sum(t.nbytes for t in tensors.values() if t.untyped_storage().data_ptr() not in storages)
        assert copied == net.gathered_bytes(level.name)
    assert net.gathered_bytes(net.levels[-1].name) == 0


GATHERED = ("padded_by_buffers", "dense_concat", "channel_shuffle", "grouped", "u_net", "shuffle_units")


def test_what_is_a_prefix_is_never_copied():
    for name in ("chain", "residual", "inverted_residual", "flattened", "depthwise_multiplier", "transposed", "shared"):
        net, *_ = nested(name)
        assert [net.gathered_bytes(level.name) for level in net.levels] == [0] * len(net.levels), name
    for name in GATHERED:
        net, *_ = nested(name)
        assert net.gathered_bytes(net.levels[0].name) > 0, name


# ---- training


def problem(width=8, samples=24):
    """A small network, its graph, and a task it can be trained on."""
    model, inputs, graph = zoo.traced("residual", width)
    torch.manual_seed(0)  # after the network, which is made once: the data do not depend on which test asks first
    x, y = torch.randn(samples, 3, 8, 8), torch.randint(0, 5, (samples,))
    batches = Batches(x, y, 8)
    return model, graph, Task(inputs, train=batches, validation=batches, test=batches)


def logits(net, task):
    x = task.train.inputs
    with torch.no_grad():
        return {level.name: net.view(level.name)(x) for level in net.levels}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_growing_leaves_inner_levels_bit_for_bit(optimizer):
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5, 0.25)), task.example_inputs, own=("out.2",))
    recipe = Recipe(epochs=2, lr=0.05, weight_decay=0.1, optimizer=optimizer, schedule="constant")
    before: dict[str, torch.Tensor] = {}
    for number, stage in enumerate(METHODS["grow"](net, net.net, task, Teaching())):
        untrained = logits(net, task)[stage.name]
        train_stage(net, stage, task, recipe, number, None, lambda *_: None)
        now = logits(net, task)
        for name, expected in before.items():
            assert torch.equal(now[name], expected), (stage.name, name)
        assert not torch.equal(now[stage.name], untrained)
        before[stage.name] = now[stage.name]


@pytest.mark.parametrize(
    ("name", "method"),
    [("padded_by_buffers", "grow"), ("dense_concat", "grow"), ("grouped", "grow"), ("dense_concat", "sandwich")],
)
def test_trained_weights_reach_what_levels_had_to_copy(name, method, tmp_path):
    torch.manual_seed(1)
    model, _, graph = zoo.traced(name)
    x, y = torch.randn(16, 3, 8, 8), torch.randint(0, 5, (16,))
    batches = Batches(x, y, 8)
    task = Task((x[:1],), train=batches, validation=batches, test=batches)
    net = elasticize(model, {"core": 0.5}, task, method=method, recipe=Recipe(epochs=1, lr=0.1), graph=graph)
    assert net.gathered_bytes("core") > 0
    with torch.no_grad():
        expected = net.extract("core", rounded=False)(x)
    assert torch.equal(logits(net, task)["core"], expected)
    save_elastic(tmp_path, net)
    assert torch.equal(logits(load_elastic(tmp_path, lambda: zoo.BY_NAME[name].make()[0]), task)["core"], expected)


@pytest.mark.parametrize("teaching", [Teaching(), Teaching(teacher="dense")])
def test_growing_trains_channels_last_and_norms_keep_training(teaching):
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    seen = []

    def look(conv, inputs):
        if conv.training:
            seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for view in (net.view("core"), net.view("full")):
        first = next(m for m in view.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_pre_hook(look)
    counts = 2 * len(task.train)
    for number, stage in enumerate(METHODS["grow"](net, net.net, task, teaching)):
        before = net.state_dict()[STATISTICS[stage.name]].clone()
        train_stage(net, stage, task, Recipe(epochs=2, lr=0.05), number, None, lambda *_: None)
        assert seen == [True] * counts, stage.name  # every batch of both epochs, in training mode
        assert not torch.equal(net.state_dict()[STATISTICS[stage.name]], before)
        seen.clear()
    assert not any(module.training for module in net.modules())


STATISTICS = {"core": "own.0.statistics", "full": "net.stem.1.running_mean"}


class Centred(nn.Module):
    """Takes a running mean off its inputs: updated in place, or put anew."""

    def __init__(self, channels, *, anew):
        super().__init__()
        self.register_buffer("mean_C", torch.zeros(channels))
        self.anew = anew

    def forward(self, x):
        if self.training and self.anew:
            self.mean_C = 0.5 * self.mean_C + 0.5 * x.detach().mean((0, 2, 3))
        elif self.training:
            self.mean_C.lerp_(x.detach().mean((0, 2, 3)), 0.5)
        return x - self.mean_C[:, None, None]


@pytest.mark.parametrize("anew", [False, True])
def test_what_a_module_updates_as_it_trains_belongs_to_a_level(anew, tmp_path):
    make = lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Centred(8, anew=anew), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )
    torch.manual_seed(0)
    x, y = torch.randn(16, 3, 8, 8), torch.randint(0, 5, (16,))
    batches = Batches(x, y, 8)
    task = Task((x[:1],), train=batches, validation=batches, test=batches)
    model = make().eval()
    graph = trace(model, task.example_inputs, round_to=1)
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    assert net.family.own == ("1.mean_C",)
    core, full = METHODS["grow"](net, net.net, task, Teaching())
    train_stage(net, core, task, Recipe(epochs=1, lr=0.02), 0, None, lambda *heard: None)
    before, mean_C = logits(net, task)["core"], net.extract("core")[1].mean_C
    assert mean_C.abs().min() > 0
    assert net.net[1].mean_C.abs().max() == 0
    train_stage(net, full, task, Recipe(epochs=1, lr=0.02), 0, None, lambda *heard: None)
    assert torch.equal(logits(net, task)["core"], before)
    assert net.net[1].mean_C.abs().min() > 0
    save_elastic(tmp_path, net)
    assert torch.equal(logits(load_elastic(tmp_path, make), task)["core"], before)


class Counting(nn.Module):
    """Holds numbers of another type than the network's, and counts in them as it trains."""

    def __init__(self, kind):
        super().__init__()
        self.register_buffer("calls", torch.arange(3).to(kind))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return x


@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_what_a_level_owns_keeps_its_type_of_numbers(kind, tmp_path):
    make = lambda: nn.Sequential(Counting(kind), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    torch.manual_seed(0)
    model, x = make(), torch.randn(6, 4)
    graph = trace(model, (x,), round_to=1)
    net = nest(model, graph, make_levels(graph, (0.5,)), (x,), own=("0.calls",))
    net.train().run("core", x)
    save_elastic(tmp_path, net.eval())
    again = load_elastic(tmp_path, make)
    assert torch.equal(again.view("core")(x), net.view("core")(x))
    for each in (net, again):
        for name, counted in (("core", 1), ("full", 0)):
            calls = each.extract(name)[0].calls
            assert calls.dtype == kind
            assert calls.tolist() == [counted, counted + 1, counted + 2]


def test_growing_with_gathered_channels_leaves_inner_levels_bit_for_bit():
    torch.manual_seed(1)
    model, inputs, graph = zoo.traced("dense_concat")
    x, y = torch.randn(16, 3, 8, 8), torch.randint(0, 5, (16,))
    task = Task(inputs, *[], train=Batches(x, y, 8), validation=Batches(x, y, 8), test=Batches(x, y, 8))
    net = nest(model, graph, make_levels(graph, (0.5, 0.25)), inputs)
    before = {}
    for number, stage in enumerate(METHODS["grow"](net, net.net, task, Teaching())):
        train_stage(net, stage, task, Recipe(epochs=1, lr=0.1, weight_decay=0.1), number, None, lambda *_: None)
        now = logits(net, task)
        assert all(torch.equal(now[name], expected) for name, expected in before.items())
        before[stage.name] = now[stage.name]


def test_what_grows_moves_as_a_whole():
    """To another device, as to another type: its constants and the network that it is a level of too."""
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    full = METHODS["grow"](net, net.net, task, Teaching())[1].make()
    images = task.train.inputs[:4]
    expected = full(images)
    assert torch.allclose(full.double()(images.double()).float(), expected, atol=1e-5)
    assert torch.equal(full.float()(images), expected)


class Single(nn.Sequential):
    """Takes numbers of any kind, and computes in float32."""

    def forward(self, x):
        return super().forward(x.float())


class Masked(nn.Sequential):
    """Answers with a mask beside its outputs."""

    def forward(self, x):
        y = super().forward(x)
        return y, y > 0


@pytest.mark.parametrize("kind", [Single, Masked])
def test_channels_are_sorted_whatever_a_forward_computes_in_and_returns(kind):
    torch.manual_seed(0)
    model = kind(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(4, 6)
    graph = trace(model, (x,), round_to=1)
    net = nest(model, graph, make_levels(graph, (0.5,)), (x,))
    assert net.gathered_bytes("core") == 0
    for a, b in zip(tree_leaves(net(x)), tree_leaves(model(x)), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-6)


def test_no_training_leaves_every_weight_and_the_largest_level_as_they_were():
    model, graph, task = problem()
    kept = zoo.fingerprint(model)
    net = elasticize(model, (0.5, 0.25), task, method="none", graph=graph)
    assert zoo.fingerprint(model) == kept
    reference = nest(model, graph, make_levels(graph, (0.5, 0.25)), task.example_inputs)
    assert torch.equal(logits(net, task)["full"], logits(reference, task)["full"])
    assert not torch.equal(logits(net, task)["core"], logits(reference, task)["core"])
    for a, b in zip(net.extract("core").parameters(), reference.extract("core").parameters(), strict=True):
        assert torch.equal(a, b)
    assert [level.name for level in net.levels] == ["core", "level1", "full"]
    assert all(level.validation.n == 24 for level in net.levels)


@pytest.mark.parametrize("method", ["sandwich", "grow"])
def test_an_interrupted_training_goes_on_and_ends_the_same(tmp_path, method):
    model, graph, task = problem()
    recipe = Recipe(epochs=2, lr=0.05)
    whole = elasticize(model, (0.5, 0.25), task, method=method, recipe=recipe, graph=graph)

    def until(calls):
        def progress(stage, done, total, note=""):
            if done == calls:
                raise KeyboardInterrupt

        return progress

    total = recipe.epochs * (3 if method == "grow" else 1)
    options = {"method": method, "recipe": recipe, "graph": graph, "directory": tmp_path}
    for calls in range(1, total):
        with pytest.raises(KeyboardInterrupt):
            elasticize(model, (0.5, 0.25), task, progress=until(calls), **options)
    resumed = elasticize(model, (0.5, 0.25), task, **options)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(MismatchError, match="belongs to another run: levels"):
        elasticize(model, (0.5,), task, **options)
    others = options | {"recipe": replace(recipe, lr=0.1), "teaching": Teaching(teacher="dense", labels=0.3)}
    told = (
        r"recipe\.lr was 0\.05 and is 0\.1; teaching\.labels was 0\.0 and is 0\.3; teaching\.teacher was 'largest' and "
    )
    with pytest.raises(MismatchError, match=told):
        elasticize(model, (0.5, 0.25), task, **others)


def test_a_training_knows_its_inputs(tmp_path):
    model, graph, task = problem()
    options = {"recipe": Recipe(epochs=1, lr=0.05), "graph": graph, "directory": tmp_path}
    elasticize(model, (0.5,), task, **options)
    other = replace(task, train=Batches(5 * task.train.inputs, task.train.targets, task.train.batch_size))
    with pytest.raises(MismatchError, match="belongs to another run: training inputs was"):
        elasticize(model, (0.5,), other, **options)


def test_a_training_of_before_the_method_was_called_so_is_another_one(tmp_path):
    model, graph, task = problem()
    options = {"recipe": Recipe(epochs=1, lr=0.05), "graph": graph, "directory": tmp_path}
    elasticize(model, (0.5,), task, **options)
    journal = tmp_path / "stages.jsonl"
    text = journal.read_text()
    was = text.replace('"recipe":{', '"tuning":{').replace('"method":', '"recipe":')
    journal.write_text(was)
    told = "belongs to another run: method is 'sandwich' and was not given; recipe was 'sandwich' and is not given; .*delete this"
    with pytest.raises(MismatchError, match=told):
        elasticize(model, (0.5,), task, **options)
    assert was == journal.read_text() != text


@pytest.mark.parametrize("method", ["sandwich", "grow"])
def test_a_training_can_be_watched_epoch_by_epoch(tmp_path, method):
    model, graph, task = problem()
    save_record(tmp_path / "graph.json", graph)
    told = []

    def progress(stage, done, total, note=""):
        now = read_stages(tmp_path).training
        assert now is None or now.total == total
        told.append(len(now.epochs) if now else None)

    recipe = Recipe(epochs=2, lr=0.05)
    options = {"method": method, "recipe": recipe, "graph": graph, "progress": progress}
    net = elasticize(model, (0.5, 0.25), task, directory=tmp_path / "elastic" / "training" / "one", **options)
    total = 2 * (3 if method == "grow" else 1)
    assert told == [0, *range(1, total + 1), total]
    found = read_stages(tmp_path).training
    assert found.ended
    assert found.names == ("core", "level1", "full")
    assert [epoch.done for epoch in found.epochs] == list(range(1, total + 1))
    last = {name: score for epoch in found.epochs for name, score in epoch.scores.items()}
    assert last == {level.name: level.validation for level in net.levels}  # nothing moved a level after its last epoch
    save_elastic(tmp_path, net)
    assert read_stages(tmp_path).training is None
    alone = elasticize(model, (0.5, 0.25), task, **options | {"progress": lambda *_: None})
    for a, b in zip(net.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b)  # being watched changes nothing


def test_a_training_killed_before_its_stage_is_kept_ends_the_same(tmp_path, monkeypatch):
    torch.manual_seed(1)
    model, inputs, graph = zoo.traced("dense_concat")
    x, y = torch.randn(16, 3, 8, 8), torch.randint(0, 5, (16,))
    batches = Batches(x, y, 8)
    task = Task(inputs, train=batches, validation=batches, test=batches)
    options = {"recipe": Recipe(epochs=1, lr=0.1), "graph": graph, "directory": tmp_path}
    with monkeypatch.context() as patched:
        patched.setattr(_Trail, "keep", stopped)
        with pytest.raises(KeyboardInterrupt):
            elasticize(model, {"core": 0.5}, task, **options)
    net = elasticize(model, {"core": 0.5}, task, **options)
    with torch.no_grad():
        assert torch.equal(logits(net, task)["core"], net.extract("core", rounded=False)(x))


def stopped(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("assign", [False, True])
def test_weights_that_come_through_a_parent_reach_every_level(assign):
    fresh = lambda: nested.__wrapped__("dense_concat")
    net, _, inputs, _ = fresh()
    other, *_ = fresh()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    other.refresh()
    nn.Sequential(net).load_state_dict(nn.Sequential(other).state_dict(), assign=assign)
    for name in net.family.names:
        equal(zoo.outputs(net.view(name), inputs), zoo.outputs(other.view(name), inputs))
        equal(zoo.outputs(net.view(name), inputs), zoo.outputs(narrowed_with_own(net, name), inputs))


def test_the_dense_network_teaches_every_level_and_is_left_as_it_was():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5, 0.25)), task.example_inputs)
    before = logits(net, task)["full"]
    (stage,) = METHODS["sandwich"](net, net.net, task, Teaching(teacher="dense", labels=0.25, temperature=2.0))
    train_stage(net, stage, task, Recipe(epochs=1, lr=0.05), 0, None, lambda *_: None)
    x, y = task.train.inputs, task.train.targets
    taught = stage.make().train()
    answers, outputs = taught(x)
    assert torch.equal(answers, before)  # training has moved the levels, and their teacher not
    assert len(list(taught.parameters())) == len(list(net.parameters()))
    sure = (answers / 2).log_softmax(1)
    soft = [(sure.exp() * (sure - (o / 2).log_softmax(1))).sum(1).mean() for o in outputs]
    hard = [nn.functional.cross_entropy(o, y) for o in outputs]
    expected = sum(0.75 * 4 * a + 0.25 * b for a, b in zip(soft, hard, strict=True))
    torch.testing.assert_close(stage.loss((answers, outputs), y), expected)


def test_growing_leaves_the_statistics_of_inner_levels_instance_norms():
    torch.manual_seed(0)
    layers = [
        [nn.Conv2d(i, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU()]
        for i in (3, 8)
    ]
    model = nn.Sequential(*layers[0], *layers[1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    batches = Batches(torch.randn(64, 3, 8, 8), torch.randint(0, 5, (64,)), 16)
    task = Task((torch.randn(2, 3, 8, 8),), train=batches, validation=batches, test=batches)
    graph = trace(model, task.example_inputs, round_to=1)
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    core, full = METHODS["grow"](net, net.net, task, Teaching())
    train_stage(net, core, task, Recipe(epochs=2, lr=0.05), 0, None, lambda *_: None)
    before = logits(net, task)
    train_stage(net, full, task, Recipe(epochs=2, lr=0.05), 1, None, lambda *_: None)
    now = logits(net, task)
    assert torch.equal(now["core"], before["core"])
    assert not torch.equal(now["full"], before["full"])


def test_growing_taught_by_the_dense_network_leaves_inner_levels_bit_for_bit():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5, 0.25)), task.example_inputs)
    before = {}
    for number, stage in enumerate(METHODS["grow"](net, net.net, task, Teaching(teacher="dense"))):
        untrained = logits(net, task)[stage.name]
        train_stage(net, stage, task, Recipe(epochs=1, lr=0.05), number, None, lambda *_: None)
        now = logits(net, task)
        assert all(torch.equal(now[name], expected) for name, expected in before.items())
        assert not torch.equal(now[stage.name], untrained)
        before[stage.name] = now[stage.name]


def test_a_step_draws_as_many_levels_as_it_is_told():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5, 0.35, 0.2)), task.example_inputs)
    for count in (0, 1, 2):
        (stage,) = METHODS["sandwich"](net, net.net, task, Teaching(at_random=count))
        assert len(stage.make()(task.train.inputs[:2])) == 2 + count


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_levels_that_the_first_step_does_not_draw_are_trained_later(optimizer):
    model, graph, task = problem()
    options = {
        "recipe": Recipe(epochs=4, lr=0.05, optimizer=optimizer),
        "teaching": Teaching(at_random=1),
        "graph": graph,
    }
    net = elasticize(model, (0.5, 0.35, 0.2), task, **options)
    fresh = nest(model, graph, net.levels, task.example_inputs)
    assert all(not torch.equal(a.vectors, b.vectors) for a, b in zip(net.own, fresh.own, strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"teacher": "core"}, "unknown teacher 'core'"), ({"labels": 2}, "not a share"), ({"temperature": 0}, "positive")],
)
def test_teaching_that_cannot_be_is_refused(options, words):
    with pytest.raises(RecordError, match=words):
        Teaching(**options)


def test_sandwich_learns_and_gradients_reach_shared_and_own_numbers():
    model, graph, task = problem(samples=64)
    none = elasticize(model, (0.5, 0.25), task, method="none", graph=graph)
    net = elasticize(model, (0.5, 0.25), task, recipe=Recipe(epochs=12, lr=0.05), graph=graph)
    assert net.levels[0].validation.value > none.levels[0].validation.value + 0.2
    net.zero_grad()
    net.train().set_active_subnet("core")
    net(task.train.inputs).square().mean().backward()
    weight = net.net.stem[0].weight
    assert weight.grad[:4].abs().sum() > 0
    assert weight.grad[4:].abs().sum() == 0
    assert net.own[0].vectors.grad.abs().sum() > 0
    assert net.own[1].vectors.grad is None


def test_an_elastic_network_is_trained_further():
    model, graph, task = problem(samples=64)
    recipe = Recipe(epochs=4, lr=0.05)
    first = elasticize(model, (0.5, 0.25), task, recipe=recipe, graph=graph)
    kept = zoo.fingerprint(first)
    first.family = replace(
        first.family, notes=("widths are in steps of 4", "the training did harm: 'full' scores nothing")
    )
    again = elasticize(model, first, task, recipe=recipe)
    assert zoo.fingerprint(first) == kept
    assert again.family.order == first.family.order
    assert again.family.epochs == 8
    assert again.family.notes == ("widths are in steps of 4",)
    for module in first.net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    afresh = elasticize(first.net, (0.5, 0.25), task, recipe=replace(recipe, epochs=1, lr=1e-6), graph=graph)
    still = elasticize(model, first, task, recipe=replace(recipe, epochs=1, lr=1e-6))
    # A rate that moves nothing: only what began elsewhere is elsewhere.
    for name, before in logits(first, task).items():
        near, far = (float((logits(net, task)[name] - before).abs().max()) for net in (still, afresh))
        assert near < 1e-3 * float(before.abs().max())
        assert name == "full" or near < far
    assert sum(x.validation.value for x in again.levels) > sum(x.validation.value for x in still.levels)


def test_a_level_with_bits_is_trained_further_in_float_and_rounded_anew():
    model, graph, task = problem()
    bits = {x.name: 4 for x in graph.layers if x.kind in ("conv", "linear")}
    coarse = Level(name="coarse", widths=make_levels(graph, (0.5,))[0].widths, bits=bits)
    first = elasticize(model, [coarse], task, recipe=Recipe(epochs=1, lr=0.02), graph=graph)
    again = elasticize(model, first, task, recipe=Recipe(epochs=1, lr=0.02))
    assert again.levels[0].bits == bits
    assert again.levels[0].ranges.keys() == bits.keys()
    assert again.levels[0].ranges != first.levels[0].ranges


def test_an_elastic_network_beneath_torch_compile_is_trained_further():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    again = elasticize(
        torch.compile(model, backend="eager"),
        torch.compile(net, backend="eager"),
        task,
        recipe=Recipe(epochs=1, lr=0.02),
    )
    assert again.family.names == net.family.names
    assert again.family.order == net.family.order


@pytest.mark.parametrize(
    ("wrapped", "words"),
    [
        (nn.DataParallel, "wrapped in DataParallel.*Pass model.module"),
        (lambda model: copy.deepcopy(model).requires_grad_(False), "all parameters of the model are frozen"),
    ],
)
def test_a_model_that_no_method_can_train_is_refused(wrapped, words):
    model, _, task = problem()
    with pytest.raises(LamellaError, match=words):
        elasticize(wrapped(model), (0.5,), task)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"graph": True}, "graph: an elastic network is trained further with what it has. Leave it out"),
        ({"graph": True, "own": ("out.2",)}, "graph and own: an elastic network.*Leave them out"),
        ({"method": "none"}, "method 'none': trains nothing"),
    ],
)
def test_what_an_elastic_network_cannot_be_asked_for(asked, words):
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5, 0.25)), task.example_inputs)
    asked = {name: graph if name == "graph" else value for name, value in asked.items()}
    with pytest.raises(LamellaError, match=words):
        elasticize(model, net, task, **asked)


def test_an_elastic_network_is_no_dense_one():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    with pytest.raises(LamellaError, match=r"elastic already.*elasticize\(model, net, task\)"):
        elasticize(net, (0.5,), task)
    with pytest.raises(LamellaError, match="elastic already"):
        elasticize(net, net, task)
    with pytest.raises(MismatchError, match=r"made from another model: .*Pass the dense network that it was made from"):
        elasticize(lm.make_model("resnet14", widths=(4, 8, 8), in_channels=1), net, task)
    with pytest.raises(MismatchError, match=r"is torch.float64 in the model and torch.float32 in the elastic network"):
        elasticize(copy.deepcopy(model).double(), net, task)


def test_who_is_trained_further_must_not_be_frozen_and_who_teaches_may():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    teacher, once = copy.deepcopy(model).requires_grad_(False), Recipe(epochs=1, lr=0.02)
    assert elasticize(teacher, net, task, recipe=once, teaching=Teaching(teacher="dense")).family.epochs == 1
    with pytest.raises(LamellaError, match="all parameters of the elastic network are frozen"):
        elasticize(model, net.requires_grad_(False), task, recipe=once)


def test_the_largest_level_stands_for_a_lost_dense_network():
    """Nothing of the smaller levels begins anew, their statistics neither."""
    model, graph, task = problem()
    net = elasticize(model, (0.5,), task, recipe=Recipe(epochs=1, lr=0.02), graph=graph)
    still = Recipe(epochs=1, lr=1e-12)
    one, other = (elasticize(dense, net, task, recipe=still).state_dict() for dense in (net.net, model))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_teacher_of_other_outputs_is_told():
    loss = lambda outputs, targets: mse_loss(outputs[0], targets)
    one = torch.zeros(2, 3)
    with pytest.raises(LamellaError, match=r"gives 2 outputs while it trains, and its teacher 1.*teacher='largest'"):
        apart(loss, (one, one), one)


def test_the_dense_network_teaches_who_is_trained_further():
    """A teacher whose classes are shuffled is followed: it is the one that is given."""
    model, graph, task = problem(samples=64)
    recipe, by_dense = Recipe(epochs=8, lr=0.05), Teaching(teacher="dense")
    net = elasticize(model, (0.5,), task, recipe=recipe, teaching=by_dense, graph=graph)
    other = copy.deepcopy(net.extract("full"))
    last = [m for m in other.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight.roll(1, 0))
        last.bias.copy_(last.bias.roll(1, 0))
    again = elasticize(other, net, task, recipe=recipe, teaching=by_dense)
    (x, _), *_ = task.train
    with torch.no_grad():
        taught, own, before = (m.eval()(x).argmax(1) for m in (other, again, net))
    assert (own == taught).float().mean() > (before == taught).float().mean() + 0.3


def test_data_parallel_is_refused():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    with pytest.raises(LamellaError, match=r"wrapped in DataParallel.*Recipe"):
        net._replicate_for_data_parallel()  # what DataParallel calls, where there is more than one GPU


def test_an_ordinary_module(tmp_path):
    model, graph, task = problem()
    net = elasticize(model, (0.5, 0.25), task, method="none", graph=graph)
    x = task.train.inputs
    expected = logits(net, task)
    for again in (copy.deepcopy(net), net.double().float()):
        assert all(torch.equal(logits(again, task)[name], expected[name]) for name in expected)
        again.set_active_subnet("core")
        assert torch.equal(again(x).detach(), expected["core"])
    other = nest(zoo.BY_NAME["residual"].make()[0], graph, net.levels, task.example_inputs)
    other.load_state_dict(net.state_dict())
    assert all(torch.equal(logits(other, task)[name], expected[name]) for name in expected)
    for each in (copy.deepcopy(net), net):
        with torch.no_grad():
            for parameter in each.parameters():
                parameter.mul_(1.5)
        assert not torch.equal(each.view("core")(x), expected["core"])
        assert torch.equal(each.view("core")(x), each.extract("core")(x))
    assert all(parameter.requires_grad for parameter in net.extract("core").parameters())


def test_one_level_is_trained_scored_and_trained_on():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    net.set_active_subnet("core")
    before = logits(net, task)["core"]
    fit(net, task, Recipe(epochs=3, lr=0.01, patience=3))
    assert not torch.equal(logits(net, task)["core"], before)


def test_views_are_in_the_networks_mode_before_anyone_asks():
    net, *_ = nested.__wrapped__("residual")
    view = net.view("core")
    for mode in (True, False):
        net.train(mode)
        assert {module.training for module in view.modules()} == {mode}


def test_an_average_of_weights_is_seen_by_gathered_and_by_rounded_levels():
    model, inputs, graph = zoo.traced("dense_concat")
    half = make_levels(graph, (0.5,))[0]
    levels = make_levels(graph, [half, replace(half, name="few", bits={"stem.0": 4})])
    net = nest(model, graph, levels, inputs)
    assert all(net.gathered_bytes(level.name) > 0 for level in levels[:-1])
    average = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda mean, seen, count: seen)
    for name in net.family.names:
        average.module.view(name)(*inputs)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    average.update_parameters(net)
    average.update_parameters(net)
    fresh = copy.deepcopy(net)
    for name in net.family.names:
        expected = zoo.outputs(fresh.view(name), inputs)
        equal(zoo.outputs(net.view(name), inputs), expected)
        equal(zoo.outputs(average.module.view(name), inputs), expected)


def test_training_by_hand_is_seen_by_gathered_levels():
    torch.manual_seed(0)
    net, _, inputs, _ = nested.__wrapped__("dense_concat")
    net.train().set_active_subnet("core")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    net(*inputs).square().mean().backward()
    optimizer.step()
    net.eval()
    equal(zoo.outputs(net, inputs), zoo.outputs(narrowed_with_own(net, "core"), inputs))


def narrowed_with_own(net, name):
    """The level made by surgery from the shared weights, with the level's own norms put in."""
    small = narrow(net.net, net.graph, net.kept(name))
    own = dict(net.extract(name).named_parameters()) | dict(net.extract(name).named_buffers())
    norms = {n: t for n, t in own.items() if net.is_own(n)}
    small.load_state_dict(norms, strict=False)
    return small


# ---- threads


def test_switching_during_a_forward_pass_in_another_thread():
    model, graph, task = problem(width=16)
    net = elasticize(model, (0.5, 0.25), task, method="none", graph=graph)
    x = task.train.inputs
    expected, wrong, stop = list(logits(net, task).values()), [], threading.Event()

    def ask():
        while not stop.is_set():
            with torch.no_grad():
                answer = net(x)
            if not any(torch.equal(answer, e) for e in expected):
                wrong.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(600):
        net.set_active_subnet(net.levels[turn % 3].name)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_train_one_level_lose_no_gradients():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    net.set_active_subnet("core")
    weight, inputs = next(net.net.parameters()), task.example_inputs
    (wanted,) = torch.autograd.grad(net(*inputs).square().sum(), weight)
    net.view("core").register_forward_pre_hook(lambda *_: time.sleep(0.002))  # while the others come in
    found = []

    def ask():
        for _ in range(5):
            found.extend(torch.autograd.grad(net(*inputs).square().sum(), weight, allow_unused=True))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(each is not None and torch.allclose(each, wanted, rtol=1e-4, atol=1e-5) for each in found)


def test_a_copy_made_in_inference_mode_runs():
    net, _, inputs, _ = nested("dense_concat")
    with torch.inference_mode():
        twin = copy.deepcopy(net)
        for name in net.family.names:
            equal(zoo.outputs(twin.view(name), inputs), zoo.outputs(net.view(name), inputs))


def test_switching_allocates_nothing():
    import tracemalloc

    net, *_ = nested("residual")
    views = {level.name: net.view(level.name) for level in net.levels}
    pointers = {name: [p.data_ptr() for p in view.parameters()] for name, view in views.items()}
    net.set_active_subnet("core")
    tracemalloc.start()
    for turn in range(300):
        net.set_active_subnet(net.levels[turn % len(views)].name)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 2000
    assert all([p.data_ptr() for p in net.view(name).parameters()] == pointers[name] for name in views)


def slow_train(self, mode=True):
    """As torch's, with time for another thread between a module's own flag and those of its parts."""
    self.training = mode
    for child in self.children():
        time.sleep(2e-3)
        child.train(mode)
    return self


@pytest.mark.parametrize("how", ["loaded", "restored"])
def test_threads_that_ask_first_together_all_see_evaluation_mode(how, tmp_path, monkeypatch):
    model, graph, task = problem()
    net = elasticize(model, {"core": 0.5}, task, method="none", graph=graph)
    save_elastic(tmp_path, net)
    x, expected, answers = task.train.inputs, logits(net, task)["core"], []
    monkeypatch.setattr(nn.Module, "train", slow_train)
    net = load_elastic(tmp_path, lambda: make_residual().train())
    if how == "restored":  # flag by flag, as evaluate() and fit() leave a network behind
        with modes_kept(net):
            net.train().view("core")
    net.set_active_subnet("core")
    statistics, together = net.own[0].statistics.clone(), threading.Barrier(3)

    def ask(turn):
        together.wait()
        time.sleep(turn * 3e-3)
        with torch.no_grad():
            answers.append(net(x))

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(answer, expected) for answer in answers] == [True] * 3
    assert torch.equal(net.own[0].statistics, statistics)


# ---- other tasks and options


def test_levels_of_a_segmentation_teach_each_other():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(zoo.cbr(3, 8), zoo.cbr(8, 8), nn.Conv2d(8, 4, 1)).eval(), (torch.randn(2, 3, 6, 6),)
    x, y = torch.randn(8, 3, 6, 6), torch.randint(0, 4, (8, 6, 6))
    batches = Batches(x, y, 4)
    right = lambda outputs, targets: (outputs.argmax(1) == targets).double().mean((1, 2))
    task = Task(inputs, train=batches, validation=batches, test=batches, score=right)
    graph = lm.trace(model, inputs, round_to=1)
    net = nest(model, graph, make_levels(graph, (0.5,)), inputs)
    before = logits(net, task)
    net = elasticize(model, (0.5,), task, recipe=Recipe(epochs=2, lr=0.05), graph=graph)
    assert not torch.equal(logits(net, task)["core"], before["core"])
    a, b = torch.randn(2, 5, 4, 3, 3)
    flat = [t.movedim(1, -1).reshape(-1, 4) for t in (a, b)]
    torch.testing.assert_close(distance(a, b, 2.0), distance(*flat, 2.0))


def test_what_is_taught_beside_a_loss_of_the_tasks_own_has_no_unit():
    torch.manual_seed(0)
    other = {"a": torch.randn(6, 3), "b": torch.randn(6)}
    one = {key: answers + 0.1 * torch.randn_like(answers) for key, answers in other.items()}
    expected = sum((one[k] - other[k]).square().mean() / other[k].var(correction=0) for k in one)
    found = apart(mse_loss, one, other)
    assert torch.allclose(found, expected)
    far = [{"a": 1000 * each["a"], "b": 50 + each["b"]} for each in (one, other)]
    assert torch.allclose(apart(mse_loss, *far), found, rtol=1e-3)
    assert apart(mse_loss, torch.tensor([3.0]), torch.tensor([2.0])) == 0.25  # one sample has no variance
    assert apart(mse_loss, torch.ones(2), torch.zeros(2)) == 1
    wild = torch.tensor([1000.0, 0.0], requires_grad=True)  # far off, it pulls no harder than one spread away
    apart(mse_loss, wild, torch.tensor([-1.0, 1.0])).backward()
    assert wild.grad.tolist() == pytest.approx([1.0, -1.0])


def test_a_training_that_does_harm_says_so():
    model, graph, task = problem()
    x = task.train.inputs
    with torch.no_grad():
        answers = model(x).argmax(1)
    right = Batches(x, answers, 8)
    for labels, harm in ((answers, 0), ((answers + 1) % 5, 1)):
        task = replace(task, train=Batches(x, labels, 8), validation=right)
        net = elasticize(model, (0.5,), task, recipe=Recipe(epochs=6, lr=0.02), graph=graph)
        assert sum("did harm: 'full' scores" in note and "than 0.02" in note for note in net.family.notes) == harm


@pytest.mark.parametrize("teaching", [Teaching(), Teaching(teacher="dense")])
def test_patience_scores_all_levels_and_keeps_the_best_epoch(teaching):
    model, graph, task = problem()
    seen = []

    def scored(outputs, targets):  # the first epoch is the best
        seen.append(len(outputs))
        return torch.full((len(outputs),), -float(len(seen)))

    fussy = Task(task.example_inputs, train=task.train, validation=task.train, test=task.train, score=scored)
    options = {"teaching": teaching, "graph": graph}
    patient = elasticize(
        model, (0.5, 0.25), fussy, recipe=Recipe(epochs=3, lr=0.05, patience=1, schedule="constant"), **options
    )
    assert len(seen) == ((2 + 1) * 3 + 1) * 3  # two epochs and the result of three levels; the dense network
    once = elasticize(model, (0.5, 0.25), task, recipe=Recipe(epochs=1, lr=0.05, schedule="constant"), **options)
    for name, expected in logits(once, task).items():
        assert torch.equal(logits(patient, task)[name], expected)


def test_smoothed_labels_are_those_of_the_tasks_own_share():
    model, graph, task = problem()
    levels, seen = make_levels(graph, (0.5,)), {}
    for smoothing in (0.0, 0.2):
        recipe = Recipe(epochs=1, lr=0.05, label_smoothing=smoothing)
        seen[smoothing] = logits(elasticize(model, levels[:-1], task, recipe=recipe, graph=graph), task)["core"]
    assert not torch.equal(seen[0.0], seen[0.2])
    smooth = smoothed(task.loss, 0.2)
    a, b = torch.randn(2, 6, 5)
    assert torch.equal(Teaching().loss(smooth, a, b, task.train.targets[:6]), distance(a, b, 1.0))


def test_a_module_that_holds_others_is_owned_with_all_of_them():
    model, graph, task = problem()
    levels = make_levels(graph, (0.5,))
    whole = nest(model, graph, levels, task.example_inputs, own=("out",))
    leaf = nest(model, graph, levels, task.example_inputs, own=("out.2",))
    assert whole.own[0].places == leaf.own[0].places
    assert whole.is_own("out.2.weight")


def test_frozen_norms_stay_frozen_in_every_level(tmp_path):
    model, graph, task = problem()
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    wide = Level(name="wide", widths={"stem.0": 6})  # other groups are as wide as before
    reference = nest(model, graph, make_levels(graph, [wide]), task.example_inputs)
    options = {"recipe": Recipe(epochs=2, lr=0.1), "graph": graph}
    net = elasticize(model, [wide], task, **options)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    trained, before = (dict(each.extract("wide").named_parameters()) for each in (net, reference))
    assert frozen
    assert {n for n in trained if torch.equal(trained[n], before[n])} == frozen
    save_elastic(tmp_path, net)
    assert torch.equal(logits(load_elastic(tmp_path, make_residual), task)["wide"], logits(net, task)["wide"])
    model.stem[0].weight.requires_grad_(False)
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).requires_grad_(True)
    net = elasticize(model, [wide], task, **options)
    norms = frozen - {n for n, p in model.named_parameters() if p.requires_grad}
    trained = dict(net.extract("wide").named_parameters())
    assert all(torch.equal(trained[n], before[n]) for n in norms)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "grow", "teaching": Teaching(labels=0.3)}, "nobody teaches but teacher='dense'"),
        ({"method": "grow", "teaching": Teaching(teacher="dense", at_random=1)}, "draws none at random"),
        ({"method": "none", "teaching": Teaching(teacher="dense")}, "'none': trains nothing, so that nobody teaches"),
        ({"method": "none", "recipe": Recipe(epochs=9)}, "'none': trains nothing, so that epochs"),
        (
            {"recipe": Recipe(epochs=1, distil=0.5)},
            r"Pass teaching=Teaching\(teacher='dense', labels=0.5, temperature=4\)",
        ),
        ({"recipe": Recipe(epochs=1, devices=2), "teaching": Teaching(at_random=0)}, r"Pass Teaching\(at_random=1\)"),
        ({"own": ("out.1",)}, "own: 'out.1' holds no weights"),
    ],
)
def test_what_would_be_passed_over_or_cannot_work_is_refused_before_training(options, words):
    model, graph, task = problem()
    with pytest.raises(LamellaError, match=words):
        elasticize(model, (0.5, 0.25), task, graph=graph, **options)


def test_a_temperature_belongs_to_cross_entropy():
    model, graph, task = problem()
    other = Task(
        task.example_inputs, train=task.train, validation=task.train, test=task.train, loss=lambda o, t: o.sum()
    )
    with pytest.raises(LamellaError, match="softened where the loss is cross entropy"):
        elasticize(model, (0.5,), other, graph=graph, teaching=Teaching(temperature=2.0))
    with pytest.raises(LamellaError, match=r"label_smoothing=0\.1 belongs to the default loss"):
        elasticize(model, (0.5,), other, graph=graph, recipe=Recipe(epochs=1, label_smoothing=0.1))


# ---- files


def make_residual():
    return zoo.BY_NAME["residual"].make()[0]


def test_save_and_load_bit_for_bit(tmp_path):
    model, graph, task = problem()
    net = elasticize(model, (0.5, 0.25), task, recipe=Recipe(epochs=1, lr=0.05), graph=graph, own=("out.2",))
    family = save_elastic(tmp_path, net)
    again = load_elastic(tmp_path, make_residual)
    assert again.family == family
    assert family.file_bytes == (tmp_path / "elastic.safetensors").stat().st_size > family.largest_bytes
    for name, expected in logits(net, task).items():
        assert torch.equal(logits(again, task)[name], expected)
        assert torch.equal(again.extract(name)(task.train.inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_family_in_another_type_of_numbers_comes_back_in_it(dtype, tmp_path):
    model, graph, task = problem()
    model, images = copy.deepcopy(model).to(dtype), task.train.inputs.to(dtype)
    net = nest(model, graph, make_levels(graph, (0.5,)), (images,))
    save_elastic(tmp_path, net)
    again = load_elastic(tmp_path, make_residual)
    for name in net.family.names:
        assert torch.equal(again.view(name)(images), net.view(name)(images))


def test_a_level_with_bits(tmp_path):
    model, graph, task = problem()
    layers = [x.name for x in graph.layers if x.kind in ("conv", "linear")]
    coarse = Level(name="coarse", widths=make_levels(graph, (0.5,))[0].widths, bits=dict.fromkeys(layers, 4))
    net = elasticize(model, {"core": 0.5, "coarse": coarse}, task, method="none", graph=graph)
    assert net.family.names == ("coarse", "core", "full")
    assert net.levels[0].ranges.keys() == set(layers)
    assert net.gathered_bytes("coarse") > 0
    assert net.gathered_bytes("core") == 0
    x = task.train.inputs
    with torch.no_grad():
        assert torch.equal(net.extract("coarse")(x), net.view("coarse")(x))
        assert torch.equal(net.extract("coarse", rounded=False)(x), net.view("core")(x))
        assert not torch.equal(net.view("coarse")(x), net.view("core")(x))
    save_elastic(tmp_path, net)
    assert torch.equal(logits(load_elastic(tmp_path, make_residual), task)["coarse"], logits(net, task)["coarse"])


def halved(module, inputs):
    return tuple(x / 2 for x in inputs)


def test_the_float_weights_of_a_level_with_bits_keep_a_users_own_hooks():
    model, graph, task = problem()
    model = copy.deepcopy(model)
    model.get_submodule("stem.0").register_forward_pre_hook(halved)
    levels = make_levels(graph, (0.5,))
    coarse = replace(levels[0], name="coarse", bits={"stem.0": 4}, ranges={"stem.0": (-1.0, 1.0)})
    net = nest(model, graph, (coarse, *levels), task.example_inputs)
    x = task.train.inputs
    with torch.no_grad():
        assert torch.equal(net.extract("coarse", rounded=False)(x), net.view("core")(x))


# ---- bad input


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ((0.5, 0.5), RecordError, r"levels\[1\] .*equal to those of level 'core', and no bits differ"),
        ((0.01,), RecordError, r"level 0: 0.01 removes no channel: .* Name a larger ratio"),
        (
            {"a": Level(name="b", widths={"stem.0": 4})},
            RecordError,
            "'a' is given a Level of another name, 'b': name both",
        ),
        ({"a" * 101: 0.5}, RecordError, r"'aaaaaaaaaaaaaaaaaaaa'\.\.\.: 101 characters, where 100 at most name files"),
        ((0.0,), RecordError, r"level 0: 0.0 is not in \(0, 1\)"),
        ((1.5,), RecordError, "the fraction that leaves"),
        (
            (Level(name="a", widths={"nope": 3}),),
            RecordError,
            r"level 0\.widths\['nope'\]: no such group in this model",
        ),
        (
            {"a": Level(name="a", widths={"stem.0": 9})},
            RecordError,
            r"level 'a'\.widths\['stem.0'\]: 9 channels asked, 8 exist",
        ),
        (
            (Level(name="a", widths={"stem.0": 4}), Level(name="b", widths={"down.0": 4})),
            RecordError,
            r"fewer than the \d+ of the level before, '.*': levels nest",
        ),
        (
            (Level(name="a", widths={}, bits={"nope": 4}),),
            RecordError,
            r"\['nope'\]: no convolution or linear layer .* 'stem.0',",
        ),
        (
            (Level(name="a", widths={}, bits={"stem.1": 4}),),
            RecordError,
            r"\['stem.1'\]: no convolution or linear layer",
        ),
        ({"full": 0.5}, RecordError, "'full' is the name of two levels"),
        ({"Full": 0.5}, RecordError, "'full' differs from Full in case alone"),
        ({}, RecordError, "none but the dense network; name one"),
        (0.5, LamellaError, "0.5 was given; a list of settings"),
        ({"a": "0.5"}, RecordError, "level 'a': '0.5': a pruning ratio, a Plan"),
        ({"a/b": 0.5}, RecordError, "made of letters, digits"),
        ([Budget(latency_ms=1.0)], LamellaError, "needs something that predicts it"),
        ([Budget(params=10)], BudgetError, "the narrowest network has params .* where 10 is asked"),
    ],
)
def test_levels_that_cannot_be_are_refused(settings, error, words):
    _, _, graph = zoo.traced("residual")
    with pytest.raises(error, match=words):
        make_levels(graph, settings)


def test_a_level_below_a_floor_is_refused():
    torch.manual_seed(0)
    model, inputs = zoo.BY_NAME["chain"].make()
    graph = lm.trace(model, inputs, round_to=1, floor=4)
    with pytest.raises(RecordError, match=r"\['0.0'\]: 3 channels, below the group's floor of 4"):
        make_levels(graph, [Level(name="a", widths={"0.0": 3})])


def test_levels_from_budgets_and_latency_targets():
    _, _, graph = zoo.traced("residual", 32)

    class Predictor:
        def predict(self, graph, widths, bits):
            return lm.cost(graph, widths).macs / 1e6

    levels = make_levels(graph, {"half": Budget(latency_ms="50%"), "quarter": Budget(params="25%")}, Predictor())
    dense = levels[-1]
    assert [level.name for level in levels] == ["quarter", "half", "full"]
    assert 0.4 * dense.macs < levels[1].macs <= 0.5 * dense.macs
    assert 0.2 * dense.params < levels[0].params <= 0.25 * dense.params


def test_targets_between_two_coarse_steps_differ_and_nest():
    model = lm.make_model("resnet14", widths=(16, 16, 16), in_channels=1)
    coarse = lm.trace(model, (torch.zeros(1, 1, 8, 8),), round_to=8)
    levels = make_levels(coarse, {f"of_{percent}": Budget(macs=f"{percent}%") for percent in (95, 85, 65)})
    assert len({tuple(sorted(level.widths.items())) for level in levels}) == 4
    for level in levels[:-1]:
        share = int(level.name.removeprefix("of_")) / 100
        assert (share - 0.2) * levels[-1].macs < level.macs <= share * levels[-1].macs


def test_unknown_names_are_refused():
    model, graph, task = problem()
    net, *_ = nested("residual")
    with pytest.raises(LamellaError, match="unknown level 'cor'; did you mean 'core'"):
        net.set_active_subnet("cor")
    with pytest.raises(LamellaError, match="unknown method 'sandwhich'; did you mean 'sandwich'"):
        elasticize(model, None, task, method="sandwhich", graph=graph)
    with pytest.raises(LamellaError, match="own: 'nowhere' is no module"):
        elasticize(model, None, task, method="none", graph=graph, own=("nowhere",))
    with pytest.raises(LamellaError, match="the last level is the dense network in float, and this one narrows"):
        ElasticModel(model, graph, Family(structure="", method="none", levels=net.levels[:1], order={}))
    coarse = (*net.levels[:-1], replace(net.levels[-1], bits={"stem.0": 4}))
    with pytest.raises(LamellaError, match="the last level is the dense network in float, and this one has bits"):
        ElasticModel(model, graph, Family(structure="", method="none", levels=coarse, order={}))
    with pytest.raises(LamellaError, match="unknown level None"):
        net.set_active_subnet(None)
    with pytest.raises(
        LamellaError, match=r"own: 'out.2' was given; a list of modules was expected, such as \['out.2'\]"
    ):
        elasticize(model, None, task, method="none", graph=graph, own="out.2")


def test_a_method_in_the_place_of_the_recipe_is_told_where_it_belongs():
    model, graph, task = problem()
    net = nest(model, graph, make_levels(graph, (0.5,)), task.example_inputs)
    told = r"recipe: 'grow' was given; a Recipe was expected, such as Recipe\(epochs.*: pass method='grow'\.$"
    for levels, options in (((0.5,), {"graph": graph}), (net, {})):
        with pytest.raises(LamellaError, match=told):
            elasticize(model, levels, task, recipe="grow", **options)
    with pytest.raises(
        LamellaError, match=r"recipe: \{'lr': 0.1\} was given; a Recipe was expected, such as Recipe\(.*\)\.$"
    ):
        elasticize(model, (0.5,), task, recipe={"lr": 0.1}, graph=graph)


def test_a_graph_of_another_model_is_refused():
    _, graph, task = problem()
    for name in ("chain", "residual"):
        with pytest.raises(TraceError, match="belongs to another model"):
            elasticize(zoo.traced(name, 12)[0], (0.5,), task, graph=graph)


@pytest.mark.parametrize("field", ["order", "ranks"])
def test_an_order_that_is_none_is_refused(field):
    net, *_ = nested("grouped")
    group = net.graph.groups[0]
    for wrong in ((0, 1), (0,) * group.width):
        with pytest.raises(
            RecordError, match=rf"{field}\['{group.name}'\]: not every one of {group.width} places once"
        ):
            ElasticModel(net.net, net.graph, replace(net.family, **{field: {group.name: wrong}}))
    with pytest.raises(RecordError, match=rf"{field}\['nope'\]: no such group"):
        ElasticModel(net.net, net.graph, replace(net.family, **{field: {"nope": (0, 1)}}))


def test_a_family_with_a_missing_or_foreign_level_is_refused(tmp_path):
    model, graph, task = problem()
    net = elasticize(model, (0.5, 0.25), task, method="none", graph=graph)
    save_elastic(tmp_path / "two", net)
    save_elastic(tmp_path / "one", elasticize(model, (0.5,), task, method="none", graph=graph))
    weights = (tmp_path / "two" / "elastic.safetensors").read_bytes()
    (tmp_path / "one" / "elastic.safetensors").write_bytes(weights)
    with pytest.raises(MismatchError, match=r"holds 2 levels beside the largest, and 1 were expected \(core\)"):
        load_elastic(tmp_path / "one", make_residual)
    save_record(tmp_path / "one" / "graph.json", zoo.traced("chain")[2])
    with pytest.raises(MismatchError, match=r"belongs to the structure .* Copy both from one run"):
        load_elastic(tmp_path / "one", make_residual)
    (tmp_path / "two" / "elastic.safetensors").write_bytes(weights[:100])
    with pytest.raises(RecordError, match="damaged or absent"):
        load_elastic(tmp_path / "two", make_residual)


def test_a_single_level_has_names_of_its_own():
    net, *_ = nested("chain", (0.5,))
    assert isinstance(net.net, nn.Module)
    assert net.active_subnet == "full"
    assert net.family.names == ("core", "full")


def test_a_trained_level_of_few_bits_has_the_statistics_of_its_rounded_weights():
    model, graph, task = problem()
    half = make_levels(graph, (0.5,))[0].widths
    levels = {"coarse": Level(name="coarse", widths=half, bits={"stem.0": 3}), "core": 0.75}
    net = elasticize(model, levels, task, recipe=Recipe(epochs=1, lr=0.05), graph=graph)
    for name, same in (("coarse", True), ("core", False)):  # that of `core` is as training left it
        number = net.family.names.index(name)
        again = copy.deepcopy(net)
        again.view(name).get_submodule("stem.0")._forward_pre_hooks.clear()  # inputs are rounded last
        with seeded(mixed(0, number), 0, torch.device("cpu")):
            recalibrate_bn(again.view(name), task.train)
        assert torch.equal(again.own_of(name).statistics, net.own_of(name).statistics) == same
