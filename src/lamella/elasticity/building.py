"""elasticize(): from a trained network to nested levels: choose, sort, nest, train, measure.

    net = elasticize(model, (0.49, 0.36, 0.2), task, method="grow", recipe=Recipe(epochs=5, lr=0.02))
    net = elasticize(model, net, task, recipe=Recipe(epochs=5))    # the same levels, trained further
    net = nest(model, graph, levels, task.example_inputs)          # nested and untrained

With a directory, every epoch and every finished stage is kept there, and a killed run goes on from the last. How the levels score
after each epoch is written down there too, for whoever watches.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..coarsening import observe_ranges
from ..digests import data_digest, weights_digest
from ..errors import with_context
from ..harm import Scores, harmed, scores_of
from ..importance import importance
from ..matching import has_batch_norm, matchable
from ..progress import Progress, silent
from ..records import digest, to_plain
from ..runs import Journal
from ..schema import Epoch, Family, Graph, Level
from ..schema.families import ENDED, EPOCHS
from ..statistics import score_interval
from ..storage import load_tensors, save_tensors
from ..surgery import check_graph, uncompiled
from ..texts import told
from ..tracing import trace
from ..training import Recipe, Task, device_of, learned_from, metric_of, mixed, scored, seeded, smoothed, training_data
from .cutting import part_labels, places_in_parts
from .levels import Settings, make_levels
from .methods import METHODS, Stage, levels_in, recalibrate, recalibrate_rounded, train_stage
from .networks import ElasticModel
from .owning import moving_buffers
from .requests import TUNING, How, check_dense, check_devices, check_further, check_request
from .sorting import sort
from .teaching import IN_PLACE, Teaching

HARM = "the training did harm: "  # what a note begins with


def elasticize(
    model: nn.Module,
    levels: Settings | ElasticModel | None,
    task: Task,
    *,
    method: str = "sandwich",
    recipe: Recipe = TUNING,
    teaching: Teaching = IN_PLACE,
    graph: Graph | None = None,
    own: Sequence[str] = (),
    seed: int = 0,
    directory: str | Path | None = None,
    progress: Progress = silent,
) -> ElasticModel:
    """The elastic network, in evaluation mode, its levels measured on the task's validation data. The model is left as it is.

    `levels`: pruning ratios, plans or budgets, see `make_levels`; None for three rounds of 20 %; the dense network is always the
    last. `method`: grow, sandwich or none; `recipe` says how to train, its epochs being those of each stage (grow has one per
    level), and `teaching` who teaches. `own`: modules (or buffers) of which every level has its own copy, beside batch norms and the
    buffers that training changes. RecordError for levels that do not nest, or are equal.

    An elastic network of this model in place of `levels` is trained further: it goes on with the levels, the order of channels and
    all the numbers that it has, and `graph` and `own` are left out. It is left as it is too.
    """
    how, model, levels = How(method, recipe, teaching), uncompiled(model), uncompiled(levels)
    further = levels if isinstance(levels, ElasticModel) else None
    check_dense(model)
    if further is not None:
        check_further(model, further, how, graph, own)
    check_request(model if further is None else further, task, how, own)
    with with_context("elasticize"):
        net = _again(levels) if isinstance(levels, ElasticModel) else _nested(model, levels, task, graph, own)
        check_devices(len(net.levels) - 2, how)
        if further is None:
            recalibrate(net, task, seed, rounded=method == "none")
        stages = METHODS[method](net, model, replace(task, loss=smoothed(task.loss, recipe.label_smoothing)), teaching)
        epochs = recipe.epochs * len(stages)
        trail = None
        if directory:
            trail = _Trail(Path(directory), _identity(net, model, how, task, seed), net.family.names, epochs, task)
        _train(net, stages, task, recipe, seed, trail, progress)
        if stages:
            recalibrate_rounded(net, task, seed)
        net = _with_ranges(net, task, seed)
    net.family = _measured(net, model if further is None else further.net, how, task, seed, epochs)
    if trail:
        trail.end()
    return net


def _nested(
    model: nn.Module, levels: Settings | None, task: Task, graph: Graph | None, own: Sequence[str]
) -> ElasticModel:
    """The model's levels, nested and untrained."""
    graph = graph or trace(model, task.example_inputs)
    return nest(model, graph, make_levels(graph, levels), task.example_inputs, own=own)


def _again(net: ElasticModel) -> ElasticModel:
    """A copy of the elastic network whose levels have all their numbers, and nothing that was measured of them."""
    notes = tuple(note for note in net.family.notes if not note.startswith(HARM))
    ancestors = (*net.family.ancestors, weights_digest(net))
    family = replace(net.family.unmeasured(), notes=notes, ancestors=ancestors)
    again = ElasticModel(copy.deepcopy(net.net), net.graph, family)
    again.load_state_dict(net.state_dict())
    return again.eval()


def _measured(net: ElasticModel, origin: nn.Module, how: How, task: Task, seed: int, epochs: int) -> Family:
    """The family's record after so many epochs more, its levels measured, and with what is to be said of the training."""
    scores = {name: scores_of(net.view(name), task) for name in net.family.names}
    levels = tuple(
        replace(level, validation=score_interval(scores[level.name]), gathered=net.gathered_bytes(level.name))
        for level in net.levels
    )
    harm = _harm_notes(origin, scores, task, how.recipe) if epochs else ()
    notes = tuple(dict.fromkeys((*net.family.notes, *task.notes, *harm)))
    epochs += net.family.epochs
    return replace(net.family, levels=levels, method=how.method, epochs=epochs, seed=seed, notes=notes)


def _harm_notes(model: nn.Module, scores: Mapping[str, Scores], task: Task, recipe: Recipe) -> list[str]:
    """A sentence where the training left the largest level, the last one, more than a tenth below the network it came from."""
    (*_, (largest, after_N)), before_N = scores.items(), scores_of(model, task)
    if not harmed(before_N, after_N):
        return []
    after, before = (told(float(each_N.mean()), metric_of(task)) for each_N in (after_N, before_N))
    return [
        f"{HARM}{largest!r} scores {after} on validation, and the network it came from {before}. Train at "
        f"a lower rate than {recipe.lr:g} or for more epochs, or let the dense network teach (teacher=dense)."
    ]


def nest(
    model: nn.Module,
    graph: Graph,
    levels: Sequence[Level],
    inputs: Sequence[Any],
    *,
    own: Sequence[str] = (),
) -> ElasticModel:
    """The elastic network of these levels with the model's own numbers: channels sorted by importance, nothing trained."""
    model = uncompiled(model)
    check_graph(model, graph)
    narrowed = [g.name for g in graph.free if any(level.widths.get(g.name, g.width) < g.width for level in levels)]
    net, order, ranks = sort(model, graph, importance(model, graph), narrowed, inputs)
    unsorted = {
        n: tuple(ranks[n].tolist())
        for n in narrowed
        if (ranks[n] != places_in_parts(part_labels(graph.group_of[n]))).any()
    }
    family = Family(
        structure=graph.structure,
        method="none",
        levels=tuple(levels),
        order={name: tuple(channels.tolist()) for name, channels in order.items()},
        ranks=unsorted,
        own=(*own, *moving_buffers(model, inputs)),
        affine=() if has_batch_norm(graph) else tuple(matchable(model, graph)),
    )
    return ElasticModel(net, graph, family).eval()


def _train(
    net: ElasticModel,
    stages: Sequence[Stage],
    task: Task,
    recipe: Recipe,
    seed: int,
    trail: "_Trail | None",
    progress: Progress,
) -> None:
    total, plain = len(stages) * recipe.epochs, replace(recipe, label_smoothing=0.0)  # the stages' losses are smoothed
    progress("elasticize", 0, total)
    for number, stage in enumerate(stages):
        if trail and trail.restored(stage.name, net, last=number + 1 == trail.finished):
            continue
        checkpoint = trail.checkpoint(stage.name) if trail else None
        past, name = number * recipe.epochs, stage.name

        def heard(module: nn.Module, epoch: int, loss: float, past: int = past, name: str = name) -> None:
            if trail:
                told = (
                    recipe.devices or 1
                ) == 1 or epoch == recipe.epochs  # several devices tell of all epochs at the end
                trail.note(Epoch(stage=name, done=past + epoch, loss=loss), module if told else None)
            progress("elasticize", past + epoch, total, f"{name}: loss {loss:.3f}")

        with with_context(f"stage {stage.name!r}"):
            train_stage(net, stage, task, plain, mixed(seed, number), checkpoint, heard)
        if trail:
            trail.keep(stage.name, net)
    progress("elasticize", total, total)


def _with_ranges(net: ElasticModel, task: Task, seed: int) -> ElasticModel:
    """The network with the ranges of the inputs of every layer that has bits."""
    if not any(level.bits for level in net.levels):
        return net
    levels = []
    for level in net.levels:
        with seeded(seed, 0, device_of(net)):
            ranges = observe_ranges(net.view(level.name), level.bits, task.calibration)
        levels.append(replace(level, ranges=ranges))
    rounded = ElasticModel(net.net, net.graph, replace(net.family, levels=tuple(levels)))
    rounded.load_state_dict(net.state_dict())
    return rounded.eval()


def _identity(net: ElasticModel, dense: nn.Module, how: How, task: Task, seed: int) -> dict[str, Any]:
    """What a training on disk belongs to."""
    return {
        "structure": net.graph.structure,
        "weights": weights_digest(net.net),
        "dense": weights_digest(dense),
        "levels": digest([(level.name, level.widths) for level in net.levels]),
        "own": [*net.family.own, *net.family.affine],
        "data": data_digest(task.validation),
        "training data": training_data(task.train),
        "method": how.method,
        "recipe": to_plain(how.recipe),
        "teaching": to_plain(how.teaching),
        "seed": seed,
    }


class _Trail:
    """A training on disk: a journal of finished stages, the weights after the last one, and the epoch in progress.

    Beside it a journal of epochs, which nothing but a page reads.
    """

    def __init__(
        self, directory: Path, identity: Mapping[str, Any], names: Sequence[str], epochs: int, task: Task
    ) -> None:
        self.directory, self.task = directory, task
        self.journal = Journal(directory / "stages.jsonl", identity, learned_from(task))
        self.epochs = Journal(directory / EPOCHS, {**identity, "names": list(names), "epochs": epochs})

    @property
    def finished(self) -> int:
        return len(self.journal.entries)

    def restored(self, stage: str, net: ElasticModel, *, last: bool) -> bool:
        """Whether the stage was finished before; the weights are put in where it was the last that was."""
        if stage not in self.journal.entries:
            return False
        if last:
            net.load_state_dict(load_tensors(self._weights(stage)), strict=False)
        return True

    def keep(self, stage: str, net: ElasticModel) -> None:
        before = [self._weights(name) for name in self.journal.entries]
        save_tensors(self._weights(stage), net)
        self.journal.append(stage, {})
        for path in (*before, self.checkpoint(stage)):
            path.unlink(missing_ok=True)

    def note(self, epoch: Epoch, module: nn.Module | None) -> None:
        """Write down how the levels that the module trains score by now."""
        levels = levels_in(module) if module else {}
        scores = {name: scored(level, self.task.validation, self.task) for name, level in levels.items()}
        self.epochs.append(str(epoch.done), to_plain(replace(epoch, scores=scores)))

    def end(self) -> None:
        """Write down that the training is over."""
        if ENDED not in self.epochs.entries:
            self.epochs.append(ENDED, {})

    def checkpoint(self, stage: str) -> Path:
        return self.directory / f"{stage}.pt"

    def _weights(self, stage: str) -> Path:
        return self.directory / f"{stage}.safetensors"
