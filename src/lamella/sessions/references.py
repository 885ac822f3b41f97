"""A user's own functions by name: 'package.module:function' or 'path/file.py:function', called without arguments.

called("nets.py:make_net", "model")     # what make_net returns
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import LamellaError
from ..proof import line_of

FILE = ".py"  # how a module that is named by its file ends


def called(reference: str, what: str) -> Any:
    """What the user's function returns; whatever it raises becomes one sentence with its line."""
    function = resolve(reference, what)
    try:
        return function()
    except LamellaError:
        raise
    except Exception as error:
        raise LamellaError(f"{what} {reference!r} failed: {type(error).__name__}: {line_of(error)}") from error


def resolve(reference: str, what: str) -> Callable[[], Any]:
    """The function behind 'package.module:function' or 'path/file.py:function'."""
    module_name, _, name = reference.rpartition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = _imported(module_name)
    except LamellaError as error:
        raise LamellaError(f"{what} {reference!r}: {error}") from None
    except Exception as error:
        place = "" if module_name.endswith(FILE) else " It must be on the Python path; the current directory is."
        raise LamellaError(
            f"{what} {reference!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}).{place}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if inspect.isfunction(v)]
        raise LamellaError(
            f"{what} {reference!r}: {module_name} has no function {name!r}. It has: {', '.join(known) or 'none'}."
        )
    return function  # type: ignore[no-any-return]


def _imported(name: str) -> Any:
    """The module of this name, or of a file, under the file's name: workers import it by that."""
    if not name.endswith(FILE):
        return importlib.import_module(name)
    path = Path(name).absolute()
    if not path.is_file():
        raise LamellaError(f"{path}: no such file.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # what it imports may lie beside it, as for a script
    module = importlib.import_module(path.stem)
    if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
        raise LamellaError(f"{path.stem!r} is the name of another module that Python has. Rename the file.")
    return module


def located(reference: str) -> str:
    """A reference that holds from any directory: the path of 'path/file.py:function' made absolute, all else as it is."""
    place, _, name = reference.rpartition(":")
    return f"{Path(place).absolute()}:{name}" if place.endswith(FILE) else reference
