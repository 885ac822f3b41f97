"""A level made ready to run, and the proof that replaying it gives what its model gives.

rewrite = rewrite_of(program, probe, setting)         # how a setting becomes a change of the program; None: it cannot
ready = ReadyLevel(setting, program.prepared(rewrite(setting)), names=...)
ready = ReadyLevel(setting, None)                     # runs as a model of its own
"""

from collections.abc import Callable

import torch
from torch import nn

from ..replay import Change, Program, Variant
from ..training import call, tensors_of
from .checks import agree, is_out_of_memory
from .samples import Chunk
from .variants import Setting

Rewrite = Callable[[Setting], Change | None]


class ReadyLevel:
    """A level made ready: replayed where that is proven, else a model. `error`: the largest of a margin that bf16 has shown here."""

    __slots__ = ("_model", "error", "low", "measured", "names", "setting", "variant")

    def __init__(
        self,
        setting: Setting,
        variant: Variant | None,
        model: nn.Module | None = None,
        names: frozenset[str] = frozenset(),
        low: Variant | None = None,
    ) -> None:
        self.setting, self.variant, self.names, self.low, self._model = setting, variant, names, low, model
        self.error, self.measured = 0.0, False

    def whole(self) -> nn.Module:
        """The variant as a model of its own, in evaluation mode."""
        if self._model is None:
            self._model = self.setting.model().eval()
        return self._model


def rewrite_of(program: Program, probe: Chunk, setting: Setting) -> Rewrite | None:
    """The first rewrite by which this setting, on a few samples, gives what its model gives."""
    for rewrite in (_as_it_is, _with_masks):
        change = rewrite(setting)
        if change is not None and _proven(program, probe, change, setting):
            return rewrite
    return None


def _as_it_is(setting: Setting) -> Change | None:
    return setting.change


def _with_masks(setting: Setting) -> Change | None:
    return setting.masked() if setting.masked else None


def _proven(program: Program, probe: Chunk, change: Change, setting: Setting) -> bool:
    try:
        with torch.inference_mode():
            branch = program.branch(program.start(probe.inputs), change.names)
            outputs = tensors_of(program.outputs(branch, program.prepared(change)))
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return False
    with torch.inference_mode():
        return agree(outputs, tensors_of(call(setting.model().eval(), probe.inputs)))
