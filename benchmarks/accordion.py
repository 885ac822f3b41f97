"""Accordion searches on card fraud and MNIST, the question of shape or size, and how fast many small networks train at once.

    python benchmarks/accordion.py --runs RUNS --fraud creditcard.csv --mnist MNIST
    python benchmarks/accordion.py --runs RUNS --parts speed fraud family mnist --fraud ... --mnist ...

speed   a loop of `fit` over seeds against one stack, CPU seconds of one thread, on the fraud rows; and how far results differ
fraud   the sequential search within 26 % of the baseline's parameters, chosen by PR-AUC on validation
family  symmetric shapes of seven layers and about 351 parameters, drawn at random: those that fall and rise against all others
joint   the same budget, all pairs at once, beginning with the networks that `fraud` has trained
mnist   the sequential search within 6,798 parameters, 5.55 % of the baseline's
longer  the shape that `mnist` found and its baseline trained for 30 epochs instead of 5, five seeds

Everything is resumed from RUNS; figures are added to the result file part by part. Choices follow validation, figures are of test samples.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np
import torch
from scipy.stats import ttest_ind

from benchmarks.provenance import earlier, keep, provenance, result_file
from lamella.accordions import PUBLISHED, Bench, Net, Settings, Stack, accordion, identity, train
from lamella.accordions.shapes import is_monotone, params, symmetric_shapes
from lamella.accordions.stacks import fresh, scores
from lamella.accordions.working import Workshop
from lamella.records import load_record
from lamella.runs import Journal
from lamella.schema import Accordion, Budget
from lamella.screens import bars
from lamella.sessions import describe
from lamella.stages.shaping import begin, shaped
from lamella.statistics import paired_difference
from lamella.tasks import make_task
from lamella.training import Recipe, evaluate, fit

SEEDS = 5
FRAUD = Recipe(epochs=100, lr=0.003, optimizer="adamw", weight_decay=1e-4)
LONGER = Recipe(epochs=30, lr=0.005, optimizer="adamw", weight_decay=1e-4, warmup=1)
MNIST = Recipe(epochs=5, lr=0.003, optimizer="adamw", weight_decay=1e-4)
FRAUD_BATCH = 32
TIMED = 3  # networks of the loop; the others would take as long each
FAMILY, FAMILY_SEEDS = 8, 3  # shapes of each kind, and networks of each shape


def cpu(function: Callable[[], Any]) -> tuple[float, Any]:
    """The CPU seconds of a call, and what it returned."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of two epochs of the fraud shapes, by loop and by stack, each the best of three, in turn."""
    recipe = Recipe(epochs=2, lr=0.003, optimizer="adamw", weight_decay=1e-4)
    found: dict[str, Any] = {}
    for name, batch in (("fraud-baseline", 32), ("fraud-accordion", 32), ("fraud-baseline", 128)):
        widths, task = PUBLISHED[name].widths, make_task("fraud", options.fraud, batch_size=batch)
        for seeds in (5, 10, 40):
            nets = [Net(widths, seed) for seed in range(seeds)]
            key = f"{name.replace('-', '_')}_batch_{batch}_seeds_{seeds}"
            found |= {f"{key}_{k}": v for k, v in _race(task, nets, recipe).items()}
    return found


def _race(task: Any, nets: Sequence[Net], recipe: Recipe) -> dict[str, float]:
    loop = lambda: [fit(fresh(net, 29, 29), task, recipe, seed=net.seed) for net in nets[:TIMED]]

    def stacked() -> Stack:
        stack = Stack(nets, 29, 29)
        train(stack, task, recipe)
        return stack

    stacked()
    turns = [(cpu(loop), cpu(stacked)) for _ in range(3)]
    (_, models), (_, stack) = turns[0]
    held = scores(stack, task.validation, task.score)
    apart = max(float((evaluate(m, task.validation, task.score) - held[i]).abs().max()) for i, m in enumerate(models))
    loop_seconds = min(a for (a, _), _ in turns) * len(nets) / len(models)  # the loop is timed on a few
    stack_seconds = min(b for _, (b, _) in turns)
    return {"speedup": loop_seconds / stack_seconds, "largest_difference_of_scores": apart}


def fraud(options: argparse.Namespace) -> dict[str, Any]:
    info = describe(
        model="autoencoder",
        task="fraud",
        data=str(options.fraud.absolute()),
        options={"batch_size": FRAUD_BATCH, "validation": options.split},
    )
    settings = Settings(seeds=SEEDS, metric="pr_auc", budget=Budget(params="26%"))
    with bars(False) as progress:
        session = begin(options.runs / f"fraud-{options.split}", info)
        found = shaped(session, PUBLISHED["fraud-baseline"].widths, settings=settings, recipe=FRAUD, progress=progress)
    return told(found, ("f1", "pr_auc", "roc_auc", "recall_at_100", "recall_at_500"))


def joint(options: argparse.Namespace) -> dict[str, Any]:
    """Whole shapes proposed by Optuna; what the sequential search trained is not trained again."""
    task = make_task("fraud", options.fraud, batch_size=FRAUD_BATCH, validation=options.split)
    settings = Settings(method="joint", trials=24, seeds=SEEDS, metric="pr_auc", budget=Budget(params="26%"))
    journal = options.runs / f"joint-{options.split}.jsonl"
    if not journal.exists():
        journal.write_text((options.runs / f"fraud-{options.split}" / "accordion.jsonl").read_text())
    with bars(False) as progress:
        widths, candidates = PUBLISHED["fraud-baseline"].widths, (2, 3, 4, 6, 8)
        found = accordion(
            task, widths, candidates=candidates, settings=settings, recipe=FRAUD, journal=journal, progress=progress
        )
    return told(found, ("f1", "pr_auc"))


def longer(options: argparse.Namespace) -> dict[str, Any]:
    """Was the drop on MNIST the shape's, or too little training of a small network?"""
    before = load_record(options.runs / "mnist" / "accordion.json", Accordion)
    bench = Bench(make_task("mnist", options.mnist), LONGER, options.mnist_activation)
    shop = Workshop(bench, Settings(), Journal(options.runs / "longer-30.jsonl", identity(bench)))
    names = {"baseline": before.baseline, "accordion": before.widths}
    accuracy = {}
    for name, widths in reversed(names.items()):
        done = shop.outcomes([Net(widths, seed) for seed in range(SEEDS)], name)
        accuracy[name] = [outcome.test["accuracy"] for outcome in done.values()]
    below = paired_difference(accuracy["baseline"], accuracy["accordion"])
    return {f"{name}_test_accuracy": values for name, values in accuracy.items()} | {"below_baseline": below}


def mnist(options: argparse.Namespace) -> dict[str, Any]:
    info = describe(model="autoencoder", task="mnist", data=options.mnist, options={})
    settings = Settings(
        seeds=SEEDS, budget=Budget(params=PUBLISHED["mnist-accordion"].params), activation=options.mnist_activation
    )
    with bars(False) as progress:
        session = begin(options.runs / "mnist", info)
        found = shaped(session, PUBLISHED["mnist-baseline"].widths, settings=settings, recipe=MNIST, progress=progress)
    return told(found, ("accuracy",))


def told(found: Accordion, metrics: Sequence[str]) -> dict[str, Any]:
    """Entries, comparisons and files of a search as flat figures."""
    baseline = found.entry("baseline").params
    figures: dict[str, Any] = {
        "winner_widths": list(found.widths),
        "winner_fewer_params_percent": 100 * (1 - found.entry("winner").params / baseline),
        "n_train": found.n_train,
        "n_validation": found.n_validation,
        "n_test": found.n_test,
        "shapes_tried": len(found.tried),
        "shapes_stopped_early": sum(shape.dropped for shape in found.tried),
        "notes": list(found.notes),
    }
    for entry in found.entries:
        key = plain(entry.name)
        figures |= {f"{key}_params": entry.params, f"{key}_widths": list(entry.widths)}
        for metric in metrics:
            score, below = entry.test[metric], entry.below.get(metric)
            figures[f"{key}_test_{metric}"] = [score.value, score.low, score.high]
            if below:
                figures[f"{key}_{metric}_below_baseline"] = [below.value, below.low, below.high]
    for c in found.comparisons:
        ends = [c.difference.value, c.difference.low, c.difference.high]
        figures[f"winner_minus_{plain(c.against)}_{c.metric}"] = [*ends, c.verdict]
    for file in found.files:
        figures[f"{plain(file.name)}_bytes"] = file.bytes
        figures[f"{plain(file.name)}_latency_ratio"] = file.latency_ratio
        figures |= {f"{plain(file.name)}_test_{m}": file.test[m] for m in metrics}
    return figures


def plain(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def family(options: argparse.Namespace) -> dict[str, Any]:
    """Shapes of one size at random: do those that fall and rise score like the others? An interval over shapes (Welch)."""
    task = make_task("fraud", options.fraud, batch_size=FRAUD_BATCH, validation=options.split)
    bench = Bench(task, FRAUD, "elu")
    size = PUBLISHED["fraud-accordion"].params
    drawn = random.Random(0)
    fitting = [w for w in symmetric_shapes(7, (2, 3, 4, 5, 6, 8)) if abs(params(w, 29, 29) - size) <= 0.05 * size]
    kinds = {
        "monotone": [w for w in fitting if is_monotone(w)],
        "accordion": [w for w in fitting if not is_monotone(w)],
    }
    chosen = {kind: drawn.sample(shapes, min(FAMILY, len(shapes))) for kind, shapes in kinds.items()}
    settings = Settings(seeds=SEEDS)
    workshop = Workshop(bench, settings, Journal(options.runs / f"family-{options.split}.jsonl", identity(bench)))
    figures: dict[str, Any] = {f"{kind}_shapes": [list(w) for w in shapes] for kind, shapes in chosen.items()}
    done = workshop.outcomes(
        [Net(w, s) for shapes in chosen.values() for w in shapes for s in range(FAMILY_SEEDS)], "family"
    )
    for metric in ("f1", "pr_auc"):
        means = {
            kind: [np.mean([done[Net(w, s)].test[metric] for s in range(FAMILY_SEEDS)]) for w in shapes]
            for kind, shapes in chosen.items()
        }
        test = ttest_ind(means["accordion"], means["monotone"], equal_var=False)
        low, high = test.confidence_interval(0.95)
        gain = float(np.mean(means["accordion"]) - np.mean(means["monotone"]))
        figures[f"accordion_minus_monotone_{metric}"] = [gain, float(low), float(high)]
        figures |= {f"{kind}_test_{metric}": float(np.mean(values)) for kind, values in means.items()}
    return figures


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "speed": speed,
    "fraud": fraud,
    "family": family,
    "joint": joint,
    "mnist": mnist,
    "longer": longer,
}


def table(figures: dict[str, Any], metrics: Sequence[str]) -> str:
    """The entries of a search as the documentation shows them: percent, with 95 % intervals over seeds."""
    heads = ["", "widths", "params", *metrics, f"{metrics[-1]} below baseline"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for key in (name.removesuffix("_params") for name in figures if name.endswith("_params")):
        cells = [_shown(figures[f"{key}_test_{metric}"]) for metric in metrics]
        below = figures.get(f"{key}_{metrics[-1]}_below_baseline")
        widths = "-".join(map(str, figures[f"{key}_widths"]))
        row = [key.replace("_", " "), widths, f"{figures[f'{key}_params']:,}", *cells, _shown(below) if below else ""]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _shown(ends: Sequence[float]) -> str:
    value, low, high = (100 * end for end in ends)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--fraud", type=Path)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--split", default="random", choices=("random", "time"))
    parser.add_argument("--mnist-activation", default="elu")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=result_file("accordion"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = earlier(options.out)
    for part in options.parts:
        seconds, figures = cpu(lambda: PARTS[part](options))  # noqa: B023
        key = (
            part if part in ("speed", "mnist", "longer") or options.split == "random" else f"{part}_by_{options.split}"
        )
        about = {"seeds": list(range(SEEDS)), "cpu_seconds_of_this_call": round(seconds, 1)}
        result[key] = {**provenance(), **about, **figures}
        keep(options.out, result)
        print(json.dumps({key: result[key]}, indent=1))


if __name__ == "__main__":
    main()
