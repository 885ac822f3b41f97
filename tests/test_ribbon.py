"""The architecture ribbon: laws of its geometry, and the picture itself as a golden."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from goldens import same_marks
from reporting_records import branches, chain, family, plan, profile, resnet, result

from lamella.errors import MismatchError
from lamella.reporting import ribbon_marks
from lamella.reporting.facts import facts_at, layer_facts
from lamella.reporting.ribbon import marks_at
from lamella.reporting.ribbon.frame import WIDTH
from lamella.reporting.ribbon.insets import SPENT, shade_of
from lamella.reporting.ribbon.layout import lay_out
from lamella.reporting.styles import palette
from lamella.schema import Step

NETS = {"five": chain(), "resnet20": resnet(), "deep": resnet(25), "one": chain((10,)), "two": chain((1, 2))}


@pytest.fixture(params=NETS, ids=str)
def graph(request):
    return NETS[request.param]


def by_layer(marks, role):
    """The one mark of a role per layer."""
    return {m.about: m for m in marks if m.role.split()[0] == role and m.about.startswith("layer ")}


def overlap(a, b):
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


# Geometry


def test_every_layer_has_an_outline_and_its_body_lies_inside(graph):
    marks = ribbon_marks(graph, plan(graph))
    outlines, bodies = by_layer(marks, "outline"), by_layer(marks, "body")
    assert list(outlines) == [f"layer {x.name}" for x in graph.layers] == list(bodies)
    for about, outline in outlines.items():
        body = bodies[about]
        assert (body.x, body.width) == (outline.x, outline.width)
        assert outline.y <= body.y
        assert body.y + body.height <= outline.y + outline.height + 1e-9


def test_a_body_is_the_kept_share_of_its_outline():
    graph = chain((100, 64, 10))
    planned = replace(plan(graph), steps=(Step(widths={"fc0": 25}),))
    marks = ribbon_marks(graph, planned)
    outline, body = by_layer(marks, "outline")["layer fc0"], by_layer(marks, "body")["layer fc0"]
    assert body.height == pytest.approx(outline.height / 4)


def test_outlines_do_not_overlap_and_stay_on_the_picture(graph):
    outlines = list(by_layer(ribbon_marks(graph), "outline").values())
    assert not [1 for i, a in enumerate(outlines) for b in outlines[:i] if overlap(a, b)]
    assert all(m.x >= 0 and m.x + m.width <= WIDTH for m in outlines)


def test_the_main_path_runs_to_the_right_line_by_line(graph):
    places, outlines = lay_out(graph), by_layer(ribbon_marks(graph), "outline")
    main = sorted((p.column, name) for name, p in places.items() if p.lane == 0)
    assert [column for column, _ in main] == list(range(len(main)))
    lengths = Counter(p.line for p in places.values() if p.lane == 0)
    assert max(lengths.values()) - min(lengths.values()) < len(lengths)  # no last line of a single layer
    for (_, one), (_, other) in pairwise(main):
        a, b = outlines[f"layer {one}"], outlines[f"layer {other}"]
        assert a.x + a.width < b.x if places[one].line == places[other].line else a.y + a.height < b.y


def test_outlines_grow_with_channels(graph):
    outlines = by_layer(ribbon_marks(graph), "outline")
    heights = sorted((f.dense, outlines[f"layer {f.name}"].height) for f in layer_facts(graph, None))
    assert all(a[1] <= b[1] for a, b in pairwise(heights))


def test_no_two_layers_share_a_place(graph):
    places = [(p.column, p.lane) for p in lay_out(graph).values()]
    assert len(set(places)) == len(places)


def test_shortcut_convolutions_lie_beside_the_main_path():
    places = lay_out(resnet())
    assert {name for name, p in places.items() if p.lane} == {"layer2.0.downsample", "layer3.0.downsample"}


def test_a_branch_keeps_its_lane():
    graph = branches({"stem": [], "one": ["stem"], "a": ["stem"], "b": ["a"], "x": ["stem"], "y": ["x"], "z": ["y"]})
    places = lay_out(graph)
    assert {name: p.lane for name, p in places.items()} == {
        "stem": 0, "x": 0, "y": 0, "z": 0, "one": 1, "a": 2, "b": 2
    }  # fmt: skip


def test_braces_of_one_line_do_not_cross_and_join_who_shares():
    graph = resnet(25)
    braces = [m for m in ribbon_marks(graph) if m.role == "brace" and m.about]
    rows = defaultdict(list)
    for brace in braces:
        rows[brace.y].append((brace.x, brace.x + brace.width))
    assert all(a[1] < b[0] for row in rows.values() for a, b in pairwise(sorted(row)))
    shared = {g.name for g in graph.groups if len(g.layers) > 1}
    assert {m.title.split(":")[0] for m in braces} == shared


def test_badges_number_the_steps_once_per_group():
    graph = resnet()
    planned = plan(graph, bits=False)
    texts = [m.text for m in ribbon_marks(graph, planned) if m.role == "badge-text" and m.about]
    assert sorted(map(int, texts)) == list(range(1, len(planned.steps) + 1))


def test_bars_stand_on_one_line_and_stay_in_their_room(graph):
    for planned in (None, plan(graph)):
        marks = ribbon_marks(graph, planned)
        for role in [f"{bar} {name.lower()}" for bar in ("bar-dense", "bar-kept") for name in SPENT[:2]]:
            bars = [m for m in marks if m.role == role and m.about]
            feet = {round(b.y + b.height, 6) for b in bars}
            assert len(feet) == 1 + max(p.line for p in lay_out(graph).values())
            assert not [1 for i, a in enumerate(bars) for b in bars[:i] if overlap(a, b)]


def test_nothing_lies_over_anything_of_another_row(graph):
    marks = ribbon_marks(graph, plan(graph), profile(graph))
    boxes = [m for m in marks if m.about.startswith("layer ") and m.role.split()[0] in ("outline", "loss", "bar-dense")]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if overlap(a, b)]


def test_a_cell_is_darker_where_the_network_minds_more():
    graph = resnet()
    curves = profile(graph)
    facts = {f.name: f for f in layer_facts(graph, None, curves)}
    cells = [m for m in ribbon_marks(graph, None, curves) if m.role.startswith("loss loss-") and m.about]
    shades = defaultdict(list)
    for cell in cells:
        shades[cell.about.removeprefix("layer ")].append(int(cell.role[-1]))
    assert {name: [shade_of(loss) for _, _, loss in facts[name].half_losses] for name in shades} == shades
    assert set(shades) == {name for name, fact in facts.items() if fact.half_losses}


def test_latency_is_drawn_where_it_is_known():
    graph = chain()
    timed = replace(profile(graph), facts={"fc1": {"latency_ms": 0.2}, "fc2": {"latency_ms": 0.1}})
    bars = {m.about: m for m in ribbon_marks(graph, None, timed) if m.role == "bar-kept latency"}
    assert bars["layer fc1"].height == pytest.approx(2 * bars["layer fc2"].height)
    assert not [m for m in ribbon_marks(graph, None, profile(graph)) if m.role == "bar-kept latency"]


def test_the_levels_of_a_family_move_bodies_and_leave_outlines():
    graph = resnet()
    drawn = [marks_at(graph, facts_at(graph, level.widths, level.bits)) for level in family(graph).levels]
    outlines = [by_layer(marks, "outline") for marks in drawn]
    assert all(one == outlines[0] or _same_place(one, outlines[0]) for one in outlines)
    heights = [sum(m.height for m in by_layer(marks, "body").values()) for marks in drawn]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]


def _same_place(one, other):
    return all(
        (m.x, m.y, m.width, m.height) == (n.x, n.y, n.width, n.height)
        for m, n in zip(one.values(), other.values(), strict=True)
    )


def luminance(colour):
    """Relative luminance (WCAG 2), from 0 to 1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart_by_lightness_alone(scheme):
    """So in grey print and with any colour vision; hatching tells bits apart a second time."""
    colours = palette(scheme)
    bits = [luminance(colours[name]) for name in ("full", "eight", "four", "two")]
    losses = [luminance(colours[f"loss-{k}"]) for k in range(6)]
    assert min(abs(a - b) for i, a in enumerate(bits) for b in bits[:i]) > 0.04
    assert losses == sorted(losses, reverse=scheme == "light")
    assert all(contrast(colours[name], colours["paper"]) >= 4.5 for name in ("ink", "muted"))
    for shade in range(6):
        text = colours["on-dark"] if shade > 3 else colours["ink"]
        assert contrast(text, colours[f"loss-{shade}"]) >= 4.5


def test_branches_are_bands_of_their_own():
    graph = resnet()
    marks = ribbon_marks(graph)
    bands = [m for m in marks if m.role == "band"]
    assert len(bands) == 1 + 2  # the main path, and a shortcut convolution in two stages
    assert len([m for m in marks if m.role == "branch"]) == 4  # to each of them, and back


def test_the_ribbon_of_resnet20_is_the_golden_one():
    graph = resnet()
    same_marks("ribbon-resnet20", ribbon_marks(graph, plan(graph), profile(graph)))


def test_bits_choose_the_colour_and_the_hatching():
    graph = chain()
    marks = ribbon_marks(graph, plan(graph, bits=True))
    roles = {about: m.role for about, m in by_layer(marks, "body").items()}
    assert set(list(roles.values())[:-1]) == {"body bits-8"}
    assert roles["layer fc4"] == "body bits-32"
    assert set(by_layer(marks, "hatch")) == {f"layer fc{i}" for i in range(4)}


def test_a_result_draws_what_its_plan_draws():
    graph = resnet()
    planned = plan(graph)
    assert ribbon_marks(graph, result(graph, planned)) == ribbon_marks(graph, planned)


def test_a_plan_for_another_model_is_refused():
    with pytest.raises(MismatchError, match="made for another model"):
        ribbon_marks(resnet(), plan(chain()))


def test_a_network_whose_paths_are_unknown_lies_in_call_order():
    graph = resnet()
    blind = replace(graph, layers=tuple(replace(x, sources=()) for x in graph.layers))
    assert [p.column for p in lay_out(blind).values()] == list(range(len(graph.layers)))
