"""What few bits cost: ResNet-20 with trained weights on CIFAR-10, weights at 8, 4, 3 and 2 bits, as files that ONNX Runtime runs.

    python benchmarks/bits.py --data data --weights cifar10_resnet20.safetensors          # writes benchmarks/results/bits-<date>.json

The first and the last layer have 8 bits in every row. Per row: validation accuracy with rounded weights alone (`zero_shot`), with
batch norm recalibrated (`recalibrated`) and after tuning on the grids (`tuned`); of the file in integers its bytes, its accuracy on
validation and test, the share of validation images in which it gives the class that its eager simulation gives (`agreement`), and its
latency as a ratio to the dense float file, measured in one interleaved run. The weights have seen all training images: validation is
the even test images, test the odd ones. Finished rows are kept in --work, and the same command goes on from there.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch
from torch import nn

from benchmarks.provenance import keep, provenance, result_file
from lamella.coarsening import coarsen
from lamella.compression import compress
from lamella.costs import cost
from lamella.exporting import OnnxModel, export_onnx, layers_in_float, onnx_bytes
from lamella.quantization import agreement, integers_file, multiplying_layers, quantize
from lamella.schema import Graph, Plan, Step
from lamella.tasks import make_task
from lamella.timing import latency
from lamella.tracing import trace
from lamella.training import Batches, Portion, Recipe, Task, evaluate
from lamella.zoo import load_weights, make_model

BITS = (8, 4, 3, 2)


def row(model: nn.Module, graph: Graph, task: Task, bits: int, options: argparse.Namespace) -> dict[str, Any]:
    """One width of weights, from rounding to the file."""
    started = time.process_time()
    names = multiplying_layers(model)
    asked = dict.fromkeys(names, bits) | {names[0]: 8, names[-1]: 8}
    rounded = coarsen(model, asked).eval()
    figures: dict[str, Any] = {"bits": bits, "zero_shot": accuracy(rounded, task.validation, task)}
    step = Step(bits=asked, epochs=options.epochs if bits < 8 else 0)
    made = Plan(
        structure=graph.structure, planner="given", steps=(step,), predicted=cost(graph, {}, asked), dense=cost(graph)
    )
    directory = options.work / f"{bits}-bits"
    recipe = Recipe(epochs=1, lr=options.lr)
    small, result = compress(
        model, made, task, recipe=recipe, graph=graph, seed=options.seed, directory=directory / "steps"
    )
    if bits < 8:
        figures |= {"recalibrated": result.history[-1].before_tuning, "tuned": result.history[-1].validation.value}
    twin, final = quantize(small, result, task)
    source = export_onnx(small, task.example_inputs, directory / "model.onnx")
    file = integers_file(source, directory / "model.int8.onnx", final.bits, task)
    return figures | {
        "file": str(file),
        "file_bytes": onnx_bytes(file),
        "predicted_bytes": made.predicted.bytes,
        "file_validation": accuracy(OnnxModel(file), task.validation, task),
        "file_test": accuracy(OnnxModel(file), task.test, task),
        "agreement": agreement(OnnxModel(file), twin, task),
        "layers_in_float": len(layers_in_float(file)),
        "cpu_seconds": round(time.process_time() - started),
    }


def accuracy(model: nn.Module, data: Any, task: Task) -> float:
    return round(float(evaluate(model, data, task.score).mean()), 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--limit", type=int, help="validation and test images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10_000, help="of an epoch of tuning")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/bits"))
    parser.add_argument("--out", type=Path, default=result_file("bits"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_weights(make_model("resnet20"), options.weights).eval()
    whole = make_task("cifar10", options.data, validation="test_even")
    task = make_task("cifar10", options.data, validation="test_even", limit=options.limit) if options.limit else whole
    assert isinstance(whole.train, Batches)
    task = replace(task, train=Portion(whole.train, options.samples), calibration=whole.train)
    graph = trace(model, task.example_inputs)
    options.work.mkdir(parents=True, exist_ok=True)
    dense = export_onnx(model, task.example_inputs, options.work / "dense.onnx")
    rows = []
    for bits in BITS:
        kept = options.work / f"row-{bits}.json"
        if not kept.exists():
            kept.write_text(json.dumps(row(model, graph, task, bits, options)))
        rows.append(json.loads(kept.read_text()))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    times = latency({"dense": dense} | {str(r["bits"]): r["file"] for r in rows}, task.example_inputs)
    for each in rows:
        each["latency_ratio"] = round(times[str(each["bits"])].ratio, 3)
        del each["file"]
    text = {
        **provenance(),
        "threads": 1,
        "seeds": [options.seed],
        "tuning": f"{options.epochs} epochs of {options.samples} samples, lr {options.lr}",
        "n_validation": sum(len(batch[1]) for batch in task.validation),
        "n_test": sum(len(batch[1]) for batch in task.test),
        "dense_validation": accuracy(model, task.validation, task),
        "dense_test": accuracy(model, task.test, task),
        "dense_file_bytes": onnx_bytes(dense),
        "rows": rows,
    }
    keep(options.out, text)


if __name__ == "__main__":
    main()
