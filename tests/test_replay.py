"""A variant run from where it changes gives what the narrowed model gives, over a zoo of awkward networks."""

import copy

import pytest
import torch
from torch import nn
from zoo import NAMES, Fn, head, traced

from lamella.profiling.checks import agree
from lamella.profiling.engine import Engine
from lamella.profiling.points import Item, KnobLevel, planned_items
from lamella.profiling.settings import Sweep
from lamella.profiling.variants import Subject
from lamella.replay import Change, Program
from lamella.tracing import trace
from lamella.training import Task, tensors_of
from lamella.zoo import make_model


def nothing(outputs, targets):
    return torch.zeros(len(targets))


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_equals_its_model(name):
    model, inputs, graph = traced(name)
    batches = [(inputs, torch.zeros(len(inputs[0])))]
    task = Task(inputs, train=batches, validation=batches, test=batches, score=nothing)
    sweep = Sweep(layers=True)
    engine = Engine(Subject(model, graph, task, sweep))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    whole = set()
    with torch.inference_mode():
        for item in planned_items(model, graph, sweep, (0.25, 0.5), (4,)):
            make, chunk = engine.maker(item), next(iter(engine.samples))
            made = [make(level) for level in item.levels]
            for ready in made:
                assert agree(tensors_of(engine.outputs(ready, chunk)), tensors_of(ready.whole()(*inputs))), item
            whole |= {f"{item.target}:{item.knob}"} if made[0].variant is None else set()
    assert not whole, engine.notes
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def setting_of(model, graph, inputs, target, knob):
    subject = Subject(model, graph, Task(inputs, train=(), validation=(), test=()), Sweep())
    return subject.setting(Item(target, knob, ()), KnobLevel(0.5, graph.widths.get(target, 8) // 2))


def test_what_is_read_again_later_is_not_written_over():
    def run(s, x):
        x = s.stem(x)
        return s.out(x + s.inner(nn.functional.relu(x)))  # a ReLU reads it first, the addition later

    torch.manual_seed(0)
    model = Fn(run, stem=nn.Conv2d(3, 8, 3), inner=nn.Conv2d(8, 8, 1), out=head(8)).eval()
    inputs = (torch.randn(2, 3, 8, 8),)
    setting = setting_of(model, trace(model, inputs, round_to=1), inputs, "stem", "pruning_ratio")
    with torch.inference_mode():
        program = Program(model, inputs)
        found = program.outputs(
            program.branch(program.start(inputs), setting.change.names), program.prepared(setting.change)
        )
        assert agree(tensors_of(found), tensors_of(setting.model()(*inputs)))
        assert agree(tensors_of(program.finished(program.start(inputs))), tensors_of(model(*inputs)))


def test_a_sum_that_is_larger_than_its_first_term_is_not_written_over_it():
    run = lambda s, x: s.out(s.pooled(nn.functional.adaptive_avg_pool2d(s.stem(x), 1)) + s.side(x))
    torch.manual_seed(0)
    parts = {"stem": nn.Conv2d(3, 8, 3), "pooled": nn.Conv2d(8, 6, 1), "side": nn.Conv2d(3, 6, 1), "out": head(6)}
    model, inputs = Fn(run, **parts).eval(), (torch.randn(2, 3, 8, 8),)
    setting = setting_of(model, trace(model, inputs, round_to=1), inputs, "stem", "pruning_ratio")
    with torch.inference_mode():
        program = Program(model, inputs)
        branch = program.branch(program.start(inputs), setting.change.names)
        found = program.outputs(branch, program.prepared(setting.change))
        assert agree(tensors_of(found), tensors_of(setting.model()(*inputs)))


def test_statistics_over_channels_are_replayed_and_never_masked():
    model, inputs, graph = traced("layer_scaled")
    model = copy.deepcopy(model)
    torch.nn.init.ones_(model.gamma)  # not hidden behind a small scale
    setting = setting_of(model, graph, inputs, "stem", "pruning_ratio")
    assert setting.masked is None
    with torch.inference_mode():
        program = Program(model, inputs)
        branch = program.branch(program.start(inputs), setting.change.names)
        found = program.outputs(branch, program.prepared(setting.change))
        assert agree(tensors_of(found), tensors_of(setting.model()(*inputs)))


@pytest.mark.parametrize("case", ["beside others", "of two"])
def test_masking_a_layer_leaves_what_else_its_batch_norm_sees(case):
    """A norm of the layer beside the input (ENet's first block), and one norm of two layers."""
    one, other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
    joined = case == "beside others"
    run = lambda s, x: s.out(s.norm(torch.cat((s.one(x), x), 1)) if joined else s.norm(s.one(x)) + s.norm(s.other(x)))
    norm = nn.BatchNorm2d(11 if joined else 8)
    nn.init.uniform_(norm.bias)
    inputs = (torch.randn(2, 3, 8, 8),)
    model = Fn(run, one=one, other=other, norm=norm, out=head(norm.num_features)).eval()
    graph = trace(model, inputs, round_to=1)
    setting = setting_of(model, graph, inputs, "one", "masked_ratio")
    assert setting.change.names == {"one.weight", "one.bias"}
    assert not setting.change.kept


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    model = make_model("resnet14", widths=(4, 8, 16)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model, torch.randn(8, 3, 16, 16)


def zeroed(model, layer, rows):
    weight = model.get_submodule(layer).weight.detach()
    stays = torch.tensor([r for r in range(len(weight)) if r not in rows])
    return Change({f"{layer}.weight": torch.zeros_like(weight).index_copy(0, stays, weight[stays])})


def test_only_what_the_change_reaches_is_run(resnet):
    model, x = resnet
    program = Program(model, (x,))
    assert sum("batch_norm" in str(op.target) for op in program.listed) == 0
    early, late = (len(program.affected({f"{name}.weight"})) for name in ("layer1.0.conv1", "layer3.1.conv2"))
    assert late < 6 < early
    assert program.affected({"linear.weight"}) == (len(program.listed) - 1,)


def test_running_variants_leaves_the_shared_values_alone(resnet):
    model, x = resnet
    program = Program(model, (x,))
    change = zeroed(model, "layer2.0.conv1", (0, 1))
    with torch.inference_mode():
        state = program.start((x,))
        branch = program.branch(state, change.names)
        kept = {i: v.clone() for i, v in branch.values.items() if isinstance(v, torch.Tensor)}
        variant = program.prepared(change)
        first, second = program.outputs(branch, variant), program.outputs(branch, variant)
        assert torch.equal(first, second)
        assert all(torch.equal(v, branch.values[i]) for i, v in kept.items())
        # The walk goes on to the dense outputs as if nothing had branched off.
        assert torch.allclose(program.finished(state), model(x), atol=1e-5)


def test_a_walk_holds_only_what_is_still_needed(resnet):
    model, x = resnet
    program = Program(model, (x,))
    with torch.inference_mode():
        state = program.start((x,))
        for position in range(len(program.listed) + 1):
            program.advance(state, position)
            assert sum(isinstance(v, torch.Tensor) and v.dim() == 4 for v in state.values.values()) <= 5
    assert len(state.values) == 1


def test_other_batch_sizes_run_on_the_same_program(resnet):
    model, x = resnet
    program = Program(model, (x,))
    assert program.accepts(3)
    with torch.inference_mode():
        assert torch.allclose(program.finished(program.start((x[:3],))), model(x[:3]), atol=1e-5)


def test_an_unknown_parameter_is_an_error(resnet):
    model, x = resnet
    program = Program(model, (x,))
    with pytest.raises(KeyError, match="no operator reads"):
        program.branch(program.start((x,)), frozenset({"absent.weight"}))
