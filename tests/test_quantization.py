"""Laws of bits: what is simulated is what the file computes, and what tuning leaves can be written."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lamella.coarsening import OUTPUT, InputGrid, coarsen, folded, observe_places
from lamella.compression import compress
from lamella.costs import cost
from lamella.errors import DataError, LamellaError, MismatchError, RecordError, RunError, TraceError
from lamella.exporting import OnnxModel, export_onnx, layers_in_float, run_onnx
from lamella.exporting.capturing import error_share
from lamella.exporting.packing import layer_of
from lamella.grids import levels, put_on_grids, rounded_weight
from lamella.planning import plan, without_bits
from lamella.profiling import profile
from lamella.quantization import agreement, integers_file, multiplying_layers, quantize
from lamella.schema import Budget, Plan, Request, Step
from lamella.stages.deciding import _timing
from lamella.storage import load, save
from lamella.tracing import trace
from lamella.training import Batches, Recipe, Task, fit
from lamella.zoo import resnet


def task(shape, count=64):
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    data = Batches(x, torch.randint(4, (count,)), 16)
    return Task((x[:1],), train=data, validation=data, test=data)


NETS = {
    "option A": lambda: resnet(8, widths=(4, 8, 16), num_classes=4, shortcut="A"),
    "option B": lambda: resnet(8, widths=(4, 8, 16), num_classes=4, shortcut="B"),
    "plain": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ),
}


@pytest.mark.parametrize(("name", "bits"), [("option A", 8), ("option B", 4), ("plain", 2)])
def test_the_file_computes_what_the_simulation_does(name, bits, tmp_path):
    torch.manual_seed(0)
    data, model = task((3, 16, 16)), NETS[name]().eval()
    layers = dict.fromkeys(multiplying_layers(model), bits)
    plain = folded(model, data.example_inputs)
    ranges = observe_places(plain, layers, data.calibration).ranges()
    twin = coarsen(plain, layers, ranges)
    source = export_onnx(model, data.example_inputs, tmp_path / "dense.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", layers, data)
    x = data.validation.inputs
    with torch.no_grad():
        simulated, dense = twin(x), model(x)
    low, high = ranges[OUTPUT]
    step = (max(high, 0) - min(low, 0)) / 255
    steps_apart = (simulated - run_onnx(file, x)).abs() / step
    # A sum that falls between two steps may be rounded either way, and later layers carry it on: a few steps, seldom.
    assert (steps_apart > 0.5).float().mean() < 0.1
    assert steps_apart.max() < 4
    assert (simulated - dense).abs().max() > step
    assert agreement(OnnxModel(file), twin, data) >= 0.95


def test_folding_keeps_the_outputs_and_every_name():
    model = resnet(8, widths=(4, 8, 16), num_classes=4, shortcut="B").train()
    x = torch.randn(4, 3, 16, 16)
    for _ in range(3):
        model(x)
    one = folded(model, (x,))
    assert torch.allclose(one(x), model.eval()(x), atol=1e-5)
    assert not [m for m in one.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [n for n, _ in one.named_modules()] == [n for n, _ in model.named_modules()]


class ReadTwice(nn.Module):
    """A layer whose output is read before its batch norm too: it must not be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("affine", [True, False])
def test_transposed_convolutions_of_any_groups_are_folded(groups, affine):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 16, 2, 2, groups=groups), nn.BatchNorm2d(16, affine=affine)
    ).eval()
    nn.init.uniform_(model[2].running_mean)
    nn.init.uniform_(model[2].running_var, 0.5, 2)
    inputs = (torch.randn(2, 3, 4, 4),)
    merged = folded(model, inputs)
    assert isinstance(merged[2], nn.Identity)
    assert torch.allclose(merged(*inputs), model(*inputs), atol=1e-5)


def test_a_parametrized_weight_is_rounded_and_one_of_a_hook_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    coarse = coarsen(model, {"0": 4, "2": 8})
    assert not torch.equal(coarse[0].weight, model[0].weight)  # which is still there
    assert torch.equal(coarse[0].weight, rounded_weight(model[0].weight.detach(), 4, 0))
    assert "0.parametrizations.weight.original1" in dict(model.named_parameters())
    with pytest.warns(FutureWarning):
        hooked = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 8)))
    hooked(torch.randn(1, 4))
    with pytest.raises(LamellaError, match=r"a hook of '0' computes its weight anew at every call.*remove_weight_norm"):
        coarsen(hooked, {"0": 4})


class Tokens(nn.Module):
    """A norm over tokens, of which there are not as many as features."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 20), nn.BatchNorm1d(7)

    def forward(self, x):
        return self.norm(self.layer(x))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (3, 2, 6, 6)),
        (Tokens, (3, 7, 4)),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), nn.BatchNorm2d(4)),
            (3, 2, 6, 6),
        ),
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(2, 4, 3)), nn.BatchNorm2d(4)), (3, 2, 6, 6)),
    ],
    ids=["no statistics", "tokens", "parametrized", "hook"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_norms_that_are_no_part_of_a_layer_stop_nothing(make, shape):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(shape)
    assert torch.allclose(folded(model, (x,))(x), model(x), atol=1e-5)


def test_what_cannot_be_folded_is_a_convolution_of_its_own():
    model = ReadTwice()
    model.norm.bias.data.fill_(1.0), model.norm.weight.data.fill_(3.0)
    x = torch.randn(4, 3, 5, 5)
    one = folded(model, (x,))
    assert torch.equal(one.conv.weight, model.conv.weight)
    assert isinstance(one.norm, nn.Conv2d)
    assert torch.allclose(one(x), model.eval()(x), atol=1e-6)


def test_an_addition_in_place_is_rounded_where_others_read_it():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y += x
            return y * 2

    model, x = Block(), torch.randn(8, 3, 4, 4)
    ranges = observe_places(model, ["conv"], [(x, None)]).ranges()
    assert set(ranges) == {"conv", "input.0", "convolution.0", "add.0", "mul.0", OUTPUT}
    coarse = coarsen(model, {"conv": 8}, ranges)
    grid = InputGrid(*ranges[OUTPUT])
    with torch.no_grad():
        out = coarse(x)
        assert torch.equal(out, grid.rounded(out))
        assert (out - model(x)).abs().max() < 6 * grid.scale
        assert not torch.equal(out, model(x))
    with pytest.raises(RuntimeError):
        coarse(torch.randn(1, 5, 4, 4))  # and a failed pass leaves no mode open
    y = torch.randn(2, 2)
    assert torch.equal(y + y, 2 * y)
    with torch.no_grad():
        assert torch.equal(coarse(x), out)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_rounding_again_changes_nothing_whatever_levels_are_used(bits):
    top = levels(bits)
    for used in range(1, top + 1):
        generator = torch.Generator().manual_seed(used)
        steps_OI = torch.randint(-used, used + 1, (5, 40), generator=generator)
        weight_OI = 0.037 * steps_OI
        again = rounded_weight(weight_OI, bits)
        assert torch.allclose(again, weight_OI, atol=1e-6), used
        assert torch.allclose(rounded_weight(again, bits), again, atol=1e-6)


class Beside(nn.Module):
    """A network with a layer that forward leaves out, as an auxiliary head is in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = NETS["plain"](), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def whole(model, data, bits):
    """A plan of bits alone, and what it is for."""
    graph = trace(model, data.example_inputs)
    price = cost(graph)
    plan = Plan(structure=graph.structure, planner="uniform", steps=(Step(bits=bits),), predicted=price, dense=price)
    return compress(model, plan, data, graph=graph)


def test_a_layer_that_never_runs_is_given_no_bits():
    data, model = task((3, 16, 16)), Beside().eval()
    _, found = quantize(*whole(model, data, {"net.0": 8}), data)
    assert set(found.bits) == {"net.0", "net.3", "net.8"}


def test_a_weight_that_is_computed_anew_is_refused_with_its_name():
    data, model = task((3, 16, 16)), NETS["plain"]().eval()
    with pytest.raises(RecordError, match=r"bits\['0'\]: 12 bits: 2 to 8, or 32 for none"):
        whole(model, data, {"0": 12})
    model[0] = nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(LamellaError, match=r"'0' holds no weight of its own .* cannot be given 4 bits"):
        put_on_grids(model, {"0": 4})


# Few bits: a step of the walk


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A small net taken to 3 bits, with tuning, in a directory."""
    torch.manual_seed(0)
    data, model = task((3, 8, 8)), resnet(8, widths=(4, 8, 16), num_classes=4, shortcut="B").eval()
    graph = trace(model, data.example_inputs)
    bits = dict.fromkeys(multiplying_layers(model), 3) | {"conv1": 8}
    made = Plan(
        structure=graph.structure,
        planner="uniform",
        steps=(Step(bits=bits, epochs=2),),
        predicted=cost(graph),
        dense=cost(graph),
    )
    directory = tmp_path_factory.mktemp("steps")
    small, result = compress(model, made, data, recipe=Recipe(epochs=1, lr=0.05), graph=graph, directory=directory)
    return SimpleNamespace(**{k: v for k, v in locals().items() if k != "tmp_path_factory"})


def test_after_a_step_of_few_bits_the_weights_lie_on_their_grid(walked):
    for name in multiplying_layers(walked.small):
        weight_OK = walked.small.get_submodule(name).weight.detach().flatten(1)
        few = max(len(row.unique()) for row in weight_OK)
        assert few <= 7 or name == "conv1"
        assert type(walked.small.get_submodule(name)) is type(walked.model.get_submodule(name))
    again = coarsen(walked.small, {name: 3 for name in walked.made.bits if name != "conv1"})
    for (name, one), other in zip(walked.small.named_parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7), name
    assert [m.name for m in walked.result.history] == ["dense", "3 bits in 9 of 10 layers"]
    assert walked.result.history[-1].before_tuning is not None
    assert not torch.equal(walked.small.layer1[0].bn1.running_mean, walked.model.layer1[0].bn1.running_mean)


def test_the_tuned_few_bits_are_what_the_file_holds(walked, tmp_path):
    coarse, final = quantize(walked.small, walked.result, walked.data)
    source = export_onnx(walked.small, walked.data.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", final.bits, walked.data)
    assert agreement(OnnxModel(file), coarse, walked.data) >= 0.95
    held = {t.name: t for t in onnx.load(file).graph.initializer}
    assert held["layer2.0.conv1.weight"].data_type == onnx.TensorProto.INT4
    assert held["conv1.weight"].data_type == onnx.TensorProto.INT8


def test_a_walk_over_few_bits_resumes_bit_for_bit(walked):
    recipe = Recipe(epochs=1, lr=0.05)
    again, found = compress(
        walked.model, walked.made, walked.data, recipe=recipe, graph=walked.graph, directory=walked.directory
    )
    fresh, other = compress(walked.model, walked.made, walked.data, recipe=recipe, graph=walked.graph)
    for a, b, c in zip(
        walked.small.state_dict().values(), again.state_dict().values(), fresh.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert found.history == walked.result.history == other.history


def test_tuning_on_the_grid_goes_on_from_its_checkpoint(tmp_path):
    data = task((3, 8, 8))
    recipe = Recipe(epochs=4, lr=0.05)

    def grids_on():
        torch.manual_seed(0)
        return put_on_grids(resnet(8, widths=(4, 8, 16), num_classes=4), {"layer1.0.conv1": 2})

    class StopError(Exception):
        pass

    def stop(epoch, loss):
        if epoch == 2:
            raise StopError

    whole = fit(grids_on(), data, recipe)
    with pytest.raises(StopError):
        fit(grids_on(), data, recipe, checkpoint=tmp_path / "c.pt", on_epoch=stop)
    resumed = fit(grids_on(), data, recipe, checkpoint=tmp_path / "c.pt")
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


# Weights that layers share


class Tied(nn.Module):
    """Two convolutions with one weight, the second called first; with `norms`, a batch norm after each."""

    def __init__(self, norms: bool = False) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.two.weight = self.one.weight
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)] if norms else [nn.Identity(), nn.Identity()])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.norms[0](self.two(x)).relu()
        return self.head(self.norms[1](self.one(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("norms", [False, True])
def test_a_weight_that_layers_share_stays_one_on_one_grid(norms, tmp_path):
    torch.manual_seed(0)
    data, model = task((3, 8, 8)), Tied(norms).eval()
    if norms:
        nn.init.uniform_(model.norms[0].weight, 0.5, 2.0)  # each folds the weight into another one
    graph = trace(model, data.example_inputs)
    steps = (Step(bits={"one": 4}, epochs=1),)
    plan = Plan(structure=graph.structure, planner="uniform", steps=steps, predicted=cost(graph), dense=cost(graph))
    small, result = compress(model, plan, data, recipe=Recipe(epochs=1, lr=0.02), graph=graph)
    assert small.one.weight is small.two.weight
    assert not torch.equal(small.one.weight, model.one.weight)
    assert max(len(row.unique()) for row in small.one.weight.flatten(1)) <= 15
    coarse, final = quantize(small, result, data)
    assert final.bits == {"stem": 8, "one": 4, "head": 8}
    source = export_onnx(small, data.example_inputs, tmp_path / "model.onnx")
    assert [t.name for t in onnx.load(source).graph.initializer if t.dims == [8, 8, 3, 3]] == ["one.weight"]
    file = integers_file(source, tmp_path / "integers.onnx", final.bits, data)
    packed = [t for t in onnx.load(file).graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert len(packed) == (2 if norms else 1)
    assert agreement(OnnxModel(file), coarse, data) >= 0.95


class Called(nn.Module):
    """One convolution, called three times, with its one batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.norm(self.conv(x)).relu() + x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_layer_that_is_called_often_is_in_the_file_once(bits, tmp_path):
    """Its batch norm is folded into it at every call, which gives a copy of the weight for each."""
    torch.manual_seed(0)
    data, model = task((3, 8, 8)), Called().eval()
    source = export_onnx(model, data.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", {"conv": bits}, data)
    graph = onnx.load(file).graph
    held = [t.name for t in graph.initializer if t.dims == [3, 3, 3, 3]]
    assert [layer_of(name) for name in held] == ["conv"]
    assert [list(node.input) for node in graph.node if node.op_type == "Cast"] == [held] * (bits < 8)
    assert layers_in_float(file) == ()
    with torch.no_grad():
        expected = model(data.validation.inputs).numpy()
    assert error_share(run_onnx(file, data.validation.inputs).numpy(), expected) < {8: 0.05, 4: 0.5, 2: 2.0}[bits]


def test_bits_that_contradict_each_other_on_one_weight_are_refused():
    model = Tied()
    with pytest.raises(
        LamellaError, match=r"'one' and 'two' share one weight, and were given 4 and 8 bits\. Give both"
    ):
        coarsen(model, {"one": 4, "two": 8})
    assert (twin := coarsen(model, {"two": 4})).one.weight is twin.two.weight
    model.two = nn.ConvTranspose2d(8, 8, 3, padding=1)
    model.two.weight = model.one.weight
    with pytest.raises(LamellaError, match=r"along different axes of it: no grid of 4 bits fits both"):
        put_on_grids(model, {"one": 4})


class Twice(nn.Module):
    """Each of two layers is called twice: one weight and one bias, and two ranges of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.line, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(self.stem(x).relu()).relu()).relu().mean((2, 3))
        return self.head(self.line(self.line(x).relu()).relu())


class Rows(nn.Module):
    """Linear layers over the rows of a picture: inputs of more than two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(x[:, 0]).relu()).mean(1)


def spread():
    """A transposed convolution in groups, and a batch norm behind it."""
    up = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), up, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    return nn.Sequential(*net, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def bent():
    """Activations that are computed apart from the convolution before them, and a product of streams behind a pool."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Hardswish(), nn.Conv2d(6, 8, 3), nn.GELU())
    return nn.Sequential(*net, Excited(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def gated(act):
    """Products of inputs and their gates, behind convolutions, a sum and linear layers."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        act(),
        nn.Conv2d(8, 8, 3),
        act(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 24),
        act(),
        nn.Linear(24, 24),
        act(),
        nn.Linear(24, 4),
    )


@pytest.mark.parametrize("act", [nn.SiLU, nn.LeakyReLU, nn.Tanh])
def test_gates_and_bends_are_rounded_where_the_file_rounds_them(act, tmp_path):
    data, model = task((3, 16, 16)), gated(act).eval()
    source, x = export_onnx(model, data.example_inputs, tmp_path / "model.onnx"), data.validation.inputs
    for scheme in ("static", "static-nbits-fc"):
        coarse, found = quantize(*whole(model, data, dict.fromkeys(multiplying_layers(model), 8)), data, scheme=scheme)
        file = integers_file(source, tmp_path / f"{scheme}.onnx", found.bits, data, scheme=scheme)
        with torch.no_grad():
            apart, step = (coarse(x) - run_onnx(file, x)).abs(), (coarse(x) - model(x)).abs().mean()
        if scheme == "static":  # a sum in the middle between two steps may go either way, and nothing else
            assert apart.median() < 0.02 * step
        else:
            assert apart.mean() < 0.35 * step


class Excited(nn.Module):
    """Squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(self.down(self.pool(x)).relu()))


def scaled():
    """A convolution whose outputs are multiplied: runtimes fold the factor into its weight."""

    class Times(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

    return nn.Sequential(nn.Conv2d(3, 8, 3), Times(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def test_a_simulation_is_not_exported_and_leaves_nothing_behind(tmp_path):
    data, model = task((3, 16, 16)), NETS["plain"]().eval()
    layers = dict.fromkeys(multiplying_layers(model), 8)
    twin = coarsen(model, layers, observe_places(model, layers, data.calibration).ranges())
    with pytest.raises(
        TraceError, match=r"it simulates integers in eager PyTorch\. Export the float network, and write"
    ):
        export_onnx(twin, data.example_inputs, tmp_path / "twin.onnx")
    export_onnx(model, data.example_inputs, tmp_path / "dense.onnx")


@pytest.mark.parametrize("scheme", ["static", "dynamic-fc", "nbits-fc"])
def test_a_simulation_is_neither_rounded_again_nor_tuned_nor_saved_nor_exported(scheme, walked, tmp_path):
    coarse, found = quantize(walked.small, walked.result, walked.data, scheme=scheme)
    for name, leave in {
        "quantize": lambda: quantize(coarse, found, walked.data, scheme=scheme),
        "fit": lambda: fit(coarse, walked.data, Recipe(epochs=1)),
        "save": lambda: save(tmp_path / "run", coarse, found),
        "export": lambda: export_onnx(coarse, walked.data.example_inputs, tmp_path / "coarse.onnx"),
    }.items():
        with pytest.raises(
            LamellaError, match=rf"^{name}: this network simulates integers.* integers_file\('model.onnx'"
        ):
            leave()
    assert list(tmp_path.iterdir()) == []
    save(tmp_path, walked.small, found)
    assert load(tmp_path, lambda: walked.model)[1] == found


def test_integers_are_made_once_and_from_a_float_file_that_stays(tmp_path):
    torch.manual_seed(0)
    data, model = task((3, 16, 16)), NETS["plain"]().eval()
    source = export_onnx(model, data.example_inputs, tmp_path / "model.onnx")
    before = source.read_bytes()
    with pytest.raises(LamellaError, match="source and target are one file, and the float file would be lost"):
        integers_file(source, tmp_path / "." / "model.onnx", {}, data)
    with pytest.raises(LamellaError, match=r"bits\['0'\]: 3\.5 bits were asked; a whole number from 2 to 8"):
        integers_file(source, tmp_path / "never.onnx", {"0": 3.5}, data)
    for scheme in ("static", "dynamic-fc", "nbits-fc"):
        made = integers_file(source, tmp_path / f"{scheme}.onnx", {}, data, scheme=scheme)
        for again in ("static", "nbits-fc"):
            with pytest.raises(LamellaError, match=r"holds integers already \(\w+.* Give the float file"):
                integers_file(made, tmp_path / "never.onnx", {}, data, scheme=again)
    assert source.read_bytes() == before
    assert not (tmp_path / "never.onnx").exists()


@pytest.mark.parametrize("spoil", [lambda x: 255 * x, lambda x: 0.1 * x, lambda x: 0 * x + 0.3, lambda x: 0 * x])
def test_a_file_takes_no_ranges_from_data_of_another_kind(spoil, tmp_path):
    torch.manual_seed(0)
    data, model = task((3, 16, 16)), NETS["plain"]().eval()
    source = export_onnx(model, data.example_inputs, tmp_path / "model.onnx")
    strange = replace(data, calibration=[(spoil(x), y) for x, y in data.calibration])
    with pytest.raises(DataError, match="calibration data is other data than the network is judged on"):
        integers_file(source, tmp_path / "integers.onnx", {}, strange)
    assert not (tmp_path / "integers.onnx").exists()
    assert integers_file(source, tmp_path / "blocks.onnx", {}, strange, scheme="nbits-fc").exists()


class Masked(nn.Module):
    """Its answers, which of them are sure, and nothing."""

    def __init__(self):
        super().__init__()
        self.net = NETS["plain"]()

    def forward(self, x):
        answers = self.net(x)
        return answers, answers > 0, None


def test_batch_norms_are_folded_where_not_all_that_comes_out_is_real():
    torch.manual_seed(0)
    model = Masked().eval()
    merged = folded(model, (torch.randn(2, 3, 16, 16),))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in merged.modules())


def test_places_are_the_same_ones_under_inference_mode():
    torch.manual_seed(0)
    data, model = task((3, 16, 16)), bent().eval()
    coarse, found = quantize(*whole(model, data, {"0": 8}), data)
    x = data.validation.inputs
    with torch.inference_mode():
        inferred = coarse(x)
    with torch.no_grad():
        assert torch.equal(coarse(x), inferred)
    assert {"convolution.0", "hardsigmoid.0", "mean.0", "sigmoid.0"} < set(found.ranges)


@pytest.mark.parametrize(
    ("make", "scheme", "in_float"),
    [
        (Twice, "static", ()),
        (Twice, "static-nbits-fc", ()),
        (bent, "static", ()),
        (scaled, "static", ()),
        (Rows, "static", ()),
        (Rows, "static-nbits-fc", ()),
        (spread, "static", ("2",)),  # ONNX Runtime has no transposed convolution in integers
    ],
)
def test_awkward_layers_compute_in_the_file_what_is_simulated(make, scheme, in_float, tmp_path):
    torch.manual_seed(0)
    data, model = task((3, 16, 16)), make().eval()
    layers = multiplying_layers(model)
    coarse, found = quantize(*whole(model, data, dict.fromkeys(layers, 8)), data, scheme=scheme)
    assert set(found.bits) == set(layers)
    source = export_onnx(model, data.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", found.bits, data, scheme=scheme)
    assert layers_in_float(file) == in_float
    x = data.validation.inputs
    with torch.no_grad():
        exact, apart = model(x), coarse(x) - run_onnx(file, x)
    assert apart.square().mean().sqrt() < 0.02 * exact.square().mean().sqrt()
    assert (run_onnx(file, x) - exact).abs().max() < 0.1 * exact.abs().max()
    assert agreement(OnnxModel(file), coarse, data) >= 0.95


def test_a_packed_layer_in_float_has_its_name(tmp_path):
    torch.manual_seed(0)
    data, model = task((3, 16, 16)), spread().eval()
    source = export_onnx(model, data.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "few.onnx", dict.fromkeys(multiplying_layers(model), 4), data)
    assert layers_in_float(file) == ("2",)


def test_simulation_and_file_see_the_same_batches_of_a_loader_that_shuffles(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(256, 3, 16, 16) ** 3
    shuffled = DataLoader(TensorDataset(x, torch.zeros(256, dtype=torch.int64)), 8, shuffle=True)
    data, model = (
        replace(task((3, 16, 16)), validation=Batches(x, torch.zeros(256), 64), calibration=shuffled),
        NETS["plain"]().eval(),
    )
    small, result = whole(model, data, {"0": 8})
    _, found = quantize(small, replace(result, seed=3), data)
    source = export_onnx(model, data.example_inputs, tmp_path / "model.onnx")
    held = onnx.load(integers_file(source, tmp_path / "integers.onnx", found.bits, data)).graph
    first = next(node for node in held.node if node.op_type == "QuantizeLinear" and node.input[0] == held.input[0].name)
    scale = next(onnx.numpy_helper.to_array(i) for i in held.initializer if i.name == first.input[1])
    assert scale == pytest.approx(InputGrid(*found.ranges["0"]).scale)


def test_what_cannot_be_rounded_or_saved_is_told(walked, tmp_path):
    small = copy.deepcopy(walked.small)
    with torch.no_grad():
        small.conv1.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(LamellaError, match=r"'conv1\.weight' holds values that are not finite, and no grid would hold"):
        quantize(small, walked.result, walked.data)
    with pytest.raises(MismatchError, match="a Plan was given with the network; the Result that compress returned"):
        quantize(walked.small, walked.made, walked.data)
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=r"run is a file; a directory was expected, for model\.safetensors and"):
        save(tmp_path / "run", walked.small, walked.result)


class Reading(nn.Module):
    """A recurrent layer and an attention: weights that no convolution or linear layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.embed, self.rows = nn.Linear(6, 16), nn.Linear(16, 8), nn.GRU(8, 8, batch_first=True)
        self.attend, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rows(self.embed(self.wide(x).relu()))[0]
        return self.out(torch.relu(x + self.attend(x, x, x, need_weights=False)[0]).mean(1))


@pytest.fixture(scope="module")
def reading():
    torch.manual_seed(0)
    model, data = Reading().eval(), task((5, 6))
    graph = trace(model, data.example_inputs)
    return model, data, graph, profile(model, data, graph=graph, pruning_ratios=(0.5,), bits=(8, 4))


@pytest.mark.parametrize("asked", [{"planner": "uniform", "pruning_ratio": 0.0, "bits": 4}, {"planner": "knapsack"}])
def test_plans_give_bits_to_what_takes_them(reading, asked):
    model, data, graph, curves = reading
    made = plan(curves, Budget(bytes="95%"), **asked)
    assert set(made.bits) == {"wide", "embed", "attend.out_proj", "out"}
    assert quantize(*compress(model, made, data, graph=graph), data)[1].bits.keys() == {"wide", "embed", "out"}


def test_a_recurrent_layer_keeps_no_latency_in_float(reading):
    curves, info = reading[-1], SimpleNamespace(seed=0)
    session = SimpleNamespace(has=lambda name: True, profile=lambda: curves, info=info)
    assert without_bits(curves) == ()
    request = Request(budget=Budget(latency_ms="80%"), planner="knapsack", order="by_score")
    assert _timing(session, request).precision == "int8"
    few = replace(curves, points=tuple(p for p in curves.points if (p.target, p.knob) != ("out", "bits")))
    assert without_bits(few) == ("out",)


def test_bits_of_a_recurrent_layer_are_refused_before_anything_is_tuned(reading):
    model, data, graph, _ = reading
    made = Plan(
        structure=graph.structure,
        planner="hand",
        steps=(Step(bits={"rows.weight_ih_l0": 4}),),
        dense=cost(graph),
        predicted=cost(graph),
    )
    with pytest.raises(RecordError, match=r"steps\[0\].bits\['rows.weight_ih_l0'\]: no convolution or linear layer"):
        compress(model, made, data, graph=graph)


class Words(nn.Module):
    """A head tied to the table of words."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.wide, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(self.table(x)).relu().mean(1))


@pytest.mark.parametrize(("scheme", "width"), [("static", 4), ("dynamic-fc", 8), ("nbits-fc", 4)])
def test_a_head_keeps_its_bits_and_the_table_it_is_tied_to_its_words(scheme, width, tmp_path):
    torch.manual_seed(0)
    x = torch.randint(0, 50, (64, 12))
    batches = Batches(x, torch.randint(4, (64,)), 16)
    data, model = Task((x[:1],), train=batches, validation=batches, test=batches), Words().eval()
    _, planned = whole(model, data, {"wide": 4, "table": 4})
    coarse, found = quantize(model, planned, data, scheme=scheme)
    assert found.bits == {"table": width, "wide": width}
    source = export_onnx(model, data.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "few.onnx", found.bits, data, scheme=scheme)
    packed = [i.name for i in onnx.load(file).graph.initializer if i.data_type == onnx.TensorProto.INT4]
    assert len(packed) == (2 if scheme == "static" else 0)
    with torch.no_grad():
        exact, apart = model(x), coarse(x) - run_onnx(file, x)
    assert apart.square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()
