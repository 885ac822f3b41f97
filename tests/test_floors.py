"""The floors of the design: imports point downwards, and the torch-free part loads no torch."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from goldens import WRITE

SOURCE = Path(__file__).parent.parent / "src" / "lamella"

# From the top down; a module imports from lower floors alone.
FLOORS = (
    ("__init__", "__main__"),
    ("cli",),
    ("commands",),
    ("demo",),
    ("screens", "views"),
    ("stages",),
    ("sessions",),
    ("tasks",),
    ("reporting",),
    ("profiling", "compression", "quantization", "accordions", "elasticity", "latencies"),
    ("exporting",),
    ("serving",),
    ("timing",),
    ("walking", "candidates", "calibrating", "equalizing"),
    ("tracing", "storage"),
    ("trainingmode", "equivalence"),
    ("proof",),
    ("replay", "coarsening", "grouping"),
    ("matching",),
    ("surgery",),
    ("keptstatistics", "balance", "grids"),
    ("channels", "importance", "zoo", "harm"),
    ("training",),
    ("simulations", "emptied"),
    ("digests",),
    ("planning",),
    ("reach", "published", "resultfiles", "trials", "baselines"),
    ("costs", "statistics", "axes", "pairs", "ranges"),
    ("schema",),
    ("records",),
    ("runtimes",),
    ("lineage",),
    ("runs", "executors", "progress", "texts", "processors"),
    ("errors", "making"),
    ("version",),
)
TORCH_FREE = (
    "reporting",
    "planning",
    "costs",
    "axes",
    "pairs",
    "published",
    "resultfiles",
    "ranges",
    "statistics",
    "trials",
    "schema",
    "records",
    "runs",
    "lineage",
    "making",
    "progress",
    "errors",
    "views",
    "runtimes",
    "processors",
    "serving",
    "balance",
    "baselines",
    "executors",
    "reach",
    "screens",
    "texts",
    "commands",
    "cli",
)
STAGES = ("profiling", "compression", "quantization", "accordions", "elasticity")


MAP = Path(__file__).parent.parent / "docs" / "tree.md"
HEAD = """# The tree

What lies where in `src/lamella`, from the top down: a module imports from those below it in this table.
Each line is the first of the module's own docstring. (Written by `LAMELLA_WRITE_GOLDENS=1 pytest tests/test_floors.py`.)

"""


def test_the_map_of_the_tree_is_that_of_the_tree():
    lines = [f"{HEAD}| module | what it is for |", "|---|---|"]
    for floor in FLOORS[1:]:
        lines += [f"| `{name}` | {_first_line(name)} |" for name in floor]
    drawn = "\n".join(lines) + "\n"
    if WRITE:
        MAP.write_text(drawn)
    assert MAP.read_text() == drawn


def _first_line(name: str) -> str:
    folder = SOURCE / name
    source = folder / "__init__.py" if folder.is_dir() else SOURCE / f"{name}.py"
    told = ast.get_docstring(ast.parse(source.read_text()))
    assert told, f"{source} does not say what it is for"
    return told.partition("\n")[0]


def modules() -> dict[str, set[str]]:
    """Every module of the package and the modules of the package it imports, by their first name."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        first = path.relative_to(SOURCE).with_suffix("").parts[0]
        found.setdefault(first, set()).update(imports(ast.parse(path.read_text()), package_of(path, SOURCE)))
    return {name: uses - {name} for name, uses in found.items()}


def package_of(path: Path, root: Path) -> str:
    """The dotted name of the package that a file lies in."""
    return ".".join((root.name, *path.relative_to(root).parent.parts))


def imports(tree: ast.AST, package: str = "lamella") -> set[str]:
    """First names of what a module in this package of Lamella imports from Lamella, at any nesting."""
    names = (name.split(".") for node in ast.walk(tree) for name in imported(node, package))
    return {name[1] for name in names if name[0] == "lamella" and len(name) > 1}


def imported(node: ast.AST, package: str) -> list[str]:
    """Dotted names of what a statement imports: in lamella.views, `from ..x import y` is lamella.x.y."""
    if isinstance(node, ast.ImportFrom):
        base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        return [f"{base}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def loads(root: Path) -> dict[str, set[str]]:
    """Every module below a package by its dotted name, and the modules of the package that run when it is imported."""
    paths = {f"{package_of(p, root)}.{p.stem}".removesuffix(".__init__"): p for p in root.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        found[module] = set()
        for node in at_import(ast.parse(path.read_text())):
            for name in imported(node, package_of(path, root)):
                found[module] |= loaded_by(module, name, set(paths))
    return found


def loaded_by(module: str, name: str, known: set[str]) -> set[str]:
    """What runs when a module imports a dotted name: the module that holds it, and packages around that which do not run already."""
    parts = name.split(".")
    found = [each for each in (".".join(parts[: n + 1]) for n in range(len(parts))) if each in known]
    return {each for each in found if each == found[-1] or not module.startswith(f"{each}.")} - {module}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run as a module is imported: those of functions do not, nor those for a type checker."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from at_import(child)


def rank(name: str) -> int:
    for index, floor in enumerate(FLOORS):
        if name in floor:
            return index
    raise AssertionError(f"{name} has no floor: add it to FLOORS where it belongs")


def test_imports_point_downwards():
    upwards = [(name, used) for name, uses in modules().items() for used in uses if rank(used) <= rank(name)]
    assert not upwards


def test_a_stage_never_imports_a_stage():
    table = modules()
    assert not [(a, b) for a in STAGES for b in STAGES if b in table[a]]


IN_EVERY_FORM = (
    "from .cli import main",
    "from . import cli",
    "from lamella import cli",
    "from lamella.cli import main",
    "import lamella.cli",
    "import json, lamella.cli as door",
    "def f():\n    import lamella.cli",
)


@pytest.mark.parametrize("statement", IN_EVERY_FORM)
def test_the_walk_sees_an_upward_import(statement):
    assert imports(ast.parse(statement)) == {"cli"}
    assert rank("cli") < rank("schema")


def test_the_walk_knows_the_package_it_is_in():
    assert imports(ast.parse("from ..cli import main\nfrom .runs import view"), "lamella.views") == {"cli", "views"}
    assert imports(ast.parse("import json\nfrom pathlib import Path")) == set()


def test_no_module_imports_itself_in_the_end():
    TopologicalSorter(loads(SOURCE)).prepare()


def package_with(root: Path, statement: str) -> dict[str, set[str]]:
    """What loads what in a package whose root leads to a, that to a.b, that to c, and c to what the statement says."""
    (root / "a").mkdir(parents=True)
    (root / "__init__.py").write_text("from .a.b import x")
    (root / "a" / "__init__.py").write_text("from .b import x")
    (root / "a" / "b.py").write_text("from ..c import x")
    (root / "c.py").write_text(statement)
    return loads(root)


CIRCULAR = (
    "from . import a",
    "from .a import b",
    "import lamella.a.b",
    "from . import x",
    "try:\n    from .a import x\nfinally: ...",
)
HARMLESS = ("import json", "def f():\n    from . import a", "if TYPE_CHECKING:\n    from . import a")


@pytest.mark.parametrize("statement", CIRCULAR)
def test_the_cycle_test_can_fail(tmp_path, statement):
    with pytest.raises(CycleError):
        TopologicalSorter(package_with(tmp_path / "lamella", statement)).prepare()


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_does_not_run_at_import_makes_no_cycle(tmp_path, statement):
    TopologicalSorter(package_with(tmp_path / "lamella", statement)).prepare()


def torch_loaded_by(statement: str) -> bool:
    program = f"import sys; {statement}; sys.exit(42 if 'torch' in sys.modules else 0)"
    ended = subprocess.run([sys.executable, "-c", program], check=False).returncode
    assert ended in (0, 42), f"`{statement}` ended with exit code {ended}"
    return ended == 42


def test_the_torch_free_part_loads_no_torch():
    assert not torch_loaded_by("import " + ", ".join(f"lamella.{name}" for name in TORCH_FREE))


def test_public_names_of_the_torch_free_part_load_no_torch():
    assert not torch_loaded_by(
        "import lamella; lamella.plan, lamella.report, lamella.draw, lamella.Budget, lamella.cost"
    )


def test_the_torch_test_can_fail():
    assert torch_loaded_by("import lamella.surgery")
    with pytest.raises(AssertionError, match="exit code 1"):
        torch_loaded_by("import lamella.nothing")
