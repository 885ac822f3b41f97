"""The doors of reporting: draw, files of pictures, what a run directory holds, and the page as text. Browsers: test_page.py."""

import csv
import html
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from accordion_records import accordion
from reporting_records import HOSTILE, chain, family, fill, front, plan, profile, raced, resnet, result, run_info, score
from rich.console import Console
from typer.testing import CliRunner

from lamella.cli import app
from lamella.errors import LamellaError, MismatchError, MissingExtra, RecordError, RunError
from lamella.records import digest, save_record, to_plain
from lamella.reporting import (
    draw,
    ribbon_marks,
    save_pictures,
    serving,
    svg,
    words,
    write_report,
)
from lamella.reporting import watching as live
from lamella.reporting.facts import layer_facts
from lamella.reporting.marks import elide, shown
from lamella.reporting.page.datasets import csv_files, table
from lamella.reporting.prints import layer_prints
from lamella.reporting.stages import Stages, read_stages
from lamella.reporting.styles import flat_css, palette
from lamella.reporting.summary import figures, sentences
from lamella.reporting.tables import heat_map, step_rows
from lamella.schema import FILES, Epoch, Score, Size, Step, Trial, Trials
from lamella.statistics import paired_difference
from lamella.trials import remarks
from lamella.views import show, trials_view

# Text


def test_hostile_text_never_becomes_markup():
    graph = chain((6, 16, 10), names=[HOSTILE, "b", "c"])
    picture = svg(ribbon_marks(graph, plan(graph), profile(graph)), label=HOSTILE)
    assert "<script" not in picture
    assert "\u202e" not in picture
    assert "&lt;script&gt;" in svg(ribbon_marks(graph))


def test_text_that_no_file_can_hold_is_replaced():
    assert shown("a\ud800b\x00c") == "a\ufffdb\ufffdc"
    assert svg(ribbon_marks(chain((6, 10), names=["\ud800\x1ahatch-8)", "b"]))).encode()


@pytest.mark.parametrize("room", range(2, 12))
def test_elided_text_fits(room):
    assert len(elide("layer1.0.conv1", room)) <= room


# Doors


class Net:
    """What an elastic network shows of itself."""

    def __init__(self, graph):
        self.graph, self.family = graph, family(graph)


def test_draw_gives_each_value_a_picture():
    graph = chain()
    planned = plan(graph)
    alone = (graph, profile(graph), front(graph), accordion(), Net(graph))
    with_graph = (planned, result(graph, planned), family(graph))
    for value, needs in [*((value, None) for value in alone), *((value, graph) for value in with_graph)]:
        assert "<svg" in draw(value, needs)._repr_html_()


def test_draw_tells_scores_of_a_tasks_own_as_numbers():
    pytest.importorskip("vl_convert", reason="charts are not drawn: vl-convert-python is not installed")
    graph, own = chain(), Score(value=-2.5, low=-2.7, high=-2.3, n=20)
    walked, levels, spent = result(graph, plan(graph)), family(graph), front(graph)
    walked = replace(walked, history=tuple(replace(m, validation=own) for m in walked.history))
    levels = replace(levels, levels=tuple(replace(x, validation=own, test=None) for x in levels.levels))
    spent = replace(spent, dense_score=-2.5, rows=tuple(replace(row, predicted_score=-2.75) for row in spent.rows))
    for value in (walked, levels, spent):
        text = draw(value, graph).html
        assert f"{words.MINUS}2.5 " in text or f"{words.MINUS}2.5<" in text
        assert not re.search(r"25\d(\.\d+)? ?%", text)
    assert "98.00 %" in draw(result(graph, plan(graph)), graph).html


def test_a_sweep_that_goes_on_tells_scores_of_a_tasks_own_as_numbers():
    graph = chain()
    curves = profile(graph)
    points = (replace(curves.points[0], score=Score(value=-2.5, low=-2.7, high=-2.3, n=20)), *curves.points[1:])
    stages = Stages(graph=graph, profile=curves, measuring=True, files={})
    assert stages.metric == "accuracy"
    assert replace(stages, profile=replace(curves, points=points)).metric == "score"


def test_files_of_every_picture_of_a_run(tmp_path):
    pytest.importorskip("vl_convert", reason="charts and PNG are not drawn: vl-convert-python is not installed")
    fill(tmp_path, chain())
    written = save_pictures(tmp_path, svg=tmp_path / "svg", png=tmp_path / "png", scheme="dark")
    names = {path.name for path in written}
    stems = {"ribbon", "fingerprints", "curves-pruning_ratio", "curves-bits", "walk"}
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            text = path.read_text(encoding="utf-8")
            assert "var(" not in text
            assert "@media" not in text
            assert palette("dark")["paper"] in text


def test_our_own_pictures_are_written_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    fill(tmp_path, chain())
    written = save_pictures(tmp_path, svg=tmp_path / "svg")
    assert {path.name for path in written} == {"ribbon.svg", "fingerprints.svg"}
    with pytest.raises(LamellaError, match=r"a PNG needs vl-convert-python"):
        save_pictures(tmp_path, png=tmp_path / "png")


def test_that_no_picture_can_be_written_without_the_library_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    save_record(tmp_path / FILES["accordion"][0], accordion())
    with pytest.raises(MissingExtra, match=r"a chart needs vl-convert-python"):
        save_pictures(tmp_path, svg=tmp_path / "svg")
    assert not (tmp_path / "svg").exists()


def test_flat_colours_are_those_of_the_sheet():
    light, dark = palette("light"), palette("dark")
    assert set(light) == set(dark)
    assert light["ink"] != dark["ink"]
    for scheme in ("light", "dark"):
        assert not re.search(r"var\(|@media|:hover|:focus|currentColor", flat_css(scheme))


def test_steps_after_the_plan_are_listed():
    graph = chain()
    planned = plan(graph, bits=False)
    done = result(graph, planned)
    extra = replace(done.history[-1], step=len(planned.steps) + 1, name="int8", predicted=None)
    rows = step_rows(graph, planned, (*done.history, extra))
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


def test_the_most_sensitive_group_is_named_whatever_levels_a_race_asked(tmp_path):
    graph = chain((20, 20, 20, 10))
    save_record(tmp_path / "profile.json", raced(graph))
    found = " ".join(sentences(read_stages(tmp_path), ()))
    first, *_, last = (group.name for group in graph.free)
    assert f"minds losing channels of {first} most, of {last} least" in found
    assert "Depth against sensitivity: rank correlation -1.00" in found
    flat = tuple(replace(point, score=score(0.98)) for point in raced(graph).points)
    save_record(tmp_path / "profile.json", replace(raced(graph), points=flat))
    assert "minds losing" not in " ".join(sentences(read_stages(tmp_path), ()))


def test_draw_says_what_it_lacks():
    graph = chain()
    with pytest.raises(LamellaError, match=r"Call draw\(plan, graph\)"):
        draw(plan(graph))
    with pytest.raises(LamellaError, match="a str has no picture"):
        draw("plan")


def test_show_prints_the_table_of_each_value(capsys):
    graph = chain()
    planned = plan(graph)
    told = {"free": graph, "baseline": profile(graph), "limit": front(graph), "before": result(graph, planned)}
    for word, value in [*told.items(), ("widths", accordion()), ("core", family(graph)), ("core", Net(graph))]:
        show(value)
        assert word in capsys.readouterr().out, value
    show(planned, graph)
    assert planned.planner in capsys.readouterr().out
    with pytest.raises(LamellaError, match=r"show\(plan, graph\)"):
        show(planned)
    with pytest.raises(LamellaError, match="a str was given"):
        show("plan")
    assert max(len(repr(graph)), len(repr(profile(graph)))) < 140


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
    assert 'id="curves"' not in text


@pytest.mark.parametrize("stages", [("graph", "profile"), ("graph", "plan"), ("graph", "plan", "result"), ("profile",)])
def test_whatever_stages_exist_are_drawn(tmp_path, stages):
    whole = tmp_path / "whole"
    fill(whole, chain())
    for stage in stages:
        (tmp_path / "part").mkdir(exist_ok=True)
        shutil.copy(whole / FILES[stage][0], tmp_path / "part")
    text = write_report(tmp_path / "part").read_text(encoding="utf-8")
    assert ('id="plan"' in text) == ("plan" in stages)
    assert ('id="curves"' in text) == ("profile" in stages)


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


def test_a_width_search_alone_is_reported(tmp_path):
    save_record(tmp_path / FILES["accordion"][0], accordion())
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="accordion"' in text
    assert 'id="ribbon"' not in text
    assert figures(read_stages(tmp_path))[0].label == "Parameters"


def test_a_family_and_a_front_have_their_sections(tmp_path):
    graph = resnet()
    save_record(tmp_path / FILES["graph"][0], graph)
    save_record(tmp_path / FILES["elastic"][0], family(graph))
    save_record(tmp_path / FILES["front"][0], front(graph))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    shapes = json.loads(re.search(r'id="level-shapes">(.*?)</script>', text)[1])
    assert len(shapes) == 4
    assert {len(level["layers"]) for level in shapes} == {len(graph.layers)}
    bodies = [sum(layer[1] for layer in level["layers"]) for level in shapes]
    assert bodies == sorted(bodies)
    assert 'id="front"' in text


def test_the_page_says_what_has_not_run_and_when_scores_are_no_fractions(tmp_path):
    graph = chain()
    save_record(tmp_path / FILES["graph"][0], graph)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Not here yet: what each group is worth (`lamella profile`), a plan (`lamella plan`)" in text
    assert "no fractions" not in text
    fill(tmp_path, graph)
    save_record(tmp_path / FILES["elastic"][0], family(graph))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Not here yet: what each budget would cost (`lamella plan --pareto bytes`)." in text
    curves = profile(graph)
    below = Score(value=-1.2, low=-1.3, high=-1.1, n=20)
    save_record(tmp_path / FILES["profile"][0], replace(curves, baseline=below))
    assert "no fractions" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_tasks_own_scores_are_plain_numbers_on_the_whole_page(tmp_path):
    graph = chain()
    fill(tmp_path, graph)
    (tmp_path / FILES["table"][0]).unlink()
    own = lambda value: Score(value=value, low=value - 0.5, high=value + 0.5, n=20)
    curves = profile(graph)
    points = tuple(replace(p, score=own(-3.0 - p.level)) for p in curves.points)
    save_record(tmp_path / FILES["profile"][0], replace(curves, metric="score", baseline=own(-2.5), points=points))
    walked = read_stages(tmp_path).result
    history = tuple(
        replace(m, validation=own(-2.75), predicted=-3.25, expected=None, before_tuning=-4.0) for m in walked.history
    )
    save_record(tmp_path / FILES["result"][0], replace(walked, history=history))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    shown = html.unescape(re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", text))
    assert f"{words.MINUS}2.75" in shown
    assert f"{words.MINUS}3.25" in shown
    assert not re.search(r"[-\u2212](2\d\d|3\d\d|4\d\d)(\.\d+)? ?%?", shown)  # no score times a hundred
    assert "points lost" not in shown
    assert "points below" not in shown
    assert words.score(0.5) == "50.00 %"  # outside of the page all is as it was


def test_the_bytes_of_files_that_are_there_are_told_as_such(tmp_path):
    fill(tmp_path, chain())
    (tmp_path / FILES["table"][0]).unlink()
    assert "predicted file" in figures(read_stages(tmp_path))[0].note
    sizes = {"dense_onnx": 40_000, "model": 9, "onnx": 20_000, "int8_onnx": 5_000}
    for age, (name, size) in enumerate(sizes.items()):
        path = tmp_path / FILES[name][0]
        path.write_bytes(bytes(size))
        os.utime(path, ns=(age, age))
    quantized = bool(read_stages(tmp_path).result.bits)
    found = figures(read_stages(tmp_path))[0]
    assert found == (
        "Bytes on disk",
        *(
            ("8\u00d7 fewer", "40 kB → 5 kB, ONNX files")
            if quantized
            else ("2\u00d7 fewer", "40 kB → 20 kB, ONNX files")
        ),
    )
    os.utime(tmp_path / FILES["model"][0], ns=(9, 9))  # compressed anew since
    assert "predicted file" in figures(read_stages(tmp_path))[0].note


@pytest.mark.parametrize(("value", "shown"), [(0.7312, "73.12 %"), (-2.5, f"{words.MINUS}2.5")])
def test_the_score_of_a_file_stands_beside_its_bytes(tmp_path, value, shown):
    """And what was measured on its simulation alone is called so."""
    fill(tmp_path, chain())
    (tmp_path / FILES["table"][0]).unlink()
    coarse = read_stages(tmp_path).result
    told = lambda: {figure.label: figure for figure in figures(read_stages(tmp_path))}
    assert "Validation score, simulated" in told()  # of an older run
    text = html.unescape(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "That of the file itself, model.int8.onnx: told by `lamella quantize`" in text

    measured = replace(coarse, file_score=Score(value=value, low=value - 0.1, high=value + 0.1, n=360))
    save_record(tmp_path / FILES["result"][0], measured)
    (tmp_path / FILES["profile"][0]).unlink()  # it would say what the scores are
    page = html.unescape(write_report(tmp_path).read_text(encoding="utf-8"))
    assert f"<dt>Validation score</dt><dd><strong>{shown}</strong><span>of the file in integers (" in page
    assert f"That of the file itself, model.int8.onnx: {shown} (95 % interval" in page
    steps = csv_files(read_stages(tmp_path), (), ())["steps.csv"].splitlines()
    assert steps[-1].split(",")[1:3] == ["model.int8.onnx", str(value)]

    walked = replace(measured, history=coarse.history[:-1], bits={}, file_score=None)
    save_record(tmp_path / FILES["result"][0], walked)
    assert told()["Validation score"].note.startswith("before")
    assert "simulation" not in write_report(tmp_path).read_text(encoding="utf-8").split('id="provenance"')[0]


def test_a_table_stands_beside_the_network_it_was_measured_on(tmp_path):
    graph = chain()
    fill(tmp_path, graph)
    coarse = read_stages(tmp_path).result
    walked = replace(coarse, history=coarse.history[:-1], bits={})
    other = replace(walked, history=(*walked.history[:-1], replace(walked.history[-1], validation=score(0.4))))
    measured = replace(read_stages(tmp_path).table, plan=digest(walked.plan), walk=walked.walk)
    assert measured.walk == coarse.walk  # bits change nothing of it
    for told, found, stands in (
        (measured, walked, True),
        (measured, coarse, True),
        (measured, other, False),  # the same plan, tuned in another way
        (measured, replace(walked, seed=1), False),
        (replace(measured, walk=""), other, True),  # of an older run
        (replace(measured, plan="of another", walk=""), walked, False),
    ):
        save_record(tmp_path / FILES["table"][0], told)
        save_record(tmp_path / FILES["result"][0], found)
        assert (read_stages(tmp_path).table == told) is stands


def test_a_plan_stands_beside_its_controls(tmp_path):
    graph = fill(tmp_path, chain()) and chain()
    scores = {"plan": (0.9, 0.92), "in_order": (0.88, 0.86)}
    trials = tuple(
        Trial(name=name, seed=seed, validation=0.5, test=test, n_test=1000, params=41_000, macs=82_000)
        for name, tests in scores.items()
        for seed, test in enumerate(tests)
    )
    save_record(tmp_path / FILES["trials"][0], Trials(structure=graph.structure, seeds=2, trials=trials))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    rows = re.search(r'<section id="trials".*?<tbody>(.*?)</tbody>', text, re.DOTALL)[1]
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows.strip().splitlines()]
    assert found[0][:5] == ["plan", "2", "50.00 % ± 0.00", "91.00 % ± 1.41", "\u2013"]
    mean, low, high = (x / 100 for x in paired_difference(*([100 * x for x in tests] for tests in scores.values())))
    assert found[1][4:6] == [words.points(mean), f"{words.points(low)} to {words.points(high)}"]
    assert words.points(mean) == "+4.00"
    assert "the same scores" not in text
    alike = tuple(replace(trial, test=scores[trial.name][0]) for trial in trials)
    save_record(tmp_path / FILES["trials"][0], Trials(structure=graph.structure, seeds=2, trials=alike))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    section = re.search(r'<section id="trials".*?</section>', text, re.DOTALL)[0]
    assert "±" not in section.partition("<tbody>")[2]
    assert "<td>+2.00</td><td>\u2013</td>" in section
    console = Console(width=200)
    with console.capture() as printed:
        console.print(trials_view(read_stages(tmp_path).trials))
    assert "+2.00 " in printed.get()
    assert "±" not in printed.get()
    for told in (section, printed.get()):
        assert "plan, in_order: the same scores from all 2 seeds, so there is no spread to give." in told
    even = tuple(replace(each, name="uniform", macs=60_000) for each in trials if each.name == "plan")
    same = tuple(replace(each, name="in_order") for each in trials if each.name == "plan")
    plan = tuple(each for each in trials if each.name == "plan")
    told = remarks(Trials(structure=graph.structure, seeds=2, trials=(*plan, *same, *even)))
    assert [line.partition(":")[0] for line in told] == ["uniform", "in_order", "uniform has 73 % of the plan's MACs"]
    assert told[0].startswith("uniform: the same difference to the plan from all 2 seeds")
    assert remarks(Trials(structure=graph.structure, seeds=2, trials=trials)) == ()
    close = [replace(each, name="in_order", test=each.test - 0.1 - 1e-16) for each in plan]
    off_by_one = Trials(structure=graph.structure, seeds=2, trials=(*plan, *close))
    assert [line.partition(",")[0] for line in remarks(off_by_one)] == [
        "in_order: the same difference to the plan from all 2 seeds"
    ]
    with console.capture() as printed:
        console.print(trials_view(off_by_one))
    assert "+10.00 " in printed.get()
    assert "+10.00 [" not in printed.get()
    walked = read_stages(tmp_path).plan
    for walked_one, stands in ((walked, True), (replace(walked, steps=walked.steps[:1]), False)):
        made = Trials(structure=graph.structure, seeds=2, trials=trials, plan=digest(walked_one))
        save_record(tmp_path / FILES["trials"][0], made)
        assert (read_stages(tmp_path).trials == made) is stands
    save_record(tmp_path / FILES["trials"][0], Trials(structure="other", seeds=2, trials=trials))
    with pytest.raises(MismatchError, match=r"trials\.json belongs to another model"):
        read_stages(tmp_path)


def test_a_sweep_that_goes_on_is_shown(tmp_path):
    graph = chain()
    curves = profile(graph)
    save_record(tmp_path / FILES["graph"][0], graph)
    lines = [{"identity": {"structure": graph.structure}}]
    lines += [{"key": str(i), "value": to_plain(p)} for i, p in enumerate(curves.points[:5])]
    journal = tmp_path / FILES["profile_journal"][0]
    journal.write_text("\n".join(map(json.dumps, lines)) + '\n{"key": "half')
    stages = read_stages(tmp_path)
    assert stages.measuring
    assert stages.profile.points == curves.points[:5]
    assert stages.profile.baseline == max((p.score for p in curves.points[:5]), key=lambda s: s.value)
    assert "the best point so far stands for it" in stages.profile.notes[0]
    assert "Still being measured: 5 points so far" in write_report(tmp_path).read_text(encoding="utf-8")
    assert journal.read_text().endswith("half")
    lines.insert(1, {"key": "baseline", "value": to_plain(curves.baseline)})
    journal.write_text("\n".join(map(json.dumps, lines)) + "\n")
    stages = read_stages(tmp_path)
    assert (stages.profile.baseline, stages.profile.points) == (curves.baseline, curves.points[:5])
    assert stages.profile.notes == ()
    for damaged in ("", "nonsense\n", json.dumps({"identity": {"structure": "other"}}) + "\n"):
        journal.write_text(damaged)
        assert read_stages(tmp_path).profile is None


def test_a_walk_that_goes_on_is_shown(tmp_path):
    graph = chain()
    planned = plan(graph)
    history = result(graph, planned).history
    save_record(tmp_path / FILES["graph"][0], graph)
    save_record(tmp_path / FILES["plan"][0], planned)
    folder = tmp_path / "steps" / "abc"
    folder.mkdir(parents=True)
    lines = [{"identity": {"structure": graph.structure}}]
    lines += [{"key": str(m.step), "value": {"kept": {}, "measure": to_plain(m)}} for m in history[:3]]
    (folder / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_stages(tmp_path).history == history[1:3]
    assert "2 carried out so far" in write_report(tmp_path).read_text(encoding="utf-8")


def training(graph, epochs=(), *closing):
    """The lines of a training's journal of epochs."""
    identity = {"structure": graph.structure, "method": "grow", "names": ["core", "full"], "epochs": 4}
    lines = [{"identity": identity}, *({"key": str(e.done), "value": to_plain(e)} for e in epochs), *closing]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_levels_in_training_are_shown_until_their_family_is_there(tmp_path):
    graph = chain()
    save_record(tmp_path / FILES["graph"][0], graph)
    journal = tmp_path / "elastic" / "training" / "abc" / "epochs.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text(training(graph))
    assert "0 of 4 epochs so far." in write_report(tmp_path).read_text(encoding="utf-8")
    epochs = [Epoch(stage="core", done=n, loss=0.5 / n, scores={"core": score(0.8 + 0.01 * n)}) for n in (1, 2)]
    journal.write_text(training(graph, epochs) + '{"key": "3", "va')
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "2 of 4 epochs so far, the last one of stage “core” with a mean loss of 0.25." in text
    rows = re.search(r'<section id="training".*?<tbody>(.*?)</tbody>', text, re.DOTALL)[1]
    assert re.findall(r'row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', rows) == [
        ("core", "2", "82.00 %"),
        ("full", "\u2013", "\u2013"),
    ]
    record = tmp_path / FILES["elastic"][0]
    save_record(record, family(graph))  # of an earlier training
    os.utime(record, (1, 1))
    assert read_stages(tmp_path).training.epochs == tuple(epochs)
    journal.write_text(training(graph, epochs, {"key": "end", "value": {}}))
    assert read_stages(tmp_path).training is None  # a copy of the run has other times
    os.utime(record)
    journal.write_text(training(graph, epochs))
    os.utime(journal, (1, 1))
    assert read_stages(tmp_path).training is None
    record.unlink()
    for damaged in (
        "",
        "nonsense\n",
        training(chain((6, 16, 10))),
        json.dumps({"identity": {"structure": graph.structure}}) + "\n",
    ):
        journal.write_text(damaged)
        assert read_stages(tmp_path).training is None


def test_a_width_search_that_goes_on_is_shown(tmp_path):
    entries = [("8-4-8 seed 0", 0.5), ("8-4-8 seed 1", 0.7), ("8-2-8 seed 0", 0.9), ("pruned", None)]
    lines = [{"identity": {"recipe": "x"}}]
    lines += [{"key": k, "value": {"validation": {"f1": v, "roc_auc": 0.5}} if v else [8, 4, 8]} for k, v in entries]
    journal = tmp_path / FILES["accordion_journal"][0]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "2 shapes trained so far." in text
    found = re.findall(r'row">(.*?)</th><td>(.*?)</td><td>(.*?) <small>(.*?)</small>', text)
    assert found == [("8-2-8", "1", "0.900", "0.900 to 0.900"), ("8-4-8", "2", "0.600", "0.500 to 0.700")]
    save_record(tmp_path / FILES["accordion"][0], accordion())
    assert read_stages(tmp_path).trying == ()


def test_data_as_csv(tmp_path):
    graph = chain((6, 16, 10), names=["=cmd()", 'b,"c', "c"])
    stages = read_stages(fill(tmp_path, graph))
    prints = layer_prints(graph, stages.profile)
    found = csv_files(stages, layer_facts(graph, stages.outcome, stages.profile), prints)
    assert list(found) == ["layers.csv", "curves.csv", "steps.csv"]
    layers = list(csv.DictReader(io.StringIO(found["layers.csv"])))
    assert [row["name"] for row in layers] == ["'=cmd()", 'b,"c', "c"]
    assert float(layers[0]["params_share"]) > 0
    curves = list(csv.DictReader(io.StringIO(found["curves.csv"])))
    assert len(curves) == len(stages.profile.points)
    assert table(("a",), [(None,), (1.5,)]) == 'a\n""\n1.5\n'


def test_a_heat_map_of_many_levels_has_few_columns():
    curves = profile(chain((7, 11, 13, 17, 19, 23, 10)))
    curves = replace(
        curves,
        points=tuple(replace(p, level=1 - p.width / curves.graph.group_of[p.target].width) for p in curves.points),
    )
    target = curves.points[4].target
    chosen = curves.points[4].level
    heat = heat_map(curves, "pruning_ratio", {target: chosen}, None)
    assert len(heat.heads) == 9
    row = next(row for row in heat.rows if row.target == target)
    assert [cell.title.split(":")[0] for cell in row.cells if cell and cell.chosen] == [words.ratio(chosen)]


# The command


def test_the_command_writes_the_page_and_its_pictures(tmp_path):
    pytest.importorskip("vl_convert", reason="charts and PNG are not drawn: vl-convert-python is not installed")
    fill(tmp_path / "r", chain())
    asked = ["report", str(tmp_path / "r"), "--svg", str(tmp_path / "s"), "--png", str(tmp_path / "p"), "--json"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["report"].endswith("report.html")
    assert {Path(path).name for path in told["pictures"]} >= {"ribbon.svg", "fingerprints.png"}
    assert all(Path(path).exists() for path in told["pictures"])


def test_drawing_a_live_page_takes_a_tenth_of_a_processor_at_most(tmp_path, monkeypatch):
    now, spent = [100.0], [0.0]
    monkeypatch.setattr(live, "monotonic", lambda: now[0])
    monkeypatch.setattr(live, "process_time", lambda: spent[0])
    page, drawn = live.Live(tmp_path), []

    def render():
        spent[0] += 2.0
        drawn.append(now[0])
        return str(len(drawn))

    monkeypatch.setattr(page, "_render", render)
    for second in range(60):
        now[0] = 100.0 + second
        (tmp_path / FILES["profile_journal"][0]).write_text("x" * (second + 1))
        news = page.news
        assert page.text() == str(len(drawn))
        assert page.news == news
    assert drawn == [100.0, 118.0, 136.0, 154.0]
    now[0] = 200.0
    assert page.news != news
    assert page.text() == "5"  # the last state is never missed


def test_watching_writes_nothing_and_ends_with_ctrl_c(tmp_path):
    save_record(tmp_path / FILES["graph"][0], chain())
    command = [sys.executable, "-m", "lamella", "report", str(tmp_path), "--watch", "--json"]
    hears = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf to it
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears
    ) as watching:
        told = "".join(iter(watching.stdout.readline, "}\n")) + "}"
        assert 'id="ribbon"' in fetched(json.loads(told)["url"])[1]
        watching.send_signal(signal.SIGINT)
        try:
            _, errors = watching.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            watching.kill()
            raise
    assert watching.returncode == 0, errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILES["graph"][0]]
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--watch", "--svg", "x"])
    assert "leave --svg and --png out" in str(result.exception)


# Live


def fetched(url, host=None):
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, "", error.headers


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_run_is_served_to_this_machine_and_follows_its_files(tmp_path):
    graph = chain()
    with serving(tmp_path) as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert "nothing to report" in fetched(served.url)[1]
        before = fetched(f"{served.url}version")[1]
        save_record(tmp_path / FILES["graph"][0], graph)
        status, text, headers = fetched(served.url)
        assert (status, headers["Cache-Control"]) == (200, "no-store")
        assert 'id="ribbon"' in text
        assert "connect-src &#39;self&#39;" in text
        assert fetched(f"{served.url}version")[1] != before
        assert fetched(f"{served.url}run.json")[0] == 404
        assert fetched(f"{served.url}../graph.json")[0] == 404
        assert fetched(served.url, host="evil.example")[0] == 403
        assert fetched(served.url, host="localhost:1")[0] == 200
    assert not (tmp_path / FILES["report"][0]).exists()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no address of IPv6")
def test_a_run_is_served_on_an_address_of_ipv6(tmp_path):
    save_record(tmp_path / FILES["graph"][0], chain())
    with serving(tmp_path, host="::1") as served:
        assert served.url.startswith("http://[::1]:")
        assert 'id="ribbon"' in fetched(served.url)[1]
        assert fetched(served.url, host="evil.example")[0] == 403


def test_a_damaged_run_is_served_with_the_reason(tmp_path):
    (tmp_path / "graph.json").write_text("{")
    with serving(tmp_path) as served:
        assert "graph.json" in fetched(served.url)[1]


def test_what_cannot_be_served_is_said(tmp_path):
    with pytest.raises(RunError, match="no run directory"), serving(tmp_path / "nowhere"):
        pass
    with serving(tmp_path) as served:
        port = int(served.url.split(":")[-1].strip("/"))
        with pytest.raises(RunError, match="Name another --port"), serving(tmp_path, port=port):
            pass
    with (
        pytest.raises(
            RunError, match=r"192\.0\.2\.1:0: cannot be served on .* or another --host: an address of this machine"
        ),
        serving(tmp_path, host="192.0.2.1"),  # kept for documentation: nobody's
    ):
        pass


def test_the_provenance_names_what_made_the_run(tmp_path):
    text = write_report(fill(tmp_path, chain())).read_text(encoding="utf-8")
    for fact in (run_info().command, "torch 2.13.0", run_info().machine, run_info().started):
        assert fact in text
