"""Train the dense networks that other scripts here need and no public weights exist for: VGG-16 and AlexNet at 32 px on CIFAR-10.

    python benchmarks/references.py vgg16_bn --data data --work .references
    python benchmarks/references.py vgg16_bn_longer --data data --work .references --threads 2
    python benchmarks/references.py alexnet32 --data data --work .references --seed 1
    python benchmarks/references.py vgg16 --data data --work .references              # begins from vgg16_bn

Writes `WORK/NAME-SEED.safetensors` and, beside it, a .json with what was done and what it scores. Training holds out the last 5,000
images as validation. A run that was cut short goes on from its last epoch. The first epochs see smaller pictures where that saves
time (progressive resizing, Howard 2018): at 24 px a step costs half as much. VGG-16 without batch norm would not leave chance in the
epochs that a CPU has for it: it takes the convolutions of `vgg16_bn` with their norms folded in; its head of 4096-wide layers is
trained anew, alone for the first epoch. The VGG-16s multiply in bfloat16, which halves a step on a CPU that has it.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.provenance import keep, provenance
from lamella.coarsening import folded
from lamella.statistics import score_interval
from lamella.tasks import make_task
from lamella.training import Recipe, Task, evaluate, fit
from lamella.training.layouts import channels_last
from lamella.zoo import load_weights, make_model


@dataclass(frozen=True)
class Phase:
    """Some epochs on pictures of `size` pixels a side, so many in a batch."""

    size: int
    batch_size: int
    recipe: Recipe
    head_alone: bool = False


LONGER = Recipe(epochs=1, label_smoothing=0.1, precision="bf16-mixed")
PHASES = {
    "vgg16_bn": (
        Phase(24, 128, Recipe(epochs=4, lr=0.06, warmup=0.5, schedule="constant", precision="bf16-mixed")),
        Phase(32, 128, Recipe(epochs=2, lr=0.04, precision="bf16-mixed")),
    ),
    "vgg16_bn_longer": (
        Phase(24, 128, replace(LONGER, epochs=8, lr=0.08, warmup=1, schedule="constant")),
        Phase(32, 128, replace(LONGER, epochs=5, lr=0.06)),
    ),
    "alexnet32": (Phase(32, 256, Recipe(epochs=12, lr=0.03, warmup=1)),),
    "vgg16": (
        Phase(32, 128, Recipe(epochs=1, lr=0.02, warmup=0.1, precision="bf16-mixed"), head_alone=True),
        Phase(32, 128, Recipe(epochs=1, lr=0.003, warmup=0.1, precision="bf16-mixed")),
    ),
}
NETWORKS = {"vgg16_bn_longer": "vgg16_bn"}  # trainings that are not named as what they train
FOLDED = {"vgg16": "vgg16_bn"}  # network -> the one whose convolutions, norms folded, it begins with
DROPOUT = 0.1  # trained for so few epochs, half the head's neurons are missed


class Seen:
    """A task's transform, its pictures brought to `size` pixels a side and laid channels last."""

    def __init__(self, transform: Any, size: int) -> None:
        self.transform, self.size = transform, size

    def __call__(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        images_NCHW = self.transform(images_NCHW, generator)
        if images_NCHW.shape[-1] != self.size:
            images_NCHW = interpolate(images_NCHW, self.size, mode="bilinear", antialias=True, align_corners=False)
        return channels_last(images_NCHW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=list(PHASES))
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, default=Path(".references"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    name, started = f"{asked.network}-{asked.seed}", time.process_time()
    torch.manual_seed(asked.seed)
    model = begun(asked).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    for number, phase in enumerate(PHASES[asked.network]):
        task = seen_at(make_task("cifar10", asked.data, seed=asked.seed, batch_size=phase.batch_size), phase.size)
        pools_adapt(model, phase.size)
        model.features.requires_grad_(not phase.head_alone)
        fit(
            model,
            task,
            phase.recipe,
            seed=asked.seed,
            checkpoint=asked.work / f"{name}-{number}.pt",
            on_epoch=lambda n, loss: print(f"{n} {loss:.4f} {time.process_time() - started:.0f} s", flush=True),
        )
    write(model.eval(), task, asked, name)


def begun(asked: argparse.Namespace) -> nn.Module:
    """The network as training begins: fresh weights, or the convolutions of another one with its norms folded in."""
    model = make_model(NETWORKS.get(asked.network, asked.network), num_classes=10)
    if asked.network not in FOLDED:
        return model
    name = FOLDED[asked.network]
    trained = load_weights(make_model(name, num_classes=10), asked.work / f"{name}-{asked.seed}.safetensors")
    plain = folded(trained, (torch.zeros(1, 3, 32, 32),))
    pairs = zip(convolutions(model), convolutions(plain), strict=True)
    for new, old in pairs:
        new.load_state_dict(old.state_dict())
    return model


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def seen_at(task: Task, size: int) -> Task:
    for batches in (task.train, task.validation, task.test, task.calibration):
        batches.transform = Seen(batches.transform, size)
    return task


def pools_adapt(model: nn.Module, size: int) -> None:
    """Below 32 px five halvings leave nothing: there the last pool takes whatever is left."""
    if isinstance(model.features[-1], nn.MaxPool2d | nn.AdaptiveMaxPool2d):
        model.features[-1] = nn.MaxPool2d(2) if size >= 32 else nn.AdaptiveMaxPool2d(1)


def write(model: nn.Module, task: Task, asked: argparse.Namespace, name: str) -> None:
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, asked.work / f"{name}.safetensors")
    scores = {
        which: score_interval(evaluate(model, data, task.score).numpy()).value
        for which, data in (("validation", task.validation), ("test", task.test))
    }
    phases = [
        {
            "size": p.size,
            "batch_size": p.batch_size,
            "epochs": p.recipe.epochs,
            "lr": p.recipe.lr,
            "precision": p.recipe.precision,
            "head_alone": p.head_alone,
        }
        for p in PHASES[asked.network]
    ]
    found = {**provenance(), "seed": asked.seed, "dropout": DROPOUT, "phases": phases, **scores}
    keep(asked.work / f"{name}.json", found)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
