"""An exported file run from torch: tensors in, tensors out, in the form of the network it was written from.

run_onnx("dense.onnx", images)                          # once
OnnxModel("dense.onnx")(images)                         # many batches: the file is loaded once
OnnxModel("seg.onnx", like=model(images))(images)       # {"out": ...}, as the model says it
OpenvinoModel("model.xml")(images)                      # the same in OpenVINO
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..timing import feeds_of, open_session
from ..timing.calls import compiled, openvino_feeds


def run_onnx(path_or_session: Any, inputs: Tensor | Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """The outputs of an ONNX file (or of an open session) on one batch: a tensor, or a tuple where there are several.

    LamellaError where the inputs are not what the file takes. A path is loaded at every call: for many batches use
    `OnnxModel`.
    """
    session = open_session(path_or_session) if isinstance(path_or_session, str | Path) else path_or_session
    arrays = session.run(None, feeds_of(session, inputs))
    outputs = tuple(torch.from_numpy(np.asarray(a)) for a in arrays)
    return outputs[0] if len(outputs) == 1 else outputs


class OnnxModel(nn.Module):
    """An ONNX file as a module for evaluation: `model(images)` runs the batch in ONNX Runtime with `threads` threads.

    Torch tensors in, torch tensors out, on the CPU, in the form of `like`: outputs of the network that the file was written
    from. Without it a tensor, or a tuple of several. It has no parameters and learns nothing.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, like: Any = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.session = open_session(self.path, threads=threads)
        self._like = like

    def forward(self, *inputs: Tensor) -> Any:
        outputs = run_onnx(self.session, inputs)
        return outputs if self._like is None else in_form(outputs, self._like)


class OpenvinoModel(nn.Module):
    """An OpenVINO file (.xml; .onnx too) as a module for evaluation, as `OnnxModel` is one of an ONNX file."""

    def __init__(self, path: str | Path, *, threads: int = 1, like: Any = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.compiled = compiled(self.path, threads)
        self._request, self._like = self.compiled.create_infer_request(), like

    def forward(self, *inputs: Tensor) -> Any:
        found = self._request.infer(openvino_feeds(self.compiled, inputs), share_inputs=True)
        outputs = tuple(torch.from_numpy(np.array(found[port])) for port in self.compiled.outputs)
        whole = outputs[0] if len(outputs) == 1 else outputs
        return whole if self._like is None else in_form(whole, self._like)


def in_form(outputs: Tensor | tuple[Tensor, ...], like: Any) -> Any:
    """A file's outputs in the form that `like` has: a dict's values, a list's items. What is no tensor there stays."""
    found = iter([outputs] if isinstance(outputs, Tensor) else outputs)
    leaves, form = tree_flatten(like)
    return tree_unflatten([next(found) if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)
