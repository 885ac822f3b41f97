"""How weights begin, and trained ones from safetensors or a torch file's state dict. Nothing in a file is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MismatchError, RecordError, first_line
from ..texts import listed

TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")


def initialized(model: nn.Module) -> nn.Module:
    """He initialization (2015) of every convolution, in place; linear layers keep torch's own."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Fill the model, in place, with the weights of a safetensors file or a torch file's state dict, strictly; returns it.

    Batch-norm counters (`num_batches_tracked`) may be absent. Raises RecordError when the file is absent or damaged,
    MismatchError, with the first differences, when it belongs to another model; the model is then as it was.
    """
    weights = _read_weights(path)
    expected = model.state_dict()
    differences = _differences(weights, expected)
    if differences:
        raise MismatchError(
            f"{path}: holds the weights of another model than this {type(model).__name__}: "
            f"{listed(differences, 3, ';')}. Name the model and options these weights were trained with."
        )
    model.load_state_dict({**{k: v for k, v in expected.items() if _is_counter(k)}, **weights})
    return model


def _read_weights(path: str | Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise RecordError(str(path), "no such file: check the path to the weights")
    if Path(path).suffix.lower() in TORCH_FILES:
        return _read_state(path)
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        endings = ", ".join(TORCH_FILES)
        problem = f"cannot be read as safetensors ({error}); copy the file again, or name a torch file so: {endings}"
        raise RecordError(str(path), problem) from None


def _read_state(path: str | Path) -> Mapping[str, Tensor]:
    """The state dict in a torch file, alone or as the only one in a checkpoint. Nothing in the file is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle raises is anything
        problem = (
            f"holds more than tensors, or is damaged ({type(error).__name__}: {first_line(error)}). A file that runs code is not read: "
            "save model.state_dict() alone, with safetensors.torch.save_file or torch.save"
        )
        raise RecordError(str(path), problem) from None
    if _is_state(content):
        return dict(content)
    inner = {name: dict(v) for name, v in content.items() if _is_state(v)} if isinstance(content, Mapping) else {}
    if len(inner) == 1:
        return next(iter(inner.values()))
    seen = f"state dicts {', '.join(map(repr, inner))}" if inner else f"a {type(content).__name__} without a state dict"
    raise RecordError(str(path), f"holds {seen}; one state dict, names to tensors, was expected: save it alone")


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _differences(seen: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What sets a file's tensors apart from a model's, one clause each, in the model's order."""
    absent = [f"{k!r} is missing" for k in expected if k not in seen and not _is_counter(k)]
    other = [
        f"{k!r} is {_described(seen[k])} in the file and {_described(v)} in the model"
        for k, v in expected.items()
        if k in seen and (seen[k].shape != v.shape or seen[k].is_floating_point() != v.is_floating_point())
    ]
    unknown = [f"{k!r} is not in the model" for k in seen if k not in expected]
    return absent + other + unknown


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
