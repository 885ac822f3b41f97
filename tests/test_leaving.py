"""Laws of channels that leave, and of what a tuning may do besides: learn from a teacher, stop early, start again slower."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from lamella.compression import compress
from lamella.costs import cost
from lamella.errors import DivergedError, LamellaError, RecordError
from lamella.harm import harmed, scores_of, watch
from lamella.schema import Plan, Step
from lamella.surgery import copied, narrow
from lamella.tracing import trace
from lamella.training import Batches, Recipe, Task, correct, fit
from lamella.training.objectives import distance, objective
from lamella.walking import REMOVALS, Tuning, start, walk
from lamella.zoo import resnet


def task(shape, classes=4, count=96):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    x = torch.randn(count, *shape, generator=generator) + labels.reshape(-1, *[1] * len(shape)).float()
    data = Batches(x, labels, 16, shuffle=True)
    return Task((x[:2],), train=data, validation=Batches(x, labels, 32), test=data)


GRADUAL = [name for name, removal in REMOVALS.items() if removal]
AWKWARD = ("residual", "grouped", "squeeze_excite", "dense_concat", "grouped_transposed")


@pytest.mark.parametrize("removal", GRADUAL)
@pytest.mark.parametrize("name", AWKWARD)
def test_at_the_end_the_leaving_channels_can_go_without_a_trace(removal, name):
    model, inputs, graph = zoo.traced(name)
    group = max(graph.free, key=lambda g: g.width)
    data = task(inputs[0].shape[1:], classes=2)
    wide = copied(model, {})
    leave = REMOVALS[removal](wide, graph, {group.name: group.width // 2})
    outputs = lambda out, targets: cross_entropy(out.flatten(1)[:, :2] if isinstance(out, Tensor) else out[0], targets)
    fit(wide, replace(data, loss=outputs), Recipe(epochs=3, lr=0.01), after_batch=leave)
    small = narrow(wide, graph, leave.kept()).eval()
    with torch.no_grad():
        dense, cut = wide.eval()(*inputs), small(*inputs)
    assert torch.allclose(dense, cut, atol=1e-5 * float(dense.abs().max()) + 1e-7)
    assert len(leave.kept()[group.name]) == group.width // 2


def test_soft_removal_ranks_anew_every_tenth_batch():
    model, _, graph = zoo.traced("chain")
    name = graph.free[0].name
    layer = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    leave = REMOVALS["soft"](model, graph, {name: 7})
    (first,) = set(range(8)) - set(leave.kept()[name])
    with torch.no_grad():
        layer.weight[first] *= 100  # training holds on to it
    before = layer.weight.detach().clone()

    def shrunk(index):
        leave(index, 0.01 * index, 0.01 * index + 0.01)
        return [c for c in range(8) if not torch.equal(layer.weight[c], before[c])]

    assert shrunk(1) == shrunk(9) == [first]
    before = layer.weight.detach().clone()
    (second,) = shrunk(10)
    assert second != first


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    data = task((3, 8, 8))
    model = fit(resnet(8, widths=(4, 8, 16), num_classes=4), data, Recipe(epochs=2, lr=0.05)).eval()
    graph = trace(model, data.example_inputs)
    steps = tuple(Step(widths={g.name: g.width // 2}, epochs=3) for g in graph.free[:2])
    plan = Plan(structure=graph.structure, planner="uniform", steps=steps, predicted=cost(graph), dense=cost(graph))
    return data, model, graph, plan


@pytest.mark.parametrize("removal", REMOVALS)
def test_every_removal_reaches_the_plan_and_resumes_bit_for_bit(removal, subject, tmp_path):
    data, model, graph, plan = subject
    before = copy.deepcopy(model.state_dict())
    recipe = Recipe(epochs=1, lr=0.02)
    small, result = compress(model, plan, data, recipe=recipe, graph=graph, removal=removal)
    assert {name: len(kept) for name, kept in result.kept.items() if name in plan.widths} == plan.widths
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))

    states = walk(start(model, graph, data), plan.steps, Tuning(data, recipe, removal=removal), directory=tmp_path)
    next(states), next(states)
    states.close()  # killed between the first step and the second
    again, _ = compress(model, plan, data, recipe=recipe, graph=graph, removal=removal, directory=tmp_path)
    for one, other in zip(small.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert [path.name for path in tmp_path.iterdir() if "tuning" in path.name] == []


@pytest.mark.parametrize("removal", GRADUAL)
def test_patience_waits_until_the_leaving_channels_are_gone(removal, subject):
    data, model, graph, plan = subject
    wide, epochs = copied(model, {}), []
    leave = REMOVALS[removal](wide, graph, plan.steps[0].widths)
    recipe = Recipe(epochs=6, lr=1e-6, patience=1)  # hardly learns: the epoch that lost the least would be the first
    fit(wide, data, recipe, after_batch=leave, on_epoch=lambda epoch, loss: epochs.append(epoch))
    assert max(epochs) > leave.until * recipe.epochs
    small, x = narrow(wide, graph, leave.kept()).eval(), data.validation.inputs
    with torch.no_grad():
        dense, cut = wide.eval()(x), small(x)
    assert torch.allclose(dense, cut, atol=1e-5 * float(dense.abs().max()))


def test_a_soft_tuning_goes_on_from_its_checkpoint(subject, tmp_path):
    data, model, graph, plan = subject
    recipe = Recipe(epochs=4, lr=0.02)

    class StopError(Exception):
        pass

    def stop(epoch, loss):
        if epoch == 2:
            raise StopError

    def started():
        wide = copied(model, {})
        return wide, REMOVALS["soft"](wide, graph, plan.steps[0].widths)

    whole, leave = started()
    fit(whole, data, recipe, after_batch=leave)
    wide, leave = started()
    with pytest.raises(StopError):
        fit(wide, data, recipe, after_batch=leave, checkpoint=tmp_path / "c.pt", on_epoch=stop)
    wide, leave = started()
    fit(wide, data, recipe, after_batch=leave, checkpoint=tmp_path / "c.pt")
    for one, other in zip(whole.state_dict().values(), wide.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_an_unknown_removal_names_the_near_ones(subject):
    data, model, graph, plan = subject
    with pytest.raises(LamellaError, match="unknown removal 'sotf'; did you mean 'soft'"):
        compress(model, plan, data, graph=graph, removal="sotf")


def test_a_tuning_that_diverges_starts_again_slower_and_says_so(subject, monkeypatch):
    data, model, graph, plan = subject
    from lamella.walking import tuning

    rates = []

    def fragile(model, task, recipe, **options):
        rates.append(recipe.lr)
        if recipe.lr > 0.01:
            model.fc.weight.data.fill_(float("nan")) if hasattr(model, "fc") else None
            raise DivergedError("the loss became nan")
        return fit(model, task, recipe, **options)

    monkeypatch.setattr(tuning, "fit", fragile)
    one = replace(plan, steps=plan.steps[:1])
    _, result = compress(model, one, data, recipe=Recipe(epochs=1, lr=0.16), graph=graph)
    assert rates == [0.16, 0.04, 0.01]
    assert result.history[-1].name.endswith("(rate / 16: before, it did harm)")
    rates.clear()
    with pytest.raises(
        DivergedError, match=r"step 1 of 1.* last of 4 tries: the step began at lr=100, .* down to 1\.5625\."
    ):
        compress(model, one, data, recipe=Recipe(epochs=1, lr=100.0), graph=graph)
    assert len(rates) == tuning.RATE_CUTS + 1


def test_harm_at_some_rates_and_divergence_at_the_last_leave_the_step_untuned(subject, monkeypatch):
    data, model, graph, plan = subject
    from lamella.walking import tuning

    rates = []

    def harmful(model, task, recipe, **options):
        rates.append(recipe.lr)
        if len(rates) == tuning.RATE_CUTS + 1:
            raise DivergedError("the loss became nan")
        fit(model, task, recipe, **options)
        for parameter in model.parameters():
            parameter.data.mul_(torch.randn(parameter.shape, generator=torch.manual_seed(0)))

    monkeypatch.setattr(tuning, "fit", harmful)
    one = replace(plan, steps=(replace(plan.steps[0], epochs=1),))
    _, result = compress(model, one, data, recipe=Recipe(epochs=1, lr=0.1), graph=graph)
    assert result.history[-1].name.endswith("(left untuned: it did harm down to rate / 64)")
    assert result.history[-1].validation.value == result.history[-1].before_tuning


@pytest.mark.parametrize("removal", ["cut", "soft"])
@pytest.mark.parametrize("patience", [None, 2])
def test_a_divergence_that_shows_in_the_scores_alone_is_tried_again_slower(subject, monkeypatch, removal, patience):
    data, model, graph, plan = subject
    from lamella.training import fitting
    from lamella.walking import tuning

    rates, check = [], fitting._check_weights

    def fragile(model, task, recipe, **options):
        rates.append(recipe.lr)
        return fit(model, task, recipe, **options)

    def overflowing(model):
        check(model)
        if rates[-1] > limit:
            [p for p in model.parameters() if p.dim() > 1][-1].data.fill_(float("nan"))

    monkeypatch.setattr(tuning, "fit", fragile)
    monkeypatch.setattr(fitting, "_check_weights", overflowing)
    one, limit = replace(plan, steps=(replace(plan.steps[0], epochs=1),)), 0.05
    recipe = Recipe(epochs=1, lr=0.1, patience=patience)
    _, result = compress(model, one, data, recipe=recipe, graph=graph, removal=removal)
    assert rates == [0.1, 0.025]
    assert result.history[-1].name.endswith("(rate / 4: before, it did harm)")
    limit = 0.0
    with pytest.raises(DivergedError, match=r"scores of batch 0 are not finite.* That was the last of 4 tries"):
        compress(model, one, data, recipe=recipe, graph=graph, removal=removal)


@pytest.mark.parametrize("bits", [32, 4])
def test_a_tuning_that_does_harm_is_tried_anew_at_a_lower_rate(subject, monkeypatch, bits):
    data, model, graph, plan = subject
    from lamella.walking import tuning

    rates = []

    def harmful(model, task, recipe, **options):
        rates.append(recipe.lr)
        fit(model, task, recipe, **options)
        if recipe.lr > 0.05:
            model.get_parameter(next(n for n, _ in model.named_parameters() if "weight" in n)).data.zero_()

    monkeypatch.setattr(tuning, "fit", harmful)
    step = plan.steps[0] if bits == 32 else Step(bits={graph.layers[0].name: bits}, epochs=1)
    _, result = compress(model, replace(plan, steps=(step,)), data, recipe=Recipe(epochs=1, lr=0.1), graph=graph)
    tuned = result.history[-1]
    assert rates == [0.1, 0.025]
    assert tuned.name.endswith("(rate / 4: before, it did harm)")
    assert tuned.validation.value >= 0.9 * tuned.before_tuning


@pytest.mark.parametrize("removal", ["cut", "soft", "sparse"])
def test_a_tuning_that_does_harm_at_every_rate_leaves_the_step_untuned(subject, monkeypatch, removal):
    data, model, graph, plan = subject
    from lamella.walking import tuning

    def harmful(model, task, recipe, **options):
        fit(model, task, recipe, **options)
        for parameter in model.parameters():
            parameter.data.mul_(torch.randn(parameter.shape, generator=torch.manual_seed(0)))

    asked = {"recipe": Recipe(epochs=1, lr=0.1), "graph": graph, "removal": removal}
    first = plan.steps[0]
    untuned, _ = compress(model, replace(plan, steps=(replace(first, epochs=0),)), data, **asked)
    monkeypatch.setattr(tuning, "fit", harmful)
    small, result = compress(model, replace(plan, steps=(replace(first, epochs=1),)), data, **asked)
    left = result.history[-1]
    assert left.name.endswith("(left untuned: it did harm down to rate / 64)")
    assert left.validation.value == left.before_tuning
    for seen, expected in zip(small.state_dict().values(), untuned.state_dict().values(), strict=True):
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("removal", ["cut", "soft"])
def test_a_tuning_that_loses_the_network_ends_at_once_and_one_that_dips_does_not(subject, monkeypatch, removal):
    data, model, graph, plan = subject
    from lamella.walking import tuning

    epochs = []

    def fragile(model, task, recipe, on_epoch=None, **options):
        def after(done, loss):
            epochs.append(recipe.lr)
            weights = [p for p in model.parameters() if p.dim() > 1]
            if recipe.lr > 0.05:
                weights[-1].data.zero_()  # the same answer for every input
            elif done == 1:
                weights[-1].data.mul_(-1e-3)  # the wrong ones, nearly alike: it can come back
            if on_epoch:
                on_epoch(done, loss)

        return fit(model, task, recipe, on_epoch=after, **options)

    monkeypatch.setattr(tuning, "fit", fragile)
    one = replace(plan, steps=(replace(plan.steps[0], epochs=4),))
    _, result = compress(model, one, data, recipe=Recipe(epochs=4, lr=0.16), graph=graph, removal=removal)
    assert epochs == [0.16] + [0.04] * 4
    assert result.history[-1].name.endswith("(rate / 4: before, it did harm)")
    with pytest.raises(DivergedError, match="after epoch 1 the network gives every input the same answer"):
        compress(model, one, data, recipe=Recipe(epochs=4, lr=6.0), graph=graph, removal=removal)


class KilledError(Exception):
    """A kill."""


@pytest.fixture
def harming(monkeypatch):
    """harming(how, after, above): trainings at rates above that come to harm in and after that epoch; the epochs taken, and their rates."""
    from lamella.training import fitting

    train, trained = fitting._train_epoch, []

    def harm(how, after, above):
        def epoch_of(course, loss, optimizer, epoch):
            mean_loss = train(course, loss, optimizer, epoch)
            trained.append((course.recipe.lr, epoch + 1))
            if epoch + 1 >= after and course.recipe.lr > above:
                how([p for p in course.model.parameters() if p.dim() > 1][-1].data)
            return mean_loss

        monkeypatch.setattr(fitting, "_train_epoch", epoch_of)
        return trained

    return harm


def outcome(subject, directory, **asked):
    """The weights and the history of the first step alone, or the error it ends in."""
    data, model, graph, plan = subject
    epochs, patience = asked.pop("epochs"), asked.pop("patience", None)
    one = replace(plan, steps=(replace(plan.steps[0], epochs=epochs),))
    recipe = Recipe(epochs=epochs, lr=0.16, patience=patience)
    try:
        small, result = compress(model, one, data, recipe=recipe, graph=graph, directory=directory, **asked)
    except DivergedError as error:
        return str(error).replace(str(directory), "")
    return {name: tensor.tolist() for name, tensor in small.state_dict().items()}, result


LOSSES = [(1, 1, None), (2, 1, None), (2, 2, None), (3, 2, 1), (3, 2, None)]  # epochs, the one that loses, patience


@pytest.mark.parametrize(("epochs", "after", "patience"), LOSSES)
@pytest.mark.parametrize("above", [0.0, 0.05])
def test_a_kill_before_a_lost_try_is_written_down_changes_nothing(
    subject, harming, tmp_path, monkeypatch, epochs, after, patience, above
):
    from lamella.walking import tuning

    trained = harming(Tensor.zero_, after, above)
    asked = {"epochs": epochs, "patience": patience}
    expected = outcome(subject, tmp_path / "whole", **asked)
    assert ("after epoch" in expected) if above == 0.0 else ("rate / 4:" in expected[1].history[-1].name)
    once, write = [], tuning.write_atomically

    def killed(*given):
        if not once:
            once.append(1)
            raise KilledError
        write(*given)

    monkeypatch.setattr(tuning, "write_atomically", killed)
    with pytest.raises(KilledError):
        outcome(subject, tmp_path / "killed", **asked)
    trained.clear()
    assert outcome(subject, tmp_path / "killed", **asked) == expected
    assert 0.16 not in {rate for rate, _ in trained}


@pytest.mark.parametrize(("epochs", "after", "patience"), LOSSES)
def test_the_same_command_after_a_divergence_ends_in_it_again_without_a_training(
    subject, harming, tmp_path, epochs, after, patience
):
    trained = harming(Tensor.zero_, after, 0.0)
    first = outcome(subject, tmp_path, epochs=epochs, patience=patience)
    assert f"after epoch {after} the network gives every input the same answer" in first
    assert first.endswith(
        "down to 0.0025. To have them made again, after a change of the loss or the score, delete /tuning-1.*."
    )
    assert len(trained) == 4 * after
    trained.clear()
    assert outcome(subject, tmp_path, epochs=epochs, patience=patience) == first
    assert trained == []
    for path in tmp_path.glob("tuning-1.*"):
        path.unlink()
    assert outcome(subject, tmp_path, epochs=epochs, patience=patience) == first
    assert len(trained) == 4 * after


@pytest.mark.parametrize("removal", ["cut", "soft"])
@pytest.mark.parametrize("how", [Tensor.zero_, Tensor.neg_], ids=["lost", "harmed"])
@pytest.mark.parametrize("killed_at", [0.16, 0.04])
def test_a_try_that_did_harm_is_resumed_after_a_kill(subject, harming, tmp_path, removal, how, killed_at):
    trained = harming(how, 2, 0.05)
    expected = outcome(subject, None, epochs=2, removal=removal)
    assert "rate / 4:" in expected[1].history[-1].name
    trained.clear()

    def dying(stage, done, total, note=""):
        if (stage, done) == ("tune", 1) and trained[-1][0] == killed_at:
            raise KilledError

    with pytest.raises(KilledError):
        outcome(subject, tmp_path, epochs=2, removal=removal, progress=dying)
    assert outcome(subject, tmp_path, epochs=2, removal=removal) == expected
    assert trained == [(0.16, 1), (0.16, 2), (0.04, 1), (0.04, 2)]
    assert list(tmp_path.glob("tuning-*")) == []


class Beside(nn.Module):
    """Logits, and beside them numbers that are no answers to single samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(torch.relu(self.stem(x)))
        return {
            "loss": logits.square().mean(),
            "logits": logits,
            "one": logits.mean((0, 1)).reshape(1),
            "none": x[:, :0],
        }


def test_a_network_that_returns_a_loss_beside_its_logits_is_tuned_and_seen_to_be_lost():
    of_logits = lambda take: lambda outputs, targets: take(outputs["logits"], targets)
    data = replace(task((4,)), loss=of_logits(cross_entropy), score=of_logits(correct))
    torch.manual_seed(0)
    model = fit(Beside(), data, Recipe(epochs=10, lr=0.1))
    graph = trace(model, data.example_inputs, round_to=1)
    plan = Plan(
        structure=graph.structure, planner="", steps=(Step(epochs=1),), predicted=cost(graph), dense=cost(graph)
    )
    _, result = compress(model, plan, data, recipe=Recipe(epochs=1, lr=0.01), graph=graph)
    assert [measure.name for measure in result.history] == ["dense", "tuned"]
    look = watch(model, data, scores_of(model, data))
    look(1, 0.0)
    model.head.weight.data.zero_()
    with pytest.raises(DivergedError, match="gives every input the same answer"):
        look(2, 0.0)


def test_a_gradual_removal_that_does_harm_is_tried_anew_too(subject, monkeypatch):
    data, model, graph, plan = subject
    from lamella.walking import tuning

    rates = []

    def harmful(model, task, recipe, **options):
        rates.append(recipe.lr)
        fit(model, task, recipe, **options)
        if recipe.lr > 0.05:
            [p for p in model.parameters() if p.dim() > 1][-1].data.neg_()

    monkeypatch.setattr(tuning, "fit", harmful)
    one = replace(plan, steps=plan.steps[:1])
    _, result = compress(model, one, data, recipe=Recipe(epochs=2, lr=0.1), graph=graph, removal="soft")
    assert rates == [0.1, 0.025]
    assert result.history[-1].name.endswith("(rate / 4: before, it did harm)")


def test_what_chance_takes_is_no_harm():
    before_N = np.repeat([1.0, 0.0], [18, 2])
    assert not harmed(before_N, np.repeat([1.0, 0.0], [16, 4]))  # 20 samples: below nine tenths by chance
    assert harmed(before_N.repeat(20), np.repeat([1.0, 0.0], [320, 80]))
    assert not harmed(before_N.repeat(20), np.repeat([1.0, 0.0], [325, 75]))


def test_harm_to_scores_below_zero_is_measured_by_their_size():
    errors_N = np.random.default_rng(0).random(200) + 0.5
    assert harmed(-errors_N, -1.15 * errors_N)
    assert not harmed(-errors_N, -1.05 * errors_N)
    assert not harmed(-errors_N, -0.5 * errors_N)
    assert harmed(0 * errors_N, -errors_N)
    assert not harmed(0 * errors_N, 0 * errors_N)


def test_a_regression_that_a_tuning_loses_is_tried_again_slower():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    wanted = x[:, :3].sum(1, keepdim=True)
    part = Batches(x, wanted, 32, shuffle=True)
    data = Task(
        x[:1], train=part, validation=part, test=part, loss=mse_loss, score=lambda y, t: -(y - t).square().mean(1)
    )
    torch.manual_seed(0)
    model = fit(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)), data, Recipe(epochs=15, lr=0.02))
    graph = trace(model, data.example_inputs, round_to=1)
    plan = Plan(
        structure=graph.structure, planner="", steps=(Step(epochs=2),), predicted=cost(graph), dense=cost(graph)
    )
    _, result = compress(model, plan, data, recipe=Recipe(epochs=2, lr=1.0), graph=graph)
    tuned = result.history[-1]
    assert "before, it did harm" in tuned.name
    assert tuned.validation.value >= 1.1 * tuned.before_tuning


def test_weights_lost_in_the_last_batch_are_a_divergence_too():
    data = task((4,))
    x, y = next(iter(data.train))
    one_batch = replace(data, train=[(1e3 * x, y)])
    with pytest.raises(
        DivergedError, match=r"fit, epoch 1: weight holds values that are not finite.* Train with a lower lr"
    ):
        fit(nn.Linear(4, 4), one_batch, Recipe(epochs=1, lr=1e38, momentum=0, weight_decay=0))


def test_a_step_shorter_than_the_warmup_warms_up_all_along(subject):
    data, model, graph, plan = subject
    steps = (replace(plan.steps[0], epochs=1), replace(plan.steps[1], epochs=0))
    recipe = Recipe(epochs=3, lr=0.01, warmup=2.0)
    _, result = compress(model, replace(plan, steps=steps), data, recipe=recipe, graph=graph)
    assert [measure.step for measure in result.history] == [0, 1, 2]


def test_steps_are_counted_as_the_plan_counts_them(subject):
    data, model, graph, plan = subject
    steps = (Step(bits={"conv1": 8}), replace(plan.steps[0], epochs=0))  # the first is left to quantize
    _, result = compress(model, replace(plan, steps=steps), data, graph=graph)
    assert [measure.step for measure in result.history] == [0, 2]


# What a training may learn from, and when it ends


def test_distance_is_zero_for_the_same_answers_and_its_gradient_that_of_the_formula():
    torch.manual_seed(0)
    outputs, answers = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    assert float(distance(answers, answers, 4.0)) == pytest.approx(0, abs=1e-6)
    distance(outputs, answers, 2.0).backward()
    expected = 2.0 * (torch.softmax(outputs / 2, 1) - torch.softmax(answers / 2, 1)) / 5
    assert torch.allclose(outputs.grad, expected, atol=1e-6)


def test_distilling_takes_its_share_and_needs_a_teacher():
    torch.manual_seed(0)
    model, teacher, x, y = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(6, 4), torch.randint(3, (6,))
    whole = objective(cross_entropy, Recipe(epochs=1, distil=0.25, temperature=3.0), teacher)(model, x, y)
    assert torch.allclose(whole, 0.75 * cross_entropy(model(x), y) + 0.25 * distance(model(x), teacher(x), 3.0))
    with pytest.raises(LamellaError, match=r"distil=0.25 needs a teacher"):
        objective(cross_entropy, Recipe(epochs=1, distil=0.25))
    with pytest.raises(RecordError, match=r"distil: 1\.5 is not a share"):
        Recipe(epochs=1, distil=1.5)


class Two(nn.Module):
    """Outputs in a dict, one of them of one number per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.tokens = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 15)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.stem(x))
        return {"one": self.one(x), "tokens": self.tokens(x).unflatten(1, (3, 5)), "class": x.argmax(1)}


def test_beside_a_loss_of_its_own_a_teacher_is_followed_in_outputs_of_any_form():
    torch.manual_seed(0)
    model, teacher, x = Two(), Two(), torch.randn(64, 4)
    loss = lambda outputs, targets: mse_loss(outputs["one"], targets)
    data = Task(x[:1], train=Batches(x, x[:, :1], 16), validation=[], test=[], loss=loss)
    far = lambda: {key: mse_loss(model(x)[key], teacher(x)[key]).item() for key in ("one", "tokens")}
    before = far()
    fit(model, data, Recipe(epochs=40, lr=0.02, distil=1.0), teacher=teacher)
    after = far()
    assert all(after[key] < 0.5 * before[key] for key in before), (before, after)
    with pytest.raises(LamellaError, match=r"gives 1 outputs .* of shapes \(64, 2\) and \(64, 3\): .*distil=0"):
        objective(mse_loss, Recipe(epochs=1, distil=0.5), nn.Linear(4, 3))(nn.Linear(4, 2), x, x[:, :2])
    with pytest.raises(
        LamellaError, match=r"the networks gave dict and dict\. Give the task a loss of its own, beside which"
    ):
        distance(model(x), teacher(x), 1.0)


def test_a_teacher_answers_as_it_is_used():
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(6, 4), torch.randint(3, (6,))
    teacher = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Dropout(0.5))  # in training mode
    with torch.no_grad():
        answers = copy.deepcopy(teacher).eval()(x)
    loss = objective(cross_entropy, Recipe(epochs=1, distil=1.0), teacher)(model, x, y)
    assert torch.allclose(loss, distance(model(x), answers, 4.0))
    assert teacher.training
    assert not teacher[0].num_batches_tracked


def test_the_dense_network_teaches_the_walk(subject):
    data, model, graph, plan = subject
    one = replace(plan, steps=plan.steps[:1])
    plain, _ = compress(model, one, data, recipe=Recipe(epochs=1, lr=0.02), graph=graph)
    model.train()
    taught, _ = compress(model, one, data, recipe=Recipe(epochs=1, lr=0.02, distil=0.9), graph=graph)
    assert all(module.training for module in model.modules())  # the teacher is left as it was
    model.eval()
    x = data.validation.inputs
    with torch.no_grad():
        gaps = [float(distance(small(x), model(x), 4.0)) for small in (plain, taught)]
    assert gaps[1] < gaps[0]


def test_patience_keeps_the_best_epoch_and_resumes(tmp_path):
    data = task((3, 8, 8))
    recipe = Recipe(epochs=12, lr=0.3, schedule="constant", patience=2)
    fresh = lambda: (torch.manual_seed(1), resnet(8, widths=(2, 2, 4), num_classes=4))[1]
    scores, whole = [], fresh()

    def note(epoch, loss):
        from lamella.training import evaluate

        scores.append(float(evaluate(whole, data.validation).mean()))

    fit(whole, data, recipe, on_epoch=note)
    best = scores.index(max(scores))
    assert len(scores) == min(best + 1 + 2, 12)
    from lamella.training import evaluate

    assert float(evaluate(whole, data.validation).mean()) == max(scores)

    class StopError(Exception):
        pass

    def stop(epoch, loss):
        if epoch == best + 1:
            raise StopError

    with pytest.raises(StopError):
        fit(fresh(), data, recipe, checkpoint=tmp_path / "c.pt", on_epoch=stop)
    again = fit(fresh(), data, recipe, checkpoint=tmp_path / "c.pt")
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
