"""The published AlexNet schedule on files really written: bytes on disk against the arithmetic, and latency; random weights.

    python benchmarks/tables.py

Dense (10 classes, 224 px, float32) against the schedule alexnet-c10 with its linear layers in dynamic int8, the published recipe, and
in 4 bits. Bytes and latency do not depend on the weights; nothing is said of accuracy. Latency: ONNX Runtime, one thread, batch 1, one
interleaved run.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch

from benchmarks.provenance import keep, provenance, result_file
from lamella.exporting import export_onnx, onnx_bytes, quantize_linear
from lamella.published import SCHEDULES, account, widths_of
from lamella.surgery import narrow
from lamella.timing import latency
from lamella.tracing import trace
from lamella.zoo import make_model

NAME = "alexnet-c10"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(1, 3, 224, 224)
    model = make_model("alexnet", num_classes=10).eval()
    graph = trace(model, images, round_to=1, prove=False)
    small = narrow(model, graph, widths_of(graph, SCHEDULES[NAME]))
    with tempfile.TemporaryDirectory(prefix="lamella.") as scratch:
        folder = Path(scratch)
        files = {"dense": export_onnx(model, images, folder / "dense.onnx")}
        files["pruned"] = export_onnx(small, images, folder / "pruned.onnx")
        for scheme in ("dynamic-fc", "nbits-fc"):
            files[scheme] = quantize_linear(files["pruned"], folder / f"{scheme}.onnx", images, scheme=scheme)
        sizes = {name: onnx_bytes(path) for name, path in files.items()}
        times = latency(files, images, slots=6, seconds=0.2)
    expected = account(graph, SCHEDULES[NAME])
    found = {
        **provenance(),
        "seeds": [0],
        "schedule": NAME,
        "arithmetic_true_ratio": expected.true_ratio,
        "file_true_ratio": sizes["dense"] / sizes["dynamic-fc"],
        "nbits_fc_ratio": sizes["dense"] / sizes["nbits-fc"],
        "bytes": sizes,
        "latency_ratio": {n: t.ratio for n, t in times.items()},
        "latency_ratio_low": {n: t.ratio_low for n, t in times.items()},
        "latency_ratio_high": {n: t.ratio_high for n, t in times.items()},
    }
    keep(result_file("tables"), found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
