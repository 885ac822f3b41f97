"""The floors of the design: imports point downwards, and the torch-free part loads no torch."""

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "lamella"

# From the top down; a module may import from lower floors, and from later names of its own.
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
    ("walking", "candidates", "calibrating"),
    ("tracing", "storage"),
    ("trainingmode",),
    ("proof",),
    ("replay", "coarsening", "grouping"),
    ("matching",),
    ("surgery",),
    ("keptstatistics", "balance", "grids"),
    ("channels", "importance", "zoo"),
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
)
STAGES = ("profiling", "compression", "quantization", "accordions", "elasticity")


def modules() -> dict[str, set[str]]:
    """Every module of the package and the modules of the package it imports, by their first name."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        inside = path.relative_to(SOURCE).with_suffix("").parts
        depth = len(inside) - 1
        for name in imports(ast.parse(path.read_text()), depth):
            found.setdefault(inside[0], set()).add(name)
        found.setdefault(inside[0], set())
    return {name: uses - {name} for name, uses in found.items()}


def imports(tree: ast.AST, depth: int) -> set[str]:
    """First names of what a module at this depth imports from the package, by `from .x import` at any nesting."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == depth + 1:
            names |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lamella."):
            names.add(node.module.split(".")[1])
    return names


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


def test_the_walk_sees_an_upward_import():
    tree = ast.parse("from .cli import main")
    assert imports(tree, 0) == {"cli"}
    assert rank("cli") < rank("schema")


def torch_loaded_by(statement: str) -> bool:
    program = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 1


def test_the_torch_free_part_loads_no_torch():
    assert not torch_loaded_by("import " + ", ".join(f"lamella.{name}" for name in TORCH_FREE))


def test_public_names_of_the_torch_free_part_load_no_torch():
    assert not torch_loaded_by(
        "import lamella; lamella.plan, lamella.report, lamella.draw, lamella.Budget, lamella.cost"
    )


def test_the_torch_test_can_fail():
    assert torch_loaded_by("import lamella.surgery")
