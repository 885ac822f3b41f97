"""Networks without batch norm, cut and rounded: what is left as it is, and with every layer's outputs matched (decision 0017).

    python benchmarks/matching.py lenet5 --data data --seeds 3                                  # MNIST; trains the networks first
    python benchmarks/matching.py alexnet32 --data data --weights alexnet32-0.safetensors       # CIFAR-10; weights of references.py
    python benchmarks/matching.py vgg16_bn --data data --weights vgg16_bn-0.safetensors         # its head alone has no batch norm
    python benchmarks/matching.py lenet5 --data data --seeds 3 --levels none,sandwich,grow      # of elastic networks (decision 0020)

Every group of channels gives up the same fraction, or every layer gets the same bits, in one step of a walk; its validation accuracy
before any tuning, and test accuracy after a tuning of `--tuning` samples, are those of the walk with matching and without. With
`--levels` it is the test accuracy of nested levels, by these methods, where they scale and shift layers on their own and where they do
not. Rows are added to `results/matching-<date>.json`; the mean is over seeds.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch
from torch import nn

from benchmarks.provenance import earlier, keep, provenance, result_file
from lamella import matching, walking
from lamella.elasticity import building, elasticize
from lamella.quantization import multiplying_layers
from lamella.schema import Graph, Step
from lamella.statistics import score_interval
from lamella.tasks import make_task
from lamella.tracing import trace
from lamella.training import Portion, Recipe, Task, evaluate, fit
from lamella.zoo import load_weights, make_model

RATIOS, BITS = (0.2, 0.4, 0.6), (4, 3, 2)
LEVELS = {"core": 0.6, "level1": 0.4, "level2": 0.2}
TRAINING = Recipe(epochs=3, lr=2e-3, optimizer="adamw", weight_decay=0.01)
TUNING = {"lenet5": Recipe(epochs=1, lr=5e-4, optimizer="adamw", weight_decay=0.01)}
USUAL = Recipe(epochs=1, lr=5e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["lenet5", "alexnet32", "vgg16", "vgg16_bn"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, help="the file of trained weights; lenet5 is trained here")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--round-to", type=int, default=1, help="widths come in steps of as many channels")
    parser.add_argument("--tuning", type=int, default=5000, help="samples of the tuning epoch")
    parser.add_argument("--levels", default="", help="of elastic networks, by these methods")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(asked.seeds):
        model, task = network(asked, seed)
        graph = trace(model, task.example_inputs, round_to=asked.round_to)
        for name, found in measured(model, graph, task, asked, seed):
            rows.setdefault(name, []).append(found)
            print(seed, name, found, flush=True)
    write(asked, rows)


def network(asked: argparse.Namespace, seed: int) -> tuple[nn.Module, Task]:
    """The trained network of a seed, and its data."""
    torch.manual_seed(seed)
    if asked.network == "lenet5":
        task = make_task("mnist", asked.data, seed=seed)
        return fit(make_model("lenet5"), task, TRAINING, seed=seed).eval(), task
    task = make_task("cifar10", asked.data, seed=seed)
    return load_weights(make_model(asked.network, num_classes=10), asked.weights).eval(), task


def measured(
    model: nn.Module, graph: Graph, task: Task, asked: argparse.Namespace, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a seed, one by one."""
    tuned = replace(task, train=Portion(task.train, asked.tuning))
    if asked.levels:
        yield from ((method, levels(model, graph, tuned, method, asked, seed)) for method in asked.levels.split(","))
    else:
        yield from ((n, row(model, graph, tuned, s, asked, seed)) for n, s in steps(model, graph).items())


def steps(model: nn.Module, graph: Graph) -> dict[str, Step]:
    layers = multiplying_layers(model)
    cuts = {
        f"cut {ratio:.0%}": Step(widths={g.name: g.legal(g.width * (1 - ratio)) for g in graph.free}, epochs=1)
        for ratio in RATIOS
    }
    return cuts | {f"{bits} bits": Step(bits=dict.fromkeys(layers, bits), epochs=1) for bits in BITS}


def row(model: nn.Module, graph: Graph, task: Task, step: Step, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The step without matching and with it."""
    found: dict[str, Any] = {}
    match_outputs = matching.match_outputs
    for name, function in (("as_it_is", lambda model, *_: model), ("matched", match_outputs)):
        matching.match_outputs = function
        tuning = walking.Tuning(task, TUNING.get(asked.network, USUAL), seed=seed)
        *_, state = walking.walk(walking.start(model, graph, task), [step], tuning)
        measure = state.measures[-1]
        test = score_interval(evaluate(state.model, task.test, task.score).numpy())
        found["dense_validation"] = state.measures[0].validation.value
        found[name] = {
            "before_tuning": measure.before_tuning,
            "tuned": measure.validation.value,
            "tuned_test": test.value,
        }
    matching.match_outputs = match_outputs
    return found


def levels(
    model: nn.Module, graph: Graph, task: Task, method: str, asked: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Test accuracy of every level, where all numbers are shared and where levels scale and shift layers on their own."""
    found: dict[str, Any] = {}
    matchable = building.matchable
    trained = {} if method == "none" else {"recipe": replace(TUNING.get(asked.network, USUAL), epochs=2)}
    for name, function in (("as_it_is", lambda *_: []), ("matched", matchable)):
        building.matchable = function
        net = elasticize(model, LEVELS, task, method=method, graph=graph, seed=seed, **trained)
        found[name] = {n: float(evaluate(net.view(n), task.test, task.score).mean()) for n in net.family.names}
    building.matchable = matchable
    return found


def write(asked: argparse.Namespace, rows: dict[str, list[dict[str, Any]]]) -> None:
    path, means = result_file("matching"), {name: mean(found) for name, found in rows.items()}
    about = {**provenance(), "seeds": asked.seeds}
    name = asked.network + ("_levels" if asked.levels else "")
    keep(path, {**earlier(path), name: {**about, "mean": means, "rows": rows}})
    print(json.dumps(means, indent=1))


def mean(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of equal trees of numbers."""
    first = found[0]
    if not isinstance(first, dict):
        return round(sum(found) / len(found), 4)  # type: ignore[arg-type, return-value]
    return {key: mean([each[key] for each in found]) for key in first}


if __name__ == "__main__":
    main()
