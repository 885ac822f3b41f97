"""How much faster a profile is than the plain loop and than the peers' ways, on ResNet-20 with trained weights and CIFAR-10, one core.

    python benchmarks/profile.py --data data --weights cifar10_resnet20.safetensors

Samples: the test images at even index. Seconds are CPU seconds of this process (one thread), so that neighbours on the machine disturb
them less. What is compared:

    plain     a masked model per point, `evaluate` at its best batch size: 19 convolutions at 9 ratios
    exact     the same points by replay, at its best chunk; every count compared with the plain loop's
    race      only which ratios hold: `--races` seeds per factor timed; agreement over 5 seeds, the others raced on the exact run's scores
    clone     Torch-Pruning's way: copy the network, build its dependency graph, prune, evaluate; the 9 groups it can prune here
    fastnas   NVIDIA Model Optimizer's way of scoring (FastNAS): sorted once, narrowed without a copy, from the narrowest up until a width
              loses nothing. Written anew here in a few lines, its evaluations timed on the clone loop's networks

The plain loop and the peers run on `--plain-samples` images of every point, scaled to all; scores are compared on those. Figures are
written after every part, so a stop loses only the part in progress. `arithmetic_limit`: multiplications of the plain loop over those
that replay cannot do without; a pass of the replayed dense network is itself `dense_pass_speedup` times as fast as the plain one, and
`share_of_arithmetic_limit` is the speedup over the product of the two.
"""

import argparse
import copy
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np
import torch
from torch import nn

from benchmarks.provenance import keep, provenance, result_file
from lamella.costs import layer_cost
from lamella.profiling import RATIOS, Sweep
from lamella.profiling.engine import Engine
from lamella.profiling.points import Item, Job, KnobLevel, planned_items
from lamella.profiling.racing import Racer
from lamella.profiling.samples import Chunk
from lamella.profiling.screening import native_bf16
from lamella.profiling.variants import Subject
from lamella.surgery import resolve
from lamella.tasks import make_task
from lamella.tracing import trace
from lamella.training import Batches, evaluate
from lamella.zoo import load_weights, make_model

FACTORS = (0.985, 0.99)
SEEDS = range(5)
Exact = dict[str, list[tuple[KnobLevel, Any]]]


def cpu(function: Callable[[], Any]) -> tuple[float, Any]:
    """The CPU seconds of a call, and what it returned."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


class Results:
    """Figures, on disk after every change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures: dict[str, Any] = {**provenance(), "threads": 1, "seeds": list(SEEDS)}

    def add(self, **figures: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.figures |= {**figures, "peak_memory_gib": round(peak, 2)}
        keep(self.path, self.figures)
        print(json.dumps(figures), file=sys.stderr, flush=True)


def cut(subject: Subject, samples: int, size: int) -> Batches:
    """The first validation samples in batches of this size."""
    held = subject.task.validation
    return Batches(held.inputs[:samples], held.targets[:samples], size, transform=held.transform)


def best_batch(subject: Subject, samples: int) -> int:
    """The plain loop's best batch size here."""
    sizes = (16, 32, 64, 128, 256)
    seconds = {
        n: min(cpu(partial(evaluate, subject.model, cut(subject, samples, n)))[0] for _ in range(3)) for n in sizes
    }
    return min(seconds, key=lambda size: seconds[size])


def best_chunk(subject: Subject, item: Item, samples: int) -> int:
    """The replay's best number of samples at a time, on an item in the middle of the network."""
    task = replace(subject.task, validation=cut(subject, samples, samples))
    seconds = {}
    for size in (32, 64, 128):
        engine = Engine(replace(subject, task=task, sweep=replace(subject.sweep, chunk=size)))
        engine.dense()
        seconds[size] = min(cpu(lambda e=engine: list(e.curve(item, item.levels)))[0] for _ in range(2))
    return min(seconds, key=lambda size: seconds[size])


def measure(engine: Engine, items: list[Item], samples: int, size: int) -> tuple[float, float, int, Exact]:
    """CPU seconds of all curves, and of the plain loop's images, item by item in turn; the scores that differ; the scores."""
    subject, plain, ours, differing = engine.subject, 0.0, 0.0, 0
    exact: Exact = {}
    for item in items:
        spent, exact[item.target] = cpu(lambda i=item: list(engine.curve(i, i.levels)))
        ours += spent
        for level, scores in exact[item.target]:
            small = subject.setting(item, level).model()
            spent, found = cpu(partial(evaluate, small, cut(subject, samples, size)))
            plain += spent
            differing += int((found.numpy() != scores[:samples]).sum())
        print(
            f"{item.target}: exact {ours:.0f} s, plain {plain:.0f} s, {differing} differ", file=sys.stderr, flush=True
        )
    return ours, plain, differing, exact


def macs_limit(engine: Engine, items: list[Item]) -> float:
    """Multiplications of the plain loop over those that replay cannot do without: the dense walk, and all behind each change.

    A masked layer itself is not run again: its output is the dense one with zeros.
    """
    graph, program = engine.subject.graph, engine.program
    macs = {x.weight: layer_cost(graph, x.name).macs for x in graph.layers if x.weight}
    dense = sum(macs.values())
    needed = float(dense)
    for item in items:
        own = f"{item.target}.weight"
        behind = {name for p in program.affected({own}) for name in program.listed[p].names}
        needed += len(item.levels) * sum(macs.get(name, 0) for name in behind - {own})
    return sum(len(item.levels) for item in items) * dense / needed


# ---- races


class Recorded:
    """An engine that answers from recorded scores: a race on it decides as it would on the network."""

    def __init__(self, engine: Engine, exact: Exact) -> None:
        self.subject, self.margins, self.binary, self.exact, self.samples = (
            engine.subject,
            engine.margins,
            engine.binary,
            exact,
            self,
        )

    def whole(self) -> Chunk:
        rows = torch.arange(len(self.margins))
        return Chunk(0, (rows,), rows)

    def forget(self) -> None:
        pass

    def maker(self, item: Item) -> Callable[[KnobLevel], Any]:
        return lambda level: next(scores for known, scores in self.exact[item.target] if known == level)

    def glance(self, ready: Any, chunk: Chunk) -> Any:
        return ready[chunk.targets.numpy()]

    def final_scores(self, ready: Any, chunks: Any, seen: Any) -> Any:
        return np.concatenate(seen)


def race(engine: Any, dense: Any, items: list[Item], factor: float, seed: int) -> tuple[int, dict[str, int]]:
    """(evaluated images, decisions) of a race over all items."""
    engine.subject.sweep = replace(engine.subject.sweep, factor=factor, seed=seed)
    racer = Racer(engine, dense)
    images, decisions = 0, {}
    for item in items:
        points = list(racer.points(Job(item)))
        images += sum(p.score.n for p in points)
        holding = [p.level for p in points if p.score.value >= racer.floor - 1e-12]
        values = [level.value for level in item.levels]
        decisions[item.target] = values.index(max(holding)) if holding else -1
    return images, decisions


def decision(levels: list[float], floor: float) -> int:
    """The index of the harshest level at or above the floor, -1 for none."""
    return max((i for i, value in enumerate(levels) if value >= floor - 1e-12), default=-1)


def races(engine: Engine, dense: Any, items: list[Item], exact: Exact, timed: int) -> tuple[float, dict[str, Any]]:
    """Mean seconds of a timed race, and over all seeds and factors how many of the layers get the exact decision."""
    seconds, images, agreements, steps, per = [], [], [], [], {}
    for factor in FACTORS:
        floor = factor * dense.mean()
        truth = {i.target: decision([s.mean() for _, s in exact[i.target]], floor) for i in items}
        for seed in SEEDS:
            if seed < timed:
                engine.forget()
                spent, (count, found) = cpu(partial(race, engine, dense, items, factor, seed))
                seconds.append(spent)
            else:
                count, found = race(Recorded(engine, exact), dense, items, factor, seed)
            apart = [abs(found[name] - truth[name]) for name in truth]
            images.append(count)
            agreements.append(sum(a == 0 for a in apart))
            steps.append(max(apart))
            per.setdefault(f"race_agreement_at_{factor}", []).append(agreements[-1])
            print(f"race {factor} seed {seed}: {agreements[-1]} agree, {count} images", file=sys.stderr, flush=True)
    figures = {
        "races_timed": len(seconds),
        "race_images_per_layer": round(float(np.mean(images)) / len(items), 1),
        "race_agreement": float(np.mean(agreements)),
        **{name: float(np.mean(values)) for name, values in per.items()},
        "race_agreement_least": min(agreements),
        "race_most_steps_off": max(steps),
    }
    return float(np.mean(seconds)), figures


# ---- the peers' ways


def cloned(model: nn.Module, layer: str, leaves: list[int]) -> nn.Module:
    """A copy of the network without these channels of a layer, by Torch-Pruning."""
    import torch_pruning as tp

    small = copy.deepcopy(model).eval()
    graph = tp.DependencyGraph().build_dependency(small, example_inputs=torch.zeros(1, 3, 32, 32))
    group = graph.get_pruning_group(small.get_submodule(layer), tp.prune_conv_out_channels, idxs=leaves)
    group.prune()
    return small


def narrowed_by_us(subject: Subject, item: Item, level: KnobLevel) -> nn.Module:
    return subject.setting(item, level).model()


def peers(engine: Engine, dense: Any, items: list[Item], samples: int, size: int) -> dict[str, Any]:
    """The clone-and-prune loop and FastNAS's way, against replay of the same points."""
    subject, scale = engine.subject, len(dense) / samples
    try:
        version = metadata.version("torch-pruning")
    except metadata.PackageNotFoundError:
        version = None
    ours = making = evaluating = fastnas = 0.0
    differing = evaluated = 0
    engine.forget()
    for item in items:
        spent, found = cpu(lambda i=item: list(engine.curve(i, i.levels)))
        ours += spent
        drops, seconds = [], []
        for level, scores in found:
            kept = resolve(subject.model, subject.graph, {item.target: level.width or 0})[item.target]
            leaves = sorted(set(range(subject.graph.group_of[item.target].width)) - set(kept))
            make = (
                partial(cloned, subject.model, item.target, leaves)
                if version
                else partial(narrowed_by_us, subject, item, level)
            )
            spent, small = cpu(make)
            making += spent
            spent, plain = cpu(partial(evaluate, small, cut(subject, samples, size)))
            evaluating += spent * scale
            seconds.append(spent * scale)
            drops.append(float(dense.mean() - scores.mean()))
            differing += int((plain.numpy() != scores[:samples]).sum())
        asked = next((n for n, drop in enumerate(reversed(drops), 1) if drop < 1e-5), len(drops))
        evaluated += asked
        fastnas += sum(seconds[::-1][:asked])
    points = sum(len(item.levels) for item in items)
    clone = {
        "clone_version": f"torch-pruning {version}",
        "clone_cpu_seconds_scaled": round(making + evaluating, 1),
        "clone_of_it_copying_and_pruning": round(making, 1),
        "exact_speedup_over_clone": round((making + evaluating) / ours, 2),
        "clone_scores_differing": differing,
    }
    return {
        "group_points": points,
        "group_exact_cpu_seconds": round(ours, 1),
        **(clone if version else {"clone": "not measured: torch-pruning is not installed"}),
        "fastnas_points_evaluated": evaluated,
        "fastnas_cpu_seconds_scaled": round(fastnas, 1),
        "exact_speedup_over_fastnas": round(fastnas / ours, 2),
    }


# ---- all of it


def inner(items: Iterable[Item]) -> list[Item]:
    """The groups within a block: Torch-Pruning stumbles over the padded shortcuts of the residual stream."""
    return [i for i in items if i.knob == "pruning_ratio" and i.target.endswith(".conv1")]


def screened(subject: Subject, items: list[Item], exact: Exact, plain_seconds: float) -> dict[str, Any]:
    """Exact curves and a race with screening in bf16, where the processor has bf16."""
    if not native_bf16(torch.device("cpu")):
        return {"bf16": "not measured: no native bf16"}
    engine = Engine(replace(subject, sweep=replace(subject.sweep, screening="bf16")))
    spent, dense = cpu(engine.dense)
    differing, ours = 0, spent
    for item in items:
        spent, found = cpu(lambda i=item: list(engine.curve(i, i.levels)))
        ours += spent
        pairs = zip(found, exact[item.target], strict=True)
        differing += sum(int((a[1] != b[1]).sum()) for a, b in pairs)
    engine.forget()
    seconds, _ = cpu(partial(race, engine, dense, items, FACTORS[0], 0))
    return {
        "bf16_exact_speedup": round(plain_seconds / ours, 2),
        "bf16_scores_differing": differing,
        "bf16_race_speedup": round(plain_seconds / seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--plain-samples", type=int, default=640)
    parser.add_argument("--races", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, default=result_file("profile"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.out)
    model = load_weights(make_model("resnet20"), options.weights).eval()
    task = make_task("cifar10", options.data, validation="test_even", limit=options.limit)
    graph = trace(model, task.example_inputs, round_to=1)
    sweep = Sweep(layers=True)
    planned = planned_items(model, graph, sweep, RATIOS, ())
    items = [i for i in planned if i.knob == "masked_ratio"]
    subject = Subject(model, graph, task, sweep)
    batch = best_batch(subject, 256)
    chunk = best_chunk(subject, items[len(items) // 2], 256)
    subject = replace(subject, sweep=replace(sweep, chunk=chunk))
    engine = Engine(subject)
    export_seconds, _ = cpu(lambda: engine.program)
    dense_seconds, dense = cpu(engine.dense)
    samples, first = min(options.plain_samples, len(dense)), export_seconds + dense_seconds
    points = sum(len(item.levels) for item in items)
    results.add(layers=len(items), points=points, samples=len(dense), plain_batch=batch, exact_chunk=chunk)

    exact_seconds, plain_part, differing, exact = measure(engine, items, samples, batch)
    exact_seconds, plain_seconds = exact_seconds + first, plain_part * len(dense) / samples
    limit = macs_limit(engine, items)
    dense_plain, _ = cpu(partial(evaluate, model, cut(subject, len(dense), batch)))
    results.add(
        plain_samples_per_point=samples,
        plain_cpu_seconds_scaled=round(plain_seconds, 1),
        exact_cpu_seconds=round(exact_seconds, 1),
        exact_speedup=round(plain_seconds / exact_seconds, 2),
        scores_compared=points * samples,
        scores_differing=differing,
        arithmetic_limit=round(limit, 2),
        dense_pass_speedup=round(dense_plain / dense_seconds, 2),
        share_of_arithmetic_limit=round(plain_seconds / exact_seconds / limit / (dense_plain / dense_seconds), 2),
    )
    race_seconds, agreement = races(engine, dense, items, exact, options.races)
    race_seconds += first
    results.add(
        race_cpu_seconds=round(race_seconds, 1), race_speedup=round(plain_seconds / race_seconds, 2), **agreement
    )
    results.add(**peers(engine, dense, inner(planned), samples, batch))
    results.add(**screened(subject, items, exact, plain_seconds))
    print(json.dumps(results.figures, indent=1))


if __name__ == "__main__":
    main()
