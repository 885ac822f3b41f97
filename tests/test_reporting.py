"""The pictures and the page: laws of the geometry, and the page as a browser and a stranger see it."""

import doctest
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from reporting_records import HOSTILE, chain, fill, plan, profile, resnet, result, score

from lamella.errors import LamellaError, MismatchError, RecordError, RunError
from lamella.records import save_record
from lamella.reporting import curve_marks, draw, marks, ribbon_marks, svg, walk_marks, words, write_report
from lamella.reporting.facts import layer_facts
from lamella.reporting.frame import WIDTH
from lamella.reporting.layout import lay_out
from lamella.reporting.marks import elide, shown
from lamella.reporting.stages import read_stages
from lamella.reporting.summary import sentences
from lamella.reporting.tables import step_rows
from lamella.schema import FILES, Profile, Size, Step

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NETS = {"five": chain(), "resnet20": resnet(), "deep": resnet(25), "one": chain((10,)), "two": chain((1, 2))}
SECTIONS = ["summary", "ribbon", "table", "sensitivity", "plan", "frozen", "provenance", "data"]


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


def test_byte_bars_stand_on_one_line_and_stay_in_their_room(graph):
    for planned in (None, plan(graph)):
        marks = ribbon_marks(graph, planned)
        for role in ("bar-dense", "bar-kept"):
            bars = by_layer(marks, role).values()
            feet = {round(b.y + b.height, 6) for b in bars}
            assert len(feet) == 1 + max(p.line for p in lay_out(graph).values())
            assert not [1 for i, a in enumerate(bars) for b in list(bars)[:i] if overlap(a, b)]


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


# Curves


def test_curves_share_one_scale_and_run_to_the_right():
    values = profile(resnet())
    axes = {
        next((m.x, m.y, m.width, m.height) for m in curve_marks(values, g.name) if m.role == "axis")
        for g in values.graph.free
    }
    assert len(axes) == 1
    for group in values.graph.free:
        dots = [m for m in curve_marks(values, group.name) if m.role == "dot"]
        assert len(dots) == 9
        assert all(a.x < b.x for a, b in pairwise(dots))
        points = values.curve(group.name)
        assert all(
            (a.y < b.y) == (p.score.value > q.score.value)
            for (a, b), (p, q) in zip(pairwise(dots), pairwise(points), strict=True)
        )


def test_the_interval_holds_the_curve():
    marks = curve_marks(profile(chain()), "fc0")
    band, curve = (next(m for m in marks if m.role == role) for role in ("interval", "curve"))
    assert band.y <= curve.y
    assert curve.y + curve.height <= band.y + band.height


def test_threshold_and_choice_are_drawn_where_they_are():
    values = profile(chain())
    marks = curve_marks(values, "fc0", threshold=0.9, chosen=0.4)
    ring = next(m for m in marks if m.role == "chosen")
    dot = [m for m in marks if m.role == "dot"][3]
    assert (ring.x + ring.width / 2, ring.y + ring.height / 2) == pytest.approx(
        (dot.x + dot.width / 2, dot.y + dot.height / 2)
    )
    line, base = (next(m for m in marks if m.role == role) for role in ("threshold", "baseline"))
    assert base.y < line.y


def test_a_flat_profile_and_a_single_point_are_drawn():
    graph = chain()
    one = profile(graph).points[:1]
    assert svg(curve_marks(Profile(graph=graph, baseline=score(1.0), points=()), "fc0"))
    assert svg(curve_marks(Profile(graph=graph, baseline=score(0.98), points=one), "fc0"))


def test_the_walk_has_a_stop_per_step():
    graph = resnet()
    history = result(graph, plan(graph)).history
    marks = walk_marks(history)
    assert len({m.about for m in marks if m.about}) == len(history)
    assert walk_marks(()) == ()
    assert svg(walk_marks(history[:1]))


# Text


def test_hostile_text_never_becomes_markup():
    graph = chain((6, 16, 10), names=[HOSTILE, "b", "c"])
    for picture in (svg(ribbon_marks(graph, plan(graph))), svg(curve_marks(profile(graph), HOSTILE), label=HOSTILE)):
        assert "<script" not in picture
        assert "\u202e" not in picture
    assert "&lt;script&gt;" in svg(ribbon_marks(graph))


def test_text_that_no_file_can_hold_is_replaced():
    assert shown("a\ud800b\x00c") == "a\ufffdb\ufffdc"
    assert svg(ribbon_marks(chain((6, 10), names=["\ud800\x1ahatch-8)", "b"]))).encode()


@pytest.mark.parametrize("room", range(2, 12))
def test_elided_text_fits(room):
    assert len(elide("layer1.0.conv1", room)) <= room


@pytest.mark.parametrize("module", [marks, words])
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0


# Doors


def test_draw_gives_each_value_a_picture():
    graph = chain()
    planned = plan(graph)
    for value, needs in ((graph, None), (profile(graph), None), (planned, graph), (result(graph, planned), graph)):
        assert "<svg" in draw(value, needs)._repr_html_()


def test_steps_after_the_plan_are_listed():
    graph = chain()
    planned = plan(graph, bits=False)
    done = result(graph, planned)
    extra = replace(done.history[-1], step=len(planned.steps) + 1, name="int8", predicted=None)
    rows = step_rows(graph, planned, replace(done, history=(*done.history, extra)))
    assert [r.number for r in rows] == list(range(1, len(planned.steps) + 2))
    assert rows[-1].what == (("int8", ""),)


def test_untouched_groups_are_named_though_their_layers_gave_channels_of_other_groups(tmp_path):
    graph = resnet()
    first = Size(terms=(("conv1", 1), ("layer1.0.conv1", 1)))
    graph = replace(graph, layers=(replace(graph.layers[0], outputs=first), *graph.layers[1:]))
    made = replace(plan(graph), steps=(Step(widths={"layer1.0.conv1": 4}),))
    save_record(tmp_path / "graph.json", graph)
    save_record(tmp_path / "plan.json", made)
    stages = read_stages(tmp_path)
    found = " ".join(sentences(stages, layer_facts(stages.graph, stages.plan)))
    assert "1 of 12 groups that can be narrowed gave channels; untouched: conv1," in found


def test_draw_says_what_it_lacks():
    graph = chain()
    with pytest.raises(LamellaError, match=r"Call draw\(plan, graph\)"):
        draw(plan(graph))
    with pytest.raises(LamellaError, match="a str has no picture"):
        draw("plan")


def test_a_drawing_can_be_saved(tmp_path):
    draw(chain()).save(tmp_path / "ribbon.svg")
    assert (tmp_path / "ribbon.svg").read_text(encoding="utf-8").startswith("<svg")


def test_no_torch_is_loaded():
    code = "import sys, lamella.reporting; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


# The page


def test_a_directory_with_only_a_graph_is_reported(tmp_path):
    save_record(tmp_path / FILES["graph"][0], chain())
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="ribbon"' in text
    assert 'id="plan"' not in text
    assert 'id="sensitivity"' not in text


@pytest.mark.parametrize("stages", [("graph", "profile"), ("graph", "plan"), ("graph", "plan", "result"), ("profile",)])
def test_whatever_stages_exist_are_drawn(tmp_path, stages):
    whole = tmp_path / "whole"
    fill(whole, chain())
    for stage in stages:
        (tmp_path / "part").mkdir(exist_ok=True)
        shutil.copy(whole / FILES[stage][0], tmp_path / "part")
    text = write_report(tmp_path / "part").read_text(encoding="utf-8")
    assert ('id="plan"' in text) == ("plan" in stages)
    assert ('id="sensitivity"' in text) == ("profile" in stages)


def test_an_empty_directory_names_the_verb_to_run(tmp_path):
    with pytest.raises(RunError, match="lamella trace"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_record_names_its_file(tmp_path):
    fill(tmp_path, chain())
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(RecordError, match=r"plan\.json"):
        write_report(tmp_path)


def test_records_of_two_models_are_refused(tmp_path):
    fill(tmp_path, chain())
    save_record(tmp_path / "plan.json", plan(resnet()))
    with pytest.raises(MismatchError, match=r"plan\.json belongs to another model"):
        write_report(tmp_path)


def test_equal_records_give_equal_bytes(tmp_path):
    fill(tmp_path, resnet())
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_the_page_of_a_deep_network_stays_small(tmp_path):
    fill(tmp_path, resnet(9))  # ResNet-56
    assert write_report(tmp_path).stat().st_size < 2_000_000


# The page in a browser


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the page is not opened: playwright is not installed")
    if not CHROMIUM:
        pytest.skip("the page is not opened: chromium is not installed (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page; at the end there must be no complaint and no request but for the file itself."""
    complaints, requests, pages = [], [], []

    def open_page(graph, **options):
        path = write_report(fill(tmp_path, graph))
        page = browser.new_page(**options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        pages.append((page, path.as_uri()))
        return page

    yield open_page
    assert complaints == []
    assert set(requests) <= {uri for _, uri in pages}
    for page, _ in pages:
        page.close()


def test_the_page_opens_with_every_section(opened):
    page = opened(resnet())
    assert page.locator("main > section").evaluate_all("all => all.map(s => s.id)") == SECTIONS
    assert page.locator("table").evaluate_all("all => all.every(t => t.caption && t.caption.textContent.trim())")
    assert page.locator("svg").evaluate_all("all => all.every(s => s.getAttribute('aria-label'))")


def test_facts_show_on_hover_and_on_focus(opened):
    page = opened(resnet())
    facts = page.locator("#ribbon .thing .facts")
    assert not facts.last.is_visible()
    page.locator("#ribbon .thing .outline").last.hover()
    assert facts.last.is_visible()
    page.mouse.move(0, 0)
    page.locator("#ribbon .thing").nth(4).focus()
    assert facts.nth(4).is_visible()
    assert not facts.last.is_visible()


def test_hostile_names_are_shown_as_text(opened):
    graph = replace(chain((6, 16, 10), names=[HOSTILE, "b", "c"]), model=HOSTILE)
    page = opened(graph)
    assert page.locator("script").count() == 0
    assert page.locator("#plan td.name", has_text="<script>alert('x')</script>").count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_spills_on_a_narrow_screen(opened):
    page = opened(resnet(), viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_light_and_dark_differ(opened):
    grounds = set()
    for scheme in ("light", "dark"):
        page = opened(chain(), color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_the_data_can_be_downloaded(opened, tmp_path):
    page = opened(chain(), accept_downloads=True)
    with page.expect_download() as download:
        page.locator("#data a", has_text="plan.json").click()
    assert download.value.suggested_filename == "plan.json"
    text = download.value.path().read_text(encoding="utf-8")
    assert json.loads(text) == json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))


def test_the_page_prints(opened):
    page = opened(resnet())
    page.emulate_media(media="print")
    assert page.locator("#ribbon svg").first.is_visible()
    assert page.pdf().startswith(b"%PDF")
