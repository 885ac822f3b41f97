"""save() and load(): a compressed model on disk, read back by replay and without running code.

    save("runs/r20", small, result)
    small, result = load("runs/r20", lambda: make_model("resnet20"))

The tensors lie in `model.safetensors`, what was done in `result.json`. Loading makes the dense model afresh, cuts every parameter
to the saved shape and copies the numbers in: outputs are equal bit for bit.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import MismatchError, RecordError, RunError
from .records import load_record, save_record
from .runs import write_through
from .schema import FILES, Integer, Result
from .simulations import check_real
from .surgery import refitted

M = TypeVar("M", bound=nn.Module)


def save(directory: str | Path, model: nn.Module, result: Result) -> None:
    """Write model and result into the directory, each file atomically; a kill between leaves none, never two that disagree.

    Nothing is written for what `load` could not give back: LamellaError for the simulation that `quantize` returns, MismatchError for
    the dense network with the Result of a smaller one. RunError where the directory is a file.
    """
    check_real(model, "save")
    check_belongs(model, result)
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise RunError(
            f"{directory} is a file; a directory was expected, for {FILES['model'][0]} and {FILES['result'][0]}."
        )
    (directory / FILES["result"][0]).unlink(missing_ok=True)
    save_tensors(directory / FILES["model"][0], model)
    save_record(directory / FILES["result"][0], result)


def check_belongs(model: nn.Module, result: Result) -> None:
    """MismatchError for the dense network beside the Result of a smaller one, told by their parameters, and for what is no Result."""
    if not isinstance(result, Result):
        raise MismatchError(
            f"a {type(result).__name__} was given with the network; the Result that compress returned with it was expected."
        )
    if not result.history:
        return
    dense, last = result.history[0].params, result.history[-1].params
    if sum(p.numel() for p in model.parameters()) == dense != last:
        raise MismatchError(
            f"this network has {dense:,} parameters, as the dense one had, and the Result is of one with {last:,}. Pass the network that "
            "compress returned with it, or what load(directory, make_model) gives."
        )


def load(directory: str | Path, make_model: Callable[[], nn.Module]) -> tuple[nn.Module, Result]:
    """The compressed model, in evaluation mode, and its Result.

    `make_model` builds the dense network; its weights do not matter. Raises RecordError for absent or damaged files,
    MismatchError when they belong to another network.
    """
    directory = Path(directory)
    result = load_record(directory / FILES["result"][0], Result)
    return read_into(make_model(), directory / FILES["model"][0], result.integers).eval(), result


def read_into(model: M, path: str | Path, integers: Iterable[Integer] = ()) -> M:
    """A copy of the dense model that holds what `save_tensors` wrote of a narrowed one, with these integers of its modules."""
    return refitted(model, load_tensors(path), integers, caches=_caches(path))


def save_tensors(path: str | Path, model: nn.Module) -> None:
    """Every parameter and buffer of the model, tied ones once, as safetensors; the names of buffers that are not persistent beside them."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in _tensors(model).items()}
    caches = sorted(
        f"{path}.{n}".lstrip(".") for path, module in model.named_modules() for n in module._non_persistent_buffers_set
    )
    metadata = {"non_persistent": json.dumps(caches)} if caches else None
    write_through(path, lambda temporary: save_file(tensors, str(temporary), metadata))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that `save_tensors` wrote. RecordError when it is absent or damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        problem = f"cannot be read as safetensors ({error}); it is damaged or absent: make it again"
        raise RecordError(str(path), problem) from None


def _caches(path: str | Path) -> frozenset[str]:
    """The buffers in such a file that are not persistent: their model may fill them, or first have them, when it is called."""
    with safe_open(str(path), framework="pt") as file:
        names = (file.metadata() or {}).get("non_persistent", "[]")
    try:
        return frozenset(json.loads(names))
    except ValueError:
        problem = f"names its buffers that are not persistent as {names[:100]!r}; it is damaged: make it again"
        raise RecordError(str(path), problem) from None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())
