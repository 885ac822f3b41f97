"""Time of tracing and narrowing, beside the export alone and beside Torch-Pruning where it is installed.

    python benchmarks/trace.py                       # writes benchmarks/results/trace-<date>.json
    python benchmarks/trace.py resnet50 --repeats 1

Per network: seconds of torch.export with its decompositions, of trace() with its proof, of narrow() at half width, of one forward
pass; the share of parameters removed at pruning ratio 0.5, the largest difference from the masked network; the same removed share
and seconds (graph, groups, one prune) for Torch-Pruning. Networks: the project's own, and ResNet-50 and DenseNet-121 in their
published shapes, with weights that were never trained.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.provenance import keep, provenance, result_file
from lamella.costs import cost
from lamella.surgery import masked, narrow, resolve
from lamella.tracing import trace
from lamella.zoo import make_model


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def stem() -> list[nn.Module]:
    """What both networks begin with: 64 channels at a quarter of the picture's side."""
    return [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]


def resnet50() -> nn.Module:
    """ResNet-50: 25,557,032 parameters."""
    layers = stem()
    inputs = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if stage and not block else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


class DenseLayer(nn.Module):
    """Norm, 1x1, norm, 3x3, and everything before it (Huang et al. 2017)."""

    def __init__(self, inputs: int, growth: int = 32) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat((x, self.conv2(F.relu(self.norm2(y)))), 1)


def densenet121() -> nn.Module:
    """DenseNet-121: 7,978,856 parameters."""
    return densenet(stem(), 64, (6, 12, 24, 16), 1000)


def densenet(layers: list[nn.Module], width: int, stages: Sequence[int], classes: int) -> nn.Module:
    """A DenseNet of so many layers a stage behind these, which give `width` channels."""
    for stage, blocks in enumerate(stages):
        for _ in range(blocks):
            layers.append(DenseLayer(width))
            width += 32
        if stage < len(stages) - 1:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), *head)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: make_model("resnet20"), 32),
    "resnet56": (lambda: make_model("resnet56"), 32),
    "vgg16": (lambda: make_model("vgg16"), 32),
    "resnet50": (resnet50, 224),
    "densenet121": (densenet121, 224),
}


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The least time of a few runs, and the result of the last."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def forward(model: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    with torch.no_grad():
        return model(*inputs)


def measure(name: str, repeats: int) -> dict[str, Any]:
    """One network's row."""
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    model, inputs = make().eval(), (torch.randn(1, 3, size, size),)
    forward(model, inputs)
    once, _ = seconds(lambda: forward(model, inputs), repeats + 2)
    export, program = seconds(lambda: torch.export.export(model, inputs), repeats)
    decompose, _ = seconds(lambda: program.run_decompositions(), repeats)
    traced, graph = seconds(lambda: trace(model, inputs, round_to=1), repeats)
    kept = resolve(model, graph, {g.name: g.legal(g.width / 2) for g in graph.free})
    cut, small = seconds(lambda: narrow(model, graph, kept), repeats)
    expected = forward(masked(model, graph, kept), inputs)
    left = sum(p.numel() for p in small.parameters())
    assert cost(graph, {n: len(c) for n, c in kept.items()}).params == left
    return {
        "params": cost(graph).params,
        "groups": len(graph.groups),
        "free_groups": len(graph.free),
        "export_seconds": export,
        "decompositions_seconds": decompose,
        "forward_seconds": once,
        "trace_seconds": traced,
        "trace_over_allowance": traced / (1.5 * (export + decompose) + 3 * once),
        "narrow_seconds": cut,
        "removed_at_half": 1 - left / cost(graph).params,
        "relative_error": float((forward(small, inputs) - expected).abs().max() / expected.abs().max()),
        **torch_pruning(make, inputs),
    }


def torch_pruning(make: Callable[[], nn.Module], inputs: tuple[Tensor]) -> dict[str, Any]:
    """The same for Torch-Pruning; its error where it fails, nothing where it is not installed."""
    try:
        import torch_pruning as tp
    except ImportError:
        return {}
    torch.manual_seed(0)
    model = make().eval()
    dense = sum(p.numel() for p in model.parameters())
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    start = time.perf_counter()
    try:
        pruner = tp.pruner.BasePruner(
            model, inputs[0], importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=last
        )
        pruner.step()
        taken = time.perf_counter() - start
        forward(model, inputs)
    except Exception as error:
        return {"torch_pruning_error": repr(error)[:200]}
    left = sum(p.numel() for p in model.parameters())
    return {"torch_pruning_seconds": taken, "torch_pruning_removed_at_half": 1 - left / dense}


def output_of(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    record: dict[str, Any] = {
        **provenance(),
        "threads": 2,
        "seeds": [0],
        "networks": {},
    }
    path = options.out or result_file("trace")
    for name in options.names:
        row = record["networks"][name] = measure(name, options.repeats)
        print(name, json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
        keep(path, record)


if __name__ == "__main__":
    main()
