"""How much faster a profile is than the plain loop, on ResNet-20 with trained weights and CIFAR-10, one core.

    python benchmarks/profile.py --data data --weights cifar10_resnet20.safetensors

Per-layer curves: 19 convolutions at 9 ratios on the test images at even index. Seconds are CPU seconds of this process (one thread), so
that neighbours on the machine disturb them less; the plain loop (a masked model per point, `evaluate`) runs at its best batch size on
`--plain-samples` images of every point, scaled to all, and its counts are compared on those. Races: `--races` seeds per factor are timed;
agreement is over 5 seeds, the others raced on the recorded outcomes of the exact run, which are the same numbers.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

# This file has the name of a standard module, which torch imports: its directory must not be searched.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np
import torch

from lamella.profiling import RATIOS, Sweep
from lamella.profiling.engine import Engine
from lamella.profiling.points import Item, Level, planned_items
from lamella.profiling.racing import Racer
from lamella.profiling.variants import Subject
from lamella.tasks import make_task
from lamella.tracing import trace
from lamella.training import Batches, evaluate
from lamella.zoo import load_weights, make_model

FACTORS = (0.985, 0.99)
SEEDS = range(5)
Exact = dict[str, list[tuple[Level, Any]]]


def cpu(function: Callable[[], Any]) -> tuple[float, Any]:
    """The CPU seconds of a call, and what it returned."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def best_batch(subject: Subject, samples: int) -> int:
    """The plain loop's best batch size here."""
    sizes = (16, 32, 64, 128, 256)
    rates = {
        n: min(cpu(partial(evaluate, subject.model, cut(subject, samples, n)))[0] for _ in range(3)) for n in sizes
    }
    return min(rates, key=lambda size: rates[size])


def cut(subject: Subject, samples: int, size: int) -> Batches:
    """The first validation samples in batches of this size."""
    held = subject.task.validation
    return Batches(held.inputs[:samples], held.targets[:samples], size, transform=held.transform)


def measure(engine: Engine, items: list[Item], samples: int, size: int) -> tuple[float, float, int, Exact]:
    """CPU seconds of all curves, and of the plain loop's images, item by item in turn; the scores that differ; the scores."""
    subject, plain, ours, differing = engine.subject, 0.0, 0.0, 0
    exact: Exact = {}
    for item in items:
        spent, exact[item.target] = cpu(partial(engine.curve, item))
        ours += spent
        for level, scores in exact[item.target]:
            small = subject.setting(item, level).model()
            spent, found = cpu(partial(evaluate, small, cut(subject, samples, size)))
            plain += spent
            differing += int((found.numpy() != scores[:samples]).sum())
        print(
            f"{item.target}: exact {ours:.0f} s, plain {plain:.0f} s so far, {differing} scores differ",
            file=sys.stderr,
            flush=True,
        )
    return ours, plain, differing, exact


def decision(levels: list[float], floor: float) -> int:
    """The index of the harshest level at or above the floor, -1 for none."""
    return max((i for i, value in enumerate(levels) if value >= floor - 1e-12), default=-1)


class Recorded:
    """An engine that answers from recorded scores: a race on it decides as it would on the network."""

    def __init__(self, engine: Engine, exact: Exact) -> None:
        self.subject, self.samples, self.margins, self.binary = (
            engine.subject,
            engine.samples,
            engine.margins,
            engine.binary,
        )
        self.exact = exact

    def forget(self) -> None:
        pass

    def maker(self, item: Item) -> Callable[[Level], Any]:
        return lambda level: next(scores for known, scores in self.exact[item.target] if known == level)

    def branch(self, run: Any, chunk: Any) -> None:
        return None

    def output(self, run: Any, chunk: Any, branch: None) -> Any:
        return run, chunk

    def scored(self, outputs: Any, chunk: Any) -> Any:
        run, chunk = outputs
        return run[chunk.rows]


def race(engine: Any, dense: Any, items: list[Item], factor: float, seed: int) -> tuple[int, dict[str, int]]:
    """(evaluated images, decisions) of a race over all items."""
    engine.subject.sweep = replace(engine.subject.sweep, factor=factor, seed=seed)
    racer = Racer(engine, dense)
    if isinstance(engine, Recorded):
        for part in racer.chunks:
            for index, (chunk, rows) in enumerate(part):
                part[index] = (_Rows(chunk.number, rows), rows)
    floor, images, decisions = factor * dense.mean(), 0, {}
    for item in items:
        points = racer.measure(item)
        images += sum(p.score.n for p in points)
        holding = [p.level for p in points if p.score.value >= floor - 1e-12]
        values = [level.value for level in item.levels]
        decisions[item.target] = values.index(max(holding)) if holding else -1
    return images, decisions


class _Rows:
    def __init__(self, number: int, rows: Any) -> None:
        self.number, self.rows = number, rows


def measure_races(
    engine: Engine, dense: Any, items: list[Item], exact: Exact, timed: int
) -> tuple[list[float], float, float, int, dict[str, float]]:
    """Seconds of a timed race, and over all seeds and factors how many of the layers get the exact decision."""
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
    means = {name: float(np.mean(values)) for name, values in per.items()}
    return seconds, float(np.mean(images)), float(np.mean(agreements)), max(steps), means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--plain-samples", type=int, default=5000)
    parser.add_argument("--races", type=int, default=5)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", default=f"benchmarks/results/profile-{date.today()}.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_weights(make_model("resnet20"), options.weights).eval()
    task = make_task("cifar10", options.data, validation="test_even", limit=options.limit)
    graph = trace(model, task.example_inputs)
    sweep = Sweep(layers=True)
    subject = Subject(model, graph, task, sweep)
    items = [i for i in planned_items(model, graph, sweep, RATIOS, ()) if i.knob == "masked_ratio"]
    engine = Engine(subject)
    export_seconds, _ = cpu(lambda: engine.program)
    dense_seconds, dense = cpu(engine.dense)
    samples = min(options.plain_samples, len(dense))
    batch = best_batch(subject, min(samples, 256))
    exact_seconds, plain_part, differing, exact = measure(engine, items, samples, batch)
    exact_seconds += export_seconds + dense_seconds
    points = sum(len(item.levels) for item in items)
    plain_seconds = plain_part * len(dense) / samples
    seconds, images, agreement, most, means = measure_races(engine, dense, items, exact, options.races)
    race_seconds = float(np.mean(seconds)) + export_seconds + dense_seconds if seconds else None
    figures = {
        "points": points,
        "samples": len(dense),
        "plain_batch": batch,
        "plain_samples_per_point": samples,
        "plain_cpu_seconds_scaled": round(plain_seconds, 1),
        "exact_cpu_seconds": round(exact_seconds, 1),
        "exact_speedup": round(plain_seconds / exact_seconds, 2),
        "scores_compared": points * samples,
        "scores_differing": differing,
        "race_cpu_seconds": round(race_seconds, 1) if race_seconds else None,
        "race_speedup": round(plain_seconds / race_seconds, 2) if race_seconds else None,
        "races_timed": len(seconds),
        "race_images_per_layer": round(images / len(items), 1),
        "race_agreement": agreement,
        **means,
        "race_most_steps_off": most,
        "layers": len(items),
        "bf16": "not measured: this CPU has no bf16 instructions"
        if not torch.cpu._is_avx512_bf16_supported()
        else "not implemented",
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{platform.machine()}, one thread, torch {torch.__version__}"
    command = "python benchmarks/profile.py " + " ".join(a if "/" not in a else Path(a).name for a in sys.argv[1:])
    about = {"command": command, "commit": commit, "machine": machine, "seeds": list(SEEDS), **figures}
    Path(options.out).write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
