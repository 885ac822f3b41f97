"""What is done with plans: worth of layers, fronts, comparing, editing, planning again."""

import json
from dataclasses import replace

import pytest
from reporting_records import chain, raced, resnet, score
from scipy.stats import spearmanr
from test_planning import measured

from lamella.costs import cost
from lamella.errors import BudgetError, LamellaError, MismatchError, RecordError
from lamella.planning import (
    compare,
    depth_test,
    editable,
    edited,
    front_csv,
    front_record,
    pareto,
    plan,
    reorder,
    replan,
    sensitivity,
    significance,
    with_residue,
)
from lamella.planning.curves import score_at
from lamella.schema import Budget, Profile


@pytest.fixture(scope="module")
def profile():
    return measured(resnet(1, (8, 16, 32)))


def test_significance_is_the_documented_ratio():
    found = measured(chain(), bits=())
    values = {s.target: s.value for s in significance(found, by="macs")}
    curve = found.curve("fc2")
    dense = cost(found.graph).macs
    saved = sum(100 * (1 - cost(found.graph, {"fc2": p.width}).macs / dense) for p in curve)
    lost = sum(100 * (found.baseline.value - p.score.value) for p in curve)
    assert values["fc2"] == pytest.approx(lost / saved, rel=0.02)  # the curve is monotone but for noise
    assert [s.rank for s in significance(found)] == [1, 2, 3, 4]
    with pytest.raises(LamellaError, match="by='flops'"):
        significance(found, by="flops")


def test_significance_of_bits(profile):
    bits = [s for s in significance(profile) if s.knob == "bits"]
    assert {s.target for s in bits} == {x.name for x in profile.graph.layers}
    assert [s.value for s in bits] == sorted((s.value for s in bits), reverse=True)


def test_depth_and_sensitivity():
    graph = chain((32,) * 8 + (10,))
    found = measured(graph, bits=())
    order = [g.name for g in graph.free]
    harm = {name: 1 - i / 10 for i, name in enumerate(order)}
    base = found.baseline.value

    def scaled(point):
        value = base - harm[point.target] * point.level
        return replace(point, score=replace(point.score, value=value, low=0.0, high=1.0))

    steep = Profile(graph=graph, baseline=found.baseline, points=tuple(map(scaled, found.points)))
    test = depth_test(steep)
    assert test.rho == pytest.approx(-1)
    drops = [*sensitivity(found).values()]
    assert (depth_test(found).rho, depth_test(found).p) == pytest.approx(tuple(spearmanr(range(len(drops)), drops)))
    assert "early groups are more sensitive" in test.text
    one = replace(steep, points=tuple(p for p in steep.points if p.target == order[0]))
    assert (depth_test(one).rho, depth_test(one).p, depth_test(one).n) == (0.0, 1.0, 1)
    assert "does not tell" in depth_test(one).text


def test_sensitivity_is_that_of_the_curves_whatever_levels_a_race_asked():
    found = raced(chain((20, 20, 20, 10)))
    drops = [*sensitivity(found).values()]
    assert drops == sorted(drops, reverse=True)
    assert drops[0] == pytest.approx((0.1 * 0.5 + 0.1 * 1.5 + 0.3 * 2.5) / 0.5, rel=0.02)
    assert depth_test(found).rho == pytest.approx(-1)


def test_a_front_gets_worse_as_it_gets_tighter(profile):
    front = pareto(profile, "bytes", ("60%", "22%", "15%", "1%"))
    spent = [p.plan.predicted.bytes for p in front]
    scores = [p.plan.predicted_score for p in front]
    assert len(front) == 3
    assert spent == sorted(spent, reverse=True)
    assert scores == sorted(scores, reverse=True)
    lines = front_csv(front_record(front, "bytes")).splitlines()
    assert lines[0] == "limit,bytes,params,macs,memory,predicted_score,drop,latency_ms,gap,measured_score"
    assert len(lines) == 4
    flat = replace(profile, points=tuple(replace(p, score=profile.baseline) for p in profile.points))
    assert len(pareto(flat, "bytes", ("60%", "50%", "40%"))) == 1  # of plans that cost and lose the same
    with pytest.raises(LamellaError, match="axis 'flops'"):
        pareto(profile, "flops")
    with pytest.raises(BudgetError):
        pareto(profile, "bytes", ("1%",))


def test_two_plans_side_by_side(profile):
    a, b = plan(profile, Budget(bytes="40%"), planner="knapsack"), plan(profile, planner="uniform", pruning_ratio=0.5)
    seen = compare(a, b)
    assert {d.target for d in seen.differences if d.knob == "width"} == {
        n for n in {*a.widths, *b.widths} if a.widths.get(n) != b.widths.get(n)
    }
    assert seen.figures["bytes"] == (a.predicted.bytes, b.predicted.bytes)
    assert f"{len(seen.differences)} differences" in seen.text
    assert compare(a, a).differences == ()
    assert compare(a, a).same_order
    one, other = (reorder(b, profile, order) for order in ("in_order", "reverse"))
    assert "0 differences, another order" in compare(one, other).text
    with pytest.raises(MismatchError, match="two networks"):
        compare(a, replace(b, structure="another"))


def test_a_plan_survives_the_editor(profile):
    made = plan(profile, Budget(bytes="40%"), planner="knapsack", epochs=2)
    back = edited(editable(made, profile.graph), profile)
    assert (back.widths, back.bits, back.predicted) == (made.widths, made.bits, made.predicted)
    assert [s.epochs for s in back.steps] == [s.epochs for s in made.steps]
    assert [s.predicted for s in back.steps] == pytest.approx([s.predicted for s in made.steps])
    assert edited(editable(back, profile.graph), profile) == back


def test_an_edited_plan_adds_up_what_its_groups_lose_however_often_they_are_cut(profile):
    cuts = [("conv1", 6), ("layer2.0.conv1", 9), ("conv1", 3)]
    first, apart, second = (score_at(profile, name, width) for name, width in cuts)
    steps = [{"widths": {name: width}} for name, width in cuts]
    made = edited(json.dumps({"steps": steps}), profile)
    assert [s.predicted for s in made.steps] == pytest.approx([first, apart, second])
    expected = [first, first + apart - profile.baseline.value, second + apart - profile.baseline.value]
    assert [s.expected for s in made.steps] == pytest.approx(expected)
    assert made.predicted_score == pytest.approx(expected[-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: d["steps"][0].update(widths={"conv1": 40}),
            r"steps\[0\]\.widths\['conv1'\]: 40 channels asked, 8 exist",
        ),
        (
            lambda d: d["steps"][0].update(widths={"conv9": 4}),
            r"steps\[0\]\.widths\['conv9'\]: unknown group 'conv9'; did you",
        ),
        (
            lambda d: d["steps"][1].update(widths={"conv1": "4"}),
            r"steps\[1\]\.widths\['conv1'\]: '4' where a whole number",
        ),
        (lambda d: d["steps"][0].update(width={"conv1": 4}), r"steps\[0\]\.width: not a field of a step"),
        (lambda d: d["steps"][0].update(bits={"conv1": 9}), r"steps\[0\]\.bits\['conv1'\]: 9 bits: 2 to 8, or 32"),
        (lambda d: d["steps"][0].update(bits={"nope": 8}), r"steps\[0\]\.bits\['nope'\]: unknown layer"),
        (lambda d: d["steps"][0].update(epochs=-1), r"steps\[0\]\.epochs: -1 is negative"),
        (lambda d: d["steps"][0].update(epochs="two"), r"steps\[0\]\.epochs: 'two' is not a whole number"),
        (lambda d: d.update(steps=3), r"steps: a list of steps was expected"),
        (lambda d: d.update(stepz=3), r"stepz: not a field of an editable plan"),
        (
            lambda d: d.update(steps=[{"widths": {"conv1": 4}}, {"widths": {"conv1": 6}}]),
            r"steps\[1\]\.widths\['conv1'\]: 6 channels after a step left 4",
        ),
    ],
)
def test_nonsense_from_the_editor_has_a_path_and_a_reason(profile, change, words):
    made = plan(profile, planner="uniform", pruning_ratio=0.5)
    data = json.loads(editable(made, profile.graph))
    change(data)
    with pytest.raises(RecordError, match=words):
        edited(json.dumps(data), profile)


def test_bits_from_the_editor_go_to_layers_that_take_them(profile):
    layers = tuple(replace(x, weight=None) if x.name == "conv1" else x for x in profile.graph.layers)
    other = replace(profile, graph=replace(profile.graph, layers=layers))
    with pytest.raises(RecordError, match=r"steps\[0\]\.bits\['conv1'\]: no convolution or linear layer: leave it out"):
        edited(json.dumps({"steps": [{"bits": {"conv1": 8}}]}), other)


def test_an_edited_plan_is_held_to_model_budget_and_syntax(profile):
    made = plan(profile, planner="uniform", pruning_ratio=0.2)
    text = editable(made, profile.graph)
    with pytest.raises(RecordError, match=r"line 3, column \d+: not JSON"):
        edited("\n".join([*text.splitlines()[:2], "oops"]), profile)
    with pytest.raises(MismatchError, match="structure"):
        edited(text, measured(chain()))
    with pytest.raises(BudgetError, match=r"no plan by 'uniform, by_score, edited' reaches params <= "):
        edited(text, profile, Budget(params="10%"))


def test_planning_again_after_some_steps(profile):
    graph = profile.graph
    made = plan(profile, Budget(bytes="50%"), planner="uniform")
    taken = made.steps[:2]
    done = {n: w for s in taken for n, w in s.widths.items()}
    groups = tuple(replace(g, width=done.get(g.name, g.width)) for g in graph.groups)
    narrowed = measured(replace(graph, groups=groups), seed=5, bits=())
    again = replan(made, 2, narrowed, Budget(bytes="40%"), planner="knapsack")
    assert again.steps[:2] == taken
    assert again.structure == made.structure
    assert again.predicted.bytes <= 0.4 * made.dense.bytes
    even = replan(made, 2, narrowed, planner="uniform", pruning_ratio=0.5)
    for later in (again, even):
        cuts = [name for step in later.steps for name in step.widths]
        assert len(cuts) == len(set(cuts)) > len(done)
    with pytest.raises(MismatchError, match="the fresh profile is of another network"):
        replan(made, 2, profile, Budget(bytes="40%"), planner="knapsack")
    with pytest.raises(LamellaError, match="99 steps taken: the plan has"):
        replan(made, 99, profile)


def test_what_was_lost_on_the_way_counts(profile):
    """Limits on the score are those of the original network, though the fresh curves begin lower."""
    made = plan(profile, planner="threshold", factor=0.97)
    ((name, width),) = made.steps[0].widths.items()
    groups = tuple(replace(g, width=width) if g.name == name else g for g in profile.graph.groups)
    fresh = measured(replace(profile.graph, groups=groups), seed=5, bits=())
    lower = lambda seen: score(seen.value - 0.01)
    points = tuple(replace(p, score=lower(p.score)) for p in fresh.points)
    fresh = replace(fresh, baseline=lower(fresh.baseline), points=points)
    rest = replan(made, 1, fresh, planner="threshold")
    assert rest.threshold == pytest.approx(made.threshold)
    assert len(rest.steps) > 1
    assert all(step.predicted >= made.threshold for step in rest.steps[1:])
    within = replan(replace(made, threshold=None), 1, fresh, Budget(max_drop=3.0), planner="knapsack")
    assert 2.0 < 100 * (made.dense_score - within.predicted_score) <= 3.0 + 1e-6


def test_a_file_over_its_budget_is_planned_again_with_the_residue(profile):
    budget = Budget(bytes="40%")
    made = plan(profile, budget, planner="knapsack")
    heavy = made.predicted.bytes + 2000
    tighter = with_residue(budget, made, heavy)
    again = plan(profile, tighter, planner="knapsack")
    assert again.predicted.bytes + 2000 <= 0.4 * made.dense.bytes
    assert with_residue(budget, made, made.predicted.bytes) == budget
    with pytest.raises(LamellaError, match="more than predicted, and only"):
        with_residue(budget, made, 10**9)
