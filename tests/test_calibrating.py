"""Calibration data that cannot do, or does badly: refused with figures, or told with the layer's name."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lamella.calibrating import check_calibration, uneven, unusual
from lamella.coarsening import observe, observe_places
from lamella.compression import compress
from lamella.costs import cost
from lamella.elasticity import How, elasticize, publish
from lamella.errors import DataError
from lamella.latencies import written
from lamella.quantization import quantize
from lamella.schema import Plan
from lamella.stages.elastic import elasticized
from lamella.tracing import trace
from lamella.training import Batches, Recipe, Task
from lamella.zoo import PaddedShortcut

PIXELS = torch.randint(256, (64, 3, 6, 6), generator=torch.Generator().manual_seed(0)).float()


def batches(x):
    return Batches(x, torch.zeros(len(x), dtype=torch.int64), 16)


@pytest.fixture(scope="module")
def task():
    data = batches((PIXELS - 128) / 74)
    return Task((data.inputs[:1],), train=data, validation=data, test=data)


@pytest.fixture(scope="module")
def small(task):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    ).eval()
    graph = trace(model, task.example_inputs)
    plan = Plan(structure=graph.structure, planner="uniform", steps=(), predicted=cost(graph), dense=cost(graph))
    return compress(model, plan, task, graph=graph)


def quantized(small, task, x):
    return quantize(*small, replace(task, calibration=batches(x)))[1]


def with_nan(x):
    return x.masked_fill(torch.arange(6) == 3, float("nan"))


REFUSED = [
    (lambda x: x[..., :5], r"batch 0: .* shapes \[\(3, 6, 5\)\]; those of the example inputs, \[\(3, 6, 6\)\]"),
    (lambda x: x.double(), r"cannot compute with inputs of float64: its weights are float32"),
    (with_nan, r"batch 0: 288 of 1728 values are not finite"),
    (
        lambda x: x * 74 + 128,
        r"other data .*input lies in \[0, 255\], mean 12\d.*validation lies in \[-1\.7\d, 1\.7\d\]",
    ),
    (
        lambda x: x * 74 / 255 + 128 / 255,
        r"lies in \[0, 1\], .* Prepare both alike \(scaled to 0\.\.1\? normalized\?\)",
    ),
    (lambda x: 0 * x, r"lies in \[0, 0\], mean 0, spread 0; that of validation"),
    (lambda x: x[:0], r"calibration: the loader gave no batch"),
]


@pytest.mark.parametrize(("spoil", "says"), REFUSED)
def test_data_that_cannot_do_are_refused(spoil, says, small, task):
    with pytest.raises(DataError, match=says):
        quantized(small, task, spoil(task.validation.inputs))


@pytest.mark.parametrize(("spoil", "says"), [each for each in REFUSED if "float64" not in each[1]])
def test_they_are_refused_where_elastic_networks_are_published_too(spoil, says, small, task, tmp_path):
    bad = replace(task, calibration=batches(spoil(task.validation.inputs)))
    net = elasticize(small[0], (0.5,), task, method="none", graph=trace(small[0], task.example_inputs, round_to=1))
    with pytest.raises(DataError, match=says):
        publish(net, bad, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_refuses_them_before_its_elastic_network_is_trained(task):
    session = SimpleNamespace(task=replace(task, calibration=batches(PIXELS)))
    with pytest.raises(DataError, match=r"other data .*input lies in \[0, 255\]"):
        elasticized(session, None, session.task, How("sandwich", Recipe(epochs=1)))


def test_a_family_says_that_its_ranges_come_of_few_samples(small, task, tmp_path):
    few = replace(task, calibration=batches(task.validation.inputs[:20]))
    net = elasticize(small[0], (0.5,), task, method="none", graph=trace(small[0], task.example_inputs, round_to=1))
    for _ in range(2):  # and once, however often it is published
        told = [note for note in publish(net, few, tmp_path, slots=1).family.notes if "ranges come" in note]
        assert told == [
            "in integers, ranges come from 20 samples of calibration data; 32 or more were expected. What others reach is cut off."
        ]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (with_nan, r"^calibration batch 0: 288 of 1728 values are not finite, and no range can come of them"),
        (lambda x: x[:0], r"^calibration: the loader gave no batch"),
    ],
)
def test_files_that_are_only_timed_refuse_what_makes_no_file_in_the_same_words(spoil, says, small, task, tmp_path):
    timed = lambda x: written(small[0], replace(task, calibration=batches(x)), "int8", tmp_path / "0.onnx")
    with pytest.raises(DataError, match=says):
        timed(spoil(task.validation.inputs))
    assert timed(PIXELS).exists()  # ranges take no time


def test_validation_data_that_are_not_finite_are_blamed_themselves(small, task):
    with pytest.raises(DataError, match=r"^validation batch 0: \d+ of \d+ values are not finite"):
        quantize(*small, replace(task, validation=batches(with_nan(task.validation.inputs))))


def test_every_input_is_looked_at(task):
    x = task.validation.inputs
    pair, strange = (
        Batches((x, y), torch.zeros(len(x), dtype=torch.int64), 16)
        for y in (torch.randn(len(x), 5), 9 * torch.randn(len(x), 5))
    )
    two = Task((x[:1], torch.randn(1, 5)), train=pair, validation=pair, test=pair)
    assert check_calibration(two, 4) == []
    with pytest.raises(DataError, match=r"its input 1 lies in \[-\d+"):
        check_calibration(replace(two, calibration=strange), 4)


def test_batches_of_one_are_judged_together(task):
    x = task.validation.inputs.clone()
    x[0] = 0.25  # a blank picture
    y, labels = torch.randn(len(x), 1), torch.zeros(len(x), dtype=torch.int64)
    singly = Batches((x, y), labels, 1)
    two = Task((x[:1], y[:1]), train=singly, validation=singly, test=singly)
    assert check_calibration(two, 32) == []
    with pytest.raises(DataError, match="its input 0 lies in"):
        check_calibration(replace(two, calibration=Batches((9 * x, y), labels, 1)), 32)


@pytest.mark.parametrize("validation", [torch.ones(1, 1), torch.ones(4, 1)])
def test_values_without_a_spread_judge_nothing(validation):
    x = torch.randn(32, 1)
    assert check_calibration(Task((x,), train=batches(x), validation=batches(validation), test=batches(x)), 2) == []


def test_data_as_in_training_raise_no_brow(small, task):
    assert quantized(small, task, task.validation.inputs).notes == ()
    assert check_calibration(task, 8) == []


def test_few_samples_are_told(small, task):
    (note,) = quantized(small, task, task.validation.inputs[:16]).notes
    assert "ranges come from 16 samples of calibration data; 32 or more were expected" in note


def test_an_outlier_is_told_with_its_layer_and_figures(small, task):
    model, result = small
    x = task.validation.inputs.clone()
    x[5, 1, 2, 3] = 200.0
    (note,) = quantize(model, result, replace(task, calibration=batches(x)))[1].notes
    assert "outliers stretch the ranges of activations: '0' [-1.73, 200], 99.9 % in [-1.7" in note
    assert "Fewer than 32 of 256 levels" in note


def test_what_stays_zero_is_told_with_its_layer(small, task):
    model, result = small
    dead = nn.Sequential(*model)
    dead[0] = nn.Conv2d(3, 8, 3)
    nn.init.zeros_(dead[0].weight), nn.init.constant_(dead[0].bias, -1.0)
    coarse, found = quantize(dead, result, task)
    assert [n for n in found.notes if "inputs of '2' are zero throughout the calibration data" in n]
    assert torch.isfinite(coarse(task.validation.inputs)).all()


def test_zeros_that_are_joined_to_channels_are_no_word_worth():
    joins = nn.Sequential(nn.Conv2d(3, 4, 1), PaddedShortcut(4, 8, 2))
    seen = observe_places(joins, ["0"], [(torch.randn(8, 3, 6, 6), None)])
    assert [place for place, s in seen.spreads.items() if s.low == s.high == 0]
    assert unusual(seen.by_reader()) == []


def test_the_bulk_is_where_nearly_all_values_lie():
    x = torch.randn(4, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    x.view(-1)[::4001] = 50.0
    seen = observe(nn.Sequential(nn.Identity()), ["0"], [(x, None)])["0"]
    assert seen.high == 50.0
    assert seen.bulk()[1] == pytest.approx(3.29, abs=0.5)
    assert unusual({"0": seen})
    plain = observe(nn.Sequential(nn.Identity()), ["0"], [(x.clamp(-4, 4), None)])
    assert unusual(plain) == []


def stretched(factor):
    """Two layers, and the same two where one channel between them is larger and read smaller."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    with torch.no_grad():
        model[0].weight[5] *= factor
        model[0].bias[5] *= factor
        model[2].weight[:, 5] /= factor
    return model.eval()


def test_a_channel_that_leaves_no_levels_to_the_others_is_told_and_what_it_costs(small, task):
    x = torch.randn(512, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    data = Batches(x, stretched(1)(x).argmax(1), 64)
    same = replace(task, train=data, validation=data, test=data, calibration=data)
    assert quantize(stretched(1), small[1], same)[1].notes == ()
    uneven_note, loss_note = quantize(stretched(1000), small[1], same)[1].notes
    assert "in inputs of '2' (channel 5 to " in uneven_note
    assert "half of them have 8 of 256 levels or fewer" in uneven_note
    assert (
        "`lamella.equalize(model, graph, task)` (`lamella quantize RUN --equalize`) divides such channels"
        in uneven_note
    )
    assert loss_note.startswith("rounding costs ")
    assert "100.00 % in float" in loss_note
    assert "of the same 512 samples" in loss_note
    assert quantize(stretched(1000), small[1], same, scheme="dynamic-fc")[1].notes == ()


def test_channels_are_told_along_the_axis_that_a_layer_reads():
    x = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
    tokens = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    wide = observe_places(tokens, ["0", "2"], [(x * torch.tensor([1, 1, 1, 1, 1, 500.0]), None)])
    assert [len(reach_C) for reach_C in wide.reaches.values()] == [6, 6]
    assert [note for note in uneven(wide) if "'0' (channel 5 to " in note]
    lonely = nn.Sequential(nn.Conv1d(9, 2, 3))
    assert [len(reach_C) for reach_C in observe_places(lonely, ["0"], [(x, None)]).reaches.values()] == [9]
    assert [len(reach_C) for reach_C in observe_places(lonely, ["0"], [(x[0], None)]).reaches.values()] == [9]


def test_dead_channels_and_lone_outliers_are_no_uneven_ones():
    x = torch.randn(64, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, :5] = 0
    assert uneven(observe_places(nn.Sequential(nn.Conv2d(8, 2, 1)), ["0"], [(x, None)])) == []
    x[0, 7, 0, 0] = 400.0
    seen = observe_places(nn.Sequential(nn.Conv2d(8, 2, 1)), ["0"], [(x, None)])
    assert unusual(seen.by_reader())
    assert uneven(seen) == []


def test_an_end_of_next_to_nothing_is_told_as_zero():
    x = torch.randn(4, 1, 100, 100, generator=torch.Generator().manual_seed(0)).relu().clamp(max=1)
    x.view(-1)[::4001] = 50.0
    (note,) = unusual(observe(nn.Sequential(nn.Identity()), ["0"], [(x, None)]))
    assert "'0' [0, 50], 99.9 % in [0, 1" in note
