"""Planners and orders: every row of both tables keeps one contract; exact planners are held against every plan there is."""

import itertools
import os
import random
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from reporting_records import chain, resnet, score

from lamella.costs import cost
from lamella.errors import BudgetError, LamellaError, RecordError
from lamella.planning import ORDERS, PLANNERS, editable, edited, greedy_measurements, plan, reorder
from lamella.planning.asking import Ask
from lamella.planning.curves import Rung, bit_rungs, group_rungs, monotone, score_at, tenth_of_a_sample
from lamella.planning.elimination import Table, TooWideError, aligned, eliminate
from lamella.planning.order import Choice, sorted_choices
from lamella.planning.products import Network
from lamella.planning.programs import Linear, Program, Solution, nothing_printed
from lamella.planning.ratios import group_shares
from lamella.planning.tabling import CostTables
from lamella.records import dumps, from_plain, loads, to_plain
from lamella.schema import Budget, Plan, Point, Profile

BASE = 0.92
BITS = ((8, 0.0005), (4, 0.004), (2, 0.08))


def measured(graph, seed=0, bits=BITS, widths=9):
    """A profile with curves of many steepnesses, the same for the same seed."""
    rng, points = random.Random(seed), []
    for group in graph.free:
        steep = rng.uniform(0.01, 0.12)
        for i in range(widths, 0, -1):
            width = max(1, round(group.width * i / (widths + 1)))
            value = BASE - steep * (1 - width / group.width) ** 2 * rng.uniform(0.9, 1.1)
            level = 1 - width / group.width
            points.append(Point(target=group.name, knob="pruning_ratio", level=level, width=width, score=score(value)))
    for layer in graph.layers if bits else ():
        harm = rng.uniform(0.1, 1)
        for level, drop in bits:
            points.append(Point(target=layer.name, knob="bits", level=level, score=score(BASE - harm * drop)))
    return Profile(graph=graph, baseline=score(BASE), points=tuple(points))


@pytest.fixture(scope="module")
def option_a():
    """A ResNet with padded shortcuts, whose layers' widths are sums over several groups."""
    import torch

    from lamella.tracing import trace
    from lamella.zoo import make_model

    model = make_model("resnet", depth=8, widths=(8, 16, 32)).eval()
    return trace(model, (torch.zeros(1, 3, 16, 16),))


GRAPHS = {"chain": chain((6, 16, 120, 84, 10)), "resnet": resnet(1, (8, 16, 32))}
OPTIONS = {
    "knapsack": [Budget(bytes="30%"), Budget(macs="50%", params="40%"), Budget(memory="75%"), Budget(max_drop=1.5)],
    "shares": [Budget(params="60%"), Budget(macs="70%"), Budget(max_drop=2.0)],
    "threshold": [Budget(), Budget(max_drop=1.5), Budget(params="97%")],
    "uniform": [Budget(bytes="50%"), Budget(macs="50%", params="40%"), Budget(max_drop=2.0)],
}


def test_every_planner_is_under_contract():
    assert set(OPTIONS) == {name for name in PLANNERS if name != "search"}


def cases():
    return [(p, g, b) for p, budgets in OPTIONS.items() for g in GRAPHS for b in budgets]


def attempt(profile, budget, planner):
    """(plan, None), or (None, the words of the BudgetError)."""
    try:
        return plan(profile, budget, planner=planner), None
    except BudgetError as error:
        return None, str(error)


@pytest.mark.parametrize(("budget", "advised"), [(Budget(macs="1%"), False), (Budget(bytes="1%"), True)])
def test_bits_are_advised_where_they_change_something(budget, advised):
    made, error = attempt(measured(next(iter(GRAPHS.values()))), budget, "knapsack")
    assert made is None
    assert ("or bits in the profile" in error) is advised


@pytest.mark.parametrize(("planner", "name", "budget"), cases())
def test_a_plan_keeps_its_budget_or_says_why_not(planner, name, budget):
    profile = measured(GRAPHS[name])
    graph = profile.graph
    made, error = attempt(profile, budget, planner)
    if error:
        assert re.search(r"no plan by '.*' reaches .* for ", error)
        assert re.search(r"nearest: [\s\S]*try:     a budget of \w+=", error)
        return
    made.check_fits(graph)
    assert made.predicted == cost(graph, made.widths, made.bits)
    for each in ("params", "macs", "bytes", "memory"):
        limit = budget.limit(each, getattr(made.dense, each))
        assert limit is None or getattr(made.predicted, each) <= limit
    if budget.max_drop is not None and planner != "threshold":
        assert 100 * (BASE - made.predicted_score) <= budget.max_drop + 1e-6
    assert plan(profile, budget, planner=planner) == made
    assert loads(dumps(made), Plan) == made


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_every_order_makes_the_same_cuts(order):
    profile = measured(GRAPHS["chain"])
    asked = []

    def measure(widths, bits):
        asked.append(dict(widths))
        return BASE - 0.001 * sum(100 / w for w in widths.values())

    made = plan(profile, Budget(params="40%"), planner="uniform", order=order, measure=measure)
    first = plan(profile, Budget(params="40%"), planner="uniform")
    assert made.widths == first.widths
    assert made.predicted == first.predicted
    assert bool(asked) == (order == "greedy")
    assert reorder(first, profile, order, measure).widths == first.widths
    if order == "greedy":
        assert made.steps[-1].expected == pytest.approx(measure(made.widths, {}))


def test_orders_sort_as_they_say():
    profile = measured(GRAPHS["chain"])
    names = {
        o: [*plan(profile, Budget(params="40%"), planner="uniform", order=o).widths] for o in ("in_order", "reverse")
    }
    assert names["in_order"] == [g.name for g in profile.graph.free]
    assert names["reverse"] == names["in_order"][::-1]
    scores = [s.predicted for s in plan(profile, Budget(params="40%"), planner="uniform").steps]
    assert scores == sorted(scores, reverse=True)
    cheap = plan(profile, Budget(params="40%"), planner="uniform", order="by_cost").widths
    left = [cost(profile.graph, {name: width}).params for name, width in cheap.items()]
    assert left == sorted(left)
    assert len(set(left)) == len(left)


def test_greedy_tries_the_four_best_alone_on_top_of_what_is_cut():
    profile = measured(chain((16,) * 7 + (10,)))
    asked = []

    def measure(widths, bits):
        asked.append(set(widths))
        return -len(asked) / 100

    made = plan(profile, planner="uniform", pruning_ratio=0.5, order="greedy", measure=measure)
    alone = [*plan(profile, planner="uniform", pruning_ratio=0.5).widths]
    assert [*made.widths] == alone  # the first that is tried scores best here
    assert asked[:5] == [{alone[0]}, {alone[1]}, {alone[2]}, {alone[3]}, {alone[0], alone[1]}]
    assert len(asked) == greedy_measurements(7) == 4 + 4 + 4 + 4 + 3 + 2 + 1


def test_expected_scores_add_up_the_drops():
    made = plan(measured(GRAPHS["chain"]), planner="threshold")
    lost = np.cumsum([BASE - s.predicted for s in made.steps])
    assert [s.expected for s in made.steps] == pytest.approx([BASE - x for x in lost])


def brute_force(profile, limits, max_drop=None):
    """The least drop over every plan there is."""
    graph = profile.graph
    widths = {g.name: group_rungs(profile, g) for g in graph.free}
    bits = {x.name: bit_rungs(profile, x.name, {}) for x in graph.multiplying}
    bits = {name: rungs for name, rungs in bits.items() if len(rungs) > 1}
    best = np.inf
    kinds = [
        [r[1:] for r in bits.values()],
        [r[:1] for r in bits.values()],
    ]  # a file is in integers as a whole, or not at all
    for rungs in itertools.chain(*(itertools.product(*widths.values(), *kind) for kind in kinds)):
        drop = sum(r.drop + r.doubt for r in rungs)
        if drop < best:
            levels = [r.level for r in rungs]
            reached = cost(
                graph, dict(zip(widths, levels, strict=False)), dict(zip(bits, levels[len(widths) :], strict=True))
            )
            if all(getattr(reached, n) <= limit for n, limit in limits.items()):
                best = drop
    return best


def in_unit(profile, unit):
    """The same measurements of a score, told in another unit."""

    def scaled(score):
        return replace(score, value=unit * score.value, low=unit * score.low, high=unit * score.high)

    points = tuple(replace(p, score=scaled(p.score)) for p in profile.points)
    return replace(profile, baseline=scaled(profile.baseline), points=points, metric="score")


@pytest.mark.parametrize("seed", range(3))
def test_knapsack_does_not_depend_on_the_unit_of_a_score(seed):
    profile = measured(chain((16, 16, 16, 10)), seed=seed)
    made = [plan(in_unit(profile, u), Budget(bytes="45%"), planner="knapsack") for u in (1.0, 1e-4, 1e-6, 1e3)]
    assert len({str((sorted(each.widths.items()), sorted(each.bits.items()))) for each in made}) == 1


def test_a_tenth_of_a_sample_is_that_of_its_spread():
    profile = measured(GRAPHS["chain"])
    right = tenth_of_a_sample(profile)
    assert right == pytest.approx(10 / profile.baseline.n)
    assert tenth_of_a_sample(in_unit(profile, 1.0)) == pytest.approx(right * np.sqrt(BASE * (1 - BASE)))


def test_a_cut_that_loses_just_what_may_be_lost_is_taken():
    profile = measured(GRAPHS["chain"])
    name, width = profile.graph.free[0].name, 4
    at = Point(target=name, knob="pruning_ratio", level=0.5, width=width, score=score(0.7))
    profile = replace(profile, baseline=score(0.8), points=(at,))
    assert 0.8 - 10 / 100 > 0.7  # in floats
    assert plan(profile, Budget(max_drop=10.0)).widths == {name: width}


@pytest.mark.parametrize("sign", [1, -1])
def test_a_cut_without_a_score_comes_last(sign):
    graph = GRAPHS["chain"]
    first, second = graph.free[:2]
    cuts = [Choice(group=first.name, width=1, score=None), Choice(group=second.name, width=1, score=0.5 * sign)]
    assert [c.group for c in sorted_choices(cuts, graph, "by_score")] == [second.name, first.name]


def test_small_layers_weigh_least_in_eight_bits():
    profile = measured(chain((40, 40, 4, 10)), widths=1)
    best = plan(profile, Budget(max_drop=100.0), planner="knapsack")
    assert {8, 2} <= {*best.bits.values()}
    same = plan(profile, Budget(bytes=best.predicted.bytes), planner="knapsack")
    assert (same.predicted.bytes, same.proof.status) == (best.predicted.bytes, "optimal")


def thinned(profile, widths, bits):
    """Only so many widths per group, 8 or 2 bits for these layers, and 8 for the others."""
    kept = []
    for group in profile.graph.free:
        curve = profile.curve(group.name)
        kept += [curve[len(curve) * (i + 1) // (widths + 1)] for i in range(widths)]
    kept += [p for p in profile.points if p.knob == "bits" and p.level in ((8, 2) if p.target in bits else (8,))]
    return Profile(graph=profile.graph, baseline=profile.baseline, points=tuple(kept))


@pytest.mark.parametrize(
    "budget",
    [
        Budget(bytes="45%"),
        Budget(params="60%", macs="55%"),
        Budget(memory="70%", bytes="70%"),
        Budget(macs="65%", bytes="50%", params="80%"),
    ],
)
def test_knapsack_is_the_best_of_all_plans(option_a, budget):
    profile = thinned(measured(option_a, seed=3), 1, ("layer3.0.conv1", "layer3.0.conv2", "layer1.0.conv2"))
    dense = cost(option_a)
    names = [n for n in ("bytes", "params", "macs", "memory") if getattr(budget, n)]
    best = brute_force(profile, {n: budget.limit(n, getattr(dense, n)) for n in names})
    made = plan(profile, budget, planner="knapsack")
    assert made.proof.value == pytest.approx(best, rel=1e-3, abs=1e-9)
    assert made.proof.bound <= best + 1e-9
    assert made.proof.gap <= 1e-3


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 99), tight=st.integers(12, 60), more=st.integers(1, 30))
def test_a_looser_budget_never_predicts_worse(seed, tight, more):
    profile = measured(GRAPHS["resnet"], seed)
    a = plan(profile, Budget(bytes=f"{tight}%"), planner="knapsack").proof
    b = plan(profile, Budget(bytes=f"{tight + more}%"), planner="knapsack").proof
    assert b.value <= a.value / (1 - 1e-3) + 1e-9
    assert a.status == b.status == "optimal"


def test_a_plan_within_a_drop_is_the_dual(option_a):
    profile = measured(option_a)
    within = plan(profile, Budget(max_drop=3.0), planner="knapsack")
    assert within.proof.objective == "bytes"
    back = plan(profile, Budget(bytes=within.predicted.bytes), planner="knapsack")
    assert back.proof.value <= 3.0 + 0.3
    assert 100 * (BASE - back.predicted_score) == pytest.approx(back.proof.value, abs=0.3)  # the proof has doubts in it


def test_fixed_bits_are_kept_and_counted(option_a):
    profile = measured(option_a, bits=())
    made = plan(profile, Budget(bytes="20%"), planner="knapsack", bits=8)
    assert set(made.bits.values()) == {8}
    assert len(made.bits) == len(option_a.multiplying)
    free = plan(profile, Budget(bytes="60%"), planner="knapsack")
    assert free.bits == {}
    assumed = plan(profile, Budget(bytes="25%"), planner="knapsack", bit_drops={8: 0.01, 4: 0.2})
    assert set(assumed.bits.values()) <= {8, 4}
    assert assumed.bits


def test_where_drops_are_equal_less_is_given_up():
    profile = measured(GRAPHS["chain"])
    flat = Profile(
        graph=profile.graph,
        baseline=profile.baseline,
        points=tuple(replace(p, score=profile.baseline) for p in profile.points),
    )
    made = plan(flat, Budget(bytes="99%"), planner="knapsack")
    assert made.predicted_score == BASE
    assert not made.widths
    assert set(made.bits.values()) <= {8}
    half = plan(flat, Budget(bytes="50%"), planner="knapsack")  # in integers, then
    assert not half.widths
    assert set(half.bits.values()) == {8}


def test_alignment_is_of_what_layers_see(option_a):
    made = plan(measured(option_a), Budget(macs="55%"), planner="knapsack", align=4)
    full = option_a.completed(made.widths)
    for layer in option_a.layers:
        for size in (layer.outputs, layer.inputs) if layer.weight else ():
            assert size.at(full) % 4 == 0 or size.at(full) == size.at(option_a.widths)


def test_depth_prior_spares_early_layers():
    profile = measured(GRAPHS["chain"], bits=())
    plain, prior = (
        plan(profile, Budget(params="40%"), planner="knapsack", depth_prior=p).predicted_score for p in (0.0, 50.0)
    )
    assert prior <= plain + 1e-9
    with pytest.raises(LamellaError, match=r"depth_prior -1 is negative; 0 switches it off"):
        plan(profile, Budget(params="40%"), planner="knapsack", depth_prior=-1)


def test_out_of_time_gives_the_best_so_far(monkeypatch, option_a):
    profile = measured(option_a)
    monkeypatch.setattr("lamella.planning.tabling.LARGEST", 1)  # too wide for prices
    monkeypatch.setattr(Program, "minimize", lambda *_, **__: Solution(None, True, np.inf, 0.05, True))
    made = plan(profile, Budget(bytes="30%"), planner="knapsack", time_limit=0.01)
    assert made.proof.status == "time limit"
    assert 0 < made.proof.gap <= 1
    assert made.predicted.bytes <= 0.3 * made.dense.bytes


def test_a_real_time_limit_leaves_a_plan_within_the_budget(option_a):
    made = plan(measured(option_a), Budget(bytes="15%", macs="50%", memory="80%"), planner="knapsack", time_limit=1e-3)
    assert made.predicted.bytes <= 0.15 * made.dense.bytes
    assert made.predicted.memory <= 0.8 * made.dense.memory
    assert made.proof.status == "time limit" or made.proof.gap <= 1e-3
    assert made.proof.bound <= made.proof.value


@pytest.mark.parametrize("align", [1, 2])
def test_parts_windows_and_one_program_prove_the_same(monkeypatch, option_a, align):
    profile, budget = measured(option_a, seed=5), Budget(bytes="12%", macs="45%", memory="80%")
    options = {"planner": "knapsack", "gap": 1e-4, "align": align}
    proofs = [plan(profile, budget, **options).proof]
    monkeypatch.setattr("lamella.planning.solving.STREAM", 10**6)
    proofs.append(plan(profile, budget, **options).proof)
    monkeypatch.setattr("lamella.planning.tabling.LARGEST", 1)
    proofs.append(plan(profile, budget, **options).proof)
    assert [p.value for p in proofs] == pytest.approx([proofs[0].value] * 3, rel=2e-4)
    assert max(p.gap for p in proofs) <= 1e-4


def test_nothing_is_printed_by_the_solver(capfd):
    """HiGHS reports on a candidate that its own tolerances refuse, whatever it is told."""
    with nothing_printed():
        os.write(1, b"a line from C")
    print("ours")
    assert capfd.readouterr().out == "ours\n"


def test_fifty_groups_are_solved_quickly():
    profile = measured(chain((64,) + (128, 64, 256) * 18, [f"c{i}" for i in range(55)]))
    started = time.process_time()
    made = plan(profile, Budget(bytes="15%", macs="50%"), planner="knapsack", time_limit=30)
    assert made.proof.gap <= 1e-3
    assert time.process_time() - started < 20


# -- threshold -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "width"), [(1.0, 4), (0.9, 2), (0.95, 4), (0.5, 1)])
def test_threshold_takes_the_largest_ratio_that_holds_beyond_a_dip_too(factor, width):
    graph, base = chain((10, 10)), 0.9
    values = {8: base, 6: 0.7, 4: base, 2: 0.82, 1: 0.46}
    points = tuple(
        Point(target="fc0", knob="pruning_ratio", level=1 - w / 10, width=w, score=score(v)) for w, v in values.items()
    )
    made = plan(Profile(graph=graph, baseline=score(base), points=points), planner="threshold", factor=factor)
    assert made.widths == {"fc0": width}
    assert made.threshold == pytest.approx(factor * base)


# -- shares -----------------------------------------------------------------------------------------------------


def test_shares_follow_the_share():
    graph = GRAPHS["chain"]
    made = plan(measured(graph), planner="shares", by="params", pruning_ratio=0.2)
    removed = {g.name: 1 - made.widths.get(g.name, g.width) / g.width for g in graph.free}
    params = {"fc0": 6 * 3, "fc1": 16 * 6, "fc2": 120 * 16, "fc3": 84 * 120}
    assert sorted(removed, key=removed.get) == sorted(params, key=params.get)
    cost_of, mean = group_shares(graph, "params"), np.mean([*removed.values()])
    assert cost_of == pytest.approx({name: n / (sum(params.values())) for name, n in params.items()}, rel=1e-9)
    assert mean == pytest.approx(0.2, abs=0.05)  # whole channels aside
    most = plan(measured(graph), planner="shares", by="params", pruning_ratio=0.9).widths
    assert min(most.values()) >= 1
    assert most["fc3"] == int(84 * 0.05)  # 95 % at most
    with pytest.raises(LamellaError, match="unknown share 'flops'"):
        plan(measured(graph), planner="shares", by="flops", pruning_ratio=0.2)


# -- bad input ------------------------------------------------------------------------------------------------------------


def test_impossible_budgets_name_the_nearest_plan(option_a):
    with pytest.raises(BudgetError) as caught:
        plan(measured(option_a, bits=()), Budget(bytes=2000), planner="knapsack")
    text = str(caught.value)
    assert re.match(r"no plan by 'knapsack' reaches bytes <= 2,000 for ", text)
    assert re.search(r"nearest: bytes [\d,]+, with \d of 8 groups at their floor\.", text)
    assert "frozen:  'linear' (model output" in text
    reachable = int(re.search(r"a budget of bytes=(\d+),", text)[1])
    plan(measured(option_a, bits=()), Budget(bytes=reachable), planner="knapsack")


def test_contradictory_budgets_name_both(option_a):
    with pytest.raises(BudgetError, match=r"one budget less, bits as well as widths") as caught:
        plan(measured(option_a), Budget(bytes="12%", max_drop=0.01), planner="knapsack")
    assert "max_drop <= 0.01" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"planner": "knapsac"}, "unknown planner 'knapsac'; did you mean 'knapsack'?"),
        ({"planner": "knapsack", "order": "greedly"}, "unknown order 'greedly'; did you mean 'greedy'?"),
        ({"planner": "uniform", "order": "greedy"}, "order 'greedy' measures as it goes and needs measure="),
        ({"planner": "knapsack", "factor": 0.9}, "unknown option of planner 'knapsack' 'factor'"),
        ({"planner": "knapsack", "minimize": "flops"}, "minimize='flops': one of max_drop, params"),
        ({"planner": "knapsack", "align": 0}, "align 0 is below 1"),
        ({"planner": "uniform", "pruning_ratio": 50}, "pruning_ratio 50 is not in [0, 1)"),
        ({"planner": "threshold", "factor": 1.5}, "factor 1.5 is not in (0, 1]"),
        (
            {"planner": "threshold", "factor": "abc"},
            "option 'factor' of planner 'threshold': 'abc' where a finite number",
        ),
        ({"planner": "threshold", "factor": (0.9, 0.8)}, "option 'factor' of planner 'threshold': (0.9, 0.8) where"),
        ({"planner": "knapsack", "align": 2.5}, "option 'align' of planner 'knapsack': 2.5 where int was expected"),
    ],
)
def test_bad_options_are_refused_with_their_words(options, words):
    with pytest.raises(LamellaError, match=re.escape(words)):
        plan(measured(GRAPHS["chain"]), Budget(params="50%"), **options)


def test_budgets_that_say_nothing_or_nonsense():
    profile = measured(GRAPHS["chain"])
    with pytest.raises(LamellaError, match=r"knapsack weighs groups against a budget, and it is empty"):
        plan(profile, planner="knapsack")
    with pytest.raises(LamellaError, match=r"uniform needs a pruning_ratio .*, or a budget"):
        plan(profile, planner="uniform")
    with pytest.raises(LamellaError, match=r"a budget in latency_ms needs latency="):
        plan(profile, Budget(latency_ms=1.0), planner="knapsack")
    with pytest.raises(RecordError, match=r"bytes: '120%' is not a share of the dense model"):
        Budget(bytes="120%")
    with pytest.raises(RecordError, match=r"max_drop: -1 is negative"):
        Budget(max_drop=-1)


def test_a_profile_without_the_asked_knob():
    full = measured(GRAPHS["chain"])
    only_bits = Profile(
        graph=full.graph, baseline=full.baseline, points=tuple(p for p in full.points if p.knob == "bits")
    )
    with pytest.raises(LamellaError, match=r"holds no pruning_ratio curve \(it holds: bits\). Measure some first"):
        plan(only_bits, Budget(params="50%"), planner="threshold")
    mixed = plan(only_bits, Budget(bytes="25%"), planner="knapsack")
    assert mixed.widths == {}
    assert min(mixed.bits.values()) < 8
    assert any("no curve, so left dense" in note for note in mixed.notes)
    with pytest.raises(BudgetError, match="no curve"):
        plan(only_bits, Budget(params="50%"), planner="knapsack")


def test_curves_with_holes():
    full = measured(GRAPHS["chain"], bits=())
    points = [p for p in full.points if p.target != "fc2" and not (p.target == "fc1" and 0.3 < p.level < 0.8)]
    holed = Profile(graph=full.graph, baseline=full.baseline, points=tuple(points))
    made = plan(holed, Budget(params="70%"), planner="knapsack")
    assert "fc2" not in made.widths
    assert "no curve, so left dense: fc2" in made.notes
    assert made.widths.get("fc1", 16) in {16, *(p.width for p in points if p.target == "fc1")}
    assert plan(holed, planner="uniform", pruning_ratio=0.5).widths["fc2"] == 60
    with pytest.raises(BudgetError, match=r"no curve, so left dense: 'fc2'"):
        plan(holed, Budget(params="5%"), planner="knapsack")


def test_a_plan_edited_into_nonsense():
    made = plan(measured(GRAPHS["chain"]), planner="threshold")
    plain = to_plain(made)
    plain["steps"][0]["widths"] = {"fc1": 0}
    with pytest.raises(RecordError, match=r"steps\[0\]\.widths\['fc1'\]: 0 channels asked, and nothing leads around"):
        from_plain(plain, Plan).check_fits(GRAPHS["chain"])


# -- the pieces -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 50), max_size=12))
def test_monotone_never_falls_and_keeps_what_is_monotone(drops):
    smooth = monotone(drops)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(smooth))
    assert all(x >= 0 for x in smooth)
    assert sum(monotone([x + 5 for x in drops])) == pytest.approx(sum(drops) + 5 * len(drops))  # as least squares does
    rising = sorted(abs(x) for x in drops)
    assert monotone(rising) == pytest.approx(rising)


def test_scores_between_measured_widths():
    profile = measured(GRAPHS["chain"])
    widths = [p.width for p in profile.curve("fc2")]
    a, b = (p.score.value for p in profile.curve("fc2")[:2])
    assert score_at(profile, "fc2", (widths[0] + widths[1]) // 2) == pytest.approx((a + b) / 2, abs=1e-3)
    assert score_at(profile, "fc2", 120) == BASE
    assert score_at(profile, "fc2", 1) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_elimination_equals_trying_everything(seed):
    rng = np.random.default_rng(seed)
    sizes = {c: int(rng.integers(1, 5)) for c in "abcdef"}
    scopes = [tuple(map(str, rng.choice(list("abcdef"), int(rng.integers(1, 4)), replace=False))) for _ in range(6)]
    tables = [Table(s, rng.random([sizes[n] for n in s])) for s in scopes]
    found = eliminate(sizes, tables)
    total = sum((aligned(t, "abcdef") for t in tables), np.zeros(list(sizes.values())))
    assert found.value == pytest.approx(total.min())
    assert total[tuple(found.choice[c] for c in "abcdef")] == pytest.approx(found.value)
    for scope in (*scopes, ("c",)):
        names = [c for c in "abcdef" if c in scope]
        others = tuple(i for i, c in enumerate("abcdef") if c not in scope)
        assert found.within(names) == pytest.approx(total.min(axis=others))


def test_elimination_refuses_what_is_too_wide():
    names = [f"v{i}" for i in range(9)]
    pairs = [Table((a, b), np.zeros((10, 10))) for a, b in itertools.combinations(names, 2)]
    with pytest.raises(TooWideError):
        eliminate(dict.fromkeys(names, 10), pairs)


AWKWARD = (
    *("chain", "padded_shortcut", "dense_concat", "u_net", "grouped", "depthwise_multiplier", "shuffle_units"),
    *("squeeze_excite", "multihead_module", "tied_modules", "shared", "transposed", "hard_coded_view"),
)


@pytest.mark.parametrize("name", AWKWARD)
def test_programs_and_tables_count_as_costs_do(name):
    from lamella.tracing import trace

    rng = random.Random(0)
    graph = trace(*zoo.BY_NAME[name].make(8))
    widths = {
        g.name: tuple(Rung(level=w, drop=0.1) for w in sorted({g.width, *(g.legal(g.width * f) for f in (0.75, 0.5))}))
        for g in graph.groups
    }
    bits = {x.name: (Rung(level=32, drop=0.0), Rung(level=4, drop=0.2)) for x in graph.multiplying}
    ask = Ask(profile=Profile(graph=graph, baseline=score(BASE), points=()), budget=Budget())
    tables = CostTables(ask, widths, bits, {})
    for _ in range(3):
        w, b = ({n: rng.randrange(len(r)) for n, r in each.items()} for each in (widths, bits))
        levels = [{n: r[i[n]].level for n, r in each.items()} for each, i in ((widths, w), (bits, b))]
        true = cost(graph, *levels)
        summed, fixed = total_of(tables, w, b), forced(ask, widths, bits, w, b)
        for each in ("params", "macs", "bytes"):
            slack = len(bits) if each == "bytes" else 1e-3  # packed bytes are rounded up, layer by layer
            assert summed[each] == pytest.approx(getattr(true, each), abs=1e-3)
            assert fixed[each] == pytest.approx(getattr(true, each), abs=slack)


def total_of(tables, widths, bits):
    """Every cost in the tables at one choice."""
    choice, found = dict(widths), dict(tables.constant)
    for tie in tables.ties:
        first, group, sum_ = tie.names
        choice[sum_] = int(np.argmin(tie.values[choice[first], choice[group]]))
    for term in tables.terms:
        index = (*(choice[n] for n in term.names), bits[term.layer] if term.layer else 0)
        for name, values in term.costs.items():
            found[name] = found.get(name, 0.0) + float(values[index])
    return found


def forced(ask, widths, bits, w, b):
    """Every cost in the program when its picks are forced to one choice."""
    found = {}
    for name in ("params", "macs", "bytes"):
        program = Program()
        network = Network(program, ask, widths, bits)
        cost_ = network.cost(name)
        for picks, index in ((network.width, w), (network.bits, b)):
            for each, pick in picks.items():
                if pick.columns:
                    program.row(Linear({pick.columns[index[each]]: 1.0}), 1, 1)
        low, high = (sign * program.minimize(sign * cost_, seconds=10, gap=1e-9).value for sign in (1.0, -1.0))
        assert low == pytest.approx(high)
        found[name] = low
    return found


def costly_bits(graph, lost=50.0):
    """A profile of bits alone, in which two bits lose so many points in every layer."""
    points = [
        Point(target=layer.name, knob="bits", level=level, score=score(BASE - drop / 100))
        for layer in graph.layers
        for level, drop in ((8, 0.0), (2, lost))
    ]
    return Profile(graph=graph, baseline=score(BASE), points=tuple(points))


@pytest.mark.parametrize("planner", ["knapsack", "uniform", "threshold"])
def test_bits_that_are_given_lose_what_their_curves_say(planner):
    """2 bits everywhere are not lossless because nobody chose them."""
    curves, bits = measured(GRAPHS["chain"]), costly_bits(GRAPHS["chain"], lost=2.0)
    profile = replace(curves, points=(*(p for p in curves.points if p.knob != "bits"), *bits.points))
    few, none = (plan(profile, Budget(params="60%"), planner=planner, bits=b) for b in (2, 32))
    lost = 2.0 * len(GRAPHS["chain"].layers)
    assert 100 * (none.predicted_score - few.predicted_score) == pytest.approx(lost, abs=1e-6)
    if planner != "threshold":  # whose limit is that of a single cut
        with pytest.raises(BudgetError, match=r"max_drop"):
            plan(profile, Budget(max_drop=1.0), planner=planner, bits=2)


def test_what_an_edited_text_gives_few_bits_loses_as_measured():
    profile = costly_bits(GRAPHS["chain"], lost=3.0)
    made = plan(profile, Budget(bytes="50%"), planner="knapsack")
    same = edited(editable(made, profile.graph), profile)
    assert same.predicted_score == pytest.approx(made.predicted_score)
    text = editable(made, profile.graph).replace(": 8", ": 2")
    assert edited(text, profile).predicted_score == pytest.approx(BASE - 0.03 * len(made.bits))
    with pytest.raises(BudgetError, match="a drop of"):
        edited(text, profile, Budget(max_drop=1.0))


@pytest.mark.parametrize("planner", ["uniform", "shares"])
def test_widths_beyond_the_curves_are_not_lossless(planner):
    full = measured(GRAPHS["chain"], bits=())
    mild = replace(full, points=tuple(p for p in full.points if p.level <= 0.5))
    made = plan(mild, Budget(max_drop=3.0), planner=planner)
    lowest = {g.name: min(p.width for p in mild.curve(g.name)) for g in mild.graph.free}
    assert all(width >= lowest[name] for name, width in made.widths.items())
    assert made.predicted_score < BASE
    far = plan(mild, planner=planner, pruning_ratio=0.8)
    assert any(note.startswith("not measured at such widths, and taken to lose nothing") for note in far.notes)
    with pytest.raises(LamellaError, match="max_drop cannot be judged"):
        plan(mild, Budget(params="4%", max_drop=5.0), planner=planner)
    with pytest.raises(LamellaError, match="no pruning_ratio curve"):
        plan(replace(full, points=()), Budget(max_drop=3.0), planner=planner)


def test_uniform_cuts_nothing_where_nothing_need_go():
    assert plan(measured(GRAPHS["chain"]), Budget(macs="100%"), planner="uniform").widths == {}


def test_a_factor_and_a_drop_hold_both():
    profile = measured(GRAPHS["chain"])
    made = plan(profile, Budget(max_drop=0.5), factor=0.5)
    assert made.threshold == pytest.approx(BASE - 0.005)
    assert made.widths == plan(profile, Budget(max_drop=0.5)).widths
    assert plan(profile, Budget(max_drop=50.0), factor=0.99).threshold == pytest.approx(0.99 * BASE)


@pytest.mark.parametrize("goal", ["memory", "macs", "params"])
def test_a_cost_without_bits_leaves_them_as_good_as_they_are(goal):
    made = plan(costly_bits(GRAPHS["chain"]), Budget(**{goal: "100%"}), planner="knapsack", minimize=goal)
    assert made.predicted_score == pytest.approx(BASE)
    assert made.proof.objective == goal


def test_drops_of_bits_may_be_a_text():
    profile = measured(GRAPHS["chain"], bits=())
    ask = {"planner": "knapsack", "budget": Budget(bytes="25%")}
    assert plan(profile, **ask, bit_drops="8:0.01,4:0.2") == plan(profile, **ask, bit_drops={8: 0.01, 4: 0.2})
    with pytest.raises(LamellaError, match=r"bit_drops='8': bits and points such as 8:0,4:0.4"):
        plan(profile, **ask, bit_drops="8")


def test_a_budget_that_bits_alone_miss_counts_no_unmeasured_group():
    with pytest.raises(BudgetError, match="0 of 0 groups at their floor"):
        plan(costly_bits(GRAPHS["chain"]), Budget(bytes="1%"), planner="knapsack")
