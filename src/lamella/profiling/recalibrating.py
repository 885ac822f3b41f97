"""Recalibrated points that share what lies before the change: statistics there are those of the recalibrated dense network.

    statistics = Statistics(model, task.train, memory)   # the dense network walked over `BATCHES` training batches
    statistics.dense                                     # {"bn1.running_mean": (C,), ...}: as recalibrate_bn would leave them
    statistics.behind(change)                            # those of the batch norms that a change reaches
    engine = recalibrated(engine)                        # measures curves of the recalibrated network; None: cannot be shared

A batch norm that is being re-estimated works on the statistics of the batch, so nothing before the change differs from the dense
network. The program is proven on one batch against recalibrate_bn itself.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import first_line
from ..replay import Change, Program, watch
from ..surgery import copied
from ..training import Loader, device_of, on_device, recalibrate_bn, statistics_batches
from .checks import agree
from .engine import Engine
from .samples import Chunk
from .walks import Walks

BATCHES = 15


class Statistics:
    """Batch-norm statistics of a network and of its variants, over the same training batches.

    Raises whatever torch.export raises, and ValueError for a network whose batch norms are not called once each.
    """

    def __init__(self, model: nn.Module, loader: Loader, memory: int) -> None:
        self.chunks = [_chunk(number, batch, model) for number, batch in statistics_batches(loader, BATCHES)]
        norms = {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
        if not norms:
            raise ValueError("it has no batch norm; its layers were matched to the dense network's")
        if not self.chunks:
            raise ValueError("there are no training batches")
        self.seen: dict[str, Tensor] = {}
        rewrite = partial(watch, names=[f"{name}.running_mean" for name in norms], seen=self.seen)
        self.program = Program(model, self.chunks[0].inputs, rewrite)
        if odd := [len(chunk) for chunk in self.chunks if not self.program.accepts(len(chunk))]:
            raise ValueError(f"exported at {self.program.size} samples, it cannot run a training batch of {odd[0]}")
        self.walks = Walks(self.program, memory)
        self._prove(model)
        self.dense = self._mean(self._dense)

    def behind(self, change: Change) -> dict[str, Tensor]:
        """The statistics of the batch norms that run differently under a change."""
        variant = self.program.prepared(change)

        def run(chunk: Chunk) -> None:
            branch = self.walks.branch(chunk, change.names)
            self.seen.clear()
            self.program.outputs(branch, variant)

        return self._mean(run)

    def _mean(self, run: Any) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        with torch.inference_mode():
            for chunk in self.chunks:
                run(chunk)
                for name, value in self.seen.items():
                    sums[name] = sums[name] + value if name in sums else value
        return {name: (total / len(self.chunks)).clone() for name, total in sums.items()}

    def _dense(self, chunk: Chunk) -> None:
        self.seen.clear()
        self.program.finished(self.program.start(chunk.inputs))

    def _prove(self, model: nn.Module) -> None:
        chunk = self.chunks[0]
        right = dict(recalibrate_bn(copied(model, {}), [(chunk.inputs, chunk.targets)], 1).named_buffers())
        with torch.inference_mode():
            self._dense(chunk)
        if not all(agree([value], [right[name]]) for name, value in self.seen.items()):
            raise ValueError("the exported program has other batch statistics than the model")


def _chunk(number: int, batch: Any, model: nn.Module) -> Chunk:
    inputs, targets = on_device(batch, device_of(model))
    return Chunk(number, tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), targets)


def recalibrated(engine: Engine) -> Engine | None:
    """An engine over the same samples whose network, and every variant of it, is recalibrated. None where that cannot be shared."""
    subject = engine.subject
    sweep = replace(subject.sweep, memory=subject.sweep.memory // 2)
    try:
        statistics = Statistics(engine.model, subject.task.train, sweep.memory)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        engine.notes.append(f"every recalibrated point ran the whole network: {first_line(error)}")
        return None
    model = copied(subject.model, statistics.dense, share=True).eval()
    return Engine(
        replace(subject, model=model, sweep=sweep),
        samples=engine.samples,
        notes=engine.notes,
        adjust=partial(_with_statistics, statistics),
        binary=engine.binary,
    )


def _with_statistics(statistics: Statistics, change: Change) -> Change:
    found: Mapping[str, Tensor] = statistics.behind(change)
    return replace(change, tensors={**change.tensors, **found})


__all__ = ["BATCHES", "Statistics", "recalibrated"]
