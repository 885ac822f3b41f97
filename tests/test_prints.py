"""Layer fingerprints: what they show is what was measured, on one scale, and likeness is likeness of what is seen."""

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from goldens import same_marks
from reporting_records import HOSTILE, chain, profile, resnet, score

from lamella.reporting import print_marks, svg
from lamella.reporting.losses import loss_at, losses, mean_losses
from lamella.reporting.prints import glyph_marks, layer_prints, likeness, scale_of
from lamella.reporting.prints.glyph import HEIGHT, WIDTH
from lamella.reporting.prints.likeness import _clusters
from lamella.schema import Point, Profile


def areas(marks):
    """The ink above the line, per layer: the hill's room is its bounding box, so count the path's own area."""
    found = {}
    for mark in marks:
        if mark.role.startswith("loss loss-") and mark.shape == "path" and mark.about:
            found[mark.about.removeprefix("print ")] = _area(mark.path)
    return found


def _area(path):
    head, _, tail = path.removeprefix("M").partition("V")
    points = [tuple(map(float, pair.split())) for pair in head.split("L")]
    foot = float(tail.partition("H")[0])
    return sum((b[0] - a[0]) * (2 * foot - a[1] - b[1]) / 2 for a, b in pairwise(points))


def test_every_layer_has_a_glyph_inside_its_tile():
    graph = resnet()
    prints = layer_prints(graph, profile(graph, bits=True))
    assert [p.name for p in prints] == [x.name for x in graph.layers]
    scale = scale_of(prints)
    for found in prints:
        for mark in glyph_marks(found, scale, 100, 50):
            assert 100 <= mark.x <= mark.x + mark.width <= 100 + WIDTH
            assert 50 <= mark.y <= mark.y + (mark.height if mark.shape != "text" else 0) <= 50 + HEIGHT


def test_ink_ranks_layers_by_sensitivity():
    """The trial of docs/fingerprints.md in numbers: five layers of one network, ranked by ink alone."""
    rng = random.Random(1)
    graph = chain((64, 64, 64, 64, 64, 10))
    for _ in range(20):
        knees = rng.sample(range(15, 95, 5), 5)
        curves = steep(graph, dict(zip([g.name for g in graph.free], knees, strict=True)))
        ink = areas(print_marks(graph, curves))
        order = mean_losses(curves)
        assert sorted(ink, key=ink.get) == sorted(order, key=order.get)


def steep(graph, knees):
    """Curves that fall at a knee, in per cent pruned."""
    points = []
    for name, knee in knees.items():
        for tenth in range(1, 10):
            value = 0.1 + 0.85 / (1 + (10 * tenth / knee) ** 5)
            points.append(Point(target=name, knob="pruning_ratio", level=tenth / 10, width=64, score=score(value)))
    return Profile(graph=graph, baseline=score(0.95), points=tuple(points))


def test_one_scale_for_all():
    graph = resnet()
    curves = profile(graph)
    prints = layer_prints(graph, curves)
    scale = scale_of(prints)
    alone = {p.name: glyph_marks(p, scale) for p in prints}
    twins = [p for p in prints if p.group == "conv1"]
    hills = [[m.path for m in alone[p.name] if m.role == "ridge"] for p in twins]
    assert len(hills) > 1
    assert all(hill == hills[0] for hill in hills)
    assert scale.height(scale.loss) == 1.0
    assert scale.height(scale.loss / 4) == pytest.approx(0.5)


def test_numbers_are_those_of_the_profile():
    graph = chain()
    curves = replace(
        profile(graph, bits=True),
        facts={"fc1": {"effective_rank": 0.7, "receptive_field": 64.0, "picture_side": 32.0, "latency_ms": 1.0}},
    )
    found = {p.name: p for p in layer_prints(graph, curves)}["fc1"]
    assert found.pruning == losses(curves, "fc1")
    assert found.traits == {"redundancy": pytest.approx(0.3), "field": 0.5}
    assert found.shares["latency"] == 1.0
    assert sum(p.shares["params"] for p in layer_prints(graph, curves)) == pytest.approx(1.0)
    assert "without" not in str(found)
    assert "points lost per percent of bytes" in str(found)


def test_masked_filters_are_a_line_of_their_own():
    graph = chain()
    points = tuple(
        Point(target="fc0", knob="masked_ratio", level=k / 10, width=6, score=score(0.98 - 0.05 * k)) for k in (2, 5, 8)
    )
    curves = replace(profile(graph), points=(*profile(graph).points, *points))
    one = next(p for p in layer_prints(graph, curves) if p.name == "fc0")
    assert [level for level, _ in one.masked] == [0.2, 0.5, 0.8]
    assert one.pruning == losses(profile(graph), "fc0")
    roles = [m.role for m in glyph_marks(one, scale_of([one]))]
    assert roles.count("masked") == 1
    assert roles.count("ridge") == 1


def test_what_was_not_measured_is_not_drawn_as_nothing_lost():
    graph = chain()
    bare = print_marks(graph, None)
    assert not [m for m in bare if m.role == "ridge" and m.about]
    assert [m.text for m in bare if m.role == "caption faint" and m.about].count("not measured") == len(graph.layers)
    assert print_marks(graph, Profile(graph=graph, baseline=score(0.9), points=()))


def test_losses_are_read_between_levels_and_not_beyond():
    curve = ((0.2, 0.1), (0.6, 0.3))
    assert loss_at(curve, 0.4) == pytest.approx(0.2)
    assert loss_at(curve, 0.1) == pytest.approx(0.05)
    assert loss_at(curve, 0.7) is None


def test_likeness_puts_like_beside_like():
    graph = chain((64, 64, 64, 64, 64, 64, 10))
    names = [g.name for g in graph.free]
    knees = dict(zip(names, (20, 80, 22, 78, 21, 82), strict=True))
    kin = likeness(layer_prints(graph, steep(graph, knees))[:-1])
    groups = {}
    for name, letter in zip(names, kin.letters, strict=True):
        groups.setdefault(letter, set()).add(knees[name] < 50)
    assert all(len(kinds) == 1 for kinds in groups.values())
    assert sorted(kin.order) == list(range(6))
    assert [knees[names[i]] < 50 for i in kin.order] == [True] * 3 + [False] * 3
    assert likeness(()).order == ()
    assert likeness(layer_prints(chain((10,)), None)).letters == ("A",)


def test_clusters_are_cut_where_they_stand_best_apart():
    """Points on a line where average linkage, weighted by members, gives what the single, complete and unweighted ones do not."""
    places = np.array([8.0, 16, 16, 18, 21, 24, 28])
    assert _clusters(np.abs(places[:, None] - places)) == [[0], [1, 2, 3], [4, 5, 6]]
    assert _clusters(np.zeros((1, 1))) == [[0]]


def test_hostile_names_are_text():
    graph = chain((6, 16, 10), names=[HOSTILE, "b", "c"])
    picture = svg(print_marks(graph, profile(graph)))
    assert "<script" not in picture
    assert "&lt;script&gt;" in picture


def test_the_sheet_is_the_golden_one():
    graph = chain()
    same_marks("prints-chain", print_marks(graph, profile(graph, bits=True)))
