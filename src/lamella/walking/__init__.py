"""The walk every stage shares: narrow, recalibrate, tune, measure, checkpoint; step by step, resumable after a kill.

    for state in walk(start, steps, Tuning(task, recipe, seed=0), directory="runs/r20/steps"):
        ...                                       # state.model, state.graph, state.kept, state.measures

A step's checkpoint is one safetensors file beside a line in a journal, and tuning checkpoints every epoch, so a kill loses at
most the epoch in progress. `kept` always counts channels as the dense model does.

`states` says where a walk stands, `steps` walks, `tuning` tunes a step until it does no harm; `leaving` is how channels leave, `record`
the walk on disk.
"""

from .leaving import REMOVALS
from .states import State, composed, has_work, last, start
from .steps import walk
from .tuning import Tuning

__all__ = [
    "REMOVALS",
    "State",
    "Tuning",
    "composed",
    "has_work",
    "last",
    "start",
    "walk",
]
