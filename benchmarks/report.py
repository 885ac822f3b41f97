"""Time and size of the page of ResNet-56: `python benchmarks/report.py` writes benchmarks/results/report-<date>.json.

The graph is the real one; its curves are invented (28 groups at up to nine ratios, 55 layers at five bit widths), since what they say
does not change what drawing them takes. Each repeat is a process of its own, timed inside: `build_seconds` from records on disk to
the page on disk with the package loaded, `start_seconds` the import before it, `whole_seconds` both and the interpreter's start.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch

from benchmarks.provenance import keep, provenance, result_file
from lamella.planning import plan
from lamella.records import save_record
from lamella.schema import FILES, Budget, Measure, Plan, Point, Profile, Result, Score
from lamella.tracing import trace
from lamella.zoo import make_model

CHILD = """
import json, sys, time
start = time.perf_counter()
from lamella.reporting import write_report
loaded = time.perf_counter()
path = write_report(sys.argv[1])
print(json.dumps([loaded - start, time.perf_counter() - loaded, path.stat().st_size]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        write_run(Path(scratch))
        rows = [once(scratch) for _ in range(asked.repeats)]
    names = ("start_seconds", "build_seconds", "page_bytes", "whole_seconds")
    found = {
        **provenance(),
        "seeds": [0],
        "repeats": asked.repeats,
        **{f"{name}_median": sorted(row[i] for row in rows)[len(rows) // 2] for i, name in enumerate(names)},
        **{f"{name}_worst": max(row[i] for row in rows) for i, name in enumerate(names)},
    }
    keep(result_file("report"), found)
    print(json.dumps(found, indent=1))


def once(directory: str) -> tuple[float, float, int, float]:
    """One page in a fresh process: seconds of the import, of the page, its bytes, seconds of everything."""
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", CHILD, directory], capture_output=True, text=True, check=True).stdout
    loading, building, size = json.loads(out)
    return loading, building, size, time.perf_counter() - start


def write_run(directory: Path) -> None:
    """Graph, profile, plan and result of ResNet-56."""
    torch.manual_seed(0)
    graph = trace(make_model("resnet56").eval(), (torch.zeros(1, 3, 32, 32),))
    points = [
        Point(
            target=g.name,
            knob="pruning_ratio",
            level=1 - w / g.width,
            width=w,
            score=score(0.93 - 0.6 * (1 - w / g.width) ** 4),
        )
        for g in graph.free
        for w in sorted({g.legal(g.width * (1 - k / 10)) for k in range(1, 10)} - {g.width})
    ]
    points += [
        Point(target=x.name, knob="bits", level=float(b), score=score(0.93 - 0.5 / b**2))
        for x in graph.layers
        if x.kind in ("conv2d", "linear")
        for b in (8, 6, 4, 3, 2)
    ]
    profile = Profile(graph=graph, baseline=score(0.93), points=tuple(points))
    made: Plan = plan(profile, Budget(), planner="threshold", factor=0.95, bits=8)
    kept = {name: tuple(range(width)) for name, width in graph.completed(made.widths).items()}
    steps = [
        Measure(name=f"step {i}", step=i, validation=score(0.93 - 0.001 * i), params=1, macs=1, before_tuning=0.9)
        for i in range(len(made.steps) + 1)
    ]
    result = Result(plan=made, kept=kept, history=tuple(steps), bits=made.bits)
    for key, value in {"graph": graph, "profile": profile, "plan": made, "result": result}.items():
        save_record(directory / FILES[key][0], value)


def score(value: float, n: int = 5000) -> Score:
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return Score(value=value, low=value - half, high=min(1.0, value + half), n=n)


if __name__ == "__main__":
    main()
