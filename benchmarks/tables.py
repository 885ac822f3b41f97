"""The published AlexNet schedule on files really written: bytes on disk against the arithmetic, and latency; random weights.

    python benchmarks/tables.py

Dense (10 classes, 224 px, float32) against the schedule alexnet-c10 with its linear layers in dynamic int8, the published recipe, and
in 4 bits. Bytes and latency do not depend on the weights; nothing is said of accuracy. Latency: ONNX Runtime, one thread, batch 1, one
interleaved run.
"""

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import torch

from lamella.exporting import export_onnx, onnx_bytes, quantize_linear
from lamella.published import SCHEDULES, account, widths_of
from lamella.sessions import machine, versions
from lamella.surgery import narrow
from lamella.timing import latency
from lamella.tracing import trace
from lamella.zoo import make_model

NAME = "alexnet-c10"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
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
        "command": "python benchmarks/tables.py",
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "machine": machine(),
        "versions": versions(),
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
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"tables-{datetime.now(UTC).date()}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
