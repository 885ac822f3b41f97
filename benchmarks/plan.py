"""How good, how quick and how well proved plans are; how well latency is predicted.

    python benchmarks/plan.py solver                                              # synthetic curves, 3 budgets, CPU seconds and gaps
    python benchmarks/plan.py quality --data data --weights weights               # exact curves, ResNet-20 and -56, CIFAR-10
    python benchmarks/plan.py quality --data data --networks vgg16_bn --vgg vgg16_bn.safetensors --bits 8,4,3,2 --samples 1000
    python benchmarks/plan.py latency --cache .latency                            # 20 random ResNet-20 plans not used for fitting

Each part is written into `results/plan-<date>.json` under its own name, beside what other parts left there; `quality` leaves the rows
of networks that it was not asked for. Drops are in points of
accuracy below the dense network, without any tuning: `measured_drop` on the images that the curves were measured on (test images at
even index, or the held-out training images), `recalibrated_drop` there with batch-norm statistics re-estimated, `test_drop` on other
images. Seconds are CPU seconds of this process with one thread.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch

from benchmarks.provenance import earlier, keep, provenance, result_file
from lamella.candidates import Candidates
from lamella.costs import cost
from lamella.errors import BudgetError
from lamella.exporting import export_onnx, quantize_onnx
from lamella.planning import depth_test, plan
from lamella.profiling import RATIOS, profile
from lamella.schema import Budget, Graph, Plan, Point, Profile, Score
from lamella.statistics import paired_difference
from lamella.surgery import narrow
from lamella.tasks import make_task
from lamella.timing import LatencyTable, accuracy, fit_predictor, free_step, latency
from lamella.timing.predicting import shapes_of
from lamella.tracing import trace
from lamella.training import Task
from lamella.zoo import load_weights, make_model

IMAGE = (torch.zeros(1, 3, 32, 32),)
SHARES = ("35%", "25%", "20%", "15%", "10%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["solver", "quality", "latency"])
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path)
    parser.add_argument(
        "--heldout", default="vgg16_bn", help="networks whose weights have not seen the held-out images"
    )
    parser.add_argument("--also", default="test,recalibrated", help="what to report beside the measured drop")
    parser.add_argument("--vgg", help="weights of vgg16_bn")
    parser.add_argument("--networks", default="resnet20,resnet56,vgg16_bn")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--bits", default="8,6,4,3,2", help="numbers of bits that the curves of quality have")
    parser.add_argument("--pruning-ratios", default=",".join(map(str, RATIOS)), help="and their pruning ratios")
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--cache", help="a directory that keeps curves and latency tables")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.weights_of = {"vgg16_bn": asked.vgg}
    torch.set_num_threads(1)
    found = {"solver": solver, "quality": quality, "latency": latencies}[asked.part](asked)
    write(asked.part, found, asked.seed)


def write(part: str, found: dict[str, Any], seed: int) -> None:
    path, about = result_file("plan"), provenance()
    whole = earlier(path)
    if part == "quality":
        found = beside(whole.get(part, {}), found, {name: about[name] for name in ("command", "commit")})
    keep(path, {**whole, part: {**about, "seeds": [seed], **found}})


# -- solver -----------------------------------------------------------------------------------------------------------------


def solver(asked: argparse.Namespace) -> dict[str, Any]:
    """53 groups x 10 widths x 4 bits, and ResNet-56 as traced, each under three budgets."""
    graphs = {"chain_53_groups": chain_graph(asked.seed), "resnet56": trace(make_model("resnet56").eval(), IMAGE)}
    budgets = {
        "bytes_macs_params": Budget(bytes="15%", macs="50%", params="50%"),
        "bytes_macs_memory": Budget(bytes="15%", macs="50%", memory="80%"),
        "bytes": Budget(bytes="10%"),
        "drop": Budget(max_drop=3.0),
    }
    rows = []
    for name, graph in graphs.items():
        curves = synthetic(graph, asked.seed)
        for which, budget in budgets.items():
            started = time.process_time()
            made = plan(curves, budget, planner="knapsack", time_limit=60)
            seconds = time.process_time() - started
            rows.append({"graph": name, "groups": len(graph.free), "budget": which, "cpu_seconds": round(seconds, 2)})
            rows[-1] |= {"gap": made.proof.gap, "value": made.proof.value, "status": made.proof.status}
            print(rows[-1], flush=True)
    graph = graphs["resnet56"]
    group = graph.free[0].name
    started = time.process_time()
    for i in range(5000):
        cost(graph, {group: 1 + i % 16}, {"linear": 8})
    return {"solver_rows": rows, "costs_per_second": round(5000 / (time.process_time() - started))}


def chain_graph(seed: int) -> Graph:
    """53 convolutions of 64, 128 or 256 channels in a row, and a head."""
    rng = random.Random(seed)
    layers, before = [], 3
    for _ in range(53):
        width = rng.choice((64, 128, 256))
        layers += [torch.nn.Conv2d(before, width, 3, padding=1), torch.nn.ReLU()]
        before = width
    model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(before, 10))
    return trace(model.eval(), (torch.zeros(1, 3, 8, 8),))


def synthetic(graph: Graph, seed: int) -> Profile:
    """Ten widths per group (dense among them) and 8, 6, 4 and 2 bits per layer, of many steepnesses."""
    rng, points, base = random.Random(seed), [], 0.92
    score = lambda value: Score(value=max(0.1, value), low=0.0, high=1.0, n=5000)
    for group in graph.free:
        steep = rng.uniform(0.01, 0.12)
        for width in sorted({max(1, round(group.width * i / 10)) for i in range(1, 10)} - {group.width}):
            ratio = 1 - width / group.width
            value = base - steep * ratio**2 * rng.uniform(0.9, 1.1)
            points.append(Point(target=group.name, knob="pruning_ratio", level=ratio, width=width, score=score(value)))
    for layer in graph.layers:
        harm = rng.uniform(0.1, 1)
        if layer.multiplies:
            pairs = ((8, 0.0005), (6, 0.0015), (4, 0.004), (2, 0.08))
            points += [Point(target=layer.name, knob="bits", level=b, score=score(base - harm * d)) for b, d in pairs]
    return Profile(graph=graph, baseline=score(base), points=tuple(points))


# -- quality ----------------------------------------------------------------------------------------------------------------


def quality(asked: argparse.Namespace) -> dict[str, Any]:
    """Measured drop before tuning of every planner at equal predicted bytes."""
    found: dict[str, Any] = {"networks": {}, "quality_rows": []}
    bits = tuple(int(b) for b in asked.bits.split(","))
    ratios = tuple(float(r) for r in asked.pruning_ratios.split(","))
    for name in asked.networks.split(","):
        weights = Path(asked.weights_of.get(name) or asked.weights / f"cifar10_{name}.safetensors")
        model = load_weights(make_model(name, num_classes=10), weights).eval()
        validation = "heldout" if name in asked.heldout.split(",") else "test_even"
        task = make_task("cifar10", asked.data, seed=asked.seed, validation=validation, limit=asked.samples)
        started = time.process_time()
        journal = f"{asked.cache}/{name}-{asked.samples}.jsonl" if asked.cache else None
        curves = profile(model, task, pruning_ratios=ratios, bits=bits, journal=journal, progress=shown)
        print(name, f"profiled in {time.process_time() - started:.0f} CPU s", flush=True)
        meters = {
            "validation": meter(model, curves.graph, task, asked, f"{name}-measured"),
            "recalibrated": meter(model, curves.graph, task, asked, f"{name}-recalibrated", recalibrate=True),
            "test": meter(model, curves.graph, replace(task, validation=task.test), asked, f"{name}-test"),
        }
        meters = {which: each for which, each in meters.items() if which in ("validation", *asked.also.split(","))}
        found["networks"][name] = {
            "weights": weights.name,
            "validation_split": validation,
            "n": curves.baseline.n,
            "bits": bits,
            "pruning_ratios": ratios,
            "depth": depth_test(curves).text,
            **{f"dense_{which}": round(100 * each({}, {}), 2) for which, each in meters.items()},
        }
        for share in SHARES:
            found["quality_rows"] += [
                {"network": name, "bytes": share, **row} for row in contest(curves, meters, share)
            ]
    return found


def shown(stage: str, done: int, total: int, note: str = "") -> None:
    if done % 20 == 0:
        print(f"{stage} {done} of {total}", flush=True)


def beside(before: dict[str, Any], found: dict[str, Any], about: dict[str, str]) -> dict[str, Any]:
    """These networks and rows, those of other networks as they were, and the verdict over all."""
    networks = {name: {**about, **facts} for name, facts in found["networks"].items()}
    rows = [row for row in before.get("quality_rows", []) if row["network"] not in networks] + found["quality_rows"]
    return {"networks": {**before.get("networks", {}), **networks}, "quality_rows": rows, **verdict(rows)}


def meter(
    model: torch.nn.Module, graph: Graph, task: Task, asked: argparse.Namespace, name: str, recalibrate: bool = False
) -> Candidates:
    """Scores of plans, untuned, kept in the cache."""
    journal = f"{asked.cache}/{name}-{asked.samples}.jsonl" if asked.cache else None
    return Candidates(model, graph, task, recalibrate=recalibrate, journal=journal)


def contest(curves: Profile, meters: dict[str, Candidates], share: str) -> list[dict[str, Any]]:
    budget = Budget(bytes=share)
    entries: dict[str, dict[str, Any] | None] = {
        "knapsack": {"planner": "knapsack"},
        "knapsack_8_bits": {"planner": "knapsack", "bits": 8},
        "uniform": {"planner": "uniform", "bits": 8},
        "uniform_6_bits": {"planner": "uniform", "bits": 6},
        "uniform_4_bits": {"planner": "uniform", "bits": 4},
        "shares_params": {"planner": "shares", "by": "params", "bits": 8},
        "shares_macs": {"planner": "shares", "by": "macs", "bits": 8},
        "shares_memory": {"planner": "shares", "by": "memory", "bits": 8},
        "threshold": None,
    }
    rows, plans = [], dict[str, Plan]()
    for name, options in entries.items():
        made = threshold_at(curves, budget) if options is None else attempt(curves, budget, options)
        row: dict[str, Any] = {"planner": name, "measured_drop": None}
        if made is not None:
            plans[name] = made
            drops = {which: drop(each, made) for which, each in meters.items()}
            row = {"planner": name, "measured_drop": drops["validation"]}
            row |= {"predicted_drop": round(100 * (made.dense_score - made.predicted_score), 2)}
            row |= {f"{which}_drop": value for which, value in drops.items() if which != "validation"}
            row |= {"predicted_bytes": made.predicted.bytes, "dense_bytes": made.dense.bytes}
        rows.append(row)
        print(share, row, flush=True)
    rows[0] |= beside_best(rows, plans, meters["validation"])
    print(share, "knapsack", rows[0], flush=True)
    return rows


def beside_best(rows: list[dict[str, Any]], plans: dict[str, Plan], score: Candidates) -> dict[str, Any]:
    """By how many points knapsack's plan is ahead of the best other planner's, and the 95 % interval over paired images."""
    others = [r for r in rows if not r["planner"].startswith("knapsack") and r["measured_drop"] is not None]
    if "knapsack" not in plans or not others:
        return {}
    best = min(others, key=lambda row: row["measured_drop"])["planner"]
    ours, theirs = (score.each(plans[name].widths, plans[name].bits).numpy() for name in ("knapsack", best))
    ahead, low, high = (round(100 * value, 2) for value in paired_difference(ours, theirs))
    return {"best_other": best, "ahead": ahead, "ahead_low": low, "ahead_high": high}


def drop(score: Candidates, made: Plan) -> float:
    """Points below the dense network, which was measured in the same way."""
    return round(100 * (score({}, {}) - score(made.widths, made.bits)), 2)


def attempt(curves: Profile, budget: Budget, options: dict[str, Any]) -> Plan | None:
    try:
        return plan(curves, budget, **options)
    except BudgetError:
        return None


def threshold_at(curves: Profile, budget: Budget) -> Plan | None:
    """The mildest threshold plan (8 bits) that keeps the bytes."""
    for i in range(1, 200):
        found = attempt(curves, budget, {"planner": "threshold", "factor": 1 - i / 200, "bits": 8})
        if found is not None:
            return found
    return None


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """At how many (network, bytes) knapsack's measured drop is below every other planner's, as low as the best, or above it.

    `knapsack_behind_beyond_noise`: above, and the interval over paired images says so.
    """
    won = level = behind = beyond = 0
    for network, share in dict.fromkeys((r["network"], r["bytes"]) for r in rows):
        here = [r for r in rows if (r["network"], r["bytes"]) == (network, share) and r["measured_drop"] is not None]
        ours = next((r for r in here if r["planner"] == "knapsack"), None)
        others = [r["measured_drop"] for r in here if not r["planner"].startswith("knapsack")]
        if ours is not None and others:
            won += ours["measured_drop"] < min(others)
            level += ours["measured_drop"] == min(others)
            behind += ours["measured_drop"] > min(others)
            beyond += ours["measured_drop"] > min(others) and ours.get("ahead_high", -1.0) < 0
    found = {"knapsack_won": won, "knapsack_level": level, "knapsack_behind": behind}
    return {**found, "knapsack_behind_beyond_noise": beyond, "knapsack_played": won + level + behind}


# -- latency ----------------------------------------------------------------------------------------------------------------


def latencies(asked: argparse.Namespace) -> dict[str, Any]:
    """Predicted against measured latency of random ResNet-20 plans, fp32 and int8; as many other plans fit the predictor."""
    rng = random.Random(asked.seed)
    model = make_model("resnet20").eval()
    graph = trace(model, IMAGE)
    count = 2 * asked.plans
    plans = [{g.name: g.legal(g.width * rng.uniform(0.25, 1.0)) for g in graph.free} for _ in range(count)]
    found: dict[str, Any] = {"held_out_plans": asked.plans, "fitted_plans": count - asked.plans}
    with tempfile.TemporaryDirectory() as scratch:
        files = exported(model, graph, plans, Path(asked.cache or scratch))
        for precision in ("fp32", "int8"):
            times = latency(
                {str(i): files[precision][i] for i in range(count)}, torch.zeros(1, 3, 32, 32), slots=8, seconds=0.02
            )
            ms = [times[str(i)].latency_ms for i in range(count)]
            table = LatencyTable(asked.cache, precision=precision, slots=16)
            predictor = fit_predictor(table, graph, plans[asked.plans :], ms[asked.plans :])
            seen = accuracy(predictor, graph, plans[: asked.plans], ms[: asked.plans])
            print(precision, seen.text, flush=True)
            found |= {f"{precision}_median_error": seen.median_error, f"{precision}_worst_error": seen.worst_error}
            found |= {f"{precision}_rank_correlation": seen.rank_correlation}
            found[f"{precision}_coefficients"] = [predictor.scale, predictor.per_layer, predictor.per_element]
            found[f"{precision}_block"] = predictor.block
            found[f"{precision}_free_step"] = {s.key: free_step(table, s) for s in shapes_of(table, graph, {})[1:-1:6]}
    return found


def exported(model: torch.nn.Module, graph: Graph, plans: list[dict[str, int]], folder: Path) -> dict[str, list[Path]]:
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    files: dict[str, list[Path]] = {"fp32": [], "int8": []}
    for i, widths in enumerate(plans):
        fp32, int8 = folder / f"{i}.onnx", folder / f"{i}.int8.onnx"
        if not int8.exists():
            quantize_onnx(export_onnx(narrow(model, graph, widths), IMAGE, fp32), int8, [images])
        files["fp32"].append(fp32)
        files["int8"].append(int8)
        print(f"exported {i + 1} of {len(plans)}", end="\r", flush=True)
    return files


if __name__ == "__main__":
    main()
