"""The names of layers: the module path where a module holds the weight, else the parameter's own name."""

from collections.abc import Mapping

import numpy as np
import torch

from ..channels import FIXED, Call, Flow, module_path


class Naming:
    """Layer names: the module path where a module holds the weight, else the parameter's own name."""

    def __init__(self, flow: Flow, tensors: Mapping[str, torch.Tensor]) -> None:
        starts = [(start, name, d) for name, ss in flow.axis_start.items() for d, start in enumerate(ss)]
        self._starts = sorted((s for s in starts if tensors[s[1]].shape[s[2]]), key=lambda s: s[0])
        self._firsts = np.array([s[0] for s in self._starts])
        self._ends = np.array([s[0] + tensors[s[1]].shape[s[2]] for s in self._starts])

    def locate(self, ids: np.ndarray) -> str | None:
        if not len(ids) or ids[0] == FIXED or not len(self._firsts):
            return None
        i = int(np.searchsorted(self._firsts, ids[0], side="right")) - 1
        return self._starts[i][1] if i >= 0 and ids[0] < self._ends[i] else None

    def weight(self, call: Call) -> str | None:
        return call.weight or self.locate(call.use.columns) or self.locate(call.use.rows)

    def of(self, call: Call) -> str:
        weight = self.weight(call)
        if weight is None:
            return module_path(call.node) or call.node.name
        name = weight.split(".parametrizations.")[0]
        return name.removesuffix(".weight").removesuffix(".weight_v").removesuffix("_weight")
