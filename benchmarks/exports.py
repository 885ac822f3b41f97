"""CPU time of a narrowed network's ONNX file: exported anew, and made from the dense network's.

    python benchmarks/exports.py                     # writes benchmarks/results/exports-<date>.json
    python benchmarks/exports.py resnet20 --repeats 3

Both ways in turn, after one of each; every time other widths, a quarter to all of each group's channels. `same_bytes`: whether all pairs
of files were equal. Weights were never trained: the time does not depend on them.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch

from benchmarks.provenance import earlier, keep, provenance, result_file
from lamella.exporting import export_like, export_onnx
from lamella.surgery import narrow
from lamella.tracing import trace
from lamella.zoo import make_model

NETWORKS = ("resnet20", "resnet56", "vgg16_bn", "alexnet32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: timed(name, asked.repeats) for name in asked.network}
    path = result_file("exports")
    keep(path, {**earlier(path), **provenance(), "seed": 0, "repeats": asked.repeats, **found})


def timed(name: str, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    drawn = random.Random(0)
    model, inputs = make_model(name, num_classes=10).eval(), (torch.randn(1, 3, 32, 32),)
    graph = trace(model, inputs)
    seconds: dict[str, list[float]] = {"exported": [], "made_from_dense": []}
    same = True
    with tempfile.TemporaryDirectory() as scratch:
        dense = export_onnx(model, inputs, Path(scratch) / "dense.onnx")
        ways = {"exported": export_onnx, "made_from_dense": lambda *given: export_like(dense, *given)}
        for repeat in range(repeats + 1):
            widths = {g.name: g.legal(g.width * drawn.uniform(0.25, 1.0)) for g in graph.free}
            small, files = narrow(model, graph, widths), []
            for way, write in ways.items():
                start = time.process_time()
                files.append(write(small, inputs, Path(scratch) / f"{way}.onnx").read_bytes())
                if repeat:
                    seconds[way].append(time.process_time() - start)
            same = same and files[0] == files[1]
    exported, made = (median(each) for each in seconds.values())
    found = {"seconds": {way: [round(s, 3) for s in each] for way, each in seconds.items()}}
    found |= {"median": {"exported": exported, "made_from_dense": made}, "times": exported / made, "same_bytes": same}
    print(name, found["median"], f"{found['times']:.0f} times as fast, same bytes: {same}", flush=True)
    return found


if __name__ == "__main__":
    main()
