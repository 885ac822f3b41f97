"""The exporter's table of operators, built once.

torch.onnx builds it for every export anew, from the source of some five hundred functions: a quarter of the time that a small network
takes. It has no public place to give one; where torch keeps it elsewhere, every export builds its own, as it does without us.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any
from unittest.mock import patch


@contextmanager
def built_once() -> Iterator[None]:
    """Inside, exports share one table for each opset, and each has a copy that it may add to."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        build = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):
        yield
        return
    shared = staticmethod(lambda *opset, **named: _copied(_table(build, *opset, **named)))
    with patch.object(ONNXRegistry, "from_torchlib", shared):
        yield


@cache
def _table(build: Callable[..., Any], *opset: int, **named: int) -> Any:
    return build(*opset, **named)


def _copied(table: Any) -> Any:
    own = copy(table)
    own.functions = {operator: list(functions) for operator, functions in table.functions.items()}
    return own
