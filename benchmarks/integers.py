"""What integer files gain in latency, and what operators written as convolutions add to that (decision 0021).

    python benchmarks/integers.py                        # writes benchmarks/results/integers-<date>.json
    python benchmarks/integers.py resnet20 --slots 24

Per network, one picture, one thread: float32, integers as ONNX Runtime's quantizer takes the graph (`plain`), and integers of the graph
with batch norms, means and padded channels as convolutions (`convolutions`), in ONNX Runtime and in OpenVINO, each as a ratio to float32 in
the same runtime, all in one interleaved run: [ratio, low, high]. Bytes of the files beside them. Weights were never trained: the time does
not depend on them.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch
from torch import nn

from benchmarks.provenance import earlier, keep, provenance, result_file
from benchmarks.trace import DenseLayer, densenet121, resnet50
from lamella.exporting import convert_to_openvino, export_onnx, quantize_onnx
from lamella.timing import Latency, latency
from lamella.zoo import make_model


def densenet_small() -> nn.Module:
    """A DenseNet for pictures of 32 px: three stages of eight layers."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1, bias=False)]
    width = 32
    for stage in range(3):
        for _ in range(8):
            layers.append(DenseLayer(width))
            width += 32
        if stage < 2:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(
        *layers, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: make_model("resnet20"), 32),
    "resnet56": (lambda: make_model("resnet56"), 32),
    "resnet20_b": (lambda: make_model("resnet20", shortcut="B"), 32),
    "vgg16_bn": (lambda: make_model("vgg16_bn"), 32),
    "densenet_small": (densenet_small, 32),
    "densenet121": (densenet121, 224),
    "resnet50": (resnet50, 224),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="*", default=list(NETWORKS))
    parser.add_argument("--slots", type=int, default=12)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measured(name, asked.slots) for name in asked.network}
    path = result_file("integers")
    keep(path, {**earlier(path), **provenance(), "seed": 0, "slots": asked.slots, **found})


def measured(name: str, slots: int) -> dict[str, Any]:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    model, image = with_statistics(make()), (torch.randn(1, 3, size, size),)
    batches = [torch.randn(8, 3, size, size)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {"float32": export_onnx(model, image, folder / "float32.onnx")}
        with patch("lamella.exporting.integers.as_convolutions", lambda proto: None):
            files["plain"] = quantize_onnx(files["float32"], folder / "plain.onnx", batches)
        files["convolutions"] = quantize_onnx(files["float32"], folder / "convolutions.onnx", batches)
        found: dict[str, Any] = {"bytes": {way: file.stat().st_size for way, file in files.items()}}
        found["onnxruntime"] = told(latency(files, image, slots=slots))
        there = {way: convert_to_openvino(file, folder / f"{way}.xml", image) for way, file in files.items()}
        found["openvino"] = told(latency(there, image, slots=slots))
    print(name, found, flush=True)
    return found


def with_statistics(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms of different numbers: equal constants would be stored once."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.1)
    return model.eval()


def told(times: dict[str, Latency]) -> dict[str, list[float]]:
    return {way: [round(each, 3) for each in (t.ratio, t.ratio_low, t.ratio_high)] for way, t in times.items()}


if __name__ == "__main__":
    main()
