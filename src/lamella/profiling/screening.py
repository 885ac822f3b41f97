"""Screening: score in bf16, and score again in float32 whatever bf16 leaves in doubt. The counts are those of float32.

    problem = cannot_screen(task, device)                # why it would not be exact, or not pay; None if it would
    screen  = Screen(program)                            # the program in bf16, its last layers in float32
    found   = screen.glance(variant, branch, chunk)      # Glance: scores, winners and margins by bf16, per sample

The *margin* of a sample is its winning logit less the next. In float32 the same class wins unless the margin, as bf16 sees it, is off
by more than the margin itself. How far it is off is measured: on the dense network (`CALIBRATION` samples), on every variant's first
chunk, and on every sample that is scored again. A sample is left to bf16 only where its margin exceeds `SAFETY` times the largest
error seen; each larger error that turns up raises the bound for all samples of that variant. ResNet-20 on CIFAR-10: the dense
network's margins are off by up to 0.39 (512 samples), those of 15 variants by up to 0.43, and of the samples that flipped the largest
margin was 0.13; between 2 and 15 % of a variant's samples were scored again.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..replay import Branch, Program, Variant
from ..training import Task, correct
from .checks import Scores
from .samples import Chunk

SAFETY = 2.0
CALIBRATION = 512


def cannot_screen(task: Task, device: torch.device) -> str | None:
    """Why screening would not be exact for this task, or would not pay on this device."""
    if task.score is not correct:
        return "it is exact only for the default score (the largest logit is the class), and this task has its own"
    if not native_bf16(device):
        return f"this {'GPU' if device.type == 'cuda' else 'processor'} has no bf16 instructions, so it would be slower"
    return None


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 faster than float32: AVX512-BF16, AMX or Arm's BF16 on a CPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(has) and name.endswith("bf16") for name, has in known.items())


@dataclass(slots=True)
class Glance:
    """What bf16 makes of some samples, arrays of shape (N,). Scores count only where the margin is beyond doubt."""

    scores: NDArray[np.float64]
    winners: NDArray[np.int64]
    margins: NDArray[np.float64]

    @classmethod
    def of(cls, logits_NC: Tensor, targets: Tensor) -> "Glance":
        top = logits_NC.float().topk(2, dim=1)
        winners = top.indices[:, 0]
        margins = top.values[:, 0] - top.values[:, 1]
        parts = ((winners == targets).double(), winners, margins.double())
        return cls(*(part.cpu().numpy() for part in parts))

    @classmethod
    def joined(cls, parts: list["Glance"]) -> "Glance":
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("scores", "winners", "margins")))

    def errors(self, rows: Any, logits_NC: Tensor) -> NDArray[np.float64]:
        """How far these rows' margins are off, by their float32 logits."""
        logits = logits_NC.double().cpu().numpy()
        every, winners = np.arange(len(logits)), self.winners[rows]
        own = logits[every, winners].copy()
        logits[every, winners] = -np.inf
        off: NDArray[np.float64] = np.abs(self.margins[rows] - (own - logits.max(1)))
        return off


def certain(scores: Scores) -> Glance:
    """Scores that are not in doubt, beside some that may be."""
    return Glance(scores, np.zeros(len(scores), dtype=np.int64), np.full(len(scores), np.inf))


class Screen:
    """A program in bf16."""

    def __init__(self, program: Program) -> None:
        self.program = program.lowered(torch.bfloat16)
        self.error = 0.0  # the largest on the dense network

    def calibrate(self, chunk: Chunk, logits_NC: Tensor) -> None:
        """Learn from dense float32 logits how far margins are off."""
        seen = Glance.of(self.program.finished(self.program.start(chunk.inputs)), chunk.targets)
        self.error = max(self.error, float(seen.errors(slice(None), logits_NC).max()))

    def glance(self, variant: Variant, branch: Branch, chunk: Chunk) -> Glance:
        """The chunk under a variant."""
        return Glance.of(self.program.outputs(branch, variant), chunk.targets)


__all__ = ["CALIBRATION", "SAFETY", "Glance", "Screen", "cannot_screen", "certain", "native_bf16"]
