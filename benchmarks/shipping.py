"""The parts of `elastic.py` that need no training: what switching takes, what whole steps of channels are worth, how a family ships.

Fresh weights throughout, no data; `elastic.py` runs them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lamella.elasticity import METHODS, ROUNDS, ElasticModel, Teaching, make_levels, nest, publish, save_elastic
from lamella.exporting import export_onnx, onnx_bytes, quantize_onnx
from lamella.runtimes import open_session
from lamella.schema import Graph
from lamella.storage import save_tensors
from lamella.surgery import narrow
from lamella.timing import latency
from lamella.tracing import trace
from lamella.training import Task
from lamella.training.layouts import channels_last
from lamella.zoo import make_model

NETWORKS = (("resnet20", {"shortcut": "B"}), ("resnet56", {}), ("resnet56", {"shortcut": "B"}), ("vgg16_bn", {}))
IMAGE = (torch.zeros(1, 3, 32, 32),)


def traced(model: nn.Module) -> Graph:
    return trace(model, (torch.zeros(2, 3, 32, 32),), round_to=1)


def switching(asked: argparse.Namespace) -> dict[str, Any]:
    """In PyTorch, on fresh weights: the time of a switch, the bytes all levels hold together, and what they weigh on disk."""
    found = []
    for name, options in NETWORKS:
        if asked.networks and name not in asked.networks.split(","):
            continue
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
            save_tensors(Path(scratch) / "largest.safetensors", net.net)
            resident = {which: resident_in_torch(scratch, name, options, which) for which in ("largest", "all_levels")}
        found.append(
            {
                "network": name + ("_b" if options.get("shortcut") == "B" else ""),
                "switch_median_us": float(np.median(times)) / 1e3,
                "switch_p99_us": float(np.quantile(times, 0.99)) / 1e3,
                "memory_over_largest": sum(everything.values()) / largest - 1,
                "gathered_bytes": {level.name: net.gathered_bytes(level.name) for level in net.levels},
                "safetensors_over_largest": family.file_bytes / family.largest_bytes - 1,
                "resident_mb": resident,
            }
        )
        print(found[-1], flush=True)
    return {"networks": found}


RESIDENT = """
import ast, gc, sys, torch
from lamella.elasticity import load_elastic
from lamella.storage import load_tensors
from lamella.zoo import make_model

mb = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
directory, name, options, which = sys.argv[1:]
fresh, x = lambda: make_model(name, **ast.literal_eval(options)).eval(), torch.zeros(1, 3, 32, 32)
torch.set_num_threads(1)
torch.nn.Conv2d(3, 8, 3)(x)
before = mb()
if which == "largest":
    net = fresh()
    net.load_state_dict(load_tensors(directory + "/largest.safetensors"), strict=False)  # fixed buffers are not saved
    runs = [net]
else:
    net = load_elastic(directory, fresh)
    runs = [net.view(n) for n in net.family.names]
gc.collect()
loaded = mb()
with torch.inference_mode():
    [run(x) for run in runs]
print(before, loaded - before, mb() - before)
"""


def resident_in_torch(directory: str, name: str, options: dict[str, Any], which: str) -> dict[str, float]:
    """MB of a fresh process: before the network came, what it added loaded, and after a picture through each of its levels.

    Medians of three processes.
    """
    command = [sys.executable, "-c", RESIDENT, directory, name, repr(options), which]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    medians = np.median(np.array(runs, dtype=float), 0).round(1).tolist()
    return dict(zip(("process", "loaded", "served"), medians, strict=True))


def step(asked: argparse.Namespace) -> dict[str, Any]:
    """A training step of `sandwich` on ResNet-20 (all four levels, batch 128) against its four passes as networks of their own."""
    torch.manual_seed(asked.seed)
    model = make_model("resnet20", shortcut="B").eval()
    graph = traced(model)
    net = nest(model, graph, make_levels(graph, ROUNDS), IMAGE)
    images, targets = channels_last(torch.randn(128, 3, 32, 32)), torch.randint(0, 10, (128,))
    task = Task(IMAGE, train=[(images, targets)], validation=[], test=[])
    alone = [net.extract(name).train() for name in net.family.names]
    (stage,) = METHODS["sandwich"](net, net.net, task, Teaching())
    together = stage.make().train()

    def seconds(module: nn.Module, loss: Any) -> float:
        started = time.thread_time()
        module.zero_grad(set_to_none=True)
        loss(module(images), targets).backward()
        return time.thread_time() - started

    rows = [(seconds(together, stage.loss), sum(seconds(each, cross_entropy) for each in alone)) for _ in range(7)]
    del rows[0]  # it warms up
    ratios = sorted(one / four for one, four in rows)
    print(rows)
    return {
        "n": len(rows),
        "sandwich_seconds": float(np.median([one for one, _ in rows])),
        "four_alone_seconds": float(np.median([four for _, four in rows])),
        "sandwich_over_four_alone": float(np.median(ratios)),
        "lowest": ratios[0],
        "highest": ratios[-1],
    }


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
        if asked.networks and name not in asked.networks.split(","):
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
