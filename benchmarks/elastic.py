"""Elastic networks on CIFAR-10: how good the levels are, what they weigh, how fast they switch, what a governor makes of them.

    python benchmarks/elastic.py train --data data --weights weights --recipe sandwich --epochs 8 --work .elastic
    python benchmarks/elastic.py levels --data data --weights weights --recipe sandwich --work .elastic    # test scores of a training
    python benchmarks/elastic.py control --data data --weights weights --epochs 8 --work .elastic          # independent networks
    python benchmarks/elastic.py train --network vgg16_bn --weights vgg16_bn-0.safetensors ...             # likewise levels, control
    python benchmarks/elastic.py seeds                                # mean and spread over the seeds that were run, gaps to control
    python benchmarks/elastic.py whole_steps                          # widths in whole steps of channels against the published ones
    python benchmarks/elastic.py classifier                           # digits: a last layer for all levels, or one each
    python benchmarks/elastic.py switching                            # switching time, memory, storage in PyTorch
    python benchmarks/elastic.py family                               # ways to ship a family, measured in ONNX Runtime
    python benchmarks/elastic.py figure                               # docs/images/elastic.svg from the results
    python benchmarks/elastic.py day --data data --work .elastic      # a governor through a day of changing load

Each part is written into `results/elastic-<date>.json` under its own name, beside what other parts left there; a training that was
cut short goes on from its last epoch. ResNet-20 has projected shortcuts (option B, 272,474 parameters): the trained option-A weights
are put into it exactly (`with_projections`; `embedding_error` says how exactly). Those weights have seen all training images, so
validation is the test images at even index, and what is reported as test those at odd index. VGG-16-BN is one that `references.py`
trained: its validation is the last 5,000 training images, and test all test images.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.provenance import earlier, keep, provenance, result_file
from lamella.elasticity import (
    ROUNDS,
    ElasticModel,
    Teaching,
    elasticize,
    load_elastic,
    make_levels,
    nest,
    publish,
    save_elastic,
)
from lamella.exporting import export_onnx, onnx_bytes, quantize_onnx
from lamella.pairs import options_of
from lamella.records import to_plain
from lamella.reporting.charts import chart_svg, grounded
from lamella.reporting.charts.grammar import ACCENT, INK, LINE, SECOND, dots, kinds, layer, quantity
from lamella.runtimes import open_session
from lamella.schema import Graph
from lamella.serving import Policy, open_family
from lamella.stages.serving import a_day, samples, switched, timed_here
from lamella.statistics import score_interval
from lamella.surgery import narrow
from lamella.tasks import make_task
from lamella.timing import latency
from lamella.tracing import trace
from lamella.training import Recipe, Task, correct, evaluate, fit, recalibrate_bn
from lamella.training.layouts import channels_last
from lamella.zoo import load_weights, make_model

RESULTS = ROOT / "benchmarks" / "results"
# Mangal, Kalra, Sapra 2025
PUBLISHED_PARAMS = (72_932, 110_840, 174_504, 272_474)
PUBLISHED_ACCURACY = {"resnet20": (0.7602, 0.8071, 0.8231, 0.8303), "vgg16_bn": (0.8587, 0.8599, 0.8679, 0.8802)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path, help="a directory; of vgg16_bn the file")
    parser.add_argument(
        "--network", choices=["resnet20", "vgg16_bn"], default="resnet20", help="of train, levels, control, day"
    )
    parser.add_argument("--recipe", default="sandwich")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--own", default="")
    parser.add_argument(
        "--teach", action="append", default=[], help="NAME=VALUE of who teaches, see lamella.elasticity.Teaching"
    )
    parser.add_argument("--name", default="", help="of a training that is not the only one of its recipe and seed")
    parser.add_argument("--only", default="", help="of control: these levels, e.g. core,level1 [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", default="resnet20,vgg16_bn", help="of the part `family`")
    parser.add_argument("--seconds", type=float, default=24.0, help="of work that the day is squeezed into")
    parser.add_argument("--work", type=Path, default=Path(".elastic"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = PARTS[asked.part](asked)
    if found:
        write(asked.part, found, asked)


def write(part: str, found: dict[str, Any], asked: argparse.Namespace) -> None:
    path = result_file("elastic")
    shipped_one = "" if "," in asked.networks else asked.networks
    key = "_".join(
        filter(None, (part, {**dict.fromkeys(TRAINED, label(asked, part)), "family": shipped_one}.get(part)))
    )
    keep(path, {**earlier(path), key: {**provenance(), "seeds": [asked.seed], **found}})


def label(asked: argparse.Namespace, part: str) -> str:
    """What tells a training from others in names: its recipe (a control has none), network, and seed, where they are not the usual."""
    which = () if part == "control" else (asked.recipe, asked.name)
    network = "" if asked.network == "resnet20" else asked.network
    return "_".join(filter(None, (*which, network, f"seed{asked.seed}" if asked.seed else "")))


# -- the network and its data


class LastChannels:
    """A task's transform whose pictures lie channels last: convolutions of few channels run 1.4 times as fast."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        return channels_last(self.transform(images_NCHW, generator))


def cifar(asked: argparse.Namespace) -> Task:
    seen_all = asked.network == "resnet20"
    task = make_task("cifar10", asked.data, seed=asked.seed, validation="test_even" if seen_all else "heldout")
    for batches in (task.train, task.validation, task.test, task.calibration):
        batches.transform = LastChannels(batches.transform)
    return task


def fresh(asked: argparse.Namespace) -> nn.Module:
    """The dense network with weights of no importance."""
    return make_model("resnet20", shortcut="B") if asked.network == "resnet20" else make_model(asked.network)


def dense(asked: argparse.Namespace, task: Task) -> tuple[nn.Module, float]:
    """The dense network with its trained weights, and how far it is from the one that was trained (ResNet-20 alone)."""
    if asked.network == "resnet20":
        return projected(asked, task)
    return load_weights(fresh(asked), asked.weights).eval(), 0.0


def projected(asked: argparse.Namespace, task: Task) -> tuple[nn.Module, float]:
    """ResNet-20 with option-B shortcuts that computes what the trained option-A network does, and how far it is from it."""
    padded = load_weights(make_model("resnet20"), asked.weights / "cifar10_resnet20.safetensors").eval()
    model = with_projections(padded, make_model("resnet20", shortcut="B"), next(iter(task.calibration))[0])
    images = next(iter(task.validation))[0]
    with torch.no_grad():
        expected, seen = padded(images), model(images)
    return model, float((seen - expected).abs().max() / expected.abs().max())


def with_projections(padded: nn.Module, model: nn.Module, images: Tensor) -> nn.Module:
    """Fill the option-B `model` so that it equals `padded`: its 1x1 convolutions copy channels, and their norms undo themselves.

    A norm's statistics are those of what arrives, its scale and shift their inverse: an identity in evaluation, and nearly one in
    training. Channels that padding makes zero have rows of zeros.
    """
    model.load_state_dict(padded.state_dict(), strict=False)
    for stage in ("layer2", "layer3"):
        old, new = padded.get_submodule(f"{stage}.0.shortcut"), model.get_submodule(f"{stage}.0.shortcut")
        convolution, norm = new
        rows = old.before.shape[1] + torch.arange(convolution.in_channels)
        nn.init.zeros_(convolution.weight)
        convolution.weight.data[rows, torch.arange(convolution.in_channels)] = 1.0
    recalibrate_bn(model, [(images, None)], 1)
    with torch.no_grad():
        model.load_state_dict(padded.state_dict(), strict=False)  # its own norms as they were
        for stage in ("layer2", "layer3"):
            norm = model.get_submodule(f"{stage}.0.shortcut.1")
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
            norm.bias.copy_(norm.running_mean)
    return model.eval()


def traced(model: nn.Module) -> Graph:
    return trace(model, (torch.zeros(2, 3, 32, 32),), round_to=1)


# -- training


def train(asked: argparse.Namespace) -> dict[str, Any]:
    """One recipe, one seed: the family into `work`. Figures come from `levels`."""
    task = cifar(asked)
    model, error = dense(asked, task)
    print(f"embedding error {error:.1e}", flush=True)
    directory = home(asked)
    started = time.process_time()
    net = elasticize(
        model,
        ROUNDS,
        task,
        recipe=asked.recipe,
        tuning=Recipe(epochs=asked.epochs, lr=asked.lr, warmup=asked.warmup),
        teaching=options_of(Teaching, asked.teach, "--teach"),
        graph=traced(model),
        own=tuple(filter(None, asked.own.split(","))),
        seed=asked.seed,
        directory=directory,
        progress=lambda stage, done, total, note="": print(
            f"{done}/{total} {note} {time.process_time() - started:.0f} s", flush=True
        ),
    )
    save_elastic(directory, net)
    print([(level.name, level.params, level.validation.value) for level in net.levels])
    return {}


def home(asked: argparse.Namespace) -> Path:
    """Where a training lies."""
    network = "" if asked.network == "resnet20" else asked.network
    return asked.work / "-".join(filter(None, (asked.recipe, asked.name, network, str(asked.seed))))


def control(asked: argparse.Namespace) -> dict[str, Any]:
    """Independent networks of each level's widths, narrowed from the same weights and trained as long, alone."""
    task = cifar(asked)
    model, _ = dense(asked, task)
    graph = traced(model)
    rows = []
    wanted = set(filter(None, asked.only.split(",")))
    for level in (level for level in make_levels(graph, ROUNDS) if not wanted or level.name in wanted):
        small = recalibrate_bn(narrow(model, graph, level.widths), task.train)
        checkpoint = asked.work / f"control-{asked.network}-{asked.seed}-{level.name}.pt"
        recipe = Recipe(epochs=asked.epochs, lr=asked.lr, warmup=asked.warmup)
        fit(
            small,
            task,
            recipe,
            seed=asked.seed,
            checkpoint=checkpoint,
            on_epoch=lambda n, loss: print(n, loss, flush=True),
        )
        rows.append({"level": level.name, "params": level.params, "macs": level.macs, **scores(small, task)})
        print(rows[-1], flush=True)
    return {"network": asked.network, "epochs": asked.epochs, "lr": asked.lr, "levels": rows}


def scores(model: nn.Module, task: Task) -> dict[str, Any]:
    """Accuracy on validation and on test, with its 95 % interval."""
    validation, test = (
        score_interval(evaluate(model, data, task.score).numpy()) for data in (task.validation, task.test)
    )
    return {
        "validation": validation.value,
        "test": test.value,
        "test_low": test.low,
        "test_high": test.high,
        "n": test.n,
    }


def levels(asked: argparse.Namespace) -> dict[str, Any]:
    """What the levels of a trained family score on test, in torch and as int8 files, beside the published ones."""
    task = cifar(asked)
    model, error = dense(asked, task)
    directory = home(asked)
    net = load_elastic(directory, lambda: fresh(asked))
    publish(net, task, directory / "elastic", slots=4)
    save_elastic(directory, net)
    rows, published = [], PUBLISHED_ACCURACY[asked.network]
    with open_family(directory / "elastic", precision="int8") as coarse:
        for index, level in enumerate(net.levels):
            coarse.set_active_subnet(level.name)
            right = [correct(torch.from_numpy(coarse.run(x.contiguous().numpy())[0]), y).numpy() for x, y in task.test]
            rows.append(
                {
                    "level": level.name,
                    "params": level.params,
                    **published_size(asked, index, level.params),
                    "macs": level.macs,
                    **scores(net.view(level.name), task),
                    "int8_test": float(np.concatenate(right).mean()),
                    "published_test": published[index],
                    "latency_ratio": level.latency_ratio,
                }
            )
            print(rows[-1], flush=True)
    family = net.family
    return {
        "network": asked.network,
        "recipe": family.recipe,
        "epochs": family.epochs,
        "embedding_error": error,
        "dense": scores(model, task),
        "levels": rows,
        "safetensors_over_largest": family.file_bytes / family.largest_bytes - 1,
        "figure": {
            "macs": [row["macs"] for row in rows],
            "test": [row["test"] for row in rows],
            "published_test": list(published),
        },
    }


def published_size(asked: argparse.Namespace, index: int, params: int) -> dict[str, float]:
    """The published level's parameters, and how far ours are from them: known of ResNet-20."""
    if asked.network != "resnet20":
        return {}
    return {"published_params": PUBLISHED_PARAMS[index], "params_off": params / PUBLISHED_PARAMS[index] - 1}


def seeds(asked: argparse.Namespace) -> dict[str, Any]:
    """Mean and spread of every training's test accuracy over its seeds, and its levels' gaps to independent networks."""
    whole = json.loads(sorted(RESULTS.glob("elastic-*.json"))[-1].read_text())
    runs: dict[str, list[Any]] = {}
    for key in (key for key in whole if key.startswith(("levels", "control"))):
        runs.setdefault(re.sub(r"_seed\d+$", "", key), []).append(whole[key])
    found = {name: over_seeds(each) for name, each in runs.items()}
    for name, about in found.items():
        control = found.get("control_vgg16_bn" if name.endswith("vgg16_bn") else "control")
        if name.startswith("levels") and control:
            scored = dict(zip(about["levels"], about["mean_test"], strict=True))
            pairs = zip(control["levels"], control["mean_test"], strict=True)
            gaps = {level: alone - scored[level] for level, alone in pairs}
            about |= {"gap_to_control": gaps, "mean_gap_to_control": float(np.mean(list(gaps.values())))}
        print(name, about, flush=True)
    return found


def over_seeds(each: list[Any]) -> dict[str, Any]:
    tests = np.array([[row["test"] for row in run["levels"]] for run in each])
    ran = [seed for run in each for seed in run["seeds"]]
    return {
        "seeds_run": ran,
        "levels": [row["level"] for row in each[0]["levels"]],
        "mean_test": tests.mean(0).tolist(),
        "lowest_test": tests.min(0).tolist(),
        "highest_test": tests.max(0).tolist(),
    }


def classifier(asked: argparse.Namespace) -> dict[str, Any]:
    """On digits: is the last layer better shared by all levels, or each level's own? Mean validation accuracy over seeds."""
    found: dict[str, list[list[float]]] = {}
    for seed in range(asked.seed, asked.seed + 3):
        torch.manual_seed(seed)
        task = make_task("digits", seed=seed)
        model = make_model("resnet14", widths=(8, 16, 32), in_channels=1, shortcut="B")
        model = fit(model, task, Recipe(epochs=8, lr=0.1), seed=seed).eval()
        graph = trace(model, task.example_inputs, round_to=1)
        for recipe in ("sandwich", "grow"):
            for own in ((), ("linear",)):
                tuning = Recipe(epochs=5, lr=0.03)
                net = elasticize(model, None, task, recipe=recipe, tuning=tuning, graph=graph, own=own, seed=seed)
                key = f"{recipe}_{'own' if own else 'shared'}"
                found.setdefault(key, []).append([level.validation.value for level in net.levels])
                print(seed, key, found[key][-1], flush=True)
    means = {key: np.mean(rows, 0).round(4).tolist() for key, rows in found.items()}
    return {"seeds_run": [asked.seed + i for i in range(3)], "n": 360, "mean_validation": means, "validation": found}


# -- switching, storage, memory


def switching(asked: argparse.Namespace) -> dict[str, Any]:
    """In PyTorch, on fresh weights: the time of a switch, the bytes all levels hold together, and what they weigh on disk."""
    found = []
    for name, options in NETWORKS:
        torch.manual_seed(asked.seed)
        model = make_model(name, **options).eval()
        graph = traced(model)
        net = nest(model, graph, make_levels(graph, ROUNDS), IMAGE)
        names = net.family.names
        times = []
        for turn in range(20_000):
            started = time.perf_counter_ns()
            net.set_active_subnet(names[turn % len(names)])
            times.append(time.perf_counter_ns() - started)
        largest = sum(t.nbytes for t in (*net.net.parameters(), *net.net.buffers()))
        everything = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors_of(net)}
        with tempfile.TemporaryDirectory() as scratch:
            family = save_elastic(scratch, net)
        found.append(
            {
                "network": name + ("_b" if options.get("shortcut") == "B" else ""),
                "switch_median_us": float(np.median(times)) / 1e3,
                "switch_p99_us": float(np.quantile(times, 0.99)) / 1e3,
                "memory_over_largest": sum(everything.values()) / largest - 1,
                "gathered_bytes": {level.name: net.gathered_bytes(level.name) for level in net.levels},
                "safetensors_over_largest": family.file_bytes / family.largest_bytes - 1,
            }
        )
        print(found[-1], flush=True)
    return {"networks": found}


def tensors_of(net: ElasticModel) -> list[Tensor]:
    views = [net.view(name) for name in net.family.names]
    return [t for module in (net, *views) for t in (*module.parameters(), *module.buffers()) if t.numel()]


def whole_steps(asked: argparse.Namespace) -> dict[str, Any]:
    """ResNet-20 in ONNX Runtime, fresh weights: levels at the published widths, and in whole steps of channels, timed side by side."""
    torch.manual_seed(asked.seed)
    model = trained_norms(make_model("resnet20", shortcut="B").eval())
    exact, aligned = traced(model), trace(model, IMAGE)
    quarters = {"quarter": 0.75, "half": 0.5, "three_quarters": 0.25}
    found: dict[str, Any] = {}
    families = (
        ("published_widths", exact, ROUNDS),
        ("steps_of_4_8_16", aligned, quarters),
        ("steps_of_16", trace(model, IMAGE, round_to=16), ROUNDS),
    )
    for name, graph, settings in families:
        made = make_levels(graph, settings)
        with tempfile.TemporaryDirectory() as scratch:
            small = {x.name: narrow(model, graph, x.widths) for x in reversed(made)}
            files = {n: export_onnx(m, IMAGE, Path(scratch) / f"{n}.onnx") for n, m in small.items()}
            whole = {
                n: quantize_onnx(f, f.with_suffix(".int8.onnx"), [torch.randn(8, 3, 32, 32)]) for n, f in files.items()
            }
            times = {"float32": latency(files, IMAGE), "int8": latency(whole, IMAGE)}
        found[name] = {
            x.name: {
                "widths": sorted({x.widths.get(g.name, g.width) for g in graph.free}),
                "macs": x.macs,
                "params": x.params,
                **{p: [t[x.name].ratio, t[x.name].ratio_low, t[x.name].ratio_high] for p, t in times.items()},
            }
            for x in made
        }
        print(json.dumps(found[name], indent=1), flush=True)
    return found


def family(asked: argparse.Namespace) -> dict[str, Any]:
    """Ways to ship a family to ONNX Runtime, on fresh weights: bytes, time to load a level, resident memory, latency."""
    found: dict[str, Any] = {}
    for name, options in (NETWORKS[0], NETWORKS[-1]):
        if name not in asked.networks.split(","):
            continue
        torch.manual_seed(asked.seed)
        model = trained_norms(make_model(name, **options).eval())
        graph = traced(model)
        net = nest(model, graph, make_levels(graph, ROUNDS), IMAGE)
        images = [(torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.int64))]
        task = Task(IMAGE, train=images, validation=images, test=images)
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = shipped(net, task, Path(scratch))
        print(json.dumps(found[name], indent=1), flush=True)
    return found


def trained_norms(model: nn.Module) -> nn.Module:
    """Norms that are not trivial, so that folding them changes every weight."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def shipped(net: ElasticModel, task: Task, directory: Path) -> dict[str, Any]:
    publish(net, task, directory / "elastic", slots=4)
    save_elastic(directory, net)
    names, one = net.family.names, net.family.names[-1]
    alone = {n: export_onnx(net.extract(n), task.example_inputs, directory / f"{n}.onnx") for n in names}
    switch = one_file(alone, net, directory / "switch.onnx")
    shared = {n: directory / "elastic" / f"{n}.onnx" for n in names}
    integers = {n: directory / "elastic" / f"{n}.int8.onnx" for n in names}
    sizes = {n: onnx_bytes(path) for n, path in alone.items()}
    integer_alone = quantize_onnx(alone[one], directory / "whole.int8.onnx", [x for x, _ in task.calibration])
    times = latency({"alone": alone[one], "shared": shared[one]}, IMAGE, slots=6)
    return {
        "largest_bytes": sizes[one],
        "separate_over_largest": sum(sizes.values()) / sizes[one] - 1,
        "shared_over_largest": net.family.onnx_bytes / sizes[one] - 1,
        "one_file_over_largest": onnx_bytes(switch) / sizes[one] - 1,
        "int8_shared_over_largest": net.family.int8_bytes / onnx_bytes(integer_alone) - 1,
        "load_ms": {
            "separate": load_ms(alone),
            "shared": load_ms(shared),
            "int8_shared": load_ms(integers),
            "one_file": load_ms({"all": switch}),
        },
        "resident_mb": {
            "largest_alone": resident_mb([alone[one]]),
            "all_separate": resident_mb(alone.values()),
            "all_shared": resident_mb(shared.values()),
            "one_of_shared": resident_mb([shared[one]]),
            "all_int8_shared": resident_mb(integers.values()),
            "one_file": resident_mb([switch]),
        },
        "shared_latency_ratio": times["shared"].ratio,
        "one_file_latency_ratio": one_file_ratio(switch, alone[one], len(names)),
    }


def one_file(alone: dict[str, Path], net: ElasticModel, target: Path) -> Path:
    """All levels in one file: `level` chooses a branch of nested Ifs. Weights are sliced in the branches from shared ones."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    protos = {name: onnx.load(str(path)) for name, path in alone.items()}
    first = next(iter(protos.values())).graph
    branches = []
    for name, proto in protos.items():
        graph = proto.graph
        inputs = {v.name for v in graph.input}
        for node in graph.node:
            node.input[:] = [n if n in inputs or not n else f"{name}/{n}" for n in node.input]
            node.output[:] = [f"{name}/{n}" for n in node.output]
        constants = [numpy_helper.from_array(numpy_helper.to_array(i), f"{name}/{i.name}") for i in graph.initializer]
        outputs = [helper.make_tensor_value_info(f"{name}/{o.name}", 1, None) for o in graph.output]
        branches.append(helper.make_graph(list(graph.node), name, [], outputs, constants))
    chosen, constants, checks = branches[-1], [], []
    for index in reversed(range(len(branches) - 1)):
        constants.append(numpy_helper.from_array(np.array(index, dtype=np.int64), f"is_{index}"))
        checks.append(helper.make_node("Equal", ["level", f"is_{index}"], [f"chosen_{index}"]))
        node = helper.make_node(
            "If", [f"chosen_{index}"], [f"out_{index}"], then_branch=branches[index], else_branch=chosen
        )
        chosen = helper.make_graph([node], f"if_{index}", [], [helper.make_tensor_value_info(f"out_{index}", 1, None)])
    nodes = [*checks, *chosen.node]
    nodes[-1].output[0] = "output"
    inputs = [*first.input, helper.make_tensor_value_info("level", TensorProto.INT64, [])]
    graph = helper.make_graph(nodes, "switch", inputs, [helper.make_tensor_value_info("output", 1, None)], constants)
    onnx.save(
        helper.make_model(graph, opset_imports=next(iter(protos.values())).opset_import, ir_version=10), str(target)
    )
    return target


def one_file_ratio(switch: Path, alone: Path, levels: int) -> float:
    """The largest level's time in the file of all levels against a file of its own, calls taken in turn."""
    sessions = (open_session(switch), open_session(alone))
    image = IMAGE[0].numpy()
    feeds = ({"x": image, "level": np.array(levels - 1)}, {"x": image})
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(200):
        for session, feed, seen in zip(sessions, feeds, times, strict=True):
            started = time.thread_time()
            session.run(None, feed)
            seen.append(time.thread_time() - started)
    return float(np.median(times[0]) / np.median(times[1]))


def load_ms(paths: dict[str, Path]) -> dict[str, float]:
    found = {}
    for name, path in paths.items():
        times = []
        for _ in range(5):
            started = time.perf_counter()
            open_session(path)
            times.append(1e3 * (time.perf_counter() - started))
        found[name] = min(times)
    return found


def resident_mb(paths: Iterable[Path]) -> float:
    """What these sessions add to a fresh process, in MB, after a call of each."""
    program = (
        "import sys, numpy as np; from lamella.runtimes import open_session\n"
        "mb = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6\n"
        "import onnxruntime; before = mb(); x = np.zeros((1, 3, 32, 32), np.float32)\n"
        "held = [open_session(p) for p in sys.argv[1:]]\n"
        "[s.run(None, {i.name: x if len(i.shape) else np.array(0) for i in s.get_inputs()}) for s in held]\n"
        "print(mb() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)


# -- a day


def day(asked: argparse.Namespace) -> dict[str, Any]:
    """A day of changing load on a trained family: a governor, and each level all day."""
    task = cifar(asked)
    directory = home(asked)
    found = {}
    for precision in ("float32", "int8"):
        with open_family(directory / "elastic", precision=precision) as family:
            requests = samples(task, 2000)
            timed = timed_here(family, requests.inputs)
            switch = switched(family, requests.inputs, seconds=2.0, threads=2)
            found[precision] = {
                "latency_ms": {level.name: level.latency_ms for level in timed},
                "switching": to_plain(switch),
                **to_plain(a_day(family, timed, requests, Policy(load=0.7), asked.seconds)),
            }
        print(json.dumps({k: v for k, v in found[precision].items() if k != "plot"}, indent=1), flush=True)
    return found


def figure(asked: argparse.Namespace) -> dict[str, Any]:
    """Accuracy against MACs, from what the other parts wrote: our levels, the published ones, independent networks."""
    whole = json.loads(sorted(RESULTS.glob("elastic-*.json"))[-1].read_text())
    ran = {key: run for key, run in whole.items() if key.startswith(("levels_", "control"))}
    ran = {key: run for key, run in ran.items() if run.get("network", "resnet20") == "resnet20" and "_seed" not in key}
    shown: dict[str, Any] = {}
    for key, run in ran.items():  # of each recipe the longest training
        who = f"Lamella, {run['recipe']}" if key.startswith("levels_") else "independent networks"
        shown[who] = max(shown.get(who, run), run, key=lambda each: each["epochs"])
    rows = [{"who": who, "macs": r["macs"], "test": r["test"]} for who, run in shown.items() for r in run["levels"]]
    macs = sorted({row["macs"] for row in rows})
    published = zip(macs, PUBLISHED_ACCURACY["resnet20"], strict=True)
    rows += [{"who": "published", "macs": m, "test": t} for m, t in published]
    names = list(dict.fromkeys(row["who"] for row in rows))
    colours = {"published": LINE, "independent networks": SECOND, "Lamella, sandwich": ACCENT, "Lamella, grow": INK}
    colour = kinds("who", names, [colours[name] for name in names])
    x = quantity("macs", "MACs per image", scale={"zero": True}, format="~s")
    y = quantity("test", "test accuracy, ResNet-20 on CIFAR-10", format=".0%")
    lines = layer("line", {"x": x, "y": y, "color": colour}, strokeWidth=1.6)
    spec = {"data": {"values": rows}, "width": 560, "height": 260, "layer": [lines, dots(x, y, color=colour, size=60)]}
    drawn = grounded(chart_svg(spec, label="Accuracy against MACs", scheme="light"), "light")
    (ROOT / "docs" / "images" / "elastic.svg").write_text(drawn)
    return {}


NETWORKS = (("resnet20", {"shortcut": "B"}), ("resnet56", {}), ("resnet56", {"shortcut": "B"}), ("vgg16_bn", {}))
IMAGE = (torch.zeros(1, 3, 32, 32),)

TRAINED = ("levels", "control", "day")  # parts whose results belong to one training

PARTS = {
    "train": train,
    "classifier": classifier,
    "control": control,
    "levels": levels,
    "seeds": seeds,
    "whole_steps": whole_steps,
    "switching": switching,
    "family": family,
    "day": day,
    "figure": figure,
}

if __name__ == "__main__":
    main()
