"""The page as a browser and a stranger see it: headless Chromium, one for all tests, no complaint and no request from the page."""

import json
import shutil
from dataclasses import replace

import pytest
from accordion_records import accordion
from goldens import same_pixels
from reporting_records import HOSTILE, chain, family, fill, front, plan, profile, resnet, score

from lamella.records import save_record, to_plain
from lamella.reporting import print_marks, ribbon_marks, serving, svg, write_report
from lamella.reporting.facts import layer_facts
from lamella.runs import Journal
from lamella.schema import FILES, Epoch

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECTIONS = [
    "summary",
    "table",
    "ribbon",
    "prints",
    "curves",
    "plan",
    "front",
    "elastic",
    "accordion",
    "frozen",
    "provenance",
    "data",
]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the page is not opened: playwright is not installed")
    if not CHROMIUM:
        pytest.skip("the page is not opened: chromium is not installed (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def everything(directory, graph):
    """A run directory in which every stage has run."""
    fill(directory, graph)
    save_record(directory / FILES["elastic"][0], family(graph))
    save_record(directory / FILES["front"][0], front(graph))
    save_record(directory / FILES["accordion"][0], accordion())
    return directory


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a network, written once however often it is opened."""
    written = {}

    def path_of(name, graph):
        if name not in written:
            written[name] = write_report(everything(tmp_path_factory.mktemp(name), graph))
        return written[name]

    return path_of


NETS = {
    "resnet": lambda: resnet(),
    "chain": lambda: chain(),
    "hostile": lambda: replace(chain((6, 16, 10), names=[HOSTILE, "b", "c"]), model=HOSTILE),
}


@pytest.fixture
def opened(browser, pages):
    """Open a page; at the end there must be no complaint and no request but for the file itself."""
    complaints, requests, opened = [], [], []

    def open_page(name, **options):
        path = pages(name, NETS[name]())
        page = browser.new_page(**options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        opened.append((page, path.as_uri()))
        return page

    yield open_page
    assert complaints == []
    assert set(requests) <= {uri for _, uri in opened}
    for page, _ in opened:
        page.close()


def test_the_page_opens_with_every_section(opened):
    page = opened("resnet")
    assert page.locator("main > section").evaluate_all("all => all.map(s => s.id)") == SECTIONS
    assert page.locator("table").evaluate_all("all => all.every(t => t.caption && t.caption.textContent.trim())")
    assert page.locator("svg").evaluate_all("all => all.every(s => s.getAttribute('aria-label'))")


def test_facts_show_on_hover_and_on_focus(opened):
    page = opened("resnet")
    facts = page.locator("#ribbon .thing .facts")
    assert not facts.last.is_visible()
    page.locator("#ribbon .thing .outline").last.hover()
    assert facts.last.is_visible()
    page.mouse.move(0, 0)
    page.locator("#ribbon .thing").nth(4).focus()
    assert facts.nth(4).is_visible()
    assert not facts.last.is_visible()


def test_hostile_names_are_shown_as_text(opened):
    page = opened("hostile")
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("#plan td.name", has_text="<script>alert('x')</script>").count() >= 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_spills_on_a_narrow_screen(opened):
    page = opened("resnet", viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [360, 1280])
def test_letters_of_charts_are_neither_tiny_nor_huge(opened, width):
    pytest.importorskip("vl_convert", reason="charts are not drawn: vl-convert-python is not installed")
    page = opened("resnet", viewport={"width": width, "height": 740})
    scales = page.locator(".lm-chart").evaluate_all(
        "all => all.map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width).filter(x => x > 0)"
    )
    assert len(scales) > 5
    assert all(0.84 <= scale <= 1.26 for scale in scales), scales


def test_light_and_dark_differ(opened):
    grounds = set()
    for scheme in ("light", "dark"):
        page = opened("chain", color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_the_data_can_be_downloaded(opened, pages):
    page = opened("chain", accept_downloads=True)
    with page.expect_download() as download:
        page.locator("#data a", has_text="plan.json").click()
    assert download.value.suggested_filename == "plan.json"
    text = download.value.path().read_text(encoding="utf-8")
    assert json.loads(text) == json.loads((pages("chain", None).parent / "plan.json").read_text(encoding="utf-8"))


def test_the_page_prints(opened):
    page = opened("chain")
    page.emulate_media(media="print")
    assert page.locator("#ribbon svg").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_fingerprints_can_be_sorted_and_tell_their_numbers(opened):
    graph = resnet()
    page = opened("resnet")
    names = "#prints-list > li svg .thing > title"
    first = [text.split(":")[0] for text in page.locator(names).all_text_contents()]
    assert first == [x.name for x in graph.layers]
    page.locator("#prints-order").select_option("sensitivity")
    after = [text.split(":")[0] for text in page.locator(names).all_text_contents()]
    assert sorted(after) == sorted(first)
    assert after != first
    places = page.locator("#prints-list > li").evaluate_all("all => all.map(x => Number(x.dataset.sensitivity))")
    assert places == sorted(places)
    page.locator("#prints-list .thing").nth(3).focus()
    assert page.locator("#prints-told").text_content().startswith(after[3])
    page.locator("#prints-list > li").nth(5).hover()
    assert page.locator("#prints-told").text_content().startswith(after[5])


def test_tables_are_sorted_by_their_numbers(opened):
    page = opened("resnet")
    page.locator("#ribbon details summary").click()
    names = lambda: page.locator("#ribbon table tbody th").all_text_contents()
    head = page.locator("#ribbon thead th", has_text="MACs before")
    dense = {layer.name: f for layer, f in zip(resnet().layers, layer_facts(resnet()), strict=True)}
    calls = names()
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    macs = [dense[name].macs_dense for name in names()]
    assert macs == sorted(macs, reverse=True)
    page.keyboard.press("Enter")
    macs = [dense[name].macs_dense for name in names()]
    assert head.get_attribute("aria-sort") == "ascending"
    assert macs == sorted(macs)
    page.locator("#ribbon thead button").first.click()
    assert names() == calls
    assert head.get_attribute("aria-sort") is None
    page.locator("#curves .heat").first.locator("thead button").last.click()
    shown = page.locator("#curves .heat").first.locator("tbody td:last-child").all_text_contents()
    assert len(shown) > 5
    assert [float(text) for text in shown] == sorted(map(float, shown), reverse=True)


def test_the_slider_reshapes_the_ribbon_by_keyboard(opened):
    page = opened("resnet")
    heights = "all => all.map(b => b.getBoundingClientRect().height).reduce((a, b) => a + b)"
    page.emulate_media(reduced_motion="reduce")
    bodies = page.locator("#level-ribbon .body")
    full = bodies.evaluate_all(heights)
    page.locator("#level").focus()
    page.keyboard.press("ArrowLeft")
    less = bodies.evaluate_all(heights)
    page.keyboard.press("Home")
    core = bodies.evaluate_all(heights)
    assert core < less < full
    assert page.locator("#level-line").text_content().startswith("core:")
    assert page.locator("#levels tr.now th").text_content() == "core"
    page.keyboard.press("End")
    assert bodies.evaluate_all(heights) == pytest.approx(full)


def test_nothing_jumps_when_facts_are_told(opened):
    page = opened("resnet")
    tops = "() => [...document.querySelectorAll('section')].map(s => s.getBoundingClientRect().top + scrollY)"
    before = page.evaluate(tops)
    for i in (0, 7, 15):
        page.locator("#prints-list .thing").nth(i).focus()
        page.locator("#ribbon .thing").nth(i).focus()
    assert page.evaluate(tops) == before


def test_without_script_everything_can_be_read(opened):
    page = opened("chain", java_script_enabled=False)
    assert page.locator("#prints-list > li").count() == len(chain().layers)
    assert page.locator("#level-ribbon svg").is_visible()
    assert not page.locator("#slider").is_visible()
    assert not page.locator("label.sort").is_visible()


def test_a_live_page_takes_over_what_is_new(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("lamella.reporting.watching.REST", 0.0)
    graph = chain()
    save_record(tmp_path / FILES["graph"][0], graph)
    save_record(tmp_path / FILES["front"][0], front(graph))
    complaints = []
    with serving(tmp_path) as served:
        page = browser.new_page(viewport={"width": 400, "height": 700})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(served.url)
        assert page.locator("#curves").count() == 0
        page.locator("#ribbon details summary").click()
        page.locator("#front details summary").click()
        page.locator("#ribbon figure").evaluate("one => { one.scrollLeft = 120; }")
        page.locator("#ribbon details summary").focus()
        page.wait_for_timeout(1200)  # it has asked once
        save_record(tmp_path / FILES["profile"][0], profile(graph))
        page.locator("#curves").wait_for(timeout=10_000)
        epochs = Journal(
            tmp_path / "elastic" / "training" / "a" / "epochs.jsonl", EPOCHS_OF | {"structure": graph.structure}
        )
        page.locator("#training", has_text="0 of 3 epochs").wait_for(timeout=10_000)
        epochs.append("1", to_plain(Epoch(stage="sandwich", done=1, loss=0.5, scores={"core": score(0.8)})))
        page.locator("#training", has_text="1 of 3 epochs").wait_for(timeout=10_000)
        assert page.locator("#ribbon details").evaluate("one => one.open")
        assert page.locator("#front details").evaluate("one => one.open")  # though a section has come before it
        assert page.locator("#curves details").first.evaluate("one => one.open")
        assert page.locator("#ribbon figure").evaluate("one => one.scrollLeft") == 120
        assert page.locator("#ribbon details summary").evaluate("one => one === document.activeElement")
        page.close()
    assert complaints == []


EPOCHS_OF = {"method": "sandwich", "names": ["core", "full"], "epochs": 3}


LOOKS = [("light", "light", "screen"), ("dark", "dark", "screen"), ("print", "light", "print")]


@pytest.mark.parametrize(("name", "scheme", "media"), LOOKS)
def test_the_ribbon_looks_as_it_did(browser, name, scheme, media):
    graph = resnet()
    same_pixels(browser, f"ribbon-{name}", svg(ribbon_marks(graph, plan(graph), profile(graph))), scheme, media)


def test_fingerprints_look_as_they_did(browser):
    graph = chain()
    same_pixels(browser, "prints-light", svg(print_marks(graph, profile(graph, bits=True))))
