"""Layers without batch norm are brought back to the moments they had; nothing else of a network moves."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

import lamella as lm
from lamella.elasticity import (
    ElasticModel,
    Teaching,
    building,
    elasticize,
    load_elastic,
    make_levels,
    nest,
    publish,
    save_elastic,
)
from lamella.elasticity.methods import METHODS, recalibrate, train_stage
from lamella.errors import LamellaError
from lamella.grids import put_on_grids, rounded_weight, take_off_grids
from lamella.matching import match_outputs, matchable, moments
from lamella.profiling import Sweep, profile
from lamella.schema import Level, Step
from lamella.surgery import narrow, resolve
from lamella.training import Batches, Recipe, first_inputs, mixed, seeded
from lamella.walking import Tuning, start, walk

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 2),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 49, 10),
    ).eval()


def of_layer(model, name, inputs=IMAGES):
    seen = []
    hook = model.get_submodule(name).register_forward_hook(lambda module, _, outputs: seen.append((module, outputs)))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    return moments(*seen[0])


def same(one, other):
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=2e-6)
    torch.testing.assert_close(one.std, other.std, rtol=2e-5, atol=0)


def test_after_a_cut_every_layer_has_the_moments_of_the_channels_that_stay():
    model = plain()
    graph = lm.trace(model, (IMAGES[:2],), round_to=1)
    kept = resolve(model, graph, {group.name: group.legal(group.width / 2) for group in graph.free})
    small = narrow(model, graph, kept)
    before = of_layer(small, "7")
    assert match_outputs(small, model, graph, kept, IMAGES) is small
    assert matchable(model, graph) == ["0", "2", "4", "7"]
    for name in ("0", "2", "4"):
        whole = of_layer(model, name)
        (group,) = [kept[g.name] for g in graph.free if name in g.layers][:1]
        same(of_layer(small, name), type(whole)(whole.mean[list(group)], whole.std[list(group)]))
    same(of_layer(small, "7"), of_layer(model, "7"))
    assert (before.std - of_layer(model, "7").std).abs().max() > 0.01  # there was something to mend


def test_inputs_that_are_not_finite_are_told_and_nothing_moves():
    model, spoiled = plain(), IMAGES.clone()
    spoiled[3, 0, 0] = float("nan")
    graph, before = lm.trace(model, (IMAGES[:2],), round_to=1), copy.deepcopy(model.state_dict())
    with pytest.raises(lm.LamellaError, match=r"^8 values of the calibration data are not finite, .* Clean the data"):
        match_outputs(model, plain(), graph, {}, spoiled)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_where_nothing_was_cut_nothing_moves():
    model = plain()
    graph = lm.trace(model, (IMAGES[:2],), round_to=1)
    same_one = match_outputs(copy.deepcopy(model), model, graph, {}, IMAGES)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(same_one.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_weights_on_a_grid_stay_on_one():
    model = plain()
    graph = lm.trace(model, (IMAGES[:2],), round_to=1)
    coarse = put_on_grids(copy.deepcopy(model), {"0": 2, "4": 3, "7": 2})
    match_outputs(coarse, model, graph, {}, IMAGES)
    for name in ("0", "2", "4", "7"):
        same(of_layer(coarse, name), of_layer(model, name))
    take_off_grids(coarse, ["0", "4", "7"])
    for name, bits in (("0", 2), ("4", 3), ("7", 2)):
        weight = coarse.get_submodule(name).weight.detach()
        torch.testing.assert_close(rounded_weight(weight, bits), weight, rtol=1e-5, atol=1e-8)
        assert all(len(row.unique()) <= 2**bits - 1 for row in weight.flatten(1))
    same(of_layer(coarse, "7"), of_layer(model, "7"))


class Odd(nn.Module):
    """What cannot be matched: a layer before a batch norm, a shared one, one without bias, one called twice, one in groups."""

    def __init__(self):
        super().__init__()
        self.normed, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.bare = nn.Conv2d(8, 8, 1, bias=False)
        self.twice = nn.Conv2d(8, 8, 1)
        self.one, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.other.weight = self.one.weight
        self.spread = nn.ConvTranspose2d(8, 8, 1, groups=2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.bare(self.norm(self.normed(x)).relu()).relu()
        x = self.twice(self.twice(x).relu()).relu()
        return self.last(self.spread(self.other(self.one(x).relu()).relu()).relu())


def test_layers_that_cannot_be_matched_are_left_alone():
    torch.manual_seed(0)
    model = Odd().eval()
    graph = lm.trace(model, (IMAGES[:2],), round_to=1)
    assert matchable(model, graph) == ["last"]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.bare.weight.mul_(3)
    moved = {name: t.clone() for name, t in other.state_dict().items()}
    match_outputs(other, model, graph, {}, IMAGES)
    changed = {name for name, t in other.state_dict().items() if not torch.equal(t, moved[name])}
    assert changed == {"last.weight", "last.bias"}


def test_a_channel_that_says_nothing_is_not_made_louder():
    model = plain()
    graph = lm.trace(model, (IMAGES[:2],), round_to=1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[3] = 0
        other[0].weight[4] *= 1e-3
    weight = other[0].weight.clone()
    match_outputs(other, model, graph, {}, IMAGES)
    assert torch.equal(other[0].weight[3], torch.zeros_like(weight[3]))
    torch.testing.assert_close(other[0].weight[4], 4 * weight[4])  # and no more
    assert all(torch.isfinite(t).all() for t in other.state_dict().values())


@pytest.fixture(scope="module")
def trained():
    """A network without batch norm that has learned digits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    task = lm.make_task("digits")
    model = lm.fit(model, task, Recipe(epochs=8, lr=2e-3, optimizer="adamw"), seed=0).eval()
    return model, lm.trace(model, task.example_inputs, round_to=1), task


def stepped(trained, step, monkeypatch, matched):
    model, graph, task = trained
    if not matched:
        monkeypatch.setattr("lamella.matching.match_outputs", lambda model, *_: model)
    *_, state = walk(start(model, graph, task), [step], Tuning(task, Recipe(epochs=1, lr=1e-3)))
    monkeypatch.undo()
    return state.measures[-1].before_tuning


def test_a_walk_loses_less_than_half_of_what_it_lost(trained, monkeypatch):
    model, graph, task = trained
    dense = start(model, graph, task).measures[0].validation.value
    assert dense > 0.8
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for step in (
        Step(widths={g.name: g.legal(0.6 * g.width) for g in graph.free}, epochs=0),
        Step(bits=dict.fromkeys(layers, 2), epochs=0),
    ):
        lost, matched = (dense - stepped(trained, step, monkeypatch, which) for which in (False, True))
        assert lost > 0.1
        assert matched < lost / 2


def test_curves_of_a_network_without_batch_norm_are_matched_where_they_are_recalibrated(trained):
    model, graph, task = trained
    plain_one, mended = (
        profile(model, task, graph=graph, pruning_ratios=(0.5,), sweep=Sweep(recalibrate=again))
        for again in (False, True)
    )
    scores = [np_mean([p.score.value for p in found.points]) for found in (plain_one, mended)]
    assert scores[1] > scores[0] + 0.02
    assert "its layers' outputs matched" in mended.notes[0]


def np_mean(values):
    return sum(values) / len(values)


def test_first_inputs_are_as_many_as_asked_for_and_of_one_shape():
    task_inputs = torch.arange(10.0)[:, None]
    loader = Batches(task_inputs, torch.zeros(10), 4)
    assert torch.equal(first_inputs(loader, 5), task_inputs[:8])
    assert torch.equal(first_inputs(loader, 100), task_inputs)
    ragged = [(torch.zeros(2, 3), None), (torch.zeros(2, 4), None)]
    assert first_inputs(ragged, 4).shape == (2, 3)
    pair = Batches((task_inputs, 2 * task_inputs), torch.zeros(10), 4)
    one, two = first_inputs(pair, 8)
    assert torch.equal(2 * one, two)
    with pytest.raises(lm.LamellaError, match="no batch"):
        first_inputs([], 1)


def test_levels_lose_less_than_half_of_what_they_lost(trained, monkeypatch):
    model, graph, task = trained
    score = {}
    for matched in (True, False):
        if not matched:
            monkeypatch.setattr("lamella.elasticity.building.matchable", lambda *_: [])
        net = elasticize(model, {"core": 0.5, "middle": 0.3}, task, method="none", graph=graph)
        score[matched] = [level.validation.value for level in net.levels]
    *inner, dense = zip(score[True], score[False], strict=True)
    assert dense[0] == dense[1]
    assert sum(dense[0] - matched for matched, _ in inner) < 0.5 * sum(dense[0] - as_it_was for _, as_it_was in inner)


@pytest.fixture(scope="module", params=["sandwich", "grow"])
def family(request, trained):
    model, graph, task = trained
    coarse = Level(name="coarse", widths={g.name: g.legal(0.7 * g.width) for g in graph.free}, bits={"2": 4})
    levels = {"core": 0.5, "coarse": coarse}
    recipe = Recipe(epochs=1, lr=1e-3, optimizer="adamw")
    return elasticize(model, levels, task, method=request.param, recipe=recipe, graph=graph), task


def test_what_a_level_scales_is_in_what_is_taken_out_of_it(family):
    net, task = family
    x = task.example_inputs[0]
    for level in net.levels[:-1]:
        gain = net.view(level.name).get_submodule("0").level_gain
        assert (gain != 1).all()
        small = net.extract(level.name)
        assert not any(name.endswith(("gain", "shift")) for name in small.state_dict())
        assert not any(module._forward_hooks for module in small.modules())
        with torch.no_grad():
            torch.testing.assert_close(small(x), net.view(level.name)(x), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                net.view(level.name)[0](x[0]), net.view(level.name)[0](x)[0]
            )  # without an axis of samples
        assert not net.view(level.name)(x).requires_grad
        assert net.gathered_bytes(level.name) == (small[2].weight.nbytes if level.bits else 0)


def test_families_with_scales_of_their_own_are_kept_copied_and_published(family, trained, tmp_path):
    net, task = family
    save_elastic(tmp_path, net)
    others = [
        load_elastic(tmp_path, lambda: copy.deepcopy(trained[0])),
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
    ]
    x = task.example_inputs[0]
    for other in others:
        for level in net.levels:
            assert torch.equal(other.view(level.name)(x), net.view(level.name)(x))
    others[1].own[0].vectors.data.mul_(2)  # a copy's levels are its own
    assert torch.equal(others[0].view("core")(x), net.view("core")(x))
    assert not torch.equal(others[1].view("core")(x), net.view("core")(x))
    publish(net, task, tmp_path / "elastic", slots=1)
    assert net.family.onnx_bytes < 0.75 * sum(level.bytes for level in net.levels)  # the scaled weights are stored once


def test_a_family_that_scales_layers_of_another_network(family):
    net, _ = family
    with pytest.raises(LamellaError, match=r"affine: '9\.conv'.*another network"):
        ElasticModel(net.net, net.graph, dataclasses.replace(net.family, affine=("9.conv",)))


def test_growing_leaves_what_inner_levels_scale(trained):
    model, graph, task = trained
    seen = {}
    net = nest(model, graph, make_levels(graph, {"core": 0.5, "middle": 0.3}), task.example_inputs)
    recalibrate(net, task, 0)
    x = task.example_inputs[0]
    for stage in METHODS["grow"](net, net.net, task, Teaching()):
        train_stage(net, stage, task, Recipe(epochs=1, lr=1e-3, optimizer="adamw"), 0, None, lambda *_: None)
        now = {name: net.view(name)(x).detach() for name in net.family.names}
        assert all(torch.equal(now[name], seen[name]) for name in seen)
        seen[stage.name] = now[stage.name]


def test_a_trained_level_of_few_bits_has_the_moments_of_its_float_weights(trained, monkeypatch):
    model, graph, task = trained
    bits = {name: 2 for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    coarse = Level(name="coarse", widths={g.name: g.legal(0.7 * g.width) for g in graph.free}, bits=bits)
    make = lambda: elasticize(
        model, {"coarse": coarse}, task, recipe=Recipe(epochs=1, lr=1e-3, optimizer="adamw"), graph=graph
    )
    net = make()
    monkeypatch.setattr(building, "recalibrate_rounded", lambda *_: None)
    floats = make().extract("coarse", rounded=False)
    with seeded(mixed(0, 0), 0, torch.device("cpu")):
        x = first_inputs(task.calibration, 256)
    view = copy.deepcopy(net.view("coarse"))
    for name in bits:
        view.get_submodule(name)._forward_pre_hooks.clear()  # layers are matched before inputs are rounded
    for name in bits:
        now, wanted = (of_layer(each, name, x) for each in (view, floats))
        apart = (now.std / wanted.std).log().abs()
        assert float(apart.median()) < 1e-4, name  # all but channels that are silent, or need more than four times


def test_a_level_of_few_bits_starts_to_train_from_matched_float_weights(trained):
    model, graph, task = trained
    bits = {name: 2 for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    coarse = Level(name="coarse", widths={g.name: g.legal(0.7 * g.width) for g in graph.free}, bits=bits)
    net = nest(model, graph, make_levels(graph, {"coarse": coarse}), task.example_inputs)
    recalibrate(net, task, 0, rounded=False)
    with seeded(mixed(0, 0), 0, torch.device("cpu")):
        x = first_inputs(task.calibration, 256)
    kept = torch.tensor(net.kept("coarse")["0"])
    same(
        of_layer(net.extract("coarse", rounded=False), "0", x),
        of_layer(net.net, "0", x).of(torch.isin(torch.arange(16), kept)),
    )
