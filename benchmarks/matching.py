"""Networks without batch norm, cut and rounded: what is left as it is, and with every layer's outputs matched (decision 0017).

    python benchmarks/matching.py lenet5 --data data --seeds 3                                  # MNIST; trains the networks first
    python benchmarks/matching.py alexnet32 --data data --weights alexnet32-0.safetensors       # CIFAR-10; weights of references.py
    python benchmarks/matching.py vgg16_bn --data data --weights vgg16_bn-0.safetensors         # its head alone has no batch norm

Every group of channels gives up the same fraction, or every layer gets the same bits, in one step of a walk; its validation accuracy
before any tuning, and test accuracy after a tuning of `--tuning` samples, are those of the walk with matching and without. Rows are
added to `results/matching-<date>.json`; the mean is over seeds.
"""

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import torch
from torch import nn

from lamella import walking
from lamella.quantization import multiplying_layers
from lamella.schema import Graph, Step
from lamella.sessions import machine, versions
from lamella.statistics import score_interval
from lamella.tasks import make_task
from lamella.tracing import trace
from lamella.training import Portion, Recipe, Task, evaluate, fit
from lamella.zoo import load_weights, make_model

RESULTS = Path(__file__).parent / "results"
RATIOS, BITS = (0.2, 0.4, 0.6), (4, 3, 2)
TRAINING = Recipe(epochs=3, lr=2e-3, optimizer="adamw", weight_decay=0.01)
TUNING = {"lenet5": Recipe(epochs=1, lr=5e-4, optimizer="adamw", weight_decay=0.01)}
USUAL = Recipe(epochs=1, lr=5e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["lenet5", "alexnet32", "vgg16_bn"])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, help="the file of trained weights; lenet5 is trained here")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tuning", type=int, default=5000, help="samples of the tuning epoch")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(asked.seeds):
        model, task = network(asked, seed)
        graph = trace(model, task.example_inputs, round_to=1)
        for name, step in steps(model, graph).items():
            rows.setdefault(name, []).append(row(model, graph, task, step, asked, seed))
            print(seed, name, rows[name][-1], flush=True)
    write(asked, rows)


def network(asked: argparse.Namespace, seed: int) -> tuple[nn.Module, Task]:
    """The trained network of a seed, and its data."""
    torch.manual_seed(seed)
    if asked.network == "lenet5":
        task = make_task("mnist", asked.data, seed=seed)
        return fit(make_model("lenet5"), task, TRAINING, seed=seed).eval(), task
    task = make_task("cifar10", asked.data, seed=seed)
    return load_weights(make_model(asked.network, num_classes=10), asked.weights).eval(), task


def steps(model: nn.Module, graph: Graph) -> dict[str, Step]:
    layers = multiplying_layers(model)
    cuts = {
        f"cut {ratio:.0%}": Step(widths={g.name: g.legal(g.width * (1 - ratio)) for g in graph.free}, epochs=1)
        for ratio in RATIOS
    }
    return cuts | {f"{bits} bits": Step(bits=dict.fromkeys(layers, bits), epochs=1) for bits in BITS}


def row(model: nn.Module, graph: Graph, task: Task, step: Step, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The step without matching and with it."""
    tuned = Task(
        task.example_inputs,
        train=Portion(task.train, asked.tuning),
        validation=task.validation,
        test=task.test,
        calibration=task.calibration,
    )
    found: dict[str, Any] = {}
    matching = walking.match_outputs
    for name, function in (("as_it_is", lambda *_: None), ("matched", matching)):
        walking.match_outputs = function
        tuning = walking.Tuning(tuned, TUNING.get(asked.network, USUAL), seed=seed)
        *_, state = walking.walk(walking.start(model, graph, task), [step], tuning)
        measure = state.measures[-1]
        test = score_interval(evaluate(state.model, task.test, task.score).numpy())
        found["dense_validation"] = state.measures[0].validation.value
        found[name] = {
            "before_tuning": measure.before_tuning,
            "tuned": measure.validation.value,
            "tuned_test": test.value,
        }
    walking.match_outputs = matching
    return found


def write(asked: argparse.Namespace, rows: dict[str, list[dict[str, Any]]]) -> None:
    path = RESULTS / f"matching-{datetime.now(UTC).date()}.json"
    whole = json.loads(path.read_text()) if path.exists() else {}
    command = " ".join(a if "/" not in a else Path(a).name for a in sys.argv[1:])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {"command": f"python benchmarks/matching.py {command}", "commit": commit, "machine": machine()}
    means = {name: mean(found) for name, found in rows.items()}
    whole[asked.network] = {**about, "versions": versions(), "seeds": asked.seeds, "mean": means, "rows": rows}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(means, indent=1))


def mean(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of equal trees of numbers."""
    first = found[0]
    if not isinstance(first, dict):
        return round(sum(found) / len(found), 4)  # type: ignore[arg-type, return-value]
    return {key: mean([each[key] for each in found]) for key in first}


if __name__ == "__main__":
    main()
