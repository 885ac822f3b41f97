"""Scores of every variant, sample by sample, from one walk of the dense network per chunk of samples.

    engine = Engine(Subject(model, graph, task, sweep))
    dense_N = engine.dense()
    for level, scores_N in engine.curve(item, item.levels): ...

Each item is proven on a few samples first: the replayed variant must give what the narrowed model itself gives. If it does not (a
size written as a constant in the program), the same variant with masks instead of missing channels is tried; if that differs too,
the models themselves are run, as the plain loop would. `walks` keeps the dense walks, `screening` scores in bf16 where it may.

Levels are measured one after the other, so that each can be written down as it is done. Chunks whose walk does not fit into
`sweep.memory` run at all levels at once before that: their walk would have to be made anew for every level.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import first_line, with_context
from ..replay import Change, Program
from ..surgery import copied
from ..training import call, checked_scores, device_of, tensors_of
from .checks import Scores, agree, check_binary, is_out_of_memory, unsteady
from .points import Item, KnobLevel
from .readying import ReadyLevel, Rewrite, rewrite_of
from .samples import Chunk, Samples, gathered, picked
from .screening import CALIBRATION, SAFETY, Glance, Screen, cannot_screen, certain
from .variants import Setting, Subject
from .walks import Walks

T = TypeVar("T")

PROBE = 16
Seen = Scores | Glance  # of one chunk


class Engine:
    """One network, one set of samples, any number of items.

    `samples`, `notes`: those of another engine, shared. `adjust`: what else changes with every change (statistics, see recalibrating).
    """

    def __init__(
        self,
        subject: Subject,
        *,
        samples: Samples | None = None,
        notes: list[str] | None = None,
        adjust: Callable[[Change], Change] | None = None,
        binary: bool = False,
    ) -> None:
        self.subject, self.adjust = subject, adjust
        self.model = copied(subject.model, {}, share=True).eval()
        self.samples = samples or Samples(subject.task.validation, subject.sweep.chunk, device_of(self.model))
        self.notes: list[str] = [] if notes is None else notes
        self.binary = binary
        self.margins: NDArray[np.float64] | None = None
        self.screen: Screen | None = None
        self._probe = next(iter(self.samples))
        self._program: Program | None = None
        self._walks: Walks | None = None
        self._built = False
        self._rewrites: dict[tuple[str, str], Rewrite | None] = {}

    @property
    def program(self) -> Program | None:
        """The replayed network, or None where it cannot be had (the notes say why)."""
        if not self._built:
            self._built = True
            self._program = self._made_program()
            self.screen = self._made_screen()
            walked = self.screen.program if self.screen else self._program
            self._walks = Walks(walked, self.subject.sweep.memory) if walked else None
        return self._program

    def _made_program(self) -> Program | None:
        with torch.inference_mode():
            first, second = (tensors_of(call(self.model, self._probe.inputs)) for _ in range(2))
        if note := unsteady(first, second):
            self.notes.append(note)
            return None
        try:
            program = Program(self.model, self._probe.inputs)
            with torch.inference_mode():
                outputs = tensors_of(program.finished(program.start(self._probe.inputs)))
            if not agree(outputs, first):
                raise ValueError("the exported program gives other outputs than the model")
        except Exception as error:  # whatever the export stumbles over, the model itself still runs
            self.notes.append(f"every point ran the whole network: it cannot be replayed ({first_line(error)})")
            return None
        self._probe = self._shortened(program)
        return program

    def _made_screen(self) -> Screen | None:
        sweep = self.subject.sweep
        if sweep.screening == "none" or self._program is None:
            return None
        problem = cannot_screen(self.subject.task, self.samples.device)
        if sweep.changes_models:
            problem = "recalibrated and tuned points run models of their own"
        if problem is None:
            try:
                screen = Screen(self._program)
                with torch.inference_mode():
                    screen.calibrate(self._probe, self._program.finished(self._program.start(self._probe.inputs)))
                return screen
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                problem = f"the network does not run in bf16 ({first_line(error)})"
        self.notes.append(f"screening in bf16 was not used: {problem}. Scores are float32 throughout, and the same")
        return None

    def _shortened(self, program: Program) -> Chunk:
        chunk = self._probe
        if not program.accepts(PROBE) or len(chunk) <= PROBE:
            return chunk
        return picked(chunk, np.arange(PROBE))

    def forget(self) -> None:
        """Let go of every walk: the samples are about to be cut otherwise."""
        if self._walks:
            self._walks.forget()

    def keep_nothing(self) -> None:
        """Memory ran out: from now on every walk starts anew."""
        if self._walks and self._walks.memory:
            self._walks.forget()
            self._walks.memory = 0
            self.notes.append("out of memory: went on without kept activations")
        gc.collect()

    # ---- the dense network

    def dense(self) -> Scores:
        """The dense network's score on every sample; also learns whether scores are right-or-wrong, and the margins of logits."""
        while True:
            try:
                return self._dense()
            except (RuntimeError, MemoryError) as error:
                self._take_less("the dense network", error)

    def _dense(self) -> Scores:
        scores, margins = [], []
        with with_context("evaluate"), torch.inference_mode():
            for chunk in self.samples:
                outputs = self._dense_outputs(chunk)
                scores.append(self.scored(outputs, chunk))
                if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1:
                    top = outputs.topk(2, dim=1).values
                    margins.append((top[:, 0] - top[:, 1]).double().cpu().numpy())
                    if self.screen and chunk.number * self.samples.chunk < CALIBRATION:
                        self.screen.calibrate(chunk, outputs)
        dense_N = np.concatenate(scores)
        self.binary = bool(np.isin(dense_N, (0.0, 1.0)).all())
        self.margins = np.concatenate(margins) if margins and sum(map(len, margins)) == len(dense_N) else None
        return dense_N

    def _dense_outputs(self, chunk: Chunk) -> Any:
        program = self.program
        if program is None or not program.accepts(len(chunk)):
            return call(self.model, chunk.inputs)
        return program.finished(program.start(chunk.inputs))

    # ---- items

    def curve(self, item: Item, levels: Sequence[KnobLevel]) -> Iterator[tuple[KnobLevel, Scores]]:
        """These levels' scores on every sample, as they are done. Out of memory: half the samples at a time, and on."""
        done = 0
        while done < len(levels):
            try:
                for level, scores_N in self._curve(item, levels[done:]):
                    yield level, scores_N
                    done += 1
            except (RuntimeError, MemoryError) as error:
                self._take_less(item.target, error)

    def _take_less(self, place: str, error: RuntimeError | MemoryError) -> None:
        """Half the samples at a time; the error itself where it is another one, or nothing is left to halve."""
        if not is_out_of_memory(error) or self.samples.chunk == 1:
            raise error
        self.forget()
        gc.collect()
        self.samples.chunk = max(1, self.samples.chunk // 2)
        self.notes.append(f"out of memory at {place}: went on with {self.samples.chunk} samples at a time")

    def _curve(self, item: Item, levels: Sequence[KnobLevel]) -> Iterator[tuple[KnobLevel, Scores]]:
        place = str(item)
        with with_context(place):
            make = cache(self.maker(item))  # a level may cost tuning: each is made when its turn comes, and once
            early = self._early(make, levels) if self._rewrites.get(_key(item)) else {}
        for index, level in enumerate(levels):
            with with_context(place):
                scores_N = self._level(make(level), {number: found[index] for number, found in early.items()})
            yield level, scores_N

    def _early(self, make: "Callable[[KnobLevel], ReadyLevel]", levels: Sequence[KnobLevel]) -> dict[int, list[Seen]]:
        """By chunk, what every level gives on the chunks whose walk cannot be kept."""
        found: dict[int, list[Seen]] = {}
        first = make(levels[0])
        if self._walks is None or (self.screen and first.low is None):
            return found
        with torch.inference_mode():
            for chunk in self.samples:
                if not self._walks.program.accepts(len(chunk)):
                    continue
                branch = self._walks.branch(chunk, first.names)
                if not self._walks.holds(chunk):
                    with torch.inference_mode(False):
                        made = [make(level) for level in levels]
                    found[chunk.number] = [self._seen(ready, chunk, branch) for ready in made]
        return found

    def _level(self, ready: "ReadyLevel", early: dict[int, Seen]) -> Scores:
        with torch.inference_mode():
            seen = [
                early[chunk.number] if chunk.number in early else self.glance(ready, chunk) for chunk in self.samples
            ]
            return self.final_scores(ready, self.samples, seen)

    def maker(self, item: Item) -> "Callable[[KnobLevel], ReadyLevel]":
        """How to make a level of this item ready; proven on the one that changes most and leaves some channels."""
        subject, program = self.subject, self.program
        if program is None or (subject.sweep.changes_models and self.adjust is None):
            return lambda level: self._whole(subject.setting(item, level))
        if _key(item) not in self._rewrites:
            hardest = next((level for level in reversed(item.levels) if level.width != 0), item.levels[-1])
            self._rewrites[_key(item)] = rewrite_of(program, self._probe, subject.setting(item, hardest))
            if self._rewrites[_key(item)] is None:
                self.notes.append(
                    f"{item.target}: every point ran the whole network, because its program differs from the model"
                )
        rewrite = self._rewrites[_key(item)]
        if rewrite is None:
            return lambda level: self._whole(subject.setting(item, level))
        return lambda level: self._replayed(program, s := subject.setting(item, level), _sure(rewrite(s)))

    def _whole(self, setting: Setting) -> "ReadyLevel":
        changes = self.subject.sweep.changes_models
        return ReadyLevel(setting, None, self.subject.mended(setting) if changes else None)

    def _replayed(self, program: Program, setting: Setting, change: Change) -> "ReadyLevel":
        change = self.adjust(change) if self.adjust else change
        # Rounding an input to a grid is no work for bf16: its steps are coarser than those of 8 bits.
        low = self.screen.program.prepared(change) if self.screen and not change.tweaks else None
        ready = ReadyLevel(setting, program.prepared(change), None, change.names, low)
        ready.error = self.screen.error if self.screen else 0.0
        return ready

    # ---- one level on one chunk

    def outputs(self, ready: "ReadyLevel", chunk: Chunk) -> Any:
        """The outputs of one level on this chunk, in the model's own precision."""
        program = self.program
        if program is None or ready.variant is None or not program.accepts(len(chunk)):
            return call(ready.whole(), chunk.inputs)
        if self._walks is not None and self._walks.program is program:
            branch = self._walks.branch(chunk, ready.names)
        else:
            branch = program.branch(program.start(chunk.inputs), ready.names)
        return program.outputs(branch, ready.variant)

    def glance(self, ready: "ReadyLevel", chunk: Chunk) -> Seen:
        """The scores of a level on this chunk, or what bf16 makes of them; `final_scores` turns either into scores."""
        shared = self._walks is not None and ready.variant is not None and self._walks.program.accepts(len(chunk))
        if self._walks is None or not shared or (self.screen and ready.low is None):
            return self.scored(self.outputs(ready, chunk), chunk)
        return self._seen(ready, chunk, self._walks.branch(chunk, ready.names))

    def _seen(self, ready: "ReadyLevel", chunk: Chunk, branch: Any) -> Seen:
        if self.screen is None or ready.low is None:
            return self.scored(_sure(self._program).outputs(branch, _sure(ready.variant)), chunk)
        seen = self.screen.glance(ready.low, branch, chunk)
        if not ready.measured:
            ready.measured = True
            ready.error = max(ready.error, float(seen.errors(slice(None), self.outputs(ready, chunk)).max()))
        return seen

    def final_scores(self, ready: "ReadyLevel", chunks: "Samples | Sequence[Chunk]", seen: Sequence[Seen]) -> Scores:
        """The scores of all these chunks; what bf16 left in doubt is scored again, until no error seen raises the bound."""
        glances = [part for part in seen if isinstance(part, Glance)]
        if not glances:
            return np.concatenate([part for part in seen if not isinstance(part, Glance)])
        everything = Glance.joined([part if isinstance(part, Glance) else certain(part) for part in seen])
        sure = np.zeros(len(everything.scores), dtype=bool)
        while (doubt := ~sure & ~(everything.margins > SAFETY * ready.error)).any():
            rows = np.flatnonzero(doubt)
            for at, part in gathered(chunks, rows, self.samples.chunk):
                outputs = self.outputs(ready, part)
                everything.scores[at] = self.scored(outputs, part)[: len(at)]
                ready.error = max(ready.error, float(everything.errors(at, outputs[: len(at)]).max()))
            sure |= doubt
        return everything.scores

    def scored(self, outputs: Any, chunk: Chunk) -> Scores:
        """The task's score of every sample of the chunk. DataError for what is not one finite number per sample; 0 or 1, where those of
        the dense network are.
        """
        place = f"samples {chunk.number * self.samples.chunk} and on" if chunk.number >= 0 else "some samples"
        scores: Scores = checked_scores(self.subject.task.score(outputs, chunk.targets), len(chunk), place).numpy()
        if self.binary:
            check_binary(scores, place)
        return scores


def _key(item: Item) -> tuple[str, str]:
    return item.target, item.knob


def _sure(value: T | None) -> T:
    assert value is not None
    return value


__all__ = ["Engine", "ReadyLevel", "Scores"]
