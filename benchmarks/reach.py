"""How small and how fast at which loss: whole networks through profile, plan, compress, quantize and export, with controls.

    python benchmarks/reach.py resnet20_macs --data data --weights weights           # half the MACs
    python benchmarks/reach.py alexnet32_bytes --data data --weights .references --seed 0
    python benchmarks/reach.py vgg16_bn_bytes --data data --weights .references
    python benchmarks/reach.py order --data data --weights weights --seeds 3         # out of order against in order
    python benchmarks/reach.py speed                                                 # what narrower ResNets take, in float32 and int8

A row is a network, a budget and a tuning (ROWS). Its channels and bits are chosen by `knapsack` from exact curves on validation
samples, without a look at test. Every row says what the file weighs and scores, measured on the file in ONNX Runtime, and how far that
is, pairwise on the same test images, from the dense network and, where a row has one, from `origin`, the dense network with the same extra
training. Every step is kept in --work: a run that was cut short goes on. Rows are added to `results/reach-<date>.json`.
`cpu_seconds_of_all_calls`: a row's, those that ended in an error or were interrupted (Ctrl-C) included. A call that was killed is missing,
and so are the calls before there was such a count in the row's folder of --work.

The trained ResNets have seen all training images: validation is the test images at even index, test those at odd index. Networks from
`references.py` hold out the last 5,000 training images.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np
import torch
from torch import nn

from benchmarks.provenance import earlier, keep, provenance, result_file
from lamella.candidates import Candidates
from lamella.compression import compress
from lamella.costs import cost
from lamella.exporting import OnnxModel, OpenvinoModel, convert_to_openvino, export_onnx, onnx_bytes, quantize_onnx
from lamella.latencies import Timing, latency_fit, predictor
from lamella.planning import plan as make_plan
from lamella.planning import reorder
from lamella.profiling import Sweep, profile
from lamella.quantization import agreement, integers_file, quantize
from lamella.runs import write_through
from lamella.schema import Budget, Plan, Profile, Step
from lamella.statistics import over_seeds, paired_difference, score_interval
from lamella.surgery import narrow
from lamella.tasks import make_task
from lamella.timing import Latency, latency
from lamella.tracing import trace
from lamella.training import Batches, Brief, Portion, Recipe, Task, evaluate
from lamella.zoo import load_weights, make_model

IMAGE = (torch.zeros(1, 3, 32, 32),)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network, what it may cost at most, and how it is tuned: `tuning` after the cuts, `bits_epochs` on grids of few bits.

    `weights`: the name of the trained ones, where that is not the network's. `recalibrate`: its curves are those of recalibrated points
    (decision 0005). `whole`: residual blocks may go altogether. `brief`: the plan is searched for around that of `knapsack`, and every
    candidate tuned so before it is scored (decision 0026). `right_sized`: the hidden widths of a head that fits pictures of 32 px, since
    most of what a head of 4096 weighs is there only to be taken away: the file is told against that too. `openvino`: the file is scored
    and timed there as well.
    """

    network: str
    budget: dict[str, str]
    tuning: Recipe
    bits: tuple[int, ...] = (8,)
    bits_epochs: int = 0
    heldout: bool = True
    origin: bool = True
    recalibrate: bool = False
    whole: bool = False
    brief: Brief | None = None
    openvino: bool = False
    right_sized: tuple[int, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None


ROWS = {
    "resnet20_macs": Row(
        network="resnet20",
        budget={"macs": "50%"},
        tuning=Recipe(epochs=16, lr=0.05, distil=0.5),
        heldout=False,
        recalibrate=True,
    ),
    "resnet56_macs": Row(
        network="resnet56",
        budget={"macs": "50%"},
        tuning=Recipe(epochs=10, lr=0.05, distil=0.5, precision="bf16-mixed"),
        heldout=False,
    ),
    "vgg16_bn_bytes": Row(
        network="vgg16_bn",
        budget={"bytes": "1.6%", "macs": "22%"},
        bits=(8, 4),
        bits_epochs=1,
        tuning=Recipe(epochs=5, lr=0.04),
        origin=False,
    ),
    "alexnet32_bytes": Row(
        network="alexnet32",
        budget={"bytes": "2.05%"},
        right_sized=(512, 512),
        bits=(8, 4),
        bits_epochs=1,
        tuning=Recipe(epochs=4, lr=0.005, warmup=0.1),
        recalibrate=True,
    ),
    "vgg16_bytes": Row(
        network="vgg16",
        budget={"bytes": "2.75%", "macs": "35%"},
        right_sized=(512, 512),
        bits=(8, 4),
        bits_epochs=1,
        tuning=Recipe(epochs=1, lr=0.003, warmup=0.1),
        origin=False,
    ),
}
# Blocks may go altogether, and what stays is aligned: the fewest channels that int8 kernels like.
ROWS["resnet20_blocks"] = replace(ROWS["resnet20_macs"], whole=True, options={"align": 16})
ROWS["resnet56_blocks"] = replace(ROWS["resnet56_macs"], recalibrate=True, whole=True, options={"align": 16})
# All blocks stay, narrower inside: what OpenVINO runs fast, where ONNX Runtime does not.
ROWS["resnet20_longer"] = replace(
    ROWS["resnet20_macs"], tuning=Recipe(epochs=32, lr=0.05, distil=0.5, precision="bf16-mixed"), openvino=True
)
ROWS["resnet20_aligned"] = replace(ROWS["resnet20_longer"], options={"align": 8})
# As quick as it shall be, whatever the MACs: milliseconds of integers in ONNX Runtime, predicted from files of this machine.
ROWS["resnet20_fast"] = replace(ROWS["resnet20_blocks"], budget={"latency_ms": "32%"})
ROWS["resnet56_fast"] = replace(ROWS["resnet56_blocks"], budget={"latency_ms": "31%"})
# Twice the epochs, of the network that was trained on as well.
ROWS["resnet56_longer"] = replace(ROWS["resnet56_blocks"], tuning=replace(ROWS["resnet56_blocks"].tuning, epochs=20))
# Both at once, by a search: what a plan costs before any tuning, added up, is too kind to blocks that go (decision 0026).
ROWS["resnet20_search"] = replace(
    ROWS["resnet20_blocks"],
    budget={"macs": "50%", "latency_ms": "32%"},
    brief=Brief(epochs=1, samples=10000, lr=0.02),
    options={"trials": 30},
    tuning=Recipe(epochs=32, lr=0.05, distil=0.5, precision="bf16-mixed"),
)
# Where the accuracy breaks: the same rows at other budgets, without their origin.
for times, share in ((100, "0.98%"), (200, "0.49%"), (400, "0.24%")):
    ROWS[f"alexnet32_{times}x"] = replace(ROWS["alexnet32_bytes"], budget={"bytes": share}, origin=False)
    ROWS[f"vgg16_{times}x"] = replace(
        ROWS["vgg16_bytes"],
        budget={"bytes": share, "macs": "35%"},
        tuning=Recipe(epochs=4, lr=0.003, warmup=0.1, precision="bf16-mixed"),
    )
# With its origin, and tuned for as long as the smaller ones: in bfloat16 a CPU trains even the dense VGG-16 on.
ROWS["vgg16_control"] = replace(ROWS["vgg16_100x"], budget=ROWS["vgg16_bytes"].budget, origin=True)
# Of a dense network that was trained for longer, and teaches.
ROWS["vgg16_bn_longer_bytes"] = replace(
    ROWS["vgg16_bn_bytes"],
    weights="vgg16_bn_longer",
    origin=True,
    tuning=Recipe(epochs=8, lr=0.04, distil=0.5, precision="bf16-mixed"),
)
# At a rate that is large for a network without batch norm: what comes out depends on the seed.
ROWS["alexnet32_fast"] = replace(ROWS["alexnet32_bytes"], tuning=Recipe(epochs=4, lr=0.02))
MISSING = {
    "seeds": "every row but alexnet32_bytes, alexnet32_fast, vgg16_bytes (three), resnet20_macs and resnet20_longer (two) has one seed",
    "224 px": "AlexNet and VGG-16 at 224 px: need a GPU",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=[*ROWS, "order", "speed"])
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path, help="the directory of trained weights")
    parser.add_argument("--work", type=Path, default=Path(".reach"))
    parser.add_argument("--samples", type=int, default=2000, help="validation samples that curves are measured on")
    parser.add_argument("--bits", default="8,6,4,3,2", help="of the curves; a row may use fewer")
    parser.add_argument("--curves", type=Path, help="a directory of journals of curves, such as plan.py keeps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dense", type=int, help="the seed of the dense network, where it is not that of the row")
    parser.add_argument("--seeds", type=int, default=3, help="of the part `order`")
    parser.add_argument("--without-origin", action="store_true", help="leave out the dense network trained on")
    parser.add_argument("--epoch", type=int, help="samples of a tuning epoch [default: all; order: 5000]")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.row == "speed":
        write("speed", speed(asked), asked)
    elif asked.row == "order":
        write("order", order(asked), asked)
    else:
        with spending(folder_of(asked)) as spent:
            found = reached(ROWS[asked.row], asked)
        write(f"{asked.row}-{asked.seed}", {**found, "cpu_seconds_of_all_calls": round(spent())}, asked)


def write(key: str, found: dict[str, Any], asked: argparse.Namespace) -> None:
    path = result_file("reach")
    whole = {"rows": {}, **earlier(path), "missing": MISSING}
    whole["rows"][key] = {**provenance(), "seed": asked.seed, **found}
    keep(path, whole)
    print(json.dumps(found, indent=1))


@contextmanager
def spending(folder: Path) -> Iterator[Callable[[], float]]:
    """Gives the CPU seconds spent so far, by this call and by those before it, whose count lies in the folder; this call's is added
    however it ends, unless it is killed.
    """
    count, started = folder / "spent.json", time.process_time()
    before = json.loads(count.read_text())["cpu_seconds"] if count.exists() else 0.0

    def spent() -> float:
        return float(before + time.process_time() - started)

    try:
        yield spent
    finally:
        write_through(count, lambda written: written.write_text(json.dumps({"cpu_seconds": spent()})))


# -- one row


def reached(row: Row, asked: argparse.Namespace) -> dict[str, Any]:
    """From trained weights to a file in integers, and what was lost on the way."""
    model, task, work = network(row, asked)
    curves = curves_of(row, model, asked)
    options = {**_bits(row), **row.options, **timing(row, model, task, curves, work)}
    planner, measured = searching(row, model, task, curves, work)
    made = at_once(make_plan(curves, Budget(**row.budget), planner=planner, **options, **measured), row)
    print("plan:", made.predicted, made.widths, made.bits, *made.notes, flush=True)
    tuned = replace(task, train=portion(task, asked.epoch))
    small, result = compress(
        model,
        made,
        tuned,
        recipe=row.tuning,
        graph=curves.graph,
        seed=asked.seed,
        directory=work / "plan",
        progress=say,
    )
    dense_file = export_onnx(model, task.example_inputs, work / "dense.onnx")
    float_file = export_onnx(small, task.example_inputs, work / "model.onnx")
    twin, final = quantize(small, result, task)
    file = integers_file(float_file, work / "model.int8.onnx", final.bits, task)
    rights = {"dense": scored(model, task), "pruned": scored(small, task), "file": scored(OnnxModel(file), task)}
    if row.origin and not asked.without_origin:
        rights["origin"] = scored(origin(row, model, tuned, curves, asked, work), task)
    dense_widths = {group.name: group.width for group in curves.graph.free}
    files = {"dense": dense_file, "pruned": float_file, "file": file}
    times = {"latency_ratio": ratios(files, task)}
    if row.openvino:
        there = {
            name: convert_to_openvino(each, each.with_suffix(".xml"), task.example_inputs)
            for name, each in files.items()
        }
        rights["openvino"] = scored(OpenvinoModel(there["file"]), task)
        times["latency_ratio_openvino"] = ratios(there, task)
    return {
        "network": row.network,
        "weights": row.weights or row.network,
        "budget": row.budget,
        "planner": planner,
        "notes": made.notes,
        "tuning_epochs": row.tuning.epochs,
        "bits_epochs": row.bits_epochs,
        "epoch_samples": asked.epoch,
        "curve_samples": asked.samples,
        "dense_bytes": onnx_bytes(dense_file),
        "bytes": onnx_bytes(file),
        "times_smaller": round(onnx_bytes(dense_file) / onnx_bytes(file), 2),
        **beside_right_sized(row, onnx_bytes(file), work),
        "pruned_float_bytes": onnx_bytes(float_file),
        "params": [made.dense.params, made.predicted.params],
        "macs": [made.dense.macs, made.predicted.macs],
        "widths": {name: [dense_widths[name], width] for name, width in made.widths.items()},
        "bits": made.bits,
        **times,
        "agreement": agreement(OnnxModel(file), twin, task),
        **{name: accuracies(right) for name, right in rights.items()},
        "test_drop": drops(rights),
    }


def beside_right_sized(row: Row, size: int, work: Path) -> dict[str, Any]:
    """How many times smaller the file is than the dense file of the same convolutions with a head that fits."""
    if not row.right_sized:
        return {}
    fitting = make_model(row.network, num_classes=10, head=row.right_sized).eval()
    bytes_ = onnx_bytes(export_onnx(fitting, IMAGE, work / "right_sized.onnx"))
    return {"right_sized_bytes": bytes_, "times_smaller_than_right_sized": round(bytes_ / size, 2)}


def ratios(files: dict[str, Path], task: Task) -> dict[str, float]:
    """Of the latency of the file `dense`, in one interleaved run."""
    times = latency(files, task.example_inputs)
    return {name: round(times[name].ratio, 3) for name in ("pruned", "file")}


def _bits(row: Row) -> dict[str, Any]:
    return {"bits": row.bits[0]} if len(row.bits) == 1 else {}


def timing(row: Row, model: nn.Module, task: Task, curves: Profile, work: Path) -> dict[str, Any]:
    """What predicts milliseconds of files in integers, where the row's budget speaks of them."""
    if "latency_ms" not in row.budget:
        return {}
    found = latency_fit(model, curves.graph, task, Timing(precision="int8", whole=row.whole), work / "fit")
    print(
        f"latency predicted: median error {found.median_error}, rank correlation {found.rank_correlation}", flush=True
    )
    return {"latency": predictor(found, curves.graph)}


def searching(row: Row, model: nn.Module, task: Task, curves: Profile, work: Path) -> tuple[str, dict[str, Any]]:
    """The planner, and what it measures candidates by."""
    if row.brief is None:
        return "knapsack", {}
    journal, total = work / "candidates.jsonl", row.options["trials"]
    measure = Candidates(model, curves.graph, task, brief=row.brief, journal=journal, total=total, progress=say)
    return "search", {"measure": measure.stream, "storage": work / "search.journal"}


def network(row: Row, asked: argparse.Namespace) -> tuple[nn.Module, Task, Path]:
    """The trained network, its task, and where this row's work is kept."""
    name = f"{row.weights or row.network}-{dense_seed(asked)}" if row.heldout else f"cifar10_{row.network}"
    model = load_weights(make_model(row.network, num_classes=10), asked.weights / f"{name}.safetensors").eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1  # as in references.py
    task = make_task("cifar10", asked.data, seed=asked.seed, validation="heldout" if row.heldout else "test_even")
    return model, task, folder_of(asked)


def folder_of(asked: argparse.Namespace) -> Path:
    """Where the work of this row and seed is kept."""
    folder: Path = asked.work / f"{asked.row}-{asked.seed}"
    return folder


def dense_seed(asked: argparse.Namespace) -> int:
    """The seed that the dense network was trained with."""
    return asked.seed if asked.dense is None else asked.dense


def curves_of(row: Row, model: nn.Module, asked: argparse.Namespace) -> Profile:
    """Exact curves of widths and of few bits on the first validation samples, as plan.py measures them."""
    validation, seed = "heldout" if row.heldout else "test_even", dense_seed(asked)
    task = make_task("cifar10", asked.data, seed=seed, validation=validation, limit=asked.samples)
    parts = (row.weights or row.network, "recalibrated" if row.recalibrate else "", str(seed or ""), str(asked.samples))
    name = "-".join(filter(None, parts)) + ".jsonl"
    folder = asked.curves or asked.work
    folder.mkdir(parents=True, exist_ok=True)
    bits = tuple(int(b) for b in asked.bits.split(",")) if row.budget.get("bytes") else ()
    sweep = Sweep(recalibrate=row.recalibrate, whole=row.whole)
    whole = profile(model, task, bits=bits, sweep=sweep, journal=folder / name, progress=say)
    kept = tuple(p for p in whole.points if p.knob != "bits" or p.level in row.bits)
    return replace(whole, points=kept)


def at_once(made: Plan, row: Row) -> Plan:
    """The plan as one cut and one step of bits: tuned once, for all of the row's epochs."""
    cut = Step(widths=made.widths, epochs=row.tuning.epochs)
    return replace(
        made, steps=(cut, Step(bits=made.bits, epochs=row.bits_epochs if min(made.bits.values()) < 8 else 0))
    )


def origin(row: Row, model: nn.Module, task: Task, curves: Profile, asked: argparse.Namespace, work: Path) -> nn.Module:
    """The dense network, trained on for as many epochs."""
    dense, epochs = cost(curves.graph), row.tuning.epochs + row.bits_epochs
    made = Plan(
        structure=curves.graph.structure, planner="origin", steps=(Step(epochs=epochs),), predicted=dense, dense=dense
    )
    recipe, folder = replace(row.tuning, distil=0.0), work / "origin"
    found, _ = compress(
        model, made, task, recipe=recipe, graph=curves.graph, seed=asked.seed, directory=folder, progress=say
    )
    return found


def portion(task: Task, samples: int | None) -> Any:
    assert isinstance(task.train, Batches)
    return task.train if samples is None else Portion(task.train, samples)


def say(stage: str, done: int, total: int, note: str = "") -> None:
    if note:
        print(f"{stage} {done}/{total} {note}", flush=True)


def scored(model: nn.Module, task: Task) -> dict[str, Any]:
    """One score per sample, of validation and of test."""
    return {which: evaluate(model, getattr(task, which), task.score).numpy() for which in ("validation", "test")}


def accuracies(right: dict[str, Any]) -> dict[str, Any]:
    test = score_interval(right["test"])
    return {
        "validation": float(np.mean(right["validation"])),
        "test": test.value,
        "low": test.low,
        "high": test.high,
        "n": test.n,
    }


def drops(rights: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Points of test accuracy below the dense network and below `origin`, each with its paired 95 % interval."""
    found = {}
    for base in ("dense", "origin"):
        for name in ("pruned", "file", "openvino"):
            if base in rights and name in rights:
                difference = paired_difference(rights[base]["test"], rights[name]["test"])
                found[f"{name}_below_{base}"] = [round(100 * value, 2) for value in difference]
    return found


# -- the order


def order(asked: argparse.Namespace) -> dict[str, Any]:
    """The same cuts, one at a time and tuned after each, by score and from input to output: paired over seeds."""
    row = ROWS["resnet20_macs"]
    samples = asked.epoch or 5000
    rows, differences = [], []
    for seed in range(asked.seed, asked.seed + asked.seeds):
        model, task, work = network(row, asked)
        curves = curves_of(row, model, asked)
        made = make_plan(curves, Budget(**row.budget), planner="knapsack", bits=32, order="by_score", epochs=1)
        made = replace(made, steps=(*(s for s in made.steps if s.widths), Step(epochs=2)))
        tuned = replace(task, train=portion(task, samples))
        found: dict[str, Any] = {"seed": seed}
        rights = {}
        for name, variant in (("by_score", made), ("in_order", reorder(made, curves, "in_order"))):
            recipe, folder = Recipe(epochs=1, lr=0.02), work / f"{name}-{seed}"
            small, _ = compress(
                model, variant, tuned, recipe=recipe, graph=curves.graph, seed=seed, directory=folder, progress=say
            )
            rights[name] = scored(small, task)
            found[name] = accuracies(rights[name])
        difference = paired_difference(rights["by_score"]["test"], rights["in_order"]["test"])
        found["by_score_over_in_order"] = [round(100 * value, 2) for value in difference]
        differences.append(100 * (found["by_score"]["test"] - found["in_order"]["test"]))
        rows.append(found)
        print(found, flush=True)
    return {"network": row.network, "epoch_samples": samples, "seeds": rows, "difference": spread(differences)}


# -- the speed


def speed(asked: argparse.Namespace) -> dict[str, Any]:
    """Dense and narrowed ResNets of fresh weights, batch 1: latency as a ratio to dense float32 in the same runtime, [low, high]."""
    found: dict[str, Any] = {}
    for name in ("resnet20", "resnet56"):
        torch.manual_seed(asked.seed)
        model = make_model(name, num_classes=10).eval()
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.bias, std=0.1)  # of zeros a block that goes would leave nothing behind
        graph = trace(model, IMAGE, round_to=1)
        inner = [group for group in graph.free if group.name.endswith(".conv1")]
        widths = {
            "dense": {},
            "blocks_halved": {group.name: group.width // 2 for group in inner},
            "blocks_of_16": {group.name: 16 for group in inner if group.width > 16},
            "all_of_16": {group.name: group.legal(group.width / 4) for group in graph.free if group.width > 16},
            "all_halved": {group.name: group.legal(group.width / 2) for group in graph.free},
            "two_thirds_of_blocks": {group.name: 0 for group in inner if int(group.name.split(".")[1]) % 3 == 1},
        }
        with tempfile.TemporaryDirectory() as scratch:
            files = {}
            for kind, narrowed in widths.items():
                small = narrow(model, graph, narrowed)
                files[kind] = export_onnx(small, IMAGE, Path(scratch) / f"{kind}.onnx")
                whole = Path(scratch) / f"{kind}.int8.onnx"
                files[f"{kind}_int8"] = quantize_onnx(files[kind], whole, [torch.randn(8, 3, 32, 32)])
            there = {
                kind: convert_to_openvino(file, file.with_suffix(".xml"), torch.randn(1, 3, 32, 32))
                for kind, file in files.items()
            }
            times = {"onnxruntime": latency(files, IMAGE), "openvino": latency(there, IMAGE)}
        found[name] = {
            kind: {
                "macs": round(cost(graph, narrowed).macs / cost(graph).macs, 3),
                **{
                    runtime: {p: _ratio(each[f"{kind}{end}"]) for p, end in (("float32", ""), ("int8", "_int8"))}
                    for runtime, each in times.items()
                },
            }
            for kind, narrowed in widths.items()
        }
    return found


def _ratio(time: Latency) -> list[float]:
    return [round(value, 3) for value in (time.ratio, time.ratio_low, time.ratio_high)]


def spread(values: list[float]) -> dict[str, float]:
    """Mean over seeds, in points, and its 95 % interval by Student's t."""
    found = over_seeds(values)
    return {"mean": round(found.value, 3), "low": round(found.low, 3), "high": round(found.high, 3), "seeds": found.n}


if __name__ == "__main__":
    main()
