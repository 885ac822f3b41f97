"""A session: a run directory opened for work. `run.json` names model, task and data; everything else follows from it.

    session = start("runs/r20", describe(model="resnet20", task="cifar10", data="cifar", weights="r20.safetensors"))
    session = resume("runs/r20")
    session.dense(), session.task, session.graph()

A model is a name of the zoo, `package.module:function` or `path/file.py:function`; a task is a ready-made name or such a function
that returns a Task. The functions are called without arguments. `opening` makes both, `references` finds the user's functions,
`provenance` says where a run comes from.
"""

from .opening import build_model, check_options, open_task, weighted
from .provenance import describe, machine, versions
from .session import Session, check_same, check_unchanged, resume, start, untrained

__all__ = [
    "Session",
    "build_model",
    "check_options",
    "check_same",
    "check_unchanged",
    "describe",
    "machine",
    "open_task",
    "resume",
    "start",
    "untrained",
    "versions",
    "weighted",
]
