"""What integer files cost and gain: latency, and accuracy by the ranges of their activations.

    python benchmarks/integers.py latency                                        # or: latency resnet20 densenet121
    python benchmarks/integers.py calls resnet20 resnet56
    python benchmarks/integers.py ranges --data data --weights weights
    python benchmarks/integers.py simulation --data data --weights weights
    python benchmarks/integers.py equalizing --data data --weights weights

Each part is written into `results/integers-<date>.json` under its own name.

`latency`: one picture, one thread: float32, integers as ONNX Runtime's quantizer takes the graph (`plain`), and integers of the graph
with batch norms, means and padded channels as convolutions (`convolutions`; decision 0021), in ONNX Runtime and in OpenVINO, each as a
ratio to float32 in the same runtime, all in one interleaved run: [ratio, low, high]. Bytes of the files beside them, and what OpenVINO
computes otherwise than ONNX Runtime (`refused`). Weights were never trained: the time does not depend on them.

`calls`: microseconds of one call from Python, float32 and integers, where the picture is handed over with every call (`handed`) and where
it was set once (`set`; decision 0027): the least of `--slots` slots that take turns.

`ranges`: trained networks on CIFAR-10, calibrated on 64 and on 512 training images, with ranges from the smallest to the largest value
(`widest`) and with those of least error (`least`; decision 0022). What the files score on the test images at odd index, on how many of
these they give the float file's class, the root mean square error of the outputs relative to that of the float ones, and by how many
points `least` scores above `widest`, paired.

`simulation`: the same networks, 8 bits: on how many test images the eager simulation gives the class that the file gives, and the root
mean square error of file against simulation (`apart`) and against float32, relative to the float outputs (decision 0023).

`equalizing`: the same networks in 8 bits as they are, and with every channel that reaches beyond the median one brought down by `equalize`
(decision 0025), which otherwise leaves such networks alone.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.provenance import earlier, keep, provenance, result_file
from benchmarks.trace import densenet, densenet121, resnet50
from lamella.coarsening import CALIBRATION_BATCHES
from lamella.compression import compress
from lamella.costs import cost
from lamella.equalizing import equalize
from lamella.errors import LamellaError
from lamella.exporting import OnnxModel, convert_to_openvino, export_onnx, quantize_onnx
from lamella.quantization import integers_file, quantize
from lamella.schema import Plan, Result
from lamella.statistics import paired_difference
from lamella.tasks import make_task
from lamella.timing import Latency, latency, open_session, prepared
from lamella.timing.calls import compiled, openvino_feeds
from lamella.tracing import trace
from lamella.training import Batches, Task
from lamella.zoo import load_weights, make_model


def densenet_small() -> nn.Module:
    """A DenseNet for pictures of 32 px: three stages of eight layers."""
    return densenet([nn.Conv2d(3, 32, 3, padding=1, bias=False)], 32, (8, 8, 8), 10)


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
    parser.add_argument("part", choices=["latency", "calls", *ON_DATA])
    parser.add_argument("network", nargs="*", help="of the part [default: all that it has]")
    parser.add_argument("--slots", type=int, default=12)
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.part in WITHOUT_DATA:
        found = {name: WITHOUT_DATA[asked.part](name, asked.slots) for name in asked.network or NETWORKS}
    else:
        found = {name: ON_DATA[asked.part](name, asked.data, asked.weights) for name in asked.network or TRAINED}
    path = result_file("integers")
    before = earlier(path)
    keep(path, {**before, asked.part: {**before.get(asked.part, {}), **provenance(), "seed": 0, **found}})


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
        there, found["refused"] = in_openvino(files, image)
        found["openvino"] = told(latency(there, image, slots=slots))
    print(name, found, flush=True)
    return found


def called(name: str, slots: int) -> dict[str, Any]:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    model, image = with_statistics(make()), torch.randn(1, 3, size, size)
    with tempfile.TemporaryDirectory() as scratch:
        whole = export_onnx(model, (image,), Path(scratch) / "float32.onnx")
        files = {"float32": whole, "int8": quantize_onnx(whole, whole.with_suffix(".int8.onnx"), [image])}
        calls = {f"{kind} {way}": call for kind, file in files.items() for way, call in ways(file, image).items()}
        rounds = [{way: microseconds(call) for way, call in calls.items()} for _ in range(slots)]
    found = {way: round(min(each[way] for each in rounds), 1) for way in calls}
    print(name, found, flush=True)
    return found


def ways(file: Path, image: Tensor) -> dict[str, Callable[[], Any]]:
    """One call of the file in each runtime, the picture handed over or set once."""
    session = open_session(file)
    bound, name = session.io_binding(), session.get_inputs()[0].name
    bound.bind_cpu_input(name, image.numpy())
    bound.bind_output(session.get_outputs()[0].name, "cpu")
    there = compiled(file)
    request, feeds = there.create_infer_request(), openvino_feeds(there, [image])
    return {
        "onnxruntime handed": lambda: session.run(None, {name: image.numpy()}),
        "onnxruntime set": lambda: session.run_with_iobinding(bound),
        "openvino handed": lambda: request.infer(feeds, share_inputs=True),
        "openvino set": prepared(file, image, runtime="openvino"),
    }


def microseconds(call: Callable[[], Any], calls: int = 200) -> float:
    """Of one call: this thread's CPU time, as everything is timed here."""
    call()
    start = time.thread_time()
    for _ in range(calls):
        call()
    return 1e6 * (time.thread_time() - start) / calls


def in_openvino(files: dict[str, Path], image: tuple[Tensor]) -> tuple[dict[str, Path], dict[str, str]]:
    """The files as OpenVINO's, and what is said of those that it computes otherwise."""
    there, refused = {}, {}
    for way, file in files.items():
        try:
            there[way] = convert_to_openvino(file, file.with_suffix(".xml"), image)
        except LamellaError as error:
            refused[way] = str(error).partition(": ")[2]
    return there, refused


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


WITHOUT_DATA = {"latency": measured, "calls": called}


# -- ranges


class DenseNetFast(nn.Module):
    """DenseNet-40-12 as `cifar10_densenet_fast_40_12` has it: twelve convolutions a stage, batch norms between stages alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norms = (
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.ModuleList([nn.BatchNorm2d(16, eps=1e-3)]),
        )
        self.layers, width = nn.ModuleList(), 16
        for stage in range(3):
            for _ in range(12):
                self.layers.append(nn.Conv2d(width, 12, 3, padding=1, bias=False))
                width += 12
            if stage < 2:
                self.layers.append(nn.Conv2d(width, width, 1, bias=False))
                self.norms.append(nn.BatchNorm2d(width, eps=1e-3))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.stem(x))
        layers, norms = iter(self.layers), iter(self.norms[1:])
        for stage in range(3):
            for _ in range(12):
                x = torch.cat([x, next(layers)(F.relu(x))], 1)
            if stage < 2:
                x = next(norms)(F.avg_pool2d(next(layers)(x), 2))
        out: Tensor = self.head(F.relu(x).mean((2, 3)))
        return out


def raw(images: Tensor) -> Tensor:
    """Pixels from 0 to 255, which this network was trained on."""
    return 255 * (images * STD + MEAN)


MEAN, STD = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def densenet_fast(weights: Path) -> nn.Module:
    held = load_file(weights / "cifar10_densenet_fast_40_12.safetensors")
    model = DenseNetFast()
    state = {"stem.weight": held["initial_conv2D.weight"]}
    state |= {f"head.{kind}": held[f"dense_1.{kind}"] for kind in ("weight", "bias")}
    state |= {f"layers.{i}.weight": held[f"convolution2d_{i + 1}.weight"] for i in range(len(model.layers))}
    kinds = ("weight", "bias", "running_mean", "running_var")
    state |= {f"norms.{i}.{kind}": held[f"batchnormalization_{i + 1}.{kind}"] for i in range(3) for kind in kinds}
    model.load_state_dict(state, strict=False)
    return model


def resnet_trained(name: str, weights: Path) -> nn.Module:
    return load_weights(make_model(name, num_classes=10), weights / f"cifar10_{name}.safetensors")


TRAINED: dict[str, Callable[[Path], nn.Module]] = {
    "resnet20": partial(resnet_trained, "resnet20"),
    "resnet56": partial(resnet_trained, "resnet56"),
    "densenet_fast_40_12": densenet_fast,
}


def by_ranges(name: str, data: str, weights: Path) -> dict[str, Any]:
    task = make_task("cifar10", data, validation="test_even")
    model = TRAINED[name](weights).eval()
    prepared = raw if isinstance(model, DenseNetFast) else torch.Tensor.contiguous
    calibration = torch.cat([prepared(images) for images, _ in task.calibration])
    test = [(prepared(images), targets) for images, targets in task.test]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dense = export_onnx(model, (calibration[:2],), folder / "dense.onnx")
        exact, targets = answers(dense, test)
        found["float32"] = float((exact.argmax(1) == targets).double().mean())
        for count in (64, 512):
            batches = calibration[:count].split(64)
            rights = {}
            for way, patched in (
                ("widest", patch("lamella.ranges.least_error", widest)),
                ("least", nullcontext()),
            ):
                with patched:
                    file = quantize_onnx(dense, folder / f"{way}.onnx", batches)
                seen, _ = answers(file, test)
                rights[way] = (seen.argmax(1) == targets).double()
                found[f"{way}_{count}"] = beside(seen, exact, targets)
            above = paired_difference(rights["least"].numpy(), rights["widest"].numpy())
            found[f"least_above_widest_{count}"] = [round(100 * value, 2) for value in above]
    print(name, found, flush=True)
    return {"n": len(targets), **found}


def beside(seen: Tensor, exact: Tensor, targets: Tensor) -> dict[str, float]:
    """The score of these outputs, and how far they are from those of the float file."""
    return {
        "test": float((seen.argmax(1) == targets).double().mean()),
        "same_class": float((seen.argmax(1) == exact.argmax(1)).double().mean()),
        "error": float(((seen - exact).square().mean() / exact.square().mean()).sqrt()),
    }


def at_hand(name: str, data: str, weights: Path) -> tuple[nn.Module, Tensor, list[tuple[Tensor, Tensor]], Task]:
    """A trained network, calibration and test pictures as it takes them, and a task of the former."""
    task = make_task("cifar10", data, validation="test_even")
    model = TRAINED[name](weights).eval()
    prepared = raw if isinstance(model, DenseNetFast) else torch.Tensor.contiguous
    calibration = prepared(torch.cat([images for images, _ in islice(task.calibration, 8)]))
    test = [(prepared(images), targets) for images, targets in task.test]
    given = Batches(calibration, torch.zeros(len(calibration), dtype=torch.int64), 64)
    return model, calibration, test, Task((calibration[:1],), train=given, validation=given, test=given)


def by_equalizing(name: str, data: str, weights: Path) -> dict[str, Any]:
    """Files in 8 bits of the network as it is, and with every channel that reaches beyond the median one brought down."""
    model, calibration, test, seen = at_hand(name, data, weights)
    with patch("lamella.equalizing.FAR", 1.0):
        even = equalize(model, trace(model, seen.example_inputs, round_to=1), seen)
    found: dict[str, Any] = {}
    rights = {}
    with tempfile.TemporaryDirectory() as scratch:
        for way, each in (("as_it_is", model), ("equalized", even)):
            dense = export_onnx(each, (calibration[:2],), Path(scratch) / f"{way}.onnx")
            exact, targets = answers(dense, test)
            file = quantize_onnx(dense, Path(scratch) / f"{way}.int8.onnx", calibration.split(64))
            answered, _ = answers(file, test)
            found[way] = beside(answered, exact, targets)
            rights[way] = (answered.argmax(1) == targets).double().numpy()
    above = paired_difference(rights["equalized"], rights["as_it_is"])
    found["equalized_above"] = [round(100 * value, 2) for value in above]
    print(name, found, flush=True)
    return {"n": len(targets), "calibration": len(calibration), **found}


def by_simulation(name: str, data: str, weights: Path) -> dict[str, Any]:
    """How far the eager simulation that `quantize` returns is from the file that it simulates."""
    model, calibration, test, seen = at_hand(name, data, weights)
    coarse, result = quantize(model, untouched(model, seen), seen)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        dense = export_onnx(model, (calibration[:2],), Path(scratch) / "dense.onnx")
        file, _ = answers(integers_file(dense, Path(scratch) / "int8.onnx", result.bits, seen), test)
        exact, _ = answers(dense, test)
        simulated = torch.cat([coarse(images) for images, _ in test])
    same = (file.argmax(1) == simulated.argmax(1)).double()
    found = {
        "same_class": float(same.mean()),
        "apart": float(((file - simulated).square().mean() / exact.square().mean()).sqrt()),
        "file_from_float": float(((file - exact).square().mean() / exact.square().mean()).sqrt()),
    }
    print(name, found, flush=True)
    return {"n": len(same), "calibration": min(len(calibration), 64 * CALIBRATION_BATCHES), **found}


def untouched(model: nn.Module, task: Task) -> Result:
    """The Result of no plan: every layer keeps its channels."""
    graph = trace(model, task.example_inputs)
    price = cost(graph)
    plan = Plan(structure=graph.structure, planner="none", steps=(), predicted=price, dense=price)
    return compress(model, plan, task, graph=graph)[1]


ON_DATA = {"ranges": by_ranges, "simulation": by_simulation, "equalizing": by_equalizing}


def widest(counts: Any, low: float, high: float) -> tuple[float, float]:
    return low, high


def answers(file: Path, test: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Outputs for all test images, and the right classes."""
    run = OnnxModel(file)
    pairs = [(run(images), targets) for images, targets in test]
    return torch.cat([outputs for outputs, _ in pairs]), torch.cat([targets for _, targets in pairs])


if __name__ == "__main__":
    main()
