"""Documentation is executed or generated: the README's program runs, its table is the benchmark's, every public name is told."""

import doctest
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import lamella
from lamella.cli import app
from lamella.exporting import layers_in_float
from lamella.planning import ORDERS, PLANNERS
from lamella.quantization import SCHEMES
from lamella.stages.controls import CONTROLS
from lamella.walking import REMOVALS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_readme_program_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "Cost(params=" in capsys.readouterr().out
    assert (tmp_path / "small.int8.onnx").stat().st_size < (tmp_path / "small.onnx").stat().st_size


def test_the_guide_runs_and_names_every_choice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "compressing.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names = {}
    exec(compile(program, "compressing.md", "exec"), names)
    assert names["result"].bits
    assert layers_in_float(tmp_path / "model.int8.onnx") == ()
    for table in (PLANNERS, ORDERS, REMOVALS, SCHEMES, CONTROLS):
        assert [name for name in table if f"`{name}`" not in guide] == []


def test_the_guide_to_installing_names_the_oldest_torch_that_will_do():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (oldest,) = (need.removeprefix("torch>=") for need in project["dependencies"] if need.startswith("torch>="))
    assert f"({oldest} or later)" in (ROOT / "docs" / "own_network.md").read_text()


def test_the_readme_table_is_the_latest_result():
    spec = importlib.util.spec_from_file_location("demo_benchmark", ROOT / "benchmarks" / "demo.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    latest = sorted((ROOT / "benchmarks" / "results").glob("demo-*.json"))[-1]
    assert benchmark.table(json.loads(latest.read_text())) in README


def test_the_examples_of_docstrings_are_true():
    source = ROOT / "src"
    shown = [path for path in sorted(source.rglob("*.py")) if ">>> " in path.read_text()]
    for path in shown:
        module = importlib.import_module(
            ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        )
        found = doctest.testmod(module)
        assert found.attempted, path
        assert not found.failed, path


def test_names_are_sorted_public_and_documented():
    assert lamella.__all__ == sorted(lamella.__all__)
    assert set(lamella.__all__) - {"__version__"} == set(lamella._HOMES)
    for name in set(lamella.__all__) - {"__version__"}:
        assert getattr(lamella, name).__doc__, f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lamella.nonsense


def commands(command, name="lamella"):
    """Every command with its full name, groups and their commands included."""
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme_or_a_guide(name):
    told = README + "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert re.search(rf"\b{name}(?![\w-])", told)


def test_links_lead_somewhere_and_options_exist():
    flags = {"--help"} | {flag for each in COMMANDS.values() for parameter in each.params for flag in parameter.opts}
    flags |= set(re.findall(r'"(--[a-z-]+)"', "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))))
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == [], page
        if page.name != "CHANGELOG.md":  # which tells of what is gone
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) <= flags, page


def test_nothing_names_a_path_of_a_machine():
    paths = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*"),
    ]
    for path in paths:
        if path.is_file():
            assert not re.search(r"(?<![\w.])/(root|home|tmp)/\w", path.read_text()), path


def test_the_guide_to_an_own_network_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    guide = (ROOT / "docs" / "own_network.md").read_text()
    nets, data, program = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    Path("nets.py").write_text(nets)
    Path("data.py").write_text(data)
    names = {}
    exec(compile(program, "own_network.md", "exec"), names)
    before, after = (next(done for done in names["result"].history if done.step == step) for step in (1, 2))
    assert before.validation != after.validation
    assert names["again"](names["images"]).shape == (len(names["images"]), 10)
    run = CliRunner().invoke(
        app, ["trace", "r", "--model", "nets.py:make_net", "--task", "data.py:make_task", "--quiet"]
    )
    assert run.exit_code == 0, run.exception
    written = {path.name for path in Path("r").iterdir()} - {".lock"}
    assert [name for name in written if f"`{name}`" not in guide] == []
    for module in ("nets", "data"):
        sys.modules.pop(module, None)
