"""Elastic networks on CIFAR-10: how good the levels are, what they weigh, how fast they switch, what a governor makes of them.

    python benchmarks/elastic.py train --data data --weights weights --recipe sandwich --epochs 8 --work .elastic
    python benchmarks/elastic.py levels --data data --weights weights --recipe sandwich --work .elastic    # test scores of a training
    python benchmarks/elastic.py switching                            # ResNet-56: switching time, memory, storage

Each part is written into `results/elastic-<date>.json` under its own name, beside what other parts left there; a training that was
cut short goes on from its last epoch. ResNet-20 has projected shortcuts (option B, 272,474 parameters): the trained option-A weights
are put into it exactly (`with_projections`; `embedding_error` says how exactly). Those weights have seen all training images, so
validation is the test images at even index, and what is reported as test those at odd index.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import torch
from torch import Tensor, nn

from lamella.elasticity import ROUNDS, elasticize, save_elastic
from lamella.schema import Graph
from lamella.sessions import machine, versions
from lamella.tasks import make_task
from lamella.tracing import trace
from lamella.training import Recipe, Task, recalibrate_bn
from lamella.zoo import load_weights, make_model

RESULTS = Path(__file__).parent / "results"
PUBLISHED_PARAMS = (72_932, 110_840, 174_504, 272_474)
PUBLISHED_ACCURACY = (0.7602, 0.8071, 0.8231, 0.8303)  # Mangal, Kalra, Sapra 2025


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--data")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--recipe", default="sandwich")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--own", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".elastic"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = PARTS[asked.part](asked)
    if found:
        write(asked.part, found, asked)


def write(part: str, found: dict[str, Any], asked: argparse.Namespace) -> None:
    path = RESULTS / f"elastic-{datetime.now(UTC).date()}.json"
    whole = json.loads(path.read_text()) if path.exists() else {}
    command = [a if not a.startswith("/") else Path(a).name for a in sys.argv[1:]]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {"command": f"python benchmarks/elastic.py {' '.join(command)}", "commit": commit, "machine": machine()}
    whole[part] = {**about, "versions": versions(), "seeds": [asked.seed], **found}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"wrote {path.name}: {part}")


# -- the network and its data


class LastChannels:
    """A task's transform whose pictures lie channels last: convolutions of few channels run 1.4 times as fast."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        return self.transform(images_NCHW, generator).contiguous(memory_format=torch.channels_last)


def cifar(asked: argparse.Namespace) -> Task:
    task = make_task("cifar10", asked.data, seed=asked.seed, validation="test_even")
    for batches in (task.train, task.validation, task.test, task.calibration):
        batches.transform = LastChannels(batches.transform)
    return task


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
    model, error = projected(asked, task)
    print(f"embedding error {error:.1e}", flush=True)
    directory = asked.work / f"{asked.recipe}-{asked.seed}"
    started = time.process_time()
    net = elasticize(
        model,
        ROUNDS,
        task,
        recipe=asked.recipe,
        tuning=Recipe(epochs=asked.epochs, lr=asked.lr, warmup=asked.warmup),
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


PARTS = {"train": train}

if __name__ == "__main__":
    main()
