"""Standard charts: the specification holds the facts; what is drawn runs nothing, fetches nothing, and follows the page's colours."""

import re
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from accordion_records import accordion
from reporting_records import HOSTILE, chain, family, front, plan, profile, resnet, result, score

from lamella.errors import MissingExtra
from lamella.reporting import charts, draw, write_report
from lamella.reporting.charts import chart_svg, front_spec, png_of, ratio_spec, walk_spec
from lamella.reporting.charts.sweeps import distinct
from lamella.reporting.stages import read_stages
from lamella.schema import Epoch, Profile

GRAPH = chain()
PROFILE = profile(GRAPH, bits=True)
TARGETS = [g.name for g in GRAPH.free]


EPOCHS = [Epoch(stage="core", done=n, loss=0.5, scores={"core": score(0.8), "full": score(0.9)}) for n in (1, 2)]


def specs():
    planned = plan(GRAPH)
    found = accordion()
    return {
        "ratios": ratio_spec(PROFILE, "pruning_ratio", TARGETS, threshold=0.9, chosen={"fc0": 0.4}),
        "bits": charts.bits_spec(PROFILE, "bits", threshold=0.9, chosen={"fc0": 8.0}),
        "walk": walk_spec(result(GRAPH, planned).history),
        "training": charts.training_spec(EPOCHS, ["core", "full"]),
        "front": front_spec(front(GRAPH), replace(planned, predicted_score=0.9)),
        "family": charts.family_spec(family(GRAPH)),
        "widths": charts.widths_spec(found),
        "pairs": charts.pairs_spec(found),
        "controls": charts.controls_spec(found),
    }


@pytest.fixture(scope="module")
def drawn():
    pytest.importorskip("vl_convert", reason="charts are not drawn: vl-convert-python is not installed")
    return {name: chart_svg(spec, label=name) for name, spec in specs().items()}


def test_every_chart_is_well_formed_and_says_what_it_is(drawn):
    for name, text in drawn.items():
        root = ElementTree.fromstring(text)
        assert root.get("aria-label") == name
        assert root.get("role") == "img"
        assert not [e for e in root.iter() if e.tag.endswith(("script", "image", "foreignObject", "a"))]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30])
def test_steps_are_ticked_by_whole_numbers_and_none_twice(steps):
    pytest.importorskip("vl_convert", reason="charts are not drawn: vl-convert-python is not installed")
    first = result(GRAPH, plan(GRAPH)).history[0]
    history = [replace(first, step=n) for n in range(steps + 1)]
    text = chart_svg(walk_spec(history), label="walk")
    below = text.partition("step of the plan")[0]
    ticks = re.findall(r">(\d+)</text>", below)
    assert ticks == list(dict.fromkeys(ticks))
    assert set(ticks) <= {str(n) for n in range(steps + 1)}
    assert 2 <= len(ticks) <= 11


def test_a_layer_by_itself_is_one_layer():
    found = accordion()
    alone = replace(found.sweeps[0], layers=found.sweeps[0].layers[:1])
    names = charts.pairs_spec(replace(found, sweeps=(alone, *found.sweeps)))["facet"]["sort"]
    assert names[0] == "1. layer 1"
    assert names[1].startswith("2. layers 1 and")


def test_charts_take_their_colours_from_the_page(drawn):
    for text in drawn.values():
        colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', text)) - {"none", "transparent"}
        assert all(colour.startswith(("var(--", "url(#")) for colour in colours), colours


def test_points_tell_their_numbers(drawn):
    for target in TARGETS:
        assert re.search(rf"<title>{target}, [\d.]+ % pruned, \d+ channels left: ", drawn["ratios"])
    assert "95 % interval" in drawn["ratios"]
    assert "; chosen" in drawn["bits"]


def test_one_page_may_hold_many_charts(drawn):
    names = [name for text in drawn.values() for name in set(re.findall(r'id="([^"]+)"', text))]
    assert len(names) == len(set(names))


def test_a_chart_as_a_file_names_its_colours():
    pytest.importorskip("vl_convert")
    text = chart_svg(specs()["walk"], label="walk", scheme="dark")
    assert "var(" not in text
    assert png_of(text, 1.0).startswith(b"\x89PNG")


def test_a_panel_per_target_in_network_order():
    spec = specs()["ratios"]
    assert spec["facet"]["sort"] == TARGETS
    rows = spec["data"]["values"]
    assert {row["panel"] for row in rows} == set(TARGETS)
    first = [row for row in rows if row["panel"] == "fc0"]
    assert [row["level"] for row in first] == sorted(row["level"] for row in first)
    assert first[0]["score"] == PROFILE.baseline.value
    assert [row["level"] for row in first if row["chosen"]] == [0.4]


def test_the_walk_shows_what_was_measured_and_what_was_expected():
    history = result(GRAPH, plan(GRAPH)).history
    rows = walk_spec((*history[:-1], replace(history[-1], expected=0.91)))["data"]["values"]
    measured = [row for row in rows if row["kind"] == "measured"]
    assert [(row["step"], row["score"]) for row in measured] == [(m.step, m.validation.value) for m in history]
    assert [row["score"] for row in rows if row["kind"] == "expected"] == [0.91]
    assert walk_spec(history[:1])["data"]["values"]


def test_the_front_holds_the_plan_at_hand_and_what_was_measured():
    spec = specs()["front"]
    beside = {row["what"] for row in spec["layer"][2]["data"]["values"]}
    assert beside == {"dense", "this plan", "measured"}
    assert len(spec["layer"][0]["data"]["values"]) == len(front(GRAPH).rows)


def test_a_plan_that_was_timed_elsewhere_is_not_drawn_beside_a_front_of_milliseconds():
    rows = tuple(replace(row, latency_ms=2.0) for row in front(GRAPH).rows)
    timed = replace(front(GRAPH), axis="latency_ms", rows=rows, dense_latency_ms=4.0)
    for dense_ms, drawn in ((4.0, True), (3.0, False)):
        beside = front_spec(timed, replace(plan(GRAPH), predicted_score=0.9, latency_ms=1.0, dense_latency_ms=dense_ms))
        assert ("this plan" in {row["what"] for row in beside["layer"][2]["data"]["values"]}) == drawn


def test_a_front_whose_latencies_are_unknown_is_drawn_over_bytes():
    untimed = front_spec(replace(front(GRAPH), axis="latency_ms"))
    assert untimed["layer"][0]["encoding"]["x"]["axis"]["title"] == "bytes of the file"
    assert chart_svg(untimed, label="front")
    assert chart_svg(front_spec(replace(front(GRAPH), rows=())), label="no plan")


def test_a_family_without_latency_is_drawn_over_macs():
    untimed = family(GRAPH)
    untimed = replace(untimed, levels=tuple(replace(x, latency_ms=None) for x in untimed.levels))
    assert charts.family_spec(untimed)["layer"][0]["encoding"]["x"]["axis"]["title"] == "MACs per sample"


def test_equal_short_names_stay_apart():
    names = [f"{'x' * 40}{i}{'y' * 40}" for i in range(3)]
    assert len(set(distinct(names, 20).values())) == 3
    assert all(len(short) <= 20 for short in distinct(names, 20).values())


def test_hostile_names_stay_text():
    pytest.importorskip("vl_convert")
    graph = chain((6, 16, 10), names=[HOSTILE, "b", "c"])
    curves = profile(graph, bits=True)
    for spec in (ratio_spec(curves, "pruning_ratio", [HOSTILE, "b"]), charts.bits_spec(curves, "bits")):
        text = chart_svg(spec, label=HOSTILE)
        assert "<script" not in text
        assert "\u202e" not in text
        ElementTree.fromstring(text)


def test_a_profile_of_one_point_and_of_none_is_drawn():
    pytest.importorskip("vl_convert")
    one = replace(PROFILE, points=PROFILE.points[:1])
    assert chart_svg(ratio_spec(one, "pruning_ratio", [one.points[0].target]), label="one")
    assert chart_svg(
        ratio_spec(Profile(graph=GRAPH, baseline=score(1.0), points=()), "pruning_ratio", []), label="none"
    )


def test_without_the_library_the_page_says_so_once_and_keeps_its_tables(tmp_path, monkeypatch):
    from reporting_records import fill

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match=r"pip install 'lamella\[report\]'"):
        chart_svg(specs()["walk"], label="walk")
    text = write_report(fill(tmp_path, resnet())).read_text(encoding="utf-8")
    assert text.count("lamella[report]") == 1
    assert "lm-chart" not in text.partition("</style>")[2]
    assert '<table class="heat' in text
    assert "<svg" in draw(read_stages(tmp_path).profile)._repr_html_()
    with pytest.raises(MissingExtra):
        draw(front(GRAPH))
