"""Widths from the other side: train the wide network, ask which units matter, narrow and tune. Nothing here is new to dense networks.

    widths, outcomes = pruned(quest)

Groups come from `trace`, what each width costs of the search's metric from narrowing and judging, the widths from the knapsack planner,
and every seed's network walks the plan that the first seed's curves gave: the way of all other networks.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import LamellaError
from ..planning import plan
from ..records import digest, from_plain, to_plain
from ..schema import Budget, Graph, Plan, Point, Profile, Score
from ..surgery import narrow
from ..tracing import trace
from ..training import evaluate, fit
from ..walking import Tuning, last, start, walk
from .metrics import Metrics
from .searching import Quest
from .shapes import Widths, named
from .stacks import Net, fresh
from .working import Outcome

STEP_SHARE = 4  # a step tunes for a quarter of the epochs that training took
GENTLER = 0.5  # of the training's rate


def pruned(quest: Quest) -> tuple[Widths, list[Outcome]]:
    """The planned widths, and per seed what the narrowed and tuned network came to."""
    workshop, seeds = quest.workshop, quest.settings.all_seeds
    budget = quest.settings.budget
    if budget == Budget():
        raise LamellaError(
            "method 'prune' needs a budget: params, such as '10%', or max_drop, in points of the metric."
        )
    if min(quest.candidates) >= max(quest.baseline):
        raise LamellaError(
            f"method 'prune': none of the candidate widths {', '.join(map(str, quest.candidates))} is below the baseline's "
            f"{', '.join(map(str, quest.baseline))}, so there is nothing to narrow to. Name narrower candidates, or leave them out."
        )
    workshop.progress("prune", 0, len(seeds), "training the baseline")
    made = planned(quest)
    widths = tuple(made.widths.get(name, width) for name, width in zip(_names(quest), quest.baseline, strict=True))
    outcomes = []
    for number, seed in enumerate(seeds, 1):
        key = f"pruned {named(widths)} seed {seed} plan {digest(made)}"
        outcomes.append(_kept(quest, key, lambda: _walked(quest, made, widths, seed)))  # noqa: B023
        workshop.progress("prune", number, len(seeds), named(widths))
    return widths, outcomes


def _names(quest: Quest) -> list[str]:
    """The groups of the hidden layers, in order: each is named after its layer."""
    return [f"layers.{index}" for index in range(len(quest.baseline))]


def _trained(quest: Quest, seed: int) -> nn.Module:
    bench = quest.workshop.bench
    model = fresh(Net(quest.baseline, seed), bench.inputs, bench.outputs, bench.activation)
    return fit(model, bench.task, bench.recipe, seed=seed).eval()


def _traced(quest: Quest, model: nn.Module) -> Graph:
    return trace(model, quest.workshop.bench.task.example_inputs, round_to=1, floor=1)


def planned(quest: Quest) -> Plan:
    """The plan that the first seed's network gives, from the journal where it is there."""
    first = Net(quest.baseline, quest.settings.first_seed)
    asked = f"{to_plain(quest.settings.budget)} {quest.candidates} {quest.metric}"
    key = f"plan of {named(first.widths)} seed {first.seed} {asked}"
    journal = quest.workshop.journal
    if journal is not None and key in journal.entries:
        return from_plain(journal.entries[key], Plan)
    model = _trained(quest, first.seed)
    graph = _traced(quest, model)
    epochs = max(1, quest.workshop.bench.recipe.epochs // STEP_SHARE)
    made = plan(_curves(quest, model, graph), quest.settings.budget, planner="knapsack", epochs=epochs)
    if journal is not None:
        journal.append(key, to_plain(made))
    return made


def _curves(quest: Quest, model: nn.Module, graph: Graph) -> Profile:
    """What the network comes to with one layer at each candidate width, untuned."""
    points = []
    for group in graph.free:
        for width in (w for w in quest.candidates if w < group.width):
            score = _judged(quest, narrow(model, graph, {group.name: width}))
            level = 1 - width / group.width
            points.append(Point(target=group.name, knob="pruning_ratio", level=level, width=width, score=score))
    return Profile(graph=graph, baseline=_judged(quest, model), points=tuple(points))


def _judged(quest: Quest, model: nn.Module) -> Score:
    """The metric on validation, one number: `max_drop` is in points of it, as everywhere in a search."""
    bench = quest.workshop.bench
    held_N = evaluate(model, bench.task.validation, bench.task.score).numpy()
    value = bench.judge.validation(held_N)[quest.metric]
    return Score(value=value, low=value, high=value, n=len(held_N))


def _walked(quest: Quest, made: Plan, widths: Widths, seed: int) -> Outcome:
    bench = quest.workshop.bench
    model = narrowed(quest, made, seed)
    held, test = (evaluate(model, part, bench.task.score).numpy() for part in (bench.task.validation, bench.task.test))
    return bench.outcome(Net(widths, seed), held, test)


def narrowed(quest: Quest, made: Plan, seed: int) -> nn.Module:
    """One seed's network after the plan's walk."""
    bench = quest.workshop.bench
    model = _trained(quest, seed)
    graph = _traced(quest, model)
    recipe = replace(bench.recipe, lr=bench.recipe.lr * GENTLER)
    state = last(walk(start(model, graph, bench.task), made.steps, Tuning(bench.task, recipe, seed)))
    return state.model.eval()


def _kept(quest: Quest, key: str, make: Any) -> Outcome:
    """The outcome in the journal, or the one made now."""
    journal = quest.workshop.journal
    if journal is not None and key in journal.entries:
        value = journal.entries[key]
        net = Net(tuple(value["widths"]), value["seed"])
        return Outcome(net, Metrics(value["validation"]), Metrics(value["test"]))
    made: Outcome = make()
    if journal is not None:
        facts = {"widths": list(made.net.widths), "seed": made.net.seed}
        journal.append(key, {**facts, "validation": made.validation, "test": made.test})
    return made
