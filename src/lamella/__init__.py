"""Lamella: layer-wise optimization of neural networks.

    import lamella as lm

    task = lm.Task(example_inputs, train=..., validation=..., test=...)
    graph = lm.trace(model, task.example_inputs)
    curves = lm.profile(model, task, graph=graph)
    plan = lm.plan(curves, lm.Budget(params="25%"), planner="uniform")
    small, result = lm.compress(model, plan, task)

Public names are loaded when first used: a planner or a picture never waits for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

_HOMES = {
    "Batches": "training",
    "Budget": "schema",
    "BudgetError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "ElasticModel": "elasticity",
    "Graph": "schema",
    "LamellaError": "errors",
    "MismatchError": "errors",
    "MissingExtra": "errors",
    "OnnxModel": "exporting",
    "Plan": "schema",
    "Portion": "training",
    "Profile": "schema",
    "Recipe": "training",
    "RecordError": "errors",
    "Result": "schema",
    "RunError": "errors",
    "ScoreError": "errors",
    "Sweep": "profiling",
    "Task": "training",
    "Teaching": "elasticity",
    "TraceError": "errors",
    "accordion": "accordions",
    "compress": "compression",
    "cost": "costs",
    "draw": "reporting",
    "elasticize": "elasticity",
    "equalize": "equalizing",
    "evaluate": "training",
    "export": "exporting",
    "fit": "training",
    "integers_file": "quantization",
    "load": "storage",
    "make_model": "zoo",
    "make_task": "tasks",
    "narrow": "surgery",
    "pareto": "planning",
    "plan": "planning",
    "profile": "profiling",
    "quantize": "quantization",
    "reorder": "planning",
    "report": "reporting:write_report",
    "save": "storage",
    "show": "views",
    "trace": "tracing",
}

__all__ = [
    "Batches",
    "Budget",
    "BudgetError",
    "DataError",
    "DivergedError",
    "ElasticModel",
    "Graph",
    "LamellaError",
    "MismatchError",
    "MissingExtra",
    "OnnxModel",
    "Plan",
    "Portion",
    "Profile",
    "Recipe",
    "RecordError",
    "Result",
    "RunError",
    "ScoreError",
    "Sweep",
    "Task",
    "Teaching",
    "TraceError",
    "__version__",
    "accordion",
    "compress",
    "cost",
    "draw",
    "elasticize",
    "equalize",
    "evaluate",
    "export",
    "fit",
    "integers_file",
    "load",
    "make_model",
    "make_task",
    "narrow",
    "pareto",
    "plan",
    "profile",
    "quantize",
    "reorder",
    "report",
    "save",
    "show",
    "trace",
]

if TYPE_CHECKING:
    from .accordions import accordion
    from .compression import compress
    from .costs import cost
    from .elasticity import ElasticModel, Teaching, elasticize
    from .equalizing import equalize
    from .errors import (
        BudgetError,
        DataError,
        DivergedError,
        LamellaError,
        MismatchError,
        MissingExtra,
        RecordError,
        RunError,
        ScoreError,
        TraceError,
    )
    from .exporting import OnnxModel, export
    from .planning import pareto, plan, reorder
    from .profiling import Sweep, profile
    from .quantization import integers_file, quantize
    from .reporting import draw
    from .reporting import write_report as report
    from .schema import Budget, Graph, Plan, Profile, Result
    from .storage import load, save
    from .surgery import narrow
    from .tasks import make_task
    from .tracing import trace
    from .training import Batches, Portion, Recipe, Task, evaluate, fit
    from .views import show
    from .zoo import make_model


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lamella' has no attribute {name!r}")
    home, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f".{home}", __name__), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
