"""Scores of every variant, sample by sample, from one walk of the dense network per chunk of samples.

    engine = Engine(Subject(model, graph, task, sweep))
    dense_N = engine.dense()
    for level, scores_N in engine.curve(item): ...

Each item is proven on a few samples first: the replayed variant must give what the narrowed model itself gives. If it does not (a
size written as a constant in the program), the same variant with masks instead of missing channels is tried; if that differs too,
the models themselves are run, as the plain loop would. States of the dense walk are kept while they fit into `sweep.memory`.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import DataError, LamellaError, with_context
from ..replay import Branch, Change, Program, State, Variant
from ..surgery import copied
from ..training import call, device_of
from .points import Item, Level
from .samples import Chunk, Samples
from .variants import Setting, Subject

Scores = NDArray[np.float64]
TOLERANCE = 1e-3  # of the outputs' range, in float32; a wrong channel is off by far more
PROBE = 16


class Engine:
    """One network, one set of samples, any number of items."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = copied(subject.model, {}, share=True).eval()
        self.samples = Samples(subject.task.validation, subject.sweep.chunk, device_of(self.model))
        self.notes: list[str] = []
        self.binary = False
        self.margins: NDArray[np.float64] | None = None
        self._states: dict[int, State] = {}
        self._sizes: dict[int, int] = {}
        self._held = 0
        self._probe = next(iter(self.samples))
        self._program: Program | None = None
        self._built = False

    @property
    def program(self) -> Program | None:
        """The replayed network, or None where it cannot be had (the notes say why)."""
        if not self._built:
            self._built = True
            self._program = self._made_program()
        return self._program

    def _made_program(self) -> Program | None:
        with torch.inference_mode():
            first, second = (tensors_of(call(self.model, self._probe.inputs)) for _ in range(2))
        if any(not torch.equal(a, b) for a, b in zip(first, second, strict=True)):
            self.notes.append(_unsteady(first, second))
            return None
        try:
            program = Program(self.model, self._probe.inputs)
            with torch.inference_mode():
                outputs = tensors_of(program.finished(program.start(self._probe.inputs)))
            if not agree(outputs, first):
                raise ValueError("the exported program gives other outputs than the model")
        except Exception as error:  # whatever the export stumbles over, the model itself still runs
            line = next(iter(str(error).splitlines()), type(error).__name__)
            self.notes.append(f"every point ran the whole network: it cannot be replayed ({line[:200]})")
            return None
        self._probe = self._shortened(program)
        return program

    def _shortened(self, program: Program) -> Chunk:
        chunk = self._probe
        if not program.accepts(PROBE) or len(chunk) <= PROBE:
            return chunk
        few = next(iter(Samples([(chunk.inputs, chunk.targets)], PROBE, self.samples.device)))
        return Chunk(-1, few.inputs, few.targets)

    # ---- scores

    def dense(self) -> Scores:
        """The dense network's score on every sample; also learns whether scores are right-or-wrong, and the margins of logits."""
        scores, margins = [], []
        with with_context("evaluate"), torch.inference_mode():
            for chunk in self.samples:
                outputs = self._dense_outputs(chunk)
                scores.append(self.scored(outputs, chunk))
                if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1:
                    top = outputs.topk(2, dim=1).values
                    margins.append((top[:, 0] - top[:, 1]).double().cpu().numpy())
        dense_N = np.concatenate(scores)
        self.binary = bool(np.isin(dense_N, (0.0, 1.0)).all())
        self.margins = np.concatenate(margins) if margins and sum(map(len, margins)) == len(dense_N) else None
        return dense_N

    def _dense_outputs(self, chunk: Chunk) -> Any:
        program = self.program
        if program is None or not program.accepts(len(chunk)):
            return call(self.model, chunk.inputs)
        return program.finished(program.start(chunk.inputs))

    def curve(self, item: Item) -> list[tuple[Level, Scores]]:
        """Every level's score on every sample. Out of memory: half the samples at a time, and once more."""
        while True:
            try:
                return self._curve(item)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.samples.chunk == 1:
                    raise
            self.forget()
            gc.collect()
            self.samples.chunk = max(1, self.samples.chunk // 2)
            self.notes.append(f"out of memory at {item.target}: went on with {self.samples.chunk} samples at a time")

    def _curve(self, item: Item) -> list[tuple[Level, Scores]]:
        with with_context(f"{item.target} ({item.knob})"):
            runs = self.prepared(item)  # outside inference mode: this may tune
        with with_context(f"{item.target} ({item.knob})"), torch.inference_mode():
            parts: list[list[Scores]] = [[] for _ in runs]
            for chunk in self.samples:
                for part, outputs in zip(parts, self.outputs(runs, chunk), strict=True):
                    part.append(self.scored(outputs, chunk))
        return [(level, np.concatenate(part)) for level, part in zip(item.levels, parts, strict=True)]

    def prepared(self, item: Item) -> list["Run"]:
        """Every level ready to run."""
        make = self.maker(item)
        return [make(level) for level in item.levels]

    @staticmethod
    def weights_of(program: Program) -> dict[str, float]:
        """Per parameter, the share of the network's operators that lie behind it, by the elements they make."""
        total = max(1, sum(op.elements for op in program.listed))
        names = {name for op in program.listed for name in op.names}
        return {n: sum(program.listed[p].elements for p in program.affected({n})) / total for n in names}

    def maker(self, item: Item) -> "Callable[[Level], Run]":
        """How to make a level of this item ready; proven on the last one, which changes most."""
        subject, program = self.subject, self.program
        if subject.sweep.changes_models:
            return lambda level: Run(s := subject.setting(item, level), None, subject.mended(s.model()))
        if program is not None:
            last = subject.setting(item, item.levels[-1])
            for way in (_as_it_is, _with_masks):
                change = way(last)
                if change is not None and self._proven(program, change, last):
                    return lambda level: _replayed(program, s := subject.setting(item, level), _sure(way(s)))
            self.notes.append(
                f"{item.target}: every point ran the whole network, because its program differs from the model"
            )
        return lambda level: Run(subject.setting(item, level), None)

    def _proven(self, program: Program, change: Change, setting: Setting) -> bool:
        """Whether the replayed change gives what its model gives on a few samples."""
        try:
            with torch.inference_mode():
                branch = program.branch(program.start(self._probe.inputs), change.names)
                outputs = tensors_of(program.outputs(branch, program.prepared(change)))
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            return False
        with torch.inference_mode():
            return agree(outputs, tensors_of(call(setting.model().eval(), self._probe.inputs)))

    def outputs(self, runs: Sequence["Run"], chunk: Chunk) -> Iterator[Any]:
        """The outputs of every run of one item on this chunk."""
        branch = self.branch(runs[0], chunk)
        for run in runs:
            yield self.output(run, chunk, branch)

    def branch(self, run: "Run", chunk: Chunk) -> Branch | None:
        """What the runs of this item share on this chunk; None where they run as whole models."""
        program = self.program
        if program is None or run.variant is None or not program.accepts(len(chunk)):
            return None
        return program.branch(self._state(program, chunk, run.names), run.names)

    def output(self, run: "Run", chunk: Chunk, branch: Branch | None) -> Any:
        """The outputs of one run."""
        if branch is None or run.variant is None or self.program is None:
            return call(run.whole(), chunk.inputs)
        return self.program.outputs(branch, run.variant)

    def _state(self, program: Program, chunk: Chunk, names: frozenset[str]) -> State:
        """The chunk's walk, at or before the change."""
        state = self._states.pop(chunk.number, None)
        self._held -= self._sizes.pop(chunk.number, 0)
        if state is None or state.position > program.first(names):
            state = program.start(chunk.inputs)
        program.advance(state, program.first(names))
        size = size_of(state)
        if self._held + size <= self.subject.sweep.memory:
            self._states[chunk.number], self._sizes[chunk.number] = state, size
            self._held += size
        return state

    def forget(self) -> None:
        """Let go of every walk: the samples are about to be cut otherwise."""
        self._states.clear()
        self._sizes.clear()
        self._held = 0

    def scored(self, outputs: Any, chunk: Chunk) -> Scores:
        """The task's score of every sample of the chunk. DataError for what is not one finite number per sample."""
        scores_N = self.subject.task.score(outputs, chunk.targets)
        place = f"samples {chunk.number * self.samples.chunk} and on"
        if not isinstance(scores_N, Tensor) or scores_N.shape != (len(chunk),):
            seen = f"shape {tuple(scores_N.shape)}" if isinstance(scores_N, Tensor) else f"a {type(scores_N).__name__}"
            raise DataError(
                f"the scores of {place} have the wrong form: {seen} was seen; a tensor of shape ({len(chunk)},), one number per "
                "sample, was expected. Mend the task's score(outputs, targets)."
            )
        scores = scores_N.double().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            raise DataError(
                f"{bad.size} of {len(chunk)} scores of {place} are not finite (the first, {scores[bad[0]]}). Look for NaN in the "
                "inputs, the weights or the score function."
            )
        if self.binary and not np.isin(scores, (0.0, 1.0)).all():
            odd = scores[~np.isin(scores, (0.0, 1.0))][0]
            raise DataError(
                f"a score of {odd} among {place}: every score of the dense network was 0 or 1, so this is outside the range. Mend "
                "the task's score(outputs, targets)."
            )
        return scores


class Run:
    """A level made ready: replayed where that is proven, else a model."""

    __slots__ = ("_model", "names", "setting", "variant")

    def __init__(
        self,
        setting: Setting,
        variant: Variant | None,
        model: nn.Module | None = None,
        names: frozenset[str] = frozenset(),
    ) -> None:
        self.setting, self.variant, self.names, self._model = setting, variant, names, model

    def whole(self) -> nn.Module:
        """The variant as a model of its own, in evaluation mode."""
        if self._model is None:
            self._model = self.setting.model().eval()
        return self._model


def _as_it_is(setting: Setting) -> Change | None:
    return setting.change


def _with_masks(setting: Setting) -> Change | None:
    return setting.masked() if setting.masked else None


def _sure(change: Change | None) -> Change:
    assert change is not None
    return change


def _replayed(program: Program, setting: Setting, change: Change) -> Run:
    return Run(setting, program.prepared(change), None, change.names)


def size_of(state: State) -> int:
    """Bytes of what a walk holds."""
    return sum(v.nbytes for v in tree_leaves(state.values) if isinstance(v, Tensor))


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors of a network's outputs."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def agree(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether two sets of outputs are equal but for the order of additions. Where the one is not finite, neither need be the other."""
    return len(a) == len(b) and all(_near(x, y) for x, y in zip(a, b, strict=True))


def _near(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or not x.is_floating_point():
        return x.shape == y.shape
    if not bool(torch.isfinite(y).all()):
        return not bool(torch.isfinite(x).all())
    return float((x - y).abs().max()) <= TOLERANCE * max(float(y.abs().max()), 1e-6) if x.numel() else True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's or Python's way of saying that memory is used up."""
    text = str(error).lower()
    words = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(word in text for word in words)


def _unsteady(first: Sequence[Tensor], second: Sequence[Tensor]) -> str:
    apart = max(float((a.double() - b.double()).abs().max()) for a, b in zip(first, second, strict=True) if a.numel())
    return (
        f"the model is not deterministic: run twice on the same samples in evaluation mode, its outputs differ by up to {apart:.2g}, so "
        "intervals leave out that spread, and nothing could be shared between points. Look for dropout or random numbers in forward"
    )


__all__ = ["Engine", "LamellaError", "Run", "Scores"]
