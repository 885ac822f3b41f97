"""Width search: published counts, the schedule, racing, controls, metrics, and that a kill loses a pack at most."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from test_stacks import closeness, copying, squared
from test_tables import csv, rows

from lamella.accordions import PUBLISHED, Settings, accordion, pruning
from lamella.accordions.controls import shape_controls
from lamella.accordions.metrics import Truth, best_threshold, detection_metrics, recall_at
from lamella.accordions.searching import looks_of
from lamella.accordions.shapes import (
    is_monotone,
    is_symmetric,
    monotone,
    pairs,
    params,
    scaled,
    shallow,
    singles,
    symmetric_shapes,
)
from lamella.accordions.stacks import Net
from lamella.accordions.working import Bench, Workshop, packed
from lamella.errors import BudgetError, DataError, LamellaError, MismatchError, RecordError
from lamella.schema import Budget
from lamella.statistics import clearly_below
from lamella.tasks import make_task
from lamella.training import Batches, Portion, Recipe, Task
from lamella.zoo import make_model

QUICK = Recipe(epochs=2, lr=0.01, optimizer="adamw", weight_decay=1e-4)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_task("table", csv(tmp_path_factory.mktemp("data") / "t.csv", *rows()[:2]), batch_size=32)


def quick(task, widths=(4, 2, 4), **options):
    recipe = options.pop("recipe", QUICK)
    own = {k: options.pop(k) for k in ("candidates", "symmetric", "journal", "progress") if k in options}
    own.setdefault("candidates", (1, 2, 4))
    return accordion(task, widths, settings=Settings(**{"seeds": 2, **options}), recipe=recipe, **own)


# -- shapes


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_shapes_have_their_published_size(name):
    shape = PUBLISHED[name]
    model = make_model("autoencoder", widths=shape.widths, inputs=shape.inputs, outputs=shape.outputs)
    assert sum(p.numel() for p in model.parameters()) == shape.params
    assert params(shape.widths, shape.inputs, shape.outputs) == shape.params


def test_the_published_reductions_follow():
    size = {name: shape.params for name, shape in PUBLISHED.items()}
    cut = lambda small, large: round(100 * (1 - size[small] / size[large]), 2)
    assert cut("mnist-accordion", "mnist-baseline") == 94.45
    assert cut("fraud-accordion", "fraud-baseline") == 74.02
    assert cut("mnist-32-64-16", "mnist-64-32-16") == 43.42
    assert cut("mnist-4-8-2", "mnist-8-4-2") == 48.86


def test_pairs_go_from_the_outside_in():
    assert pairs(7) == ((0, 6), (1, 5), (2, 4), (3,))
    assert pairs(4) == ((0, 3), (1, 2))
    assert sorted(i for (i,) in singles(5)) == [0, 1, 2, 3, 4]


def test_monotone_keeps_every_unit():
    for widths in ((4, 2, 6, 2, 6, 2, 4), (8, 16, 4, 16, 8), (3,), (5, 1), (2, 9, 9, 2)):
        sorted_ = monotone(widths)
        assert sorted(sorted_) == sorted(widths)
        assert is_monotone(sorted_)
        assert is_symmetric(sorted_) or not is_symmetric(widths)
    assert not is_monotone((4, 2, 6, 2, 6, 2, 4))


def test_no_control_is_the_winner():
    assert is_monotone((8, 4, 6, 12))
    for baseline in ((16, 8, 4, 2, 4, 8, 16), (8, 4, 4, 8), (12, 12)):
        assert [name for name, _ in shape_controls(baseline, baseline, 29, 29)] == ["one hidden layer, equal size"]
    assert not list(shape_controls((5,), (5,), 29, 29))
    for winner in itertools.product((2, 3, 5), repeat=4):
        controls = dict(shape_controls(winner, (8, 4, 4, 8), 29, 29))
        assert winner not in controls.values()
        assert is_monotone(winner) or is_monotone(controls["same widths, monotone"])


def test_controls_of_a_size_have_it():
    for target in (351, 700, 1_351):
        assert abs(params(scaled((16, 8, 4, 2, 4, 8, 16), 29, 29, target), 29, 29) / target - 1) < 0.16
        assert abs(params(shallow(29, 29, target), 29, 29) - target) <= 30
    assert len(set(symmetric_shapes(5, (2, 3)))) == 8


# -- metrics


def truth(n=400, odd=40, seed=0):
    random = np.random.default_rng(seed)
    labels = (np.arange(n) < odd).astype(np.int64)
    scores = 1 / (1 + random.gamma(2, 1, n) + 1.5 * labels)
    weights = np.where(labels == 1, 1.0, 7.0)
    return Truth(labels, weights), scores


def test_metrics_equal_scikit_learns_on_repeated_rows():
    known, scores = truth()
    threshold = best_threshold(known, scores)
    found = detection_metrics(known, scores, threshold)
    repeat = np.repeat(np.arange(len(scores)), known.weights.astype(int))
    labels, odd = known.labels[repeat], -scores[repeat]
    assert found["pr_auc"] == pytest.approx(average_precision_score(labels, odd))
    assert found["f1"] == pytest.approx(f1_score(labels, scores[repeat] <= threshold))
    every = [f1_score(labels, scores[repeat] <= s) for s in np.unique(scores)]
    assert found["f1"] == pytest.approx(max(every))


def test_recall_at_alarms_counts_days_of_rows():
    known = Truth(np.array([1, 0, 1, 0, 1]), np.array([10.0, 50.0, 10.0, 50.0, 10.0]))
    odd = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert recall_at(known, odd, 9) == 0
    assert recall_at(known, odd, 10) == pytest.approx(1 / 3)
    assert recall_at(known, odd, 69) == pytest.approx(1 / 3)
    assert recall_at(known, odd, 70) == pytest.approx(2 / 3)
    assert recall_at(known, odd, 1000) == 1


def test_test_rows_are_judged_by_the_threshold_of_validation(table):
    judge = Bench(table, QUICK).judge
    random = np.random.default_rng(1)
    held, test = random.random(46), random.random(46)
    found = judge.test(held, test)
    assert found["f1"] == pytest.approx(detection_metrics(judge.final, test, best_threshold(judge.held, held))["f1"])
    with pytest.raises(DataError, match="not finite"):
        judge.validation(held * np.nan)


# -- racing


def test_stopping_is_wrong_no_more_often_than_stated():
    random = np.random.default_rng(0)
    wrong = right = 0
    for _ in range(300):
        means = np.array([0.9, 0.9, 0.9, 0.85, 0.5])
        spread = np.array([0.01, 0.03, 0.01, 0.02, 0.05])
        table = means[:, None] + random.normal(0, 0.05, 3) + random.normal(size=(5, 3)) * spread[:, None]
        lost = clearly_below(table, int(table.mean(1).argmax()), 0.05)
        wrong += bool(lost[:3].any())
        right += bool(lost[4])
    assert wrong / 300 <= 0.05
    assert right / 300 > 0.9


def test_seeds_before_each_look():
    assert looks_of(2) == [2]
    assert looks_of(5) == [3, 5]
    assert looks_of(13) == [3, 6, 12, 13]


def separable(n=240):
    """Two classes that one unit tells apart only with luck, and four easily."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    x = torch.eye(4)[y].repeat(1, 2) + 0.3 * torch.randn(n, 8, generator=generator)
    parts = [(x[i::3], y[i::3]) for i in range(3)]
    train, held, test = (Batches(*part, 16, shuffle=i == 0) for i, part in enumerate(parts))
    return Task((x[:1],), train=train, validation=held, test=test)


def test_a_hopeless_width_stops_early_and_says_so():
    recipe = Recipe(epochs=15, lr=0.03, optimizer="adamw")
    found = quick(separable(), (8,), candidates=(1, 6, 8), seeds=6, recipe=recipe)
    dropped = {shape.widths: shape for shape in found.tried if shape.dropped}
    assert set(dropped) == {(1,)}
    assert dropped[1,].validation.n == 3
    assert found.widths in ((6,), (8,))
    whole = quick(separable(), (8,), candidates=(1, 6, 8), seeds=6, recipe=recipe, race=False)
    assert whole.widths == found.widths
    assert not any(shape.dropped for shape in whole.tried)


# -- the search


def test_the_schedule_keeps_the_best_of_each_pair(table):
    found = quick(table, (4, 4, 2, 4, 4))
    assert [sweep.layers for sweep in found.sweeps] == [(0, 4), (1, 3), (2,)]
    now = found.baseline
    for sweep in found.sweeps:
        for shape in sweep.shapes:
            assert is_symmetric(shape.widths)
            assert {i for i, (a, b) in enumerate(zip(shape.widths, now, strict=True)) if a != b} <= set(sweep.layers)
        best = max((s for s in sweep.shapes if not s.dropped), key=lambda s: s.validation.value)
        assert best.validation.value == pytest.approx(
            next(s for s in sweep.shapes if s.widths[sweep.layers[0]] == sweep.width).validation.value
        )
        now = tuple(sweep.width if i in sweep.layers else w for i, w in enumerate(now))
    assert found.widths == now


def test_every_run_has_its_controls(table):
    found = quick(table)
    roles = [entry.role for entry in found.entries]
    assert roles[:2] == ["baseline", "winner"]
    labels = " ".join(entry.name for entry in found.entries)
    for control in ("plain, equal size", "one hidden layer, equal size", "PCA", "isolation forest"):
        assert control in labels
    winner = found.entry("winner")
    assert winner.below["f1"].value == pytest.approx(found.entry("baseline").test["f1"].value - winner.test["f1"].value)
    assert {c.against for c in found.comparisons} == {e.name for e in found.entries if e.role != "winner"}
    assert len(winner.per_seed) == 2


def test_a_table_of_one_column_has_no_components_to_leave_out(tmp_path):
    values, labels, _ = rows()
    narrow = make_task("table", csv(tmp_path / "t.csv", values[:, :1], labels, names=("a",)), batch_size=64)
    found = quick(narrow, (2,), candidates=(1, 2), recipe=Recipe(epochs=1))
    labels = " ".join(entry.name for entry in found.entries)
    assert "isolation forest" in labels
    assert "PCA" not in labels


def test_the_metric_chosen_is_the_one_followed(table):
    found = quick(table, metric="roc_auc")
    assert found.metric == "roc_auc"
    winner = found.entry("winner")
    assert winner.validation.value == pytest.approx(np.mean(winner.per_seed))
    with pytest.raises(LamellaError, match=r"unknown metric 'prauc'; did you mean 'pr_auc'"):
        quick(table, metric="prauc")


def test_a_budget_of_parameters_is_kept_by_either_method(table):
    limit = params((2, 1, 2), 3, 3)
    for method in ("sequential", "joint", "prune"):
        found = quick(table, method=method, budget=Budget(params=limit), trials=8)
        assert found.entry("winner").params <= limit, method
        assert found.method == method
    with pytest.raises(BudgetError, match=r"no shape reaches 5 parameters.*the smallest has \d+.*smaller candidates"):
        quick(table, budget=Budget(params=5))
    with pytest.raises(LamellaError, match="method 'prune' needs a budget"):
        quick(table, method="prune")
    with pytest.raises(LamellaError, match=r"none of the candidate widths 9, 12 is below the baseline's 4, 2, 4, so"):
        quick(table, (4, 2, 4), method="prune", candidates=(9, 12), budget=Budget(params="70%"))


def test_a_drop_is_spent_on_parameters():
    recipe = Recipe(epochs=15, lr=0.03, optimizer="adamw")
    loose = quick(separable(), (8, 8), candidates=(1, 4, 8), seeds=2, recipe=recipe, budget=Budget(max_drop=100))
    assert loose.widths == (1, 1)
    tight = quick(separable(), (8, 8), candidates=(1, 4, 8), seeds=2, recipe=recipe, budget=Budget(max_drop=10))
    assert tight.entry("winner").params <= tight.entry("baseline").params
    assert tight.entry("winner").validation.value >= tight.entry("baseline").validation.value - 0.1 - 1e-9


def test_pruned_networks_are_held_against_fresh_ones(table):
    found = quick(table, method="prune", budget=Budget(params="70%"))
    assert found.entry("winner").name == "pruned"
    fresh = next(entry for entry in found.entries if entry.name == "same widths, fresh weights")
    assert fresh.widths == found.widths
    assert found.entry("winner").params < found.entry("baseline").params


def test_searches_that_prune_other_baselines_share_a_journal_and_no_plan(table, tmp_path):
    asked = {"method": "prune", "budget": Budget(params="70%"), "candidates": (2,), "recipe": Recipe(epochs=1)}
    quick(table, (4,), journal=tmp_path / "j.jsonl", **asked)
    quick(table, (6,), journal=tmp_path / "j.jsonl", **asked)
    wanted = quick(table, (6,), journal=tmp_path / "own.jsonl", **asked)
    assert quick(table, (6,), journal=tmp_path / "j.jsonl", **asked) == wanted


def test_a_plan_prunes_by_the_metric_of_the_search(table, tmp_path):
    asked = {
        "method": "prune",
        "candidates": (1, 2),
        "recipe": Recipe(epochs=8, lr=0.01),
        "journal": tmp_path / "j.jsonl",
    }
    for metric in ("f1", "roc_auc"):
        found = quick(table, (8, 4, 8), metric=metric, budget=Budget(max_drop=0), **asked)
        lines = [json.loads(line) for line in asked["journal"].read_text().splitlines()[1:]]
        *_, made = (line["value"] for line in lines if line["key"].startswith("plan of"))
        assert made["predicted_score"] == pytest.approx(found.entry("baseline").per_seed[0]), metric


def test_a_drop_that_was_not_kept_is_told(monkeypatch):
    recipe = Recipe(epochs=15, lr=0.03, optimizer="adamw")
    asked = {"method": "prune", "candidates": (1,), "recipe": recipe}
    kept = quick(separable(), (8,), budget=Budget(max_drop=100), **asked)
    assert not any("max_drop" in note for note in kept.notes)
    planning = pruning.plan
    monkeypatch.setattr(pruning, "plan", lambda curves, _, **options: planning(curves, Budget(params="30%"), **options))
    fallen = quick(separable(), (8,), budget=Budget(max_drop=0), **asked)
    lost = 100 * (fallen.entry("baseline").validation.value - fallen.entry("winner").validation.value)
    told = f"the winner's accuracy on validation is {lost:.2f} points below the baseline's: max_drop=0 was not kept."
    assert told in fallen.notes


def test_layers_may_move_alone(table):
    found = quick(table, (4, 2, 3), symmetric=False)
    assert [sweep.layers for sweep in found.sweeps] == [(0,), (2,), (1,)]
    with pytest.raises(LamellaError, match=r"widths 4-2-3 do not read the same from both ends.*symmetric=False"):
        quick(table, (4, 2, 3))


def test_rows_without_labels_can_be_copied():
    found = quick(copying(), (3, 2, 3), candidates=(2, 3))
    assert found.metric == "score"
    assert found.outputs == 6
    assert not any("PCA" in entry.name for entry in found.entries)


# -- workers and kills


def test_packs_hold_every_network_once_and_waste_little(table):
    bench = Bench(table, QUICK)
    nets = [Net(w, s) for w in ((128, 64, 128), (2, 2, 2), (3, 2, 3), (5,)) for s in range(3)]
    packs = packed(nets, bench)
    assert sorted((n for pack in packs for n in pack), key=repr) == sorted(nets, key=repr)
    assert [{n.widths for n in pack} for pack in packs] == [{(5,)}, {(2, 2, 2), (3, 2, 3)}, {(128, 64, 128)}]


def test_a_killed_search_resumed_equals_one_that_was_not(table, tmp_path):
    class KilledError(Exception):
        pass

    whole = quick(table, seeds=3, journal=tmp_path / "whole.jsonl")
    for stop in (3, 7):
        calls = []

        def dying(stage, done, total, note="", stop=stop, calls=calls):
            calls.append(stage)
            if len(calls) > stop:
                raise KilledError

        path = tmp_path / f"{stop}.jsonl"
        with pytest.raises(KilledError):
            quick(table, seeds=3, journal=path, progress=dying)
        before = path.read_text()
        path.write_text(before + '{"key": "4-2-4 se')  # the kill fell into a line
        assert quick(table, seeds=3, journal=path) == whole
        assert path.read_text().startswith(before)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines[1:]]
    assert len(keys) == len(set(keys))


def test_nothing_is_trained_twice(table, tmp_path):
    quick(table, journal=tmp_path / "j.jsonl")
    seen = []
    quick(table, journal=tmp_path / "j.jsonl", progress=lambda stage, done, total, note="": seen.append((done, total)))
    assert seen
    assert all(done == total for done, total in seen)


@pytest.mark.parametrize("method", ["sequential", "joint"])
def test_a_search_asked_again_tells_the_same_whatever_else_the_journal_holds_by_then(method, tmp_path):
    asked = {
        "widths": (8,),
        "candidates": (1, 6, 8),
        "seeds": 6,
        "method": method,
        "trials": 20,
        "recipe": Recipe(epochs=15, lr=0.03, optimizer="adamw"),
        "journal": tmp_path / "j.jsonl",
    }
    found = quick(separable(), **asked)
    assert any(shape.dropped for shape in found.tried)
    quick(separable(), **asked, race=False)  # also the seeds that the stopped shapes were spared
    assert quick(separable(), **asked) == found


def test_a_journal_of_other_data_or_recipe_is_refused(table, tmp_path):
    quick(table, journal=tmp_path / "j.jsonl")
    with pytest.raises(MismatchError, match=r"recipe\.lr was 0\.01 and is 0\.02"):
        quick(table, journal=tmp_path / "j.jsonl", recipe=replace(QUICK, lr=0.02))
    with pytest.raises(MismatchError, match="data was"):
        quick(copying(), journal=tmp_path / "j.jsonl")


def test_processes_give_the_same(table):
    nets = [Net(widths, seed) for widths in ((4, 2, 4), (2, 3, 2)) for seed in range(2)]
    found = []
    for executor in ("serial", "processes"):
        shop = Workshop(Bench(table, QUICK), Settings(executor=executor, workers=2))
        found.append({net: (o.validation, o.test) for net, o in shop.outcomes(nets, "both").items()})
        assert not shop.notes
    for net in nets:
        for here, there in zip(found[0][net], found[1][net], strict=True):
            assert there == pytest.approx(here, abs=1e-6)


def test_a_task_that_cannot_be_sent_runs_here_and_says_so():
    task = replace(copying(), score=lambda outputs, targets: closeness(outputs, targets))
    found = quick(task, (3, 2, 3), candidates=(2, 3), executor="processes")  # never starts one
    assert any("ran in this process" in note for note in found.notes)


# -- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"widths": (4, 0, 4)}, r"widths 4, 0, 4: at least one hidden layer was expected, and whole numbers from 1 on"),
        ({"widths": ()}, "widths none: at least one"),
        ({"candidates": (0, 2)}, "widths 0, 2"),
        ({"seeds": 1}, "at least two, or there is no interval"),
        ({"method": "joined"}, "unknown method 'joined'"),
        ({"budget": Budget(bytes=5)}, "a budget of bytes: an accordion is searched under params or max_drop"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"executor": "cluster"}, "unknown executor 'cluster'"),
    ],
)
def test_nonsense_is_refused(table, options, words):
    with pytest.raises(LamellaError, match=words):
        quick(table, **options)


@pytest.mark.parametrize("method", ["sequential", "joint", "prune"])
def test_a_recipe_that_networks_side_by_side_cannot_follow_is_refused(table, method):
    recipe = replace(QUICK, patience=1, label_smoothing=0.1, distil=0.5, devices=2, precision="bf16-mixed")
    words = "with patience=1, label_smoothing=0.1, distil=0.5, devices=2, precision='bf16-mixed': the networks .* Leave patience"
    with pytest.raises(LamellaError, match=words):
        quick(table, method=method, recipe=recipe, budget=Budget(params="70%"))


def test_a_rate_that_diverges_names_the_network(table):
    with pytest.raises((DataError, RecordError), match=r"the loss of .*seed \d.* became (nan|inf)"):
        quick(table, recipe=Recipe(epochs=30, lr=1e12, optimizer="sgd", schedule="constant"), activation="relu")


@pytest.mark.parametrize(("shape", "words"), [((4,), r"float32, \(30, 4\)"), ((), r"float32, \(30,\)")])
def test_targets_that_are_neither_classes_nor_rows(shape, words):
    task = copying(batch_size=30)
    held = [(x, torch.zeros(len(x), *shape)) for x, _ in task.validation]
    with pytest.raises(
        DataError, match=rf"targets \(torch\.{words}\) are neither class numbers.*Give classes as targets.long\(\)"
    ):
        quick(replace(task, validation=held, loss=squared), (3, 2, 3))


@pytest.mark.parametrize("kind", ["batches", "portion", "list"])
def test_a_class_that_only_training_holds_has_its_output(kind):
    task = separable()
    batches = Batches(task.train.inputs, torch.arange(len(task.train.inputs)) % 5, 16, shuffle=True)
    train = {"batches": batches, "portion": Portion(batches, 16), "list": list(batches)}[kind]
    bench = Bench(replace(task, train=train, calibration=task.validation), QUICK)
    assert bench.outputs == 5
    assert len(bench.measured([Net((3,), 0)])) == 1


def test_a_class_below_0_is_told_by_its_batch():
    task = separable()
    train = Batches(task.train.inputs, task.train.targets - 1, 16)
    with pytest.raises(DataError, match=r"the targets of batch 0 reach from -1 to .* no output for class -1"):
        Bench(replace(task, train=train, calibration=task.validation), QUICK).trained([Net((3,), 0)])
