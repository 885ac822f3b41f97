"""The exact planner against every plan there is, where limits are met exactly; and what it says when it has no plan."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import zoo
from reporting_records import chain, resnet, score

from lamella.costs import cost
from lamella.errors import BudgetError, LamellaError
from lamella.planning import editable, edited, pareto, plan
from lamella.planning.curves import bit_rungs, group_rungs
from lamella.planning.programs import Program, Solution
from lamella.schema import Budget, Point, Profile

N, RIGHT = 1000, 920  # samples, and how many of them the dense network gets right


def counted(graph, cuts=(), bits=(), n=N, right=RIGHT):
    """Curves as whole numbers of samples lost: {(group, width): lost}, {(layer, bits): lost}."""
    points = [
        Point(
            target=name,
            knob="pruning_ratio",
            level=1 - width / graph.group_of[name].width,
            width=width,
            score=score((right - lost) / n, n),
        )
        for (name, width), lost in dict(cuts).items()
    ]
    points += [
        Point(target=name, knob="bits", level=level, score=score((right - lost) / n, n))
        for (name, level), lost in dict(bits).items()
    ]
    return Profile(graph=graph, baseline=score(right / n, n), points=tuple(points))


def drawn(graph, seed, bits=(8, 2), most=6, widths=2):
    """Curves of so many widths and bits, with a few samples lost at each."""
    rng, cuts = random.Random(seed), {}
    for group in graph.free:
        lost = 0
        for width in sorted(rng.sample(range(1, group.width), min(widths, group.width - 1)), reverse=True):
            lost += rng.randint(0, most)
            cuts[group.name, width] = lost
    few = {(x.name, b): rng.randint(0, most) for x in graph.multiplying for b in bits}
    return counted(graph, cuts, few)


def every_plan(profile):
    """Rows of (drop, drop as weighed, bytes, params, macs, memory), one per plan."""
    graph, found = profile.graph, []
    widths = {g.name: group_rungs(profile, g) for g in graph.free}
    bits = {x.name: bit_rungs(profile, x.name, {}) for x in graph.multiplying}
    bits = {name: rungs for name, rungs in bits.items() if len(rungs) > 1}
    kinds = [[rungs[1:] for rungs in bits.values()], [rungs[:1] for rungs in bits.values()]]
    for each in kinds if bits else kinds[:1]:
        for rungs in itertools.product(*widths.values(), *each):
            w = {n: r.level for n, r in zip(widths, rungs, strict=False)}
            b = {n: r.level for n, r in zip(bits, rungs[len(widths) :], strict=True)}
            now = cost(graph, w, b)
            drop, weighed = sum(r.drop for r in rungs), sum(r.drop + r.doubt for r in rungs)
            found.append((drop, weighed, now.bytes, now.params, now.macs, now.memory))
    return np.array(found)


WAYS = pytest.mark.parametrize("way", ["prices", "one program"])


@pytest.fixture
def solving(monkeypatch, way):
    if way == "one program":
        monkeypatch.setattr("lamella.planning.tabling.LARGEST", 1)  # too wide for prices


# -- limits that are met exactly --------------------------------------------------------------------------------------------


@WAYS
def test_a_drop_that_is_spent_exactly_is_kept(solving):
    profile = counted(chain((16, 16, 4)), {("fc0", 8): 1, ("fc1", 8): 2})
    made = plan(profile, Budget(max_drop=0.3), planner="knapsack")
    assert made.widths == {"fc0": 8, "fc1": 8}
    assert made.proof.status == "optimal"


@WAYS
@pytest.mark.parametrize("seed", range(6))
def test_the_best_plan_within_a_whole_number_of_samples(solving, seed):
    profile = drawn(chain((6, 5, 4, 3)) if seed % 2 else resnet(1, (4, 6)), seed, bits=(8, 4) if seed % 3 else ())
    rows = every_plan(profile)
    lost = sorted(set(np.round(rows[:, 0] * N / 100, 6)))
    for samples in [x for x in lost if x == round(x)][:4]:
        best = rows[rows[:, 0] <= samples * 100 / N + 1e-9, 2].min()
        proof = plan(profile, Budget(max_drop=samples * 100 / N), planner="knapsack").proof
        assert best <= proof.value <= best * (1 + 1e-3) + 1e-6
        assert proof.bound <= best


@WAYS
@pytest.mark.parametrize("seed", range(4))
def test_a_budget_of_the_least_bytes_is_met(solving, seed):
    profile = drawn(chain((9, 7, 5, 3)) if seed % 2 else chain((5, 3)), seed, bits=(8, 4, 2), widths=1)
    rows = every_plan(profile)
    least = int(rows[:, 2].min())
    made = plan(profile, Budget(max_drop=99.0), planner="knapsack", gap=0.0)
    assert made.predicted.bytes == least >= made.proof.bound - 1e-6
    made = plan(profile, Budget(bytes=least), planner="knapsack")
    assert made.proof.value == pytest.approx(rows[rows[:, 2] == least, 1].min(), rel=1e-3)
    with pytest.raises(BudgetError, match=f"nearest: bytes {least:,}"):
        plan(profile, Budget(bytes=least - 1), planner="knapsack")


def test_a_file_in_float_is_offered_where_fewer_channels_are_slower():
    class Odd:
        """12 channels in half the time of 16, 8 in more."""

        def layer_ms(self, layer, inputs, outputs, bits):
            return {16: 1.0, 12: 0.5, 8: 1.5}.get(outputs, 0.1)

        def predict(self, graph, widths, bits):
            full = graph.completed(widths)
            return sum(self.layer_ms(x, 0, x.outputs.at(full), 32) for x in graph.layers)

    graph = chain((16, 16, 4))
    cuts = {(name, width): lost for name in ("fc0", "fc1") for width, lost in ((12, 2), (8, 4))}
    profile = counted(graph, cuts, {(x.name, 8): 10 for x in graph.layers})
    made = plan(profile, Budget(latency_ms=1.2), planner="knapsack", latency=Odd())
    assert made.bits == {}
    assert made.widths == {"fc0": 12, "fc1": 12}


@WAYS
@pytest.mark.parametrize("name", ["mixer", "weight_slices"])
def test_macs_that_are_products_of_three_widths_are_priced_as_counted(solving, name):
    profile = drawn(zoo.traced(name, 4)[2], 3, bits=(8,), widths=3)
    rows = every_plan(profile)
    for drop in np.quantile(rows[:, 0], (0.2, 0.6)):
        made = plan(profile, Budget(max_drop=drop), planner="knapsack", minimize="macs", gap=0.0)
        assert made.predicted.macs == rows[rows[:, 0] <= drop + 1e-9, 4].min()
        assert made.proof.status == "optimal"
    for macs in np.quantile(rows[:, 4], (0.2, 0.6)):
        proof = plan(profile, Budget(macs=macs), planner="knapsack", gap=0.0).proof
        assert proof.value == pytest.approx(rows[rows[:, 4] <= macs, 1].min(), abs=1e-6)


# -- no plan in time --------------------------------------------------------------------------------------------------------


def out_of_time(monkeypatch, bound=0.05):
    monkeypatch.setattr("lamella.planning.tabling.LARGEST", 1)
    monkeypatch.setattr(Program, "minimize", lambda *_, **__: Solution(None, True, np.inf, bound, True))


def test_a_descent_states_the_gap_of_what_was_minimized(monkeypatch):
    profile = drawn(resnet(1, (4, 6)), 1, bits=())
    full = plan(profile, Budget(bytes="60%"), planner="knapsack", depth_prior=2.0).proof
    out_of_time(monkeypatch, full.bound)
    proof = plan(profile, Budget(bytes="60%"), planner="knapsack", depth_prior=2.0).proof
    assert proof.value >= full.value - 1e-9
    assert proof.gap == pytest.approx((proof.value - full.bound) / proof.value)
    assert (proof.status == "optimal") == (proof.gap <= 1e-3)


@pytest.mark.parametrize("options", [{"minimize": "memory"}, {"minimize": "macs"}, {"minimize": "bytes", "align": 2}])
def test_a_descent_keeps_the_drop_and_the_alignment(monkeypatch, options):
    profile = drawn(resnet(1, (4, 6)), 2, bits=(8,), widths=3)
    out_of_time(monkeypatch)
    made = plan(profile, Budget(max_drop=1.0), planner="knapsack", **options)
    assert 100 * (made.dense_score - made.predicted_score) <= 1.0 + 1e-9
    assert made.proof.status == "time limit"
    goal = options["minimize"]
    assert getattr(made.predicted, goal) < getattr(made.dense, goal)
    assert not [w for n, w in made.widths.items() if w % options.get("align", 1)]


def test_dense_in_float_is_where_a_descent_begins(monkeypatch):
    graph = chain((16, 16, 4))
    profile = counted(graph, {("fc0", 8): 50, ("fc1", 8): 50}, {(x.name, 8): 50 for x in graph.layers})
    out_of_time(monkeypatch)
    made = plan(profile, Budget(max_drop=0.5), planner="knapsack", minimize="macs")
    assert not made.widths
    assert not made.bits


def test_an_error_out_of_time_says_so(monkeypatch):
    profile = counted(chain((16, 16, 4)), {("fc0", 8): 50, ("fc1", 8): 50})
    out_of_time(monkeypatch, bound=-math.inf)
    with pytest.raises(BudgetError, match=r"(?s)no plan was found within time_limit=2 seconds.*a longer time_limit="):
        plan(profile, Budget(params="60%", max_drop=0.5), planner="knapsack", time_limit=2.0)


def test_an_error_of_the_solver_is_no_proof(monkeypatch):
    from types import SimpleNamespace

    import scipy.optimize

    broken = SimpleNamespace(x=None, status=4, mip_dual_bound=None)
    monkeypatch.setattr(scipy.optimize, "milp", lambda *_, **__: broken)
    program = Program()
    solution = program.minimize(program.pick((1, 2)).linear((1, 2)), seconds=1, gap=0.0)
    assert solution.possible
    assert solution.bound == -math.inf


# -- kinds of files ---------------------------------------------------------------------------------------------------------


class Timed:
    """Milliseconds of files in one precision, whatever the bits; faster in integers."""

    def __init__(self, precision):
        self.precision = precision

    def layer_ms(self, layer, inputs, outputs, bits):
        return outputs * (0.01 if self.precision == "int8" else 0.04)

    def predict(self, graph, widths, bits):
        full = graph.completed(widths)
        return sum(self.layer_ms(x, 0, x.outputs.at(full), 32) for x in graph.layers)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_plan_is_of_the_kind_that_its_milliseconds_describe(precision):
    graph, latency = chain((16, 16, 4)), Timed(precision)
    cuts = {(name, 8): 2 for name in ("fc0", "fc1")}
    for lost in (0, 50):  # integers free, and dear
        profile = counted(graph, cuts, {(x.name, 8): lost for x in graph.layers})
        made = plan(profile, Budget(latency_ms="80%"), planner="knapsack", latency=latency)
        assert bool(made.bits) == (precision == "int8")
        assert edited(editable(made, graph), profile, latency=latency).latency_ms == pytest.approx(made.latency_ms)
        with pytest.raises(LamellaError, match="latency predictor describes files in"):
            edited(editable(made, graph), profile, latency=Timed("fp32" if precision == "int8" else "int8"))
    bits, other, instead = (8, "int8", 32) if precision == "fp32" else (32, "fp32", 8)
    advice = rf"Give latency= one of {other} \(--measure precision={other}\), or bits={instead} \(--bits {instead}\)"
    with pytest.raises(LamellaError, match=rf"is in (float|integers) and the latency predictor describes .*{advice}"):
        plan(profile, Budget(latency_ms="80%"), planner="uniform", bits=bits, latency=latency)


def test_bits_of_some_layers_are_no_choice():
    graph = chain((16, 16, 4))
    profile = counted(graph, {("fc0", 8): 1, ("fc1", 8): 1}, {("fc1", 8): 0})
    made = plan(profile, Budget(params="60%"), planner="knapsack")
    assert made.bits == {}
    assert any("no bits curve for fc0, fc2 (bit_drops=" in note for note in made.notes)
    with pytest.raises(BudgetError, match=r"no bits curve for fc0, fc2 \(bit_drops="):
        plan(profile, Budget(bytes="30%"), planner="knapsack")
    assert set(plan(profile, Budget(params="60%"), planner="knapsack", bit_drops={8: 0.0}).bits) <= {
        "fc0",
        "fc1",
        "fc2",
    }


# -- figures of any size, fronts, options -----------------------------------------------------------------------------------


def test_networks_of_many_macs_are_as_possible_as_others():
    small = drawn(resnet(1, (4, 6)), 4, bits=())
    layers = tuple(replace(x, positions=x.positions * 10**8) for x in small.graph.layers)
    large = replace(small, graph=replace(small.graph, layers=layers))
    assert cost(large.graph).macs > 1e13
    options = {"planner": "knapsack", "minimize": "macs"}
    for budget in (Budget(max_drop=1.0), Budget(max_drop=2.0, memory="80%")):
        made, same = plan(large, budget, **options), plan(small, budget, **options)
        assert made.widths == same.widths
        assert made.proof.gap <= 1e-3


def test_a_front_over_the_drop():
    front = pareto(drawn(chain((6, 5, 4)), 5), "max_drop")
    drops, weights = [p.row.drop for p in front], [p.plan.predicted.bytes for p in front]
    assert len(front) > 1
    assert drops == sorted(drops, reverse=True)
    assert weights == sorted(weights)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gap": -1.0}, "gap=-1.0: a share of the best value"),
        ({"gap": math.nan}, "option 'gap' of planner 'knapsack': nan where a finite number was expected"),
        ({"gap": "x"}, "option 'gap' of planner 'knapsack': 'x' where a finite number was expected"),
        ({"time_limit": -3}, "time_limit=-3: seconds, 0 or more"),
        ({"depth_prior": math.nan}, "option 'depth_prior' of planner 'knapsack': nan where a finite number"),
        ({"align": 1.5}, "option 'align' of planner 'knapsack': 1.5 where int was expected"),
        ({"bit_drops": {5: 0.1, 1: 0.2}}, "bit_drops={1: 0.2}: bits from 2 to 8"),
        ({"bit_drops": {4: -3}}, "bit_drops={4: -3}: bits from 2 to 8"),
    ],
)
def test_options_that_are_no_figures(options, words):
    with pytest.raises(LamellaError) as caught:
        plan(drawn(chain((6, 5, 4)), 6), Budget(params="80%"), planner="knapsack", **options)
    assert words in str(caught.value)
