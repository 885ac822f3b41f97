"""Elastic networks on CIFAR-10: how good the levels are, what they weigh, how fast they switch, what a governor makes of them.

    python benchmarks/elastic.py train --data data --weights weights --method sandwich --epochs 8 --work .elastic
    python benchmarks/elastic.py levels --data data --weights weights --method sandwich --work .elastic    # test scores of a training
    python benchmarks/elastic.py control --data data --weights weights --epochs 8 --work .elastic          # independent networks
    python benchmarks/elastic.py train --network vgg16_bn --weights vgg16_bn-0.safetensors ...             # likewise levels, control
    python benchmarks/elastic.py train --network vgg16_bn --further "" --name longer --small 20 ...        # goes on from that training
    python benchmarks/elastic.py seeds                                # mean and spread over the seeds that were run, gaps to control
    python benchmarks/elastic.py whole_steps                          # widths in whole steps of channels against the published ones
    python benchmarks/elastic.py classifier                           # digits: a last layer for all levels, or one each
    python benchmarks/elastic.py few_bits                             # digits: statistics of levels in few bits
    python benchmarks/elastic.py switching                            # switching time, memory, storage in PyTorch
    python benchmarks/elastic.py step                                 # what a step of sandwich takes beside its four passes
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
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.provenance import earlier, keep, provenance, result_file
from benchmarks.reach import scored
from benchmarks.references import DROPOUT, pools_adapt
from benchmarks.shipping import family, step, switching, traced, whole_steps
from lamella.elasticity import (
    ROUNDS,
    Teaching,
    building,
    elasticize,
    load_elastic,
    make_levels,
    publish,
    save_elastic,
)
from lamella.pairs import options_of
from lamella.quantization import multiplying_layers
from lamella.records import to_plain
from lamella.reporting.charts import chart_svg, grounded
from lamella.reporting.charts.grammar import ACCENT, INK, LINE, SECOND, dots, kinds, layer, quantity
from lamella.serving import Policy, open_family
from lamella.stages.serving import a_day, samples, switched, timed_here
from lamella.statistics import paired_difference, score_interval
from lamella.surgery import narrow
from lamella.tasks import make_task
from lamella.tracing import trace
from lamella.training import Batches, Recipe, Task, correct, evaluate, fit, recalibrate_bn
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
    parser.add_argument("--method", default="sandwich", help="how levels are trained: sandwich, grow or none")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--precision", default="32-true", help="of train and control: 32-true or bf16-mixed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--own", default="")
    parser.add_argument(
        "--teach", action="append", default=[], help="NAME=VALUE of who teaches, see lamella.elasticity.Teaching"
    )
    parser.add_argument("--name", default="", help="of a training that is not the only one of its method and seed")
    parser.add_argument("--further", metavar="NAME", help="of train: goes on from the training of that name")
    parser.add_argument(
        "--small", type=int, default=0, help="of train: so many epochs see pictures of 24 pixels a side"
    )
    parser.add_argument("--only", default="", help="of control: these levels, e.g. core,level1 [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--networks", default="", help="of the parts `family` and `switching` [default: all that they have]"
    )
    parser.add_argument("--seconds", type=float, default=24.0, help="of work that the day is squeezed into")
    parser.add_argument("--work", type=Path, default=Path(".elastic"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = PARTS[asked.part](asked)
    if found:
        write(asked.part, found, asked)


def write(part: str, found: dict[str, Any], asked: argparse.Namespace) -> None:
    path = result_file("elastic")
    shipped_one = "" if "," in asked.networks else asked.networks
    some = {**dict.fromkeys(TRAINED, label(asked, part)), "family": shipped_one, "switching": shipped_one}
    key = "_".join(filter(None, (part, some.get(part))))
    keep(path, {**earlier(path), key: {**provenance(), "seeds": [asked.seed], **found}})


def label(asked: argparse.Namespace, part: str) -> str:
    """What tells a training from others in names: its method (a control has none), network, and seed, where they are not the usual."""
    which = () if part == "control" else (asked.method, asked.name)
    network = "" if asked.network == "resnet20" else asked.network
    return "_".join(filter(None, (*which, network, f"seed{asked.seed}" if asked.seed else "")))


# -- the network and its data


class LastChannels:
    """A task's transform whose pictures lie channels last: convolutions of few channels run 1.4 times as fast."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        return channels_last(self.transform(images_NCHW, generator))


class Enlarged(Batches):
    """Batches of a training whose first `small` epochs see pictures of 24 pixels a side: these take 0.6 of the time."""

    def __init__(self, batches: Batches, small: int) -> None:
        super().__init__(
            batches.inputs, batches.targets, batches.batch_size, batches.shuffle, batches.transform, batches.seed
        )
        self.small = small

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return super().epoch(self.seed, 0)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Any, Any]]:
        for images_NCHW, targets_N in super().epoch(seed, epoch):
            yield (shrunk(images_NCHW) if epoch < self.small else images_NCHW), targets_N


def shrunk(images_NCHW: Tensor) -> Tensor:
    return channels_last(interpolate(images_NCHW, 24, mode="bilinear", antialias=True, align_corners=False))


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


# -- training


def train(asked: argparse.Namespace) -> dict[str, Any]:
    """One method, one seed: the family into `work`. Figures come from `levels`."""
    task = cifar(asked)
    task = replace(task, train=Enlarged(task.train, asked.small))
    model, _ = dense(asked, task)
    if asked.further is None:
        levels, graph = ROUNDS, traced(model)
    else:
        model = at_any_size(model)
        levels, graph = load_elastic(home(asked, asked.further), lambda: at_any_size(fresh(asked))), None
    directory = home(asked)
    started = time.process_time()
    net = elasticize(
        model,
        levels,
        task,
        method=asked.method,
        recipe=recipe_of(asked),
        teaching=options_of(Teaching, asked.teach, "--teach"),
        graph=graph,
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


def recipe_of(asked: argparse.Namespace) -> Recipe:
    return Recipe(epochs=asked.epochs, lr=asked.lr, warmup=asked.warmup, precision=asked.precision)


def at_any_size(model: nn.Module) -> nn.Module:
    """The network, changed for a further training: VGG's last pool takes what is left of small pictures, its head drops few neurons."""
    if hasattr(model, "features"):
        pools_adapt(model, 24)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    return model


def home(asked: argparse.Namespace, name: str | None = None) -> Path:
    """Where a training lies; with `name`, where another one of the same method, network and seed does."""
    network = "" if asked.network == "resnet20" else asked.network
    return asked.work / "-".join(
        filter(None, (asked.method, asked.name if name is None else name, network, str(asked.seed)))
    )


def control(asked: argparse.Namespace) -> dict[str, Any]:
    """Independent networks of each level's widths, narrowed from the same weights and trained as long, alone.

    Where `work` holds the family that was trained with --method and --name, each is held against its level.
    """
    task = cifar(asked)
    family = load_elastic(home(asked), lambda: fresh(asked)) if (home(asked) / "elastic.json").exists() else None
    model, _ = dense(asked, task)
    graph = traced(model)
    rows = []
    wanted = set(filter(None, asked.only.split(",")))
    for level in (level for level in make_levels(graph, ROUNDS) if not wanted or level.name in wanted):
        small = recalibrate_bn(narrow(model, graph, level.widths), task.train)
        checkpoint = asked.work / f"control-{asked.network}-{asked.seed}-{level.name}.pt"
        fit(
            small,
            task,
            recipe_of(asked),
            seed=asked.seed,
            checkpoint=checkpoint,
            on_epoch=lambda n, loss: print(n, loss, flush=True),
        )
        alone = scored(small, task)
        row = {"level": level.name, "params": level.params, "macs": level.macs, **scores(alone)}
        if family:
            row["level_below"] = below(alone, scored(family.view(level.name), task))
        rows.append(row)
        print(rows[-1], flush=True)
    return {"network": asked.network, "epochs": asked.epochs, "lr": asked.lr, "levels": rows}


def scores(right: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy on validation and on test, with its 95 % interval."""
    validation, test = (score_interval(right[name]) for name in ("validation", "test"))
    return {
        "validation": validation.value,
        "test": test.value,
        "test_low": test.low,
        "test_high": test.high,
        "n": test.n,
    }


def below(other: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> list[float]:
    """Points of test accuracy that the one is below the other, with the paired 95 % interval."""
    return [round(100 * value, 2) for value in paired_difference(other["test"], right["test"])]


def levels(asked: argparse.Namespace) -> dict[str, Any]:
    """What the levels of a trained family score on test, in torch and as int8 files, beside the published ones."""
    task = cifar(asked)
    model, error = dense(asked, task)
    directory = home(asked)
    net = load_elastic(directory, lambda: fresh(asked))
    publish(net, task, directory / "elastic", slots=4)
    save_elastic(directory, net)
    rows, published, before = [], PUBLISHED_ACCURACY[asked.network], scored(model, task)
    with open_family(directory / "elastic", precision="int8") as coarse:
        for index, level in enumerate(net.levels):
            coarse.set_active_subnet(level.name)
            whole = [correct(torch.from_numpy(coarse.run(x.contiguous().numpy())[0]), y).numpy() for x, y in task.test]
            right = scored(net.view(level.name), task)
            rows.append(
                {
                    "level": level.name,
                    "params": level.params,
                    **published_size(asked, index, level.params),
                    "macs": level.macs,
                    **scores(right),
                    "below_dense": below(before, right),
                    "int8_test": float(np.concatenate(whole).mean()),
                    "published_test": published[index],
                    "latency_ratio": level.latency_ratio,
                }
            )
            print(rows[-1], flush=True)
    family = net.family
    return {
        "network": asked.network,
        "method": family.method,
        "epochs": family.epochs,
        "dense_weights": asked.weights.stem,
        "embedding_error": error,
        "dense": scores(before),
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
        model, task = on_digits(seed)
        graph = trace(model, task.example_inputs, round_to=1)
        for method in ("sandwich", "grow"):
            for own in ((), ("linear",)):
                recipe = Recipe(epochs=5, lr=0.03)
                net = elasticize(model, None, task, method=method, recipe=recipe, graph=graph, own=own, seed=seed)
                key = f"{method}_{'own' if own else 'shared'}"
                found.setdefault(key, []).append([level.validation.value for level in net.levels])
                print(seed, key, found[key][-1], flush=True)
    means = {key: np.mean(rows, 0).round(4).tolist() for key, rows in found.items()}
    return {"seeds_run": [asked.seed + i for i in range(3)], "n": 360, "mean_validation": means, "validation": found}


def on_digits(seed: int, *, norms: bool = True) -> tuple[nn.Module, Task]:
    """A network that has learned digits: a ResNet-14, or five plain layers without batch norm."""
    torch.manual_seed(seed)
    task = make_task("digits", seed=seed)
    if norms:
        model = make_model("resnet14", widths=(8, 16, 32), in_channels=1, shortcut="B")
        return fit(model, task, Recipe(epochs=8, lr=0.1), seed=seed).eval(), task
    convolutions = [nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)]
    stem, *pictures = [nn.Sequential(each, nn.ReLU()) for each in convolutions]
    pooled = [nn.Sequential(each, nn.MaxPool2d(2)) for each in pictures]
    model = nn.Sequential(stem, *pooled, nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    return fit(model, task, Recipe(epochs=40, lr=3e-3, optimizer="adamw"), seed=seed).eval(), task


FEW_BITS = {  # networks on digits, and how their levels are trained
    "resnet14": Recipe(epochs=3, lr=0.02),
    "plain": Recipe(epochs=3, lr=1e-3, optimizer="adamw"),
}


def few_bits(asked: argparse.Namespace) -> dict[str, Any]:
    """On digits, a level of 70 % of the channels in few bits, trained in float by `sandwich`: its validation accuracy in float, with
    statistics as training left them, and with those of its rounded weights.
    """
    found: dict[str, list[list[float]]] = {}
    for seed in range(asked.seed, asked.seed + 3):
        for name, recipe in FEW_BITS.items():
            model, task = on_digits(seed, norms=name == "resnet14")
            for bits in (2, 3, 4):
                scores = rounded_level(model, task, recipe, bits, seed)
                found.setdefault(f"{name}_{bits}_bits", []).append(scores)
                print(seed, name, bits, scores, flush=True)
    means = {key: np.mean(rows, 0).round(4).tolist() for key, rows in found.items()}
    about = {"columns": ["float", "as training left them", "of the rounded weights"], "n": 360}
    return {**about, "seeds_run": [asked.seed + i for i in range(3)], "mean_validation": means, "validation": found}


def rounded_level(model: nn.Module, task: Task, recipe: Recipe, bits: int, seed: int) -> list[float]:
    """The three scores of `few_bits`."""
    graph = trace(model, task.example_inputs, round_to=1)
    core, coarse, _ = make_levels(graph, {"core": 0.5, "coarse": 0.3})
    levels = {"core": core, "coarse": replace(coarse, bits=dict.fromkeys(multiplying_layers(model), bits))}
    make = lambda: elasticize(model, levels, task, recipe=recipe, graph=graph, seed=seed)
    rounded, recalibrate = make(), building.recalibrate_rounded
    building.recalibrate_rounded = lambda *_: None
    as_left = make()
    building.recalibrate_rounded = recalibrate
    networks = (as_left.extract("coarse", rounded=False), as_left.view("coarse"), rounded.view("coarse"))
    return [float(evaluate(each, task.validation, task.score).mean()) for each in networks]


# -- a day


def day(asked: argparse.Namespace) -> dict[str, Any]:
    """A day of changing load on a trained family: a governor, and each level all day."""
    task = cifar(asked)
    directory = home(asked)
    found = {}
    for precision in ("fp32", "int8"):
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
    for key, run in ran.items():  # of each method the longest training
        method = run.get("method", run.get("recipe"))  # as earlier results call it
        who = f"Lamella, {method}" if key.startswith("levels_") else "independent networks"
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


TRAINED = ("levels", "control", "day")  # parts whose results belong to one training

PARTS = {
    "train": train,
    "classifier": classifier,
    "few_bits": few_bits,
    "control": control,
    "levels": levels,
    "seeds": seeds,
    "whole_steps": whole_steps,
    "switching": switching,
    "step": step,
    "family": family,
    "day": day,
    "figure": figure,
}

if __name__ == "__main__":
    main()
