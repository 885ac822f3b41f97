"""Narrowing: the laws, over every network of the zoo."""

import copy

import numpy as np
import pytest
import torch
import zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lamella.errors import LamellaError, RecordError
from lamella.surgery import masked, narrow, resolve, retraced
from lamella.tracing import trace

every_net = pytest.mark.parametrize("name", zoo.NAMES)


def halves(graph):
    return {g.name: g.legal(g.width / 2) for g in graph.free}


def random_channels(graph, seed, share=0.5):
    """Channels drawn at random, the legal number of every part."""
    generator = np.random.default_rng(seed)
    kept = {}
    for group in graph.free:
        labels = np.asarray(group.parts) if group.parts else np.zeros(group.width, dtype=int)
        counts = group.counts(group.legal(group.width * share))
        chosen = [generator.choice(np.flatnonzero(labels == p), n, replace=False) for p, n in enumerate(counts)]
        kept[group.name] = sorted(int(c) for part in chosen for c in part)
    return kept


def assert_equal_outputs(a, b, tolerance=0.0):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape
        assert float((x - y).abs().max()) <= tolerance * float(y.abs().max())


@every_net
def test_full_width_is_the_identity_bit_for_bit(name):
    model, inputs, graph = zoo.traced(name)
    same = narrow(model, graph, graph.widths)
    for (n, a), (m, b) in zip(model.state_dict().items(), same.state_dict().items(), strict=True):
        assert n == m
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
    assert_equal_outputs(zoo.outputs(same, inputs), zoo.outputs(model, inputs))


@every_net
def test_narrowed_equals_masked(name):
    model, inputs, graph = zoo.traced(name)
    model, inputs = zoo.widened(model, inputs)
    for seed in range(2):
        kept = random_channels(graph, seed)
        small, twin = narrow(model, graph, kept), masked(model, graph, kept)
        assert_equal_outputs(zoo.outputs(small, inputs), zoo.outputs(twin, inputs), 1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(zoo.NAMES), st.integers(0, 10**6), st.data())
def test_any_subset_of_groups_at_any_width_equals_masked(name, seed, data):
    model, inputs, graph = zoo.traced(name)
    model, inputs = zoo.widened(model, inputs)
    shares = {g.name: data.draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])) for g in graph.free}
    kept = {n: random_channels(graph, seed, share)[n] for n, share in shares.items()}
    assert_equal_outputs(
        zoo.outputs(narrow(model, graph, kept), inputs), zoo.outputs(masked(model, graph, kept), inputs), 1e-9
    )


@every_net
def test_every_free_group_removes_parameters_by_itself(name):
    model, _, graph = zoo.traced(name)
    dense = sum(p.numel() for p in model.parameters())
    for group in graph.free:
        small = narrow(model, graph, {group.name: group.legal(group.width / 2)})
        assert sum(p.numel() for p in small.parameters()) < dense


@every_net
def test_the_given_model_is_left_as_it_was(name):
    model, _, graph = zoo.traced(name)
    before = zoo.fingerprint(model)
    narrow(model, graph, halves(graph))
    masked(model, graph, resolve(model, graph, halves(graph)))
    assert zoo.fingerprint(model) == before


@every_net
def test_tracing_the_narrowed_model_gives_the_planned_widths(name):
    model, inputs, graph = zoo.traced(name)
    kept = resolve(model, graph, halves(graph))
    again = trace(narrow(model, graph, kept), inputs, round_to=1, prove=False)
    planned = retraced(graph, kept)
    shapes = {p.name: tuple(a.size.at(planned.widths) // a.blocks for a in p.axes) for p in planned.parameters}
    assert shapes == {p.name: tuple(a.size.at(again.widths) // a.blocks for a in p.axes) for p in again.parameters}
    assert sorted(g.width for g in planned.groups) == sorted(g.width for g in again.groups)
    assert all(sum(rung) <= g.width and len(g.parts) == g.width for g in planned.groups for rung in g.ladder)


@every_net
def test_stock_attributes_agree(name):
    model, _, graph = zoo.traced(name)
    for module in narrow(model, graph, halves(graph)).modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Conv3d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.ConvTranspose2d):
            assert module.weight.shape[:2] == (module.in_channels, module.out_channels // module.groups)
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.InstanceNorm2d):
            assert len(module.weight) == module.num_features
        elif isinstance(module, nn.LayerNorm):
            assert tuple(module.weight.shape) == module.normalized_shape
        elif isinstance(module, nn.GroupNorm):
            assert len(module.weight) == module.num_channels
        elif isinstance(module, nn.PReLU):
            assert len(module.weight) == module.num_parameters
        elif isinstance(module, nn.Embedding):
            assert module.weight.shape[1] == module.embedding_dim


def test_tied_weights_stay_tied_and_frozen_parameters_stay_frozen():
    model, _, graph = zoo.traced("tied_modules")
    small = narrow(model, graph, halves(graph))
    assert small[1].weight is small[3].weight
    model = copy.deepcopy(zoo.traced("chain")[0]).requires_grad_(False)
    small = narrow(model, zoo.traced("chain")[2], {"0.0": 3})
    assert not any(p.requires_grad for p in small.parameters())
    assert small[0][0].out_channels == 3


def test_the_best_channels_stay():
    model, _, graph = zoo.traced("chain")
    kept = resolve(model, graph, {"0.0": 3}, ranking="l1")["0.0"]
    norms = model[0][0].weight.detach().abs().sum((1, 2, 3))
    assert set(kept) == set(norms.topk(3).indices.tolist())
    assert resolve(model, graph, {"0.0": np.int64(3)}, ranking="l1")["0.0"] == kept
    with pytest.raises(LamellaError, match="unknown importance 'l3'; did you mean"):
        narrow(model, graph, {"0.0": 3}, ranking="l3")


@pytest.mark.parametrize(
    ("name", "keep", "words"),
    [
        ("chain", {"nope": 3}, r"\['nope'\]: no such group in this model"),
        ("chain", {"0.0": 9}, r"\['0.0'\]: 9 channels asked, 8 exist"),
        ("chain", {"0.0": [1, 1]}, r"\['0.0'\]: a channel is named twice"),
        ("chain", {"0.0": [0, 8]}, r"\['0.0'\]: channel 8 asked, 8 exist"),
        ("chain", {"2.2": 3}, r"\['2.2'\]: the group is frozen at 5: model output"),
        ("chain", {"0.0": 4.0}, r"\['0.0'\]: 4.0 is neither a width, a whole number, nor a list of channels"),
        ("chain", {"0.0": []}, r"\['0.0'\]: 0 channels asked"),
        ("grouped", {"1.0": 6}, r"\['1.0'\]: 6 is not a multiple of 4, the balanced parts"),
        (
            "grouped",
            {"1.0": [0, 1, 2, 3]},
            r"\['1.0'\]: unbalanced: \[4, 0, 0, 0\] channels in the parts where \[1, 1, 1, 1\]",
        ),
        ("shuffle_units", {"0.0": 7}, r"\['0.0'\]: 7 is not one of the widths at which its parts balance"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_path(name, keep, words):
    model, _, graph = zoo.traced(name)
    with pytest.raises(RecordError, match=words):
        narrow(model, graph, keep)


def test_a_graph_of_another_model_is_refused():
    _, _, graph = zoo.traced("chain")
    with pytest.raises(LamellaError, match="belongs to another model"):
        narrow(zoo.traced("residual")[0], graph, {"0.0": 3})


def test_a_grouped_convolution_that_one_channel_a_group_is_left_of_stays_grouped():
    """Its numbers are then those of a depthwise one, whose groups leave with its channels; these stay."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4), nn.ReLU(), nn.Conv2d(32, 4, 1)
    )
    x = torch.randn(2, 1, 8, 8)
    graph = trace(model.eval(), (x,), round_to=1)
    keep = {"0": tuple(range(0, 16, 4)), "2": tuple(range(0, 32, 2))}
    once = narrow(model, graph, keep)
    first = narrow(model, graph, {"0": keep["0"]})
    stepped = narrow(first, retraced(graph, {"0": keep["0"]}), {"2": keep["2"]})
    for small in (once, stepped):
        assert small[2].groups == 4
        assert torch.equal(small(x), once(x))
