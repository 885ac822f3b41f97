"""Laws of places: an eager simulation rounds what the file rounds, however the network is written."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lamella.coarsening import OUTPUT, coarsen, observe_places
from lamella.errors import ScoreError
from lamella.exporting import export_onnx, run_onnx
from lamella.quantization import integers_file, multiplying_layers, quantize
from lamella.schema import Cost, Measure, Plan, Result, Score
from lamella.training import Batches, Task


class Net(nn.Module):
    """Three convolutions and a linear layer around what is tried."""

    def __init__(self, between, after=lambda y: y, **options):
        super().__init__()
        self.between, self.after = between, after
        self.a, self.b = (nn.Conv2d(i, 16, 3, padding=1, **options) for i in (3, 16))
        self.thin = nn.Conv2d(8, 16, 1)
        self.norm, self.groups = nn.BatchNorm2d(16), nn.GroupNorm(4, 16)
        self.head, self.scale = nn.Linear(16 * 16, 10), nn.Parameter(torch.rand(16, 8, 8))
        nn.init.uniform_(self.norm.running_mean, -0.3, 0.3), nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(F.relu(self.b(self.between(self, self.a(x)))), 2)
        return self.after(self.head(y.flatten(1)))


def written(net: Net, y: Tensor) -> Tensor:
    """Parts are written into what integers made, and into what nothing made."""
    y = F.relu(y)
    y[:, :4] = y[:, :4] * 2
    y[:, :8] += y[:, 8:]
    z = torch.zeros(y.shape[0], 20, 8, 8)
    z[:, 2:18] = y
    y = F.gelu(z[:, 2:18])
    y[:, 1] = 0.5
    return y


def parts(net: Net, y: Tensor) -> Tensor:
    """Parts are read, on the grid of the whole."""
    u, v = F.relu(y).chunk(2, 1)
    y = torch.cat([v * u[:, 1:2], u.flip(1) - v], 1)
    return y + F.channel_shuffle(y, 4)[:, 3].unsqueeze(1)


def halves(net: Net, y: Tensor) -> Tensor:
    """A layer reads a part of what floats make, and an addition all of it."""
    y = F.gelu(y)
    return net.thin(y[:, :8]) + y


def bent(net: Net, y: Tensor) -> Tensor:
    """Activations of integers, of floats and of both."""
    shapes = (F.celu, F.mish, F.softsign, F.tanhshrink, F.hardtanh, F.logsigmoid, F.silu, F.glu)
    made = [act(3 * y) if act is not F.glu else F.glu(y, 1).repeat(1, 2, 1, 1) for act in shapes]
    return F.threshold(sum(made), -0.1, -0.2)


def both(net: Net, y: Tensor) -> Tensor:
    """Clipped and pooled for one reader, and read by another as it is."""
    y = F.relu(y) + y
    return F.interpolate(F.max_pool2d(y, 2), scale_factor=2) * y


def normed(net: Net, y: Tensor) -> Tensor:
    """Norms that are not part of a convolution, behind a pool and a pad."""
    y = F.layer_norm(net.groups(F.hardswish(y)), (16, 8, 8), net.scale)
    return F.pad(net.norm(F.relu(y)), (1, 1, 1, 1))[:, :, 1:-1, 1:-1]


def pooled_first(net: Net, y: Tensor) -> Tensor:
    """Clipped behind a pool, which files round before; and one channel that is shown as all."""
    y = F.interpolate(F.relu(F.max_pool2d(y, 2)), scale_factor=2, mode="nearest")
    y = F.interpolate(F.gelu(y), scale_factor=1.5, mode="bilinear")
    return (y[:, :1].expand(-1, 16, -1, -1) + y)[:, :, 2:10, 2:10]


def hanging(net: Net, y: Tensor) -> Tensor:
    """Means over windows that hang over a padded border."""
    return F.interpolate(F.avg_pool2d(F.relu(y), 3, 2, 1, ceil_mode=True), scale_factor=2)[:, :, 2:, 2:]


def preactivated(net: Net, y: Tensor) -> Tensor:
    """A batch norm behind a layer whose outputs others read, too: that one is not folded, and the others are."""
    return F.relu(net.norm(y)) + y


def plain(net: Net, y: Tensor) -> Tensor:
    return F.relu(y)


NETS = {
    "written": lambda: Net(written),
    "parts": lambda: Net(parts),
    "halves": lambda: Net(halves),
    "bent": lambda: Net(bent),
    "both": lambda: Net(both),
    "normed": lambda: Net(normed),
    "pooled first": lambda: Net(pooled_first),
    "hanging": lambda: Net(hanging),
    "preactivated": lambda: Net(preactivated),
    "sliced outputs": lambda: Net(plain, lambda y: (y[:, :4], y[:, 4:])),
    "circular": lambda: Net(plain, padding_mode="circular"),
    "several outputs": lambda: Net(plain, lambda y: (y, {"few": y[:, :3] * 2, "none": None})),
    "float outputs": lambda: Net(plain, lambda y: F.log_softmax(y, 1)),
}
PRICE = Cost(params=1, macs=1, bytes=1, memory=1)


def batches(shape=(3, 8, 8), count=64) -> Task:
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    data = Batches(x, torch.arange(count) % 10, 32)
    return Task((x[:1],), train=data, validation=data, test=data, score=lambda outputs, y: torch.zeros(len(y)))


def no_plan() -> Result:
    plan = Plan(structure="", planner="none", steps=(), predicted=PRICE, dense=PRICE)
    dense = Measure(name="dense", step=0, validation=Score(value=1.0, low=0.0, high=1.0, n=1), params=1, macs=1)
    return Result(plan=plan, kept={}, history=(dense,), integers=(), seed=0)


def leaves(outputs) -> np.ndarray:
    real = [x for x in torch.utils._pytree.tree_leaves(outputs) if x is not None]
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in real], 1)


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(((one - other) ** 2).mean() / (other**2).mean()))


@pytest.mark.parametrize("name", NETS)
def test_the_file_computes_what_is_simulated(name, tmp_path):
    torch.manual_seed(1)
    task, model = batches(), NETS[name]().eval()
    coarse, found = quantize(model, no_plan(), task)
    source = export_onnx(model, task.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", found.bits, task)
    x = task.validation.inputs
    computed = leaves(run_onnx(file, x))
    with torch.no_grad():
        simulated, exact = leaves(coarse(x)), leaves(model(x))
    rounding = error(computed, exact)
    # A sum between two steps may be rounded either way; nothing else may be apart.
    assert error(computed, simulated) < 0.3 * rounding
    assert rounding < 0.08


def centred(y: Tensor) -> Tensor:
    return y - y.mean(1, keepdim=True)


def squared(y: Tensor) -> Tensor:
    return (y * y).mean(1, keepdim=True)


NORMS = {
    "root": lambda y: centred(y) / torch.sqrt(centred(y).pow(2).mean(1, keepdim=True) + 1e-6),
    "product": lambda y: y / (squared(y) + 1e-6) ** 0.5,
    "difference": lambda y: centred(y) / torch.sqrt(squared(centred(y)) + 1e-6),
    "reciprocal": lambda y: y * torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-6),
    "power": lambda y: y * (y.pow(2).mean((2, 3), keepdim=True) + 1e-6) ** -0.5,
    "one over": lambda y: y * (1 / torch.sqrt(squared(y) + 1e-6)),
    "variance": lambda y: centred(y) / torch.sqrt(y.var(1, keepdim=True) + 1e-6),
    "deviation": lambda y: centred(y) / (y.std(1, keepdim=True) + 1e-6),
}


def flat(background: float, **options) -> Task:
    """Pictures with an empty, or nearly empty, background, every other one of them dark."""
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, :, 3:] *= background
    x[::2] *= 0.15
    data = Batches(x, torch.arange(64) % 10, 32)
    return Task((x[:1],), train=data, validation=data, test=data, **options)


@pytest.mark.parametrize("norm", NORMS)
def test_what_a_norm_by_hand_divides_by_stays_in_float(norm, tmp_path):
    """On a grid its variance is zero there, and so is what was added to keep it from that."""
    torch.manual_seed(0)
    task = flat(0.0, score=lambda outputs, y: torch.zeros(len(y)))
    model = Net(lambda net, y: NORMS[norm](y) * net.scale[:, :1, :1], bias=False).eval()
    coarse, found = quantize(model, no_plan(), task)
    source = export_onnx(model, task.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", found.bits, task)
    x = task.validation.inputs
    with torch.no_grad():
        simulated, exact = leaves(coarse(x)), leaves(model(x))
    computed = leaves(run_onnx(file, x))
    assert error(computed, simulated) < 0.05
    assert error(computed, exact) < 0.08


def test_scores_that_rounding_makes_infinite_are_blamed_on_it():
    torch.manual_seed(0)
    task = flat(1e-3, score=lambda outputs, y: outputs.sum(1))
    model = Net(lambda net, y: y / squared(y).sqrt(), bias=False).eval()
    with pytest.raises(ScoreError, match=r"of finite scores rounding makes others: .* Deploy the float file"):
        quantize(model, no_plan(), task)


def test_means_at_the_border_are_divided_by_what_they_are_means_of(tmp_path):
    def bare(net: Net, y: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(F.relu(y), 3, 2, ceil_mode=True), scale_factor=2)

    torch.manual_seed(1)
    task, model = batches(), Net(bare).eval()
    source, x = export_onnx(model, task.example_inputs, tmp_path / "model.onnx"), task.validation.inputs
    file = integers_file(source, tmp_path / "integers.onnx", {}, task)
    with torch.no_grad():
        assert error(leaves(run_onnx(file, x)), leaves(model(x))) < 0.03


class Tokens(nn.Module):
    """Pixels as tokens: linear layers of inputs that lie in order and of others, and of no whole number of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first = nn.Conv2d(3, 36, 2, stride=2), nn.Linear(36, 36)
        self.norm, self.wide, self.narrow = nn.RMSNorm(36), nn.Linear(36, 200), nn.Linear(200, 36)
        self.head = nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.patches(x).flatten(2).transpose(1, 2))
        y = y + self.narrow(F.gelu(self.wide(self.norm(y))))
        return self.head(y.mean(1))


@pytest.mark.parametrize(("scheme", "most"), [("static", 0.3), ("static-nbits-fc", 0.1)])
def test_linear_layers_on_tokens_compute_what_is_simulated(scheme, most, tmp_path):
    torch.manual_seed(1)
    task, model = batches(), Tokens().eval()
    coarse, found = quantize(model, no_plan(), task, scheme=scheme)
    source = export_onnx(model, task.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", found.bits, task, scheme=scheme)
    x = task.validation.inputs
    computed = leaves(run_onnx(file, x))
    with torch.no_grad():
        simulated, exact = leaves(coarse(x)), leaves(model(x))
    assert error(computed, simulated) < most * error(computed, exact)


def test_a_bias_is_added_apart_by_the_layer_on_tokens_alone():
    """torch itself adds it so where the inputs do not lie in order; that of a function behind is part of its product all the same."""

    class Mixed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self[0](x.transpose(1, 2)).mean(1), self[1].weight, self[1].bias)

    seen = observe_places(Mixed(nn.Linear(3, 6), nn.Linear(6, 4)).eval(), ["0", "1"], [(torch.randn(4, 3, 8),)])
    assert seen.inputs[OUTPUT] == ["addmm.0"]


def test_a_value_is_asked_for_once_and_by_what_made_it():
    model, made = Net(both).eval(), {"convolution.0", "relu.0", "add.0", "max_pool2d_with_indices.0", "relu.1"}
    seen = observe_places(model, ["a", "b", "head"], [(torch.randn(4, 3, 8, 8),)])
    assert set(seen.spreads) == {*made, "input.0", "mul.0", "avg_pool2d.0", "addmm.0"}
    assert seen.inputs == {"a": ["input.0"], "b": ["mul.0"], "head": ["avg_pool2d.0"], OUTPUT: ["addmm.0"]}
    assert set(seen.by_reader()) == {*made, "a", "b", "head", OUTPUT}
    assert seen.ranges()["b"] == seen.ranges()["mul.0"]


def test_a_network_keeps_what_it_writes_into():
    """What is simulated is a copy: inputs, parameters and what they share stay as they are."""
    torch.manual_seed(1)
    model, x = Net(written, padding_mode="circular").eval(), torch.randn(4, 3, 8, 8)
    kept, before = x.clone(), {name: p.clone() for name, p in model.named_parameters()}
    layers = multiplying_layers(model)
    ranges = observe_places(model, layers, [(x,)]).ranges()
    with torch.no_grad():
        coarsen(model, dict.fromkeys(layers, 8), ranges)(x)
    assert torch.equal(x, kept)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_recurrent_layers_compute_in_float_on_rounded_inputs():
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.rows, self.head = nn.Linear(8, 12), nn.LSTM(12, 9, batch_first=True), nn.Linear(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rows(self.wide(x[:, 0]).tanh())[0][:, -1])

    torch.manual_seed(1)
    model, x = Rows().eval(), torch.randn(4, 3, 8, 8)
    seen = observe_places(model, multiplying_layers(model), [(x,)])
    assert not any(place.startswith(("sigmoid", "mul")) for place in seen.spreads)
    assert seen.inputs == {"wide": ["part.0"], "head": ["part.1"], OUTPUT: ["addmm.0"]}
    assert {"mm.0", "add.0"} < set(seen.spreads)


@pytest.fixture
def simulated():
    torch.manual_seed(1)
    return quantize(Net(both).eval(), no_plan(), batches())[0]


def test_parts_of_a_batch_are_rounded_as_the_whole_is(simulated):
    x = batches().validation.inputs
    with torch.no_grad():
        whole = simulated(x.clone())
        assert torch.allclose(simulated(x[:16]), whole[:16], atol=1e-5)
        assert torch.equal(copy.deepcopy(simulated)(x), whole)


def test_a_simulation_may_run_in_several_threads_at_once(simulated):
    x = batches().validation.inputs
    expected = simulated(x)
    with ThreadPoolExecutor(3) as pool:
        assert all(torch.equal(y, expected) for y in pool.map(simulated, [x] * 12))


def test_an_interrupted_pass_leaves_nothing_open(simulated):
    x = batches().validation.inputs
    expected = simulated(x)
    between = simulated.between

    def interrupted(net: Net, y: Tensor) -> Tensor:
        raise KeyboardInterrupt

    simulated.between = interrupted
    with pytest.raises(KeyboardInterrupt):
        simulated(x)
    simulated.between = between
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert torch.equal(simulated(x), expected)


def test_a_model_that_calls_itself_is_walked_once(tmp_path):
    class Again(Net):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] > 8:
                return self(F.avg_pool2d(x, 2)) + 1
            return super().forward(x)

    torch.manual_seed(1)
    task, model = batches((3, 16, 16)), Again(plain).eval()
    coarse, found = quantize(model, no_plan(), task)
    source = export_onnx(model, task.example_inputs, tmp_path / "model.onnx")
    file = integers_file(source, tmp_path / "integers.onnx", found.bits, task)
    x = task.validation.inputs
    assert error(leaves(run_onnx(file, x)), leaves(coarse(x))) < 0.002
