"""What a plan would score, measured on the network narrowed and rounded as it says. What `greedy` and `search` go by.

    measure = Candidates(model, graph, task, journal="runs/r20/candidates.jsonl")
    plan(profile, order="greedy", measure=measure)                                   # a score at once
    plan(profile, Budget(bytes="10%"), planner="search", measure=measure.stream)     # may stop a candidate that cannot win

Scores are kept: nothing is measured twice, and a kill loses at most the candidate in progress.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from .coarsening import coarsen
from .digests import data_digest, weights_digest
from .errors import DivergedError, ScoreError
from .harm import Scores, harmed
from .matching import has_batch_norm, mend, mended_by
from .progress import Progress, silent
from .records import digest
from .runs import Journal
from .schema import Graph
from .schema.plans import in_integers
from .surgery import copied, narrow, resolve
from .texts import told
from .training import (
    Batches,
    Brief,
    Task,
    cut_batch,
    device_of,
    evaluate,
    metric_of,
    name_of,
    seeded,
    training_data,
)

Levels = Mapping[str, int]

JUDGED_ON = 1000  # validation samples, or up to twice as many, on which a brief tuning must do no harm


class Candidates:
    """Scores of (widths, bits) on the validation samples.

    `recalibrate`: with statistics brought back, of batch norms or of all layers where there is none (decisions 0005, 0017). `brief`:
    that, and tuned so before any rounding: what a cut costs at once says little of what training restores; left untuned where that does
    harm, as `compress` would not keep it (decision 0026).
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        task: Task,
        *,
        recalibrate: bool = False,
        brief: Brief | None = None,
        journal: str | Path | None = None,
        total: int = 1,
        progress: Progress = silent,
    ) -> None:
        self.model, self.graph, self.task, self.recalibrate = model, graph, task, recalibrate
        self.brief = brief if brief and brief.epochs else None
        self.total, self.progress, self.measured = total, progress, 0
        self.known: dict[str, float] = {}
        self.journal = Journal(journal, self._identity(), self._learned()) if journal else None
        if self.journal:
            self.known |= self.journal.entries
        progress("measure candidates", 0, total)

    def finished(self) -> None:
        """Say that no more will be asked: `total` is the most that could be."""
        self.progress("measure candidates", self.total, self.total)

    def _identity(self) -> dict[str, str]:
        mended = "matched" if self.recalibrate and not has_batch_norm(self.graph) else str(self.recalibrate)
        identity = {
            "structure": self.graph.structure,
            "weights": weights_digest(self.model),
            "data": data_digest(self.task.validation),
            "recalibrate": mended,
        }
        return identity | (
            {"brief": str(self.brief), "training data": training_data(self.task.train)} if self.brief else {}
        )

    def _learned(self) -> dict[str, str]:
        """What the scores depend on beside that, which older journals do not name."""
        changed = self.recalibrate or self.brief
        mended = mended_by(self.task, self.graph, tuned=self.brief is not None) if changed else {}
        return {"score": name_of(self.task.score), **mended}

    def __call__(self, widths: Levels, bits: Levels) -> float:
        """The score."""
        return [score for score, _ in self.stream(widths, bits)][-1]

    def each(self, widths: Levels, bits: Levels) -> Tensor:
        """Every sample's score, (N,): for comparing two plans sample by sample. Not kept."""
        return evaluate(self._made(*self._changed(widths, bits)), self.task.validation, self.task.score)

    def stream(self, widths: Levels, bits: Levels) -> Iterator[tuple[float, float]]:
        """(score so far, share of the samples seen), batch by batch; one pair alone where it is known or the loader has no length."""
        widths, bits = self._changed(widths, bits)
        key = digest({"widths": widths, "bits": bits})
        self.measured += 1
        try:
            if key in self.known:
                yield self.known[key], 1.0
            else:
                yield from self._measured(key, self._made(widths, bits))
        finally:  # whoever asks may stop early
            note = told(self.known[key], metric_of(self.task)) if key in self.known else "cannot win"
            self.progress("measure candidates", min(self.measured, self.total), self.total, note)

    def _changed(self, widths: Levels, bits: Levels) -> tuple[dict[str, int], dict[str, int]]:
        """Without what stays as it is, in one order: the same candidate has the same key."""
        dense = self.graph.group_of
        return (
            {name: widths[name] for name in sorted(widths) if widths[name] < dense[name].width},
            dict(sorted(in_integers(bits).items())),
        )

    def _made(self, widths: Levels, bits: Levels) -> nn.Module:
        kept = resolve(self.model, self.graph, widths)
        model = narrow(self.model, self.graph, kept)
        if self.recalibrate or self.brief:
            with seeded(0, 0, device_of(model)):
                mend(model, self.model, self.graph, kept, self.task)
            model = self._tuned(model)
        return coarsen(model, bits).eval() if bits else model.eval()

    def _tuned(self, model: nn.Module) -> nn.Module:
        """Briefly; as it was where that diverges or does harm."""
        if self.brief is None:
            return model
        before, before_N = copied(model, {}), self._some_scores(model)
        try:
            tuned = self.brief.tune(model, self.task)
            return before if harmed(before_N, self._some_scores(tuned)) else tuned
        except (DivergedError, ScoreError):
            return before

    def _some_scores(self, model: nn.Module) -> Scores:
        """Of validation samples at even distances: harm shows on some as on all."""
        loader = self.task.validation
        every = max(1, loader.samples // JUDGED_ON) if isinstance(loader, Batches) else 1
        some = (cut_batch(batch, lambda leaf: leaf[::every]) for batch in loader)
        found: Scores = evaluate(model, some, self.task.score).numpy()
        return found

    def _measured(self, key: str, model: nn.Module) -> Iterator[tuple[float, float]]:
        loader = self.task.validation
        total = loader.samples if isinstance(loader, Batches) else None
        right, seen = 0.0, 0
        for batch in loader:
            scores = evaluate(model, [batch], self.task.score)
            right, seen = right + float(scores.sum()), seen + len(scores)
            to_be_kept = self.brief is not None  # what was tuned is worth its whole score
            if total is not None and seen < total and not to_be_kept:
                yield right / seen, seen / total
        self.known[key] = right / seen
        if self.journal:
            self.journal.append(key, self.known[key])
        yield self.known[key], 1.0
