"""Scores of every variant, sample by sample, from one walk of the dense network per chunk of samples.

    engine = Engine(Subject(model, graph, task, sweep))
    dense_N = engine.dense()
    for level, scores_N in engine.curve(item): ...

Each item is proven on a few samples first: the replayed variant must give what the narrowed model itself gives. If it does not (a
size written as a constant in the program), the same variant with masks instead of missing channels is tried; if that differs too,
the models themselves are run, as the plain loop would. States of the dense walk are kept while they fit into `sweep.memory`.
"""

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import DataError, LamellaError, with_context
from ..replay import Change, Program, State, Variant
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
            self._states.clear()
            gc.collect()
            self.samples.chunk = max(1, self.samples.chunk // 2)
            self.notes.append(f"out of memory at {item.target}: went on with {self.samples.chunk} samples at a time")

    def _curve(self, item: Item) -> list[tuple[Level, Scores]]:
        with with_context(f"{item.target} ({item.knob})"), torch.inference_mode():
            runs = self.prepared(item)
            parts: list[list[Scores]] = [[] for _ in runs]
            for chunk in self.samples:
                for part, outputs in zip(parts, self.outputs(runs, chunk), strict=True):
                    part.append(self.scored(outputs, chunk))
        return [(level, np.concatenate(part)) for level, part in zip(item.levels, parts, strict=True)]

    def prepared(self, item: Item) -> list["Run"]:
        """Every level ready to run, and proven."""
        settings = [self.subject.setting(item, level) for level in item.levels]
        if self.subject.sweep.changes_models:
            return [Run(setting, None, self.subject.mended(setting.model())) for setting in settings]
        if self.program is not None:
            for changes in self._ways(settings):
                if (variants := self._proven(changes, settings[-1])) is not None:
                    return [Run(s, v, None, c.names) for s, v, c in zip(settings, variants, changes, strict=True)]
            self.notes.append(
                f"{item.target}: every point ran the whole network, because its program differs from the model"
            )
        return [Run(setting, None) for setting in settings]

    def _ways(self, settings: Sequence[Setting]) -> Iterator[list[Change]]:
        yield [setting.change for setting in settings]
        if all(setting.masked for setting in settings):
            yield [setting.masked() for setting in settings if setting.masked]

    def _proven(self, changes: Sequence[Change], setting: Setting) -> list[Variant] | None:
        """The variants, if the last one gives what its model gives on a few samples."""
        program = self.program
        assert program is not None
        try:
            variants = [program.prepared(change) for change in changes]
            branch = program.branch(program.start(self._probe.inputs), changes[-1].names)
            outputs = tensors_of(program.outputs(branch, variants[-1]))
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            return None
        return variants if agree(outputs, tensors_of(call(setting.model().eval(), self._probe.inputs))) else None

    def outputs(self, runs: Sequence["Run"], chunk: Chunk) -> Iterator[Any]:
        """The outputs of every run on this chunk; those that share a change share a branch."""
        program = self.program
        if program is None or not program.accepts(len(chunk)) or any(run.variant is None for run in runs):
            for run in runs:
                yield call(run.whole(), chunk.inputs)
            return
        branch = program.branch(self._state(program, chunk, runs[0].names), runs[0].names)
        for run in runs:
            assert run.variant is not None
            yield program.outputs(branch, run.variant)

    def _state(self, program: Program, chunk: Chunk, names: frozenset[str]) -> State:
        """The chunk's walk, at or before the change."""
        state = self._states.get(chunk.number)
        if state is None or state.position > program.first(names):
            state = program.start(chunk.inputs)
        program.advance(state, program.first(names))
        self._states.pop(chunk.number, None)
        if sum(map(size_of, self._states.values())) + size_of(state) <= self.subject.sweep.memory:
            self._states[chunk.number] = state
        return state

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
