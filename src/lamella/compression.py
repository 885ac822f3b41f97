"""compress(): a plan's steps in the plan's order, tuning after each, to a smaller ordinary model.

    small, result = compress(model, plan, task, recipe=Recipe(epochs=3, lr=0.02))

`result.kept` holds the channels each group kept, `result.history` what was measured after every step beside what the plan
predicted. A step that gives layers fewer than 8 bits puts their weights on that grid and tunes the network there; 8 bits and
the activations are left to `quantize`.
"""

from pathlib import Path

from torch import nn

from .progress import Progress, silent
from .schema import Graph, Plan, Result
from .surgery import copied, integers_of
from .tracing import trace
from .training import Recipe, Task
from .walking import State, Tuning, last, start, walk

TUNING = Recipe(epochs=1, lr=0.02)


def compress(
    model: nn.Module,
    plan: Plan,
    task: Task,
    *,
    recipe: Recipe = TUNING,
    graph: Graph | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    progress: Progress = silent,
    removal: str = "cut",
) -> tuple[nn.Module, Result]:
    """The narrowed and tuned model, in evaluation mode, and what was done. The given model is left as it is.

    `recipe` says how to tune; its epochs are those of each step, and where it distils the dense network teaches. With a
    `directory`, finished steps are kept there and a killed run goes on from the last. `removal`: "cut" at once, or "soft" or
    "sparse": the leaving channels shrink to zero while the step's epochs train. A tuning that diverges, or leaves less than nine tenths
    of the score it began with, is tried again from the step's start at a quarter of the rate; where four rates do so, the step stays
    untuned, and its name in the history says so. DivergedError where it diverges at all four. MismatchError, with the first
    differences, for a plan of another model.
    """
    graph = graph or trace(model, task.example_inputs)
    plan.check_fits(graph)
    tuning = Tuning(task, recipe, seed, removal)
    state = last(walk(start(model, graph, task), plan.steps, tuning, directory=directory, progress=progress))
    small = state.model if state.model is not model else copied(model, {}).eval()  # of a plan without work
    return small, outcome(state, plan, graph, seed)


def outcome(state: State, plan: Plan, graph: Graph, seed: int) -> Result:
    """Where a walk over this plan ended, as a Result. `graph`: of the dense model."""
    kept = {group.name: tuple(state.kept.get(group.name, range(group.width))) for group in graph.groups}
    integers = integers_of(graph, state.kept)
    return Result(plan=plan, kept=kept, history=state.measures, integers=integers, seed=seed)
