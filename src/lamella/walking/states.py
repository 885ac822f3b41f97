"""Where a walk stands, and what its steps are called and hold.

state = start(model, graph, task)                     # the dense model, measured
named(Step(widths={"conv1": 6}, bits={"fc": 4}))      # "conv1 to 6, 4 bits"
last(walk(state, steps, tuning))                      # the state that a walk ends in
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..axes import Kept
from ..costs import cost
from ..schema import Graph, Measure, Step
from ..schema.plans import few_bits
from ..surgery import retraced
from ..training import Task, scored


@dataclass(frozen=True, slots=True)
class State:
    """Where a walk stands: the model, its graph, the channels kept so far (dense numbering), and what was measured."""

    model: nn.Module
    graph: Graph
    kept: Kept
    measures: tuple[Measure, ...] = ()


def start(model: nn.Module, graph: Graph, task: Task) -> State:
    """The dense model, measured."""
    measure = Measure(name="dense", step=0, validation=scored(model, task.validation, task), **counts(graph))
    return State(model, graph, {}, (measure,))


def last(states: Iterable[State]) -> State:
    """Where a walk ends. Each state is let go as the next one comes: all of them together would hold the network of every step."""
    (state,) = deque(states, maxlen=1)
    return state


def counts(graph: Graph) -> dict[str, int]:
    """What a Measure says of costs."""
    now = cost(graph)
    return {"params": now.params, "macs": now.macs}


def has_work(step: Step) -> bool:
    """Whether a walk has anything to do there."""
    return bool(step.widths or step.epochs or few_bits(step.bits))


def named(step: Step) -> str:
    """What the step's Measure is called."""
    widths = [f"{group} to {width}" for group, width in step.widths.items()]
    few = Counter(few_bits(step.bits).values())
    alike = len(set(step.bits.values())) == 1
    bits = [f"{b} bits" if alike else f"{b} bits in {few[b]} of {len(step.bits)} layers" for b in sorted(few)]
    return ", ".join([*widths, *bits]) or "tuned"


def advanced(state: State, model: nn.Module, kept: Kept) -> State:
    """The state once the model kept these of its channels, not measured yet."""
    return State(model, retraced(state.graph, kept), composed(state.kept, kept), state.measures)


def composed(before: Kept, now: Kept) -> dict[str, tuple[int, ...]]:
    """Channels kept after two cuts, in dense numbering: `now` counts within what `before` left."""
    result = {name: tuple(channels) for name, channels in before.items()}
    for name, channels in now.items():
        result[name] = tuple(result[name][c] for c in channels) if name in result else tuple(channels)
    return result
