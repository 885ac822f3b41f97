"""Tracing: what is found, what is refused and in which words, and that the proof finds what is wrong."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import zoo
from rich.console import Console
from torch import nn

from lamella.costs import cost
from lamella.errors import MismatchError, TraceError
from lamella.proof import proven
from lamella.reach import reach
from lamella.records import dumps, loads
from lamella.schema import Graph
from lamella.surgery import check_graph, masked, narrow, refitted
from lamella.tracing import aligned, trace
from lamella.views import graph_view

every_net = pytest.mark.parametrize("name", zoo.NAMES)
PICTURE = (torch.randn(1, 3, 8, 8),)


def chain():
    return zoo.BY_NAME["chain"].make()[0]


@every_net
def test_halving_reaches_what_it_should_and_gives_the_reasons(name):
    _, _, graph = zoo.traced(name)
    entry = zoo.BY_NAME[name]
    half = cost(graph, {g.name: g.legal(g.width / 2) for g in graph.free})
    assert 1 - half.params / cost(graph).params >= entry.reach
    reasons = " ".join(g.frozen or "" for g in graph.groups)
    assert all(words in reasons for words in entry.frozen)


@every_net
def test_every_frozen_group_says_where(name):
    _, _, graph = zoo.traced(name)
    for group in graph.groups:
        if group.frozen:
            assert any(words in group.frozen for words in (" in '", ".py:", "('")), group.frozen


@every_net
def test_a_graph_survives_its_file(name):
    _, _, graph = zoo.traced(name)
    again = loads(dumps(graph), Graph)
    assert again == graph
    assert again.structure == graph.structure


@every_net
def test_reach_adds_up(name):
    _, _, graph = zoo.traced(name)
    found = reach(graph)
    assert found.dense_params == cost(graph).params
    assert 0 < found.params < 1
    assert all((row.frozen is None) == (row.lowest < row.width) for row in found.groups)
    assert all((row.frozen is None) == (row.params > 0) for row in found.groups)
    assert {name for row in found.layers for name in row.makes} <= set(graph.widths)


def test_balanced_groups_know_their_parts():
    _, _, graph = zoo.traced("grouped")
    group = graph.group_of["1.0"]
    assert group.part_count == 4
    assert group.legal(7) == 8
    ladder = zoo.traced("shuffle_units")[2].group_of["0.0"].ladder
    assert len(ladder) > 2
    assert [sum(rung) for rung in ladder] == sorted({sum(rung) for rung in ladder})
    assert all(a <= b for low, high in pairwise(ladder) for a, b in zip(low, high, strict=True))


def test_norms_over_channels_say_what_changes():
    assert (
        "layer norm takes its statistics over the channels that are left"
        in zoo.traced("layer_scaled")[2].group_of["stem"].changes
    )
    assert "weight standardization" in zoo.traced("standardized")[2].group_of["one"].changes
    assert "group norm" in zoo.traced("norms")[2].group_of["0"].changes
    assert all(g.changes is None for g in zoo.traced("residual")[2].groups)


def test_numbers_that_repeat_a_size_follow_it():
    model, _, graph = zoo.traced("heads_by_hand")
    small = narrow(model, graph, {g.name: g.legal(g.width / 2) for g in graph.free})
    assert (small.num_heads, small.head_dim) == (2, 8)
    assert (model.num_heads, model.head_dim) == (4, 8)
    model, _, graph = zoo.traced("uneven_split")
    small = narrow(model, graph, {g.name: g.legal(g.width / 2) for g in graph.free})
    assert (small.kept, small.grown) == (4, 8)


class Newest(nn.Module):
    """How much it reads of a text equals a width by chance; its heads are a number that must follow."""

    def __init__(self):
        super().__init__()
        self.max_len, self.num_heads, self.head_dim = 32, 4, 8
        self.words, self.qkv = nn.Embedding(50, 32), nn.Linear(32, 96)
        self.out = nn.Linear(32, 4)

    def forward(self, tokens):
        x = self.words(tokens[:, -self.max_len :])
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return self.out(x.amax(1).view(b, c))


def test_numbers_that_equal_a_size_by_chance_stay():
    model, long = Newest().eval(), torch.randint(50, (2, 30))
    graph = trace(model, (torch.randint(50, (2, 5)),), round_to=1)
    kept = {g.name: tuple(range(g.legal(g.width / 2))) for g in graph.free}
    small = narrow(model, graph, kept)
    assert (small.max_len, small.num_heads) == (32, 2)
    assert torch.allclose(small(long), masked(model, graph, kept)(long), atol=1e-5)


# ---- options


def test_ignored_layers_by_name_and_glob():
    graph = trace(chain(), PICTURE, ignored_layers=("0.*",), prove=False)
    assert graph.group_of["0.0"].frozen == "0.0 is among the ignored layers ('0.*')"
    assert graph.group_of["1.0"].frozen is None
    assert trace(chain(), PICTURE, ignored_layers="0.*", prove=False) == graph
    with pytest.raises(TraceError, match=r"ignored_layers: unknown layer 'nope'"):
        trace(chain(), PICTURE, ignored_layers=("nope",), prove=False)


def test_widths_are_rounded_and_have_a_floor():
    graph = trace(chain(), PICTURE, round_to=4, floor=6, prove=False)
    assert [graph.group_of["1.0"].legal(w) for w in (0, 7, 11, 16)] == [8, 8, 12, 16]
    graph = trace(chain(), PICTURE, round_to={"1.0": 3}, prove=False)
    assert (graph.group_of["0.0"].round_to, graph.group_of["1.0"].round_to) == (1, 3)
    with pytest.raises(TraceError, match=r"round_to: unknown group '1\.9'"):
        trace(chain(), PICTURE, round_to={"1.9": 3}, prove=False)
    assert [aligned(w) for w in (8, 32, 64)] == [4, 8, 16]


# ---- bad input


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        y = self.conv(x)
        if y.sum() > 0:  # a branch on values
            y = y * 2
        return y.mean((1, 2, 3))


class Classes(nn.Module):
    """Reads a number of channels as a factor, and answers with classes, which hardly ever change."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        h = F.relu(self.conv(x))
        return self.out((h * h.shape[1] ** -0.5).mean((2, 3))).argmax(1)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.out(F.dropout(self.conv(x), 0.5, training=True))


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.two(self.one(x)))
        return self.out(torch.fft.fft(x).real)


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (
            chain,
            (torch.randn(1, 4, 8, 8),),
            r"Sequential fails on the example inputs \(shapes \(1, 4, 8, 8\)\): .*expected.*3 channels.*Pass a tuple",
        ),
        (chain, (), r"fails on the example inputs \(no tensors\)"),
        (
            chain,
            (torch.randn(1, 3, 8, 8).half(),),
            r"fails on the example inputs .*Pass a tuple of inputs .* in its dtype",
        ),
        (chain, (torch.randn(1, 3, 8, 8, device="meta"),), r"fails on the example inputs .*on the model's device"),
        (Branching, PICTURE, r"Branching cannot be exported: .*test_tracing.py:\d+\).*torch.where"),
        (Noisy, PICTURE, r"Noisy gives other outputs each time .*F.dropout"),
        (Classes, PICTURE, r"Classes returns no floating-point tensor .*Return the logits"),
        (nn.ReLU, PICTURE, r"nothing in ReLU can be narrowed, and no layer takes bits:\n  no layer makes channels"),
        (lambda: torch.jit.script(chain()), PICTURE, r"ScriptModule.*Pass the nn.Module it was scripted from"),
        (lambda: len, PICTURE, r"builtin_function_or_method is not an nn.Module"),
    ],
    ids=[
        "shape",
        "no inputs",
        "half inputs",
        "device",
        "branch",
        "noise",
        "classes",
        "no layer",
        "scripted",
        "no module",
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_bad_input_is_answered_in_words(model, inputs, words):
    with pytest.raises(TraceError, match="(?s)" + words):
        trace(model(), inputs)


def test_a_tensor_alone_is_taken_as_the_only_input():
    assert trace(chain(), PICTURE[0], prove=False) == trace(chain(), PICTURE, prove=False)


def test_a_mask_whose_kind_torch_looks_up_is_told_with_what_to_say_instead(capfd, caplog):
    class Masked(nn.Module):
        def __init__(self, **told):
            super().__init__()
            self.told, self.words = told, nn.Linear(8, 12)
            self.body = nn.TransformerDecoder(nn.TransformerDecoderLayer(12, 3, 24, batch_first=True), 1)
            self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

        def forward(self, x):
            x = self.words(x)
            return self.body(x, x, tgt_mask=self.mask, **self.told)

    with pytest.raises(TraceError, match=r"Masked cannot be exported.*Say so in the call: tgt_is_causal=True or False"):
        trace(Masked(), (torch.randn(2, 5, 8),))
    assert capfd.readouterr().err == ""
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert trace(Masked(tgt_is_causal=True), (torch.randn(2, 5, 8),)).layers


def lazy():
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_are_asked_to_see_an_input_first():
    model = lazy()
    with pytest.raises(TraceError, match=r"'0\.weight' has no shape yet\. Run the model once on its example inputs"):
        trace(model, PICTURE)
    assert type(model[0]) is nn.LazyConv2d
    model.eval()(*PICTURE)
    assert [g.name for g in trace(model, PICTURE).free] == ["0"]
    with pytest.raises(MismatchError, match=r"'0\.weight' has no shape yet"):
        refitted(lazy(), model.state_dict())


def test_an_unknown_operator_freezes_what_it_touches():
    graph = trace(Unknown(), (torch.randn(2, 4),))
    assert "one that Lamella can follow" in graph.group_of["two"].frozen
    assert graph.group_of["one"].frozen is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_half_frozen_and_training_models_give_the_same_graph():
    plain = trace(chain(), PICTURE)
    assert trace(torch.compile(chain()), PICTURE) == plain
    assert trace(chain().requires_grad_(False), PICTURE) == plain
    assert trace(chain().train(), PICTURE) == plain
    half = trace(chain().bfloat16(), (PICTURE[0].bfloat16(),))
    assert half.structure == replace(half, groups=plain.groups).structure


def test_weight_norm_by_the_old_hook_is_named():
    with pytest.warns(FutureWarning):
        layer = torch.nn.utils.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    graph = trace(model, PICTURE)
    assert "weight norm" in graph.group_of["0"].frozen
    small = narrow(model, graph, {"1": 4})
    assert small[1].out_channels == 4
    assert small(*PICTURE).shape == model(*PICTURE).shape


def test_spectral_norm_is_not_called_weight_norm():
    layer = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.Conv2d(8, 2, 1)), PICTURE, prove=False)
    assert graph.group_of["0"].frozen.startswith(
        "spectral norm, or another computation of the weight, takes a statistic"
    )


# ---- what runs in training only


def test_what_only_training_sees_narrows_with_the_rest():
    model, inputs, graph = zoo.traced("auxiliary")
    assert [g.name for g in graph.groups if g.frozen] == ["out.2"]
    assert not any(name.startswith("aux") for name in graph.layer_of)
    small = narrow(model, graph, {g.name: g.legal(g.width / 2) for g in graph.free}).train()
    assert small.aux[1].in_channels == small.b[0].out_channels == 8
    logits, auxiliary = small(*inputs)
    (logits.sum() + auxiliary.sum()).backward()
    assert small.aux[1].weight.grad.shape[1] == 8


class Branching(nn.Module):
    """Its second head asks for a value, in training only."""

    def __init__(self):
        super().__init__()
        self.a, self.aux = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.b = nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = self.a(x).relu()
        out = self.b(x).mean((2, 3))
        return (out, self.aux(x)) if self.training and x.sum().item() > 0 else out


def test_what_only_training_sees_and_no_export_shows_is_said():
    graph = trace(Branching(), PICTURE)
    assert len(graph.notes) == 1
    assert re.match(
        r"'aux.bias' and 1 more parameters are read in training at most, and the model in training mode cannot be exported \(.+"
        r"Name the layers they read in ignored_layers",
        graph.notes[0],
    )
    page = Console(width=2000, file=io.StringIO())
    page.print(graph_view(reach(graph)))
    assert f"note: {graph.notes[0]}" in page.file.getvalue()
    assert not zoo.traced("auxiliary")[2].notes


class Flat(nn.Module):
    """Its second head counts on sixteen channels, in training only; on one value per channel, where a batch norm does not train."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 8), nn.BatchNorm2d(16))
        self.mix, self.aux = nn.Conv2d(16, 8, 1), nn.Linear(16, 2)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.body(x)
        y = self.out(F.relu(self.mix(x)))
        return (y, self.aux(x.view(-1, 16))) if self.training else y


def test_what_would_fail_in_training_is_frozen_and_says_so():
    graph = trace(Flat(), PICTURE)
    assert "in training, the narrowed model fails" in graph.group_of["body.0"].frozen
    assert graph.group_of["mix"].frozen is None


def test_a_norm_without_parameters_keeps_its_number_right():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    small = narrow(model, trace(model, PICTURE), {"0": 4})
    assert small[1].num_features == 4
    small(*PICTURE)  # torch warns where the number is another, and warnings are errors here


def test_where_axes_of_length_one_go_two_channels_stay():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.pool = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)
            self.mix, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(torch.relu(self.mix(self.pool(self.body(x)).squeeze())))

    graph = trace(Squeezed(), (torch.randn(2, 3, 8, 8),), round_to=1)
    assert {g.name: g.legal(0) for g in graph.free} == {"body": 2, "mix": 1}


def test_a_grouped_weight_that_is_computed_is_not_taken_for_its_source():
    class Mixed(nn.Module):  # a mixture of kernels, drawn up per sample
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
            self.kernels = nn.Parameter(torch.randn(3, 8 * 8))

        def forward(self, x):
            mixture = x.mean((2, 3)).softmax(1)
            x = self.stem(x)
            b, c, h, w = x.shape
            weight = (mixture @ self.kernels).view(b * 8, c, 1, 1)
            x = F.conv2d(x.reshape(1, b * c, h, w), weight, groups=b).view(b, 8, h, w)
            return self.out(torch.relu(self.body(x)))

    graph = trace(Mixed(), (torch.randn(2, 3, 6, 6),))
    assert "the weight of a grouped convolution is computed" in graph.group_of["stem"].frozen
    assert graph.group_of["body"].frozen is None


def test_pieces_that_a_view_mixes_again_leave_together():
    """A channel shuffle written out: whichever channels go, the pieces must keep theirs at the same places."""

    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.stem(x)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            return self.out(torch.relu(self.body(x)))

    graph = trace(Shuffled(), (torch.randn(2, 3, 4, 4),), round_to=1)
    assert {g.name: g.width for g in graph.free} == {"stem": 4, "body": 4}


@pytest.mark.parametrize("held", [None, torch.empty(0)], ids=["none", "empty"])
@pytest.mark.parametrize("registered", [True, False], ids=["buffer", "attribute"])
def test_what_a_first_call_computes_is_there_before_the_export(held, registered):
    class Gridded(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
            if registered:
                self.register_buffer("grid", held, persistent=False)
            else:
                self.grid = held

        def forward(self, x):
            if self.grid is None or self.grid.shape[0] != x.shape[-1]:
                self.grid = torch.linspace(0.5, 1, x.shape[-1], dtype=x.dtype)
            if not hasattr(self, "shift"):
                self.register_buffer("shift", torch.ones(1), persistent=False)
            return self.out(torch.relu(self.body(x) * self.grid + self.shift))

    model = Gridded()
    graph = trace(model, PICTURE)
    assert [g.name for g in graph.free] == ["body"]
    assert model.grid is held
    assert not hasattr(model, "shift")
    check_graph(model, graph)
    check_graph(Gridded(), graph)


# ---- the proof


def test_sizes_that_only_fit_while_all_groups_shrink_alike_are_found():
    _, _, graph = zoo.traced("windows")
    assert {g.name for g in graph.free} == {"proj", "mix"}


def test_the_proof_finds_a_wrong_index_map():
    model, inputs, graph = zoo.traced("dense_concat")
    axis = graph.parameter_of["out.2.weight"].axes[1]
    runs = (axis.runs[1], axis.runs[0], *axis.runs[2:])  # two blocks of columns exchanged
    wrong = replace(
        graph.parameter_of["out.2.weight"], axes=(graph.parameter_of["out.2.weight"].axes[0], replace(axis, runs=runs))
    )
    broken = replace(graph, parameters=tuple(wrong if p.name == wrong.name else p for p in graph.parameters))
    found = proven(model, inputs, broken, {})
    assert {g.name for g in found.groups if g.frozen and not graph.group_of[g.name].frozen} <= {"stem.0", "one.0"}
    assert any("differ from the masked dense ones" in (g.frozen or "") for g in found.groups)


class Hidden(nn.Module):
    """One branch is silent at first: whatever is wrong in it changes no output."""

    def __init__(self, dtype=None):
        super().__init__()
        self.dtype = dtype
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.out, self.silent = nn.Conv2d(16, 2, 1), nn.Conv2d(16, 2, 1)
        self.gain = nn.Parameter(torch.zeros(2, 1, 1))

    def forward(self, x):
        x = x if self.dtype is None else x.to(self.dtype)
        x = torch.cat((self.one(x), self.two(x)), 1)
        return self.out(x) + self.gain * self.silent(x)


@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["float64", "a model that refuses float64"])
def test_the_proof_sees_behind_a_scale_of_zero(dtype):
    model = Hidden(dtype)
    graph = trace(model, PICTURE)
    weight = graph.parameter_of["silent.weight"]
    rows, columns, *kernel = weight.axes
    wrong = replace(weight, axes=(rows, replace(columns, runs=columns.runs[::-1]), *kernel))
    broken = replace(graph, parameters=tuple(wrong if p.name == wrong.name else p for p in graph.parameters))
    assert not any(proven(model, PICTURE, graph, {}).group_of[name].frozen for name in ("one", "two"))
    assert any(proven(model, PICTURE, broken, {}).group_of[name].frozen for name in ("one", "two"))


def test_channels_that_come_around_stay():
    class Rolled(nn.Module):  # right by luck while the last channel stays
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.out(torch.roll(self.body(torch.roll(self.stem(x), 1, 1)), (1, 1), (2, 3)))

    graph = trace(Rolled(), PICTURE)
    assert "channels are rolled" in graph.group_of["stem"].frozen
    assert graph.group_of["body"].frozen is None


def test_reach_and_costs_load_no_torch():
    code = "import sys, lamella.reach, lamella.costs, lamella.axes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
