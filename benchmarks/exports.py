"""CPU time of a narrowed network's ONNX file: exported anew, and made from another narrowed network's.

    python benchmarks/exports.py                     # writes benchmarks/results/exports-<date>.json
    python benchmarks/exports.py resnet20 --repeats 3

Both ways in turn, after one of each; every time other widths, a quarter to all of each group's channels. `same_bytes`: how many pairs
of files were equal (where two widths are equal, the exporter may make one constant of two). `exported_after_all`: how many of the files
made did not fit an earlier one. Weights were never trained: the time does not depend on them.
"""

import argparse
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
from lamella.exporting import NarrowedExports, export_onnx
from lamella.latencies import random_plans
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
    model, inputs = make_model(name, num_classes=10).eval(), (torch.randn(1, 3, 32, 32),)
    graph = trace(model, inputs)
    plans = [narrow(model, graph, widths) for widths in random_plans(graph, repeats + 1, 0)]
    seconds: dict[str, list[float]] = {"exported": [], "made": []}
    same = 0
    with tempfile.TemporaryDirectory() as scratch:
        like = export_onnx(plans[0], inputs, Path(scratch) / "like.onnx")
        made = NarrowedExports(like)
        made(model, inputs, Path(scratch) / "first.onnx")
        ways = {"exported": export_onnx, "made": made}
        for small in plans[1:]:
            files = []
            for way, write in ways.items():
                start = time.process_time()
                files.append(write(small, inputs, Path(scratch) / f"{way}.onnx").read_bytes())
                seconds[way].append(time.process_time() - start)
            same += files[0] == files[1]
    medians = {way: median(each) for way, each in seconds.items()}
    times = medians["exported"] / medians["made"]
    print(name, medians, f"{times:.0f} times as fast, {same} of {repeats} the same bytes", flush=True)
    return {
        "seconds": {way: [round(s, 3) for s in each] for way, each in seconds.items()},
        "median": medians,
        "times": times,
        "same_bytes": f"{same} of {repeats}",
        "exported_after_all": len(made.like) - 1,
    }


if __name__ == "__main__":
    main()
