"""Narrow, tune, measure, checkpoint: interrupted anywhere and resumed, the walk ends where it would have ended."""

import gc
import json
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import zoo
from torch import nn
from torch.nn.functional import cross_entropy

import lamella as lm
from lamella.errors import MismatchError, RecordError
from lamella.schema import Cost, Plan, Step
from lamella.stages.controls import CONTROLS
from lamella.storage import load, load_tensors, read_into, save, save_tensors
from lamella.surgery import integers_of, narrow, refitted, resolve
from lamella.training import Batches, Recipe, Task
from lamella.walking import Tuning, composed, start, walk
from lamella.walking.states import named

COST = Cost(params=1, macs=1, bytes=1, memory=1)
RECIPE = Recipe(epochs=1, lr=0.05)


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 1, 6, 6, generator=generator)
    targets = torch.randint(4, (96,), generator=generator)
    batches = Batches(inputs, targets, 16, shuffle=True)
    held = Batches(inputs[:48], targets[:48], 16)
    return Task((inputs[:1],), train=batches, validation=held, test=held)


@pytest.fixture(scope="module")
def graph(task):
    return lm.trace(make_net(), task.example_inputs, round_to=1)


@pytest.fixture(scope="module")
def plan(graph):
    steps = (Step(widths={"3": 6}, epochs=1, predicted=0.4), Step(widths={"0": 5}, epochs=2), Step(bits={"3": 8}))
    return Plan(structure=graph.structure, planner="by hand", steps=steps, predicted=COST, dense=COST)


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def same(a, b):
    ours, theirs = tensors(a), tensors(b)
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in ours.items())


def test_compress_narrows_in_order_and_leaves_the_model_alone(task, graph, plan):
    model = make_net()
    before = {name: t.clone() for name, t in tensors(model).items()}
    small, result = lm.compress(model, plan, task, recipe=RECIPE, graph=graph)
    assert [m.name for m in result.history] == ["dense", "3 to 6", "0 to 5"]
    assert result.widths == {"0": 5, "3": 6, "7": 4}
    assert small[0].weight.shape == (5, 1, 3, 3)
    assert small[3].weight.shape == (6, 5, 3, 3)
    assert result.history[-1].params == sum(p.numel() for p in small.parameters())
    assert all(torch.equal(t, tensors(model)[name]) for name, t in before.items())
    assert model.training


@pytest.mark.parametrize("steps", [(), (Step(bits={"3": 8}),)])
def test_a_plan_without_work_gives_a_copy_in_evaluation_mode(task, graph, plan, steps):
    model = make_net().train()
    small, result = lm.compress(model, replace(plan, steps=steps), task, graph=graph)
    assert small is not model
    assert not small.training
    assert model.training
    assert same(small, model)
    assert [measure.name for measure in result.history] == ["dense"]


def test_the_uniform_control_of_bits_alone_is_the_plan(graph, monkeypatch, plan):
    even = replace(plan, planner="uniform", steps=(Step(),))
    monkeypatch.setattr("lamella.stages.controls.make_plan", lambda *_, **__: even)
    session = SimpleNamespace(has=lambda name: True, profile=lambda: None)
    bits = replace(plan, steps=(Step(bits={"3": 4}, epochs=2),))
    assert CONTROLS["uniform"](session, bits).steps == bits.steps
    assert [step.epochs for step in CONTROLS["uniform"](session, plan).steps] == [3, 0]


def test_the_control_of_no_cuts_trains_for_as_long_as_the_plan_on_grids_too(graph, plan):
    tuned = replace(plan, steps=(*plan.steps, Step(bits={"3": 4}, epochs=3)))
    (step,) = CONTROLS["origin"](SimpleNamespace(graph=lambda: graph), tuned).steps
    assert step.epochs == sum(s.epochs for s in tuned.steps) == 6


def test_every_epoch_of_a_step_is_told(task, graph, plan):
    told = []
    lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, progress=lambda *what: told.append(what))
    assert [(done, total) for stage, done, total, *_ in told if stage == "tune"] == [
        (0, 1),
        (1, 1),
        (0, 2),
        (1, 2),
        (2, 2),
    ]
    assert next(what[3] for what in told if what[:2] == ("tune", 2)).startswith("0 to 5: loss 1.")


def test_a_walk_holds_no_network_of_the_steps_behind_it(task, graph, plan, monkeypatch):
    from lamella.walking import steps

    steps_taken, alive, take = [], [], steps._take

    def counting(*given):
        gc.collect()
        alive.append(sum(model() is not None for model in steps_taken))
        state = take(*given)
        steps_taken.append(weakref.ref(state.model))
        return state

    monkeypatch.setattr(steps, "_take", counting)
    cuts = tuple(Step(widths={"3": width}) for width in (11, 10, 9, 8))
    lm.compress(make_net(), replace(plan, steps=cuts), task, recipe=RECIPE, graph=graph)
    assert alive == [0, 1, 1, 1]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_killed_walk_ends_where_it_would_have_ended(task, graph, plan, tmp_path, after, monkeypatch):
    whole, expected = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph)
    from lamella.walking import tuning

    count = 0
    original = tuning.fit

    def dying(*args, on_epoch, **kwargs):
        def on_epoch(*_):
            nonlocal count
            count += 1
            if count == after:
                raise KilledError

        return original(*args, on_epoch=on_epoch, **kwargs)

    monkeypatch.setattr(tuning, "fit", dying)
    with pytest.raises(KilledError) if after <= 3 else pytest.MonkeyPatch.context():
        lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    monkeypatch.setattr(tuning, "fit", original)
    small, result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    assert same(small, whole)
    assert result == expected


def test_a_loader_that_draws_from_torch_is_walked_the_same_after_a_kill(task, graph, plan, tmp_path, monkeypatch):
    from dataclasses import replace

    from torch.utils.data import DataLoader, TensorDataset

    shuffled = DataLoader(TensorDataset(task.train.inputs, task.train.targets), batch_size=16, shuffle=True)
    task = replace(task, train=shuffled, calibration=shuffled)
    torch.manual_seed(3)
    whole, expected = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph)
    from lamella.walking import tuning

    original, calls = tuning.fit, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KilledError
        return original(*args, **kwargs)

    monkeypatch.setattr(tuning, "fit", dying)
    with pytest.raises(KilledError):
        lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    torch.manual_seed(4)
    small, result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    assert same(small, whole)
    assert result == expected


class Drifting:
    """A loader that gives other numbers each time it is walked, as one with a generator of its own does."""

    def __init__(self, batches):
        self.batches, self.walks = batches, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.walks += 1
        return iter([(inputs + 0.01 * self.walks, targets) for inputs, targets in self.batches])


def killed_while_tuning(net, plan, task, graph, directory):
    """Killed after the first epoch of the second step."""

    def dying(stage, done, total, note=""):
        if (stage, done, total) == ("tune", 1, 2):
            raise KilledError

    with pytest.raises(KilledError):
        lm.compress(net, plan, task, recipe=RECIPE, graph=graph, directory=directory, progress=dying)


@pytest.mark.parametrize("bits", [{}, {"0": 3, "3": 3}])
def test_a_killed_tuning_goes_on_though_statistics_come_out_otherwise(task, graph, plan, tmp_path, bits):
    drifting = Drifting(task.train)
    task = replace(task, train=drifting, calibration=drifting)
    plan = replace(plan, steps=(plan.steps[0], replace(plan.steps[1], bits=bits)))
    killed_while_tuning(make_net(), plan, task, graph, tmp_path)
    assert {path.name for path in tmp_path.glob("tuning-*")} == {"tuning-2.pt", "tuning-2.safetensors"}
    told = []
    lm.compress(
        make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path, progress=lambda *x: told.append(x)
    )
    assert [done for stage, done, *_ in told if stage == "tune"] == [0, 2]
    assert list(tmp_path.glob("tuning-*")) == []


def test_what_was_begun_ends_with_its_journal(task, graph, plan, tmp_path):
    killed_while_tuning(make_net(), plan, task, graph, tmp_path)
    (tmp_path / "steps.jsonl").unlink()
    whole, expected = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, seed=1)
    small, result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, seed=1, directory=tmp_path)
    assert same(small, whole)
    assert result == expected


def test_other_training_data_are_refused(task, graph, plan, tmp_path):
    from dataclasses import replace

    lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    fewer = replace(task, train=Batches(task.train.inputs[:64], task.train.targets[:64], 16, shuffle=True))
    with pytest.raises(MismatchError, match="training data was '96 samples"):
        lm.compress(make_net(), plan, fewer, recipe=RECIPE, graph=graph, directory=tmp_path)


def test_steps_from_another_score_are_refused_and_those_of_none_are_read(task, graph, plan, tmp_path):
    whole = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    other = replace(task, score=lambda outputs, targets: -cross_entropy(outputs, targets, reduction="none"))
    with pytest.raises(MismatchError, match=r"steps\.jsonl: belongs to another measurement: .* scored 0\.\d+ there"):
        lm.compress(make_net(), plan, other, recipe=RECIPE, graph=graph, directory=tmp_path)
    journal = tmp_path / "steps.jsonl"
    identity, dense, *steps = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([identity, *steps]))
    again = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    assert again[1] == whole[1]
    assert journal.read_text() == "".join([identity, *steps, dense])


def doubled(inputs, generator):
    return 2 * inputs


@pytest.mark.parametrize("other", ["training inputs", "loss", "transform"])
def test_what_else_a_tuning_learned_from_is_known_too_unless_the_journal_is_older(task, graph, plan, tmp_path, other):
    small, _ = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    inputs, targets = task.train.inputs, task.train.targets
    changed = {
        "training inputs": replace(task, train=Batches(2 * inputs, targets, 16, shuffle=True)),
        "loss": replace(task, loss=nn.MultiMarginLoss()),
        "transform": replace(task, train=Batches(inputs, targets, 16, shuffle=True, transform=doubled)),
    }[other]
    with pytest.raises(MismatchError, match=f"belongs to another run: {other} was .* Name another run directory"):
        lm.compress(make_net(), plan, changed, recipe=RECIPE, graph=graph, directory=tmp_path)
    journal = tmp_path / "steps.jsonl"
    first, *rest = journal.read_text().splitlines(keepends=True)
    known = json.loads(first)["identity"]
    older = {name: fact for name, fact in known.items() if name not in ("training inputs", "loss", "transform")}
    journal.write_text(json.dumps({"identity": older}) + "\n" + "".join(rest))
    again, _ = lm.compress(make_net(), plan, changed, recipe=RECIPE, graph=graph, directory=tmp_path)
    assert same(again, small)


def test_calibration_data_belong_to_a_walk_without_batch_norm(task, tmp_path):
    model = make_net()
    model[1] = nn.Identity()
    graph = lm.trace(model, task.example_inputs, round_to=1)
    plan = Plan(
        structure=graph.structure, planner="", steps=(Step(widths={"3": 6}, epochs=1),), predicted=COST, dense=COST
    )
    lm.compress(model, plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    other = replace(task, calibration=Batches(2 * task.train.inputs, task.train.targets, 16))
    with pytest.raises(MismatchError, match="belongs to another run: calibration inputs was"):
        lm.compress(model, plan, other, recipe=RECIPE, graph=graph, directory=tmp_path)


def test_finished_steps_are_not_taken_again(task, graph, plan, tmp_path, monkeypatch):
    small, result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)

    def never(*_, **__):
        raise AssertionError("tuned again")

    monkeypatch.setattr("lamella.walking.tuning.fit", never)
    again, same_result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    assert same(again, small)
    assert same_result == result


def test_a_walk_of_another_seed_is_refused(task, graph, plan, tmp_path):
    lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path)
    with pytest.raises(MismatchError, match="seed was 0 and is 1"):
        lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph, directory=tmp_path, seed=1)


def test_a_walk_of_another_teacher_is_refused(task, graph, tmp_path):
    steps, tuning = (Step(widths={"3": 6}),), Tuning(task, Recipe(epochs=0, distil=0.5))
    other = make_net()
    torch.nn.init.ones_(other[7].weight)
    list(walk(start(make_net(), graph, task), steps, tuning, directory=tmp_path))
    with pytest.raises(MismatchError, match=r"teacher is .* and was not given"):
        list(walk(start(make_net(), graph, task), steps, replace(tuning, teacher=other), directory=tmp_path))


def test_a_plan_of_another_model_is_refused_with_the_first_differences(task, graph, plan):
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 4))
    with pytest.raises(
        MismatchError, match=r"made for another model: .*group '3' gets 6 channels and has 4.*lamella plan"
    ):
        lm.compress(other, plan, task)


def test_bits_for_no_layer_name_the_step(task, graph, plan):
    wrong = replace(plan, steps=(Step(bits={"nope": 4}, epochs=1),))
    with pytest.raises(RecordError, match=r"steps\[0\]\.bits\['nope'\]: no such layer in this model"):
        lm.compress(make_net(), wrong, task, graph=graph)


def test_an_impossible_width_names_step_and_group(task, graph):
    steps = (Step(widths={"0": 9}),)
    bad = Plan(structure=graph.structure, planner="by hand", steps=steps, predicted=COST, dense=COST)
    with pytest.raises(RecordError, match=r"^steps\[0\]\.widths\['0'\]: 9 channels asked, 8 exist$"):
        lm.compress(make_net(), bad, task, graph=graph)


def test_save_and_load_are_exact(task, graph, plan, tmp_path):
    small, result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph)
    save(tmp_path, small, result)
    again, read = load(tmp_path, make_net)
    assert read == result
    assert same(again, small)
    x = torch.randn(3, 1, 6, 6)
    assert torch.equal(again(x), small(x))
    assert again[0].out_channels == 5
    assert again[7].in_features == 6


def test_the_dense_network_does_not_pass_for_the_small_one(task, graph, plan, tmp_path):
    small, result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph)
    for take in (lambda net: save(tmp_path, net, result), lambda net: lm.quantize(net, result, task)):
        with pytest.raises(
            MismatchError, match=r"as the dense one had, and the Result is of one with \d+\. Pass the network that"
        ):
            take(make_net())
    assert list(tmp_path.iterdir()) == []
    lm.quantize(small, result, task)


def test_loading_into_another_network_names_the_first_differences(task, graph, plan, tmp_path):
    small, result = lm.compress(make_net(), plan, task, recipe=RECIPE, graph=graph)
    save(tmp_path, small, result)
    with pytest.raises(MismatchError, match=r"belong to another model: 0\.bias is missing"):
        load(tmp_path, lambda: nn.Sequential(nn.Conv2d(1, 8, 3)))
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RecordError, match="damaged or absent"):
        load(tmp_path, make_net)


def test_tensors_survive_with_buffers_that_are_not_persistent(tmp_path):
    model = lm.make_model("resnet14", widths=(4, 8, 8), in_channels=1)
    save_tensors(tmp_path / "m.safetensors", model)
    assert load_tensors(tmp_path / "m.safetensors").keys() == tensors(model).keys()


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_narrowed_network_is_read_back_bit_for_bit(name, tmp_path):
    model, inputs, graph = zoo.traced(name)
    kept = resolve(model, graph, {g.name: g.legal(g.width / 2) for g in graph.free})
    small = narrow(model, graph, kept)
    save_tensors(tmp_path / "m.safetensors", small)
    torch.manual_seed(1)
    fresh, _ = zoo.BY_NAME[name].make()
    again = refitted(fresh, load_tensors(tmp_path / "m.safetensors"), integers_of(graph, kept)).eval()
    for a, b in zip(zoo.outputs(again, inputs), zoo.outputs(small, inputs), strict=True):
        assert torch.equal(a, b)


class Filled(nn.Module):
    """Its first call fills one buffer, makes another that was None, and registers a third."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.register_buffer("grid", torch.empty(0), persistent=False)
        self.register_buffer("shift", None)

    def forward(self, x):
        if len(self.grid) != x.shape[-1]:
            self.grid = torch.linspace(0.5, 1, x.shape[-1])
        if self.shift is None:
            self.shift = torch.ones(1)
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.full((1,), 2.0), persistent=False)
        return self.head(torch.relu(self.body(x) * self.grid + self.shift) * self.scale).mean((2, 3))


def test_a_network_that_fills_its_buffers_at_the_first_call_is_read_back(task, tmp_path):
    model = Filled().eval()
    model(*task.example_inputs)
    graph = lm.trace(model, task.example_inputs, round_to=1)
    kept = {"body": (0, 2, 5)}
    small = narrow(model, graph, kept)
    save_tensors(tmp_path / "m.safetensors", small)
    again = read_into(Filled(), tmp_path / "m.safetensors", integers_of(graph, kept)).eval()
    assert torch.equal(again(*task.example_inputs), small(*task.example_inputs))
    assert tensors(again).keys() == tensors(small).keys()
    assert again.state_dict().keys() == small.state_dict().keys()
    with pytest.raises(MismatchError, match=r"scale is unknown; shift is unknown"):
        refitted(make_net(), {**tensors(make_net()), "scale": small.scale, "shift": small.shift})
    with pytest.raises(MismatchError, match=r"running_mean is unknown"):  # a norm of another kind is another network
        refitted(nn.BatchNorm1d(3, track_running_stats=False), tensors(nn.BatchNorm1d(3)))


def test_kept_channels_are_counted_in_the_dense_network():
    assert composed({"a": (1, 3, 5, 7)}, {"a": (0, 2), "b": (4,)}) == {"a": (1, 5), "b": (4,)}


def test_a_step_says_how_many_layers_have_few_bits():
    assert named(Step(bits={"0": 4, "3": 4, "7": 4})) == "4 bits"
    assert (
        named(Step(widths={"0": 6}, bits={"0": 8, "3": 4, "7": 2}))
        == "0 to 6, 2 bits in 1 of 3 layers, 4 bits in 1 of 3 layers"
    )
    assert named(Step(bits={"0": 8})) == "tuned"
