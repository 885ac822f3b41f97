"""Levels that a larger one beats: every level's file timed before anything trains, and the widths that would not be slower.

    slower = slower_levels(session, levels)        # exported with untrained weights, timed side by side
    slower[0].text                                 # level 'level2' is slower than 'full', which is larger: ... 1.60x ...
    refusal(slower)                                # the paragraph: which widths in whole steps would do, measured, and what to do

Why: docs/decisions/0015.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch.utils._pytree import tree_leaves

from ..elasticity import FULL
from ..errors import LamellaError
from ..exporting import NarrowedExports, one_sample
from ..latencies import measured_steps, written
from ..making import folder
from ..progress import Progress, silent
from ..schema import Graph, Level
from ..sessions import Session
from ..surgery import narrow
from ..timing import Latency, beaten, latency
from ..tracing import aligned

SHOWN = 6  # groups named in a refusal
STEPS = ("aligned", "16")  # what is tried for a level that is too slow; 16 is the vector of AVX-512

Widths = Mapping[str, int]


def timed_files(session: Session, widths: Mapping[str, Widths]) -> dict[str, Latency]:
    """Files of untrained weights at these widths, timed side by side on one sample; ratios are to the first."""
    one = tree_leaves(one_sample(session.task.example_inputs))
    model, graph = session.dense(), session.graph()
    with folder() as scratch:
        export = NarrowedExports()
        files = {
            name: written(narrow(model, graph, each), session.task, "fp32", scratch / f"{i}.onnx", export=export)
            for i, (name, each) in enumerate(widths.items())
        }
        return latency(files, one)


def stepped(graph: Graph, round_to: str | None) -> Graph:
    """The graph with other steps for the widths of its groups."""
    if round_to is None:
        return graph
    if round_to == "measured":
        steps = measured_steps(graph)
    elif round_to == "aligned":
        steps = {g.name: aligned(g.width) for g in graph.groups}
    elif round_to.isdigit() and int(round_to) > 0:
        steps = {g.name: int(round_to) if g.width >= int(round_to) else aligned(g.width) for g in graph.groups}
    else:
        raise LamellaError(f"--round-to {round_to}: a whole number from 1 on, aligned or measured was expected.")
    return replace(graph, groups=tuple(replace(g, round_to=steps.get(g.name, 1)) for g in graph.groups))


@dataclass(frozen=True, slots=True)
class Slower:
    """A level whose file is slower than that of a larger one, and the widths in whole steps that would do instead, if any."""

    level: Level
    time: Latency
    larger: str
    larger_time: Latency
    steps: str | None = None  # what --round-to would take
    better: Widths = field(default_factory=dict)
    better_ratio: float = math.inf

    @property
    def mended(self) -> bool:
        """Whether those widths make the level faster."""
        return self.better_ratio < self.time.ratio_low

    @property
    def text(self) -> str:
        """The finding in one sentence."""
        times = self.time
        return (
            f"level {self.level.name!r} is slower than {self.larger!r}, which is larger: in ONNX Runtime it takes {times.ratio:.2f}x "
            f"[{times.ratio_low:.2f}, {times.ratio_high:.2f}] of the dense network's time, {self.larger!r} {self.larger_time.ratio:.2f}x"
        )


def slower_levels(session: Session, levels: Sequence[Level], progress: Progress = silent) -> list[Slower]:
    """The levels that a larger one beats, by all of the interval; each beside its widths in whole steps, measured too."""
    progress("time the levels", 0, len(levels))
    times = timed_files(session, {level.name: level.widths for level in reversed(levels)})
    named = {level.name: level for level in levels}
    larger = beaten({name: times[name] for name in named})
    found = [Slower(named[name], times[name], other, times[other]) for name, other in larger.items()]
    found = _beside_others(session, found) if found else []
    progress("time the levels", len(levels), len(levels))
    return found


def _beside_others(session: Session, slower: Sequence[Slower]) -> list[Slower]:
    """Each with the fastest of its widths in other steps, where they are not its own."""
    graphs = {steps: stepped(session.graph(), steps) for steps in STEPS}
    widths = {
        (each.level.name, steps): {n: graph.group_of[n].legal(w) for n, w in each.level.widths.items()}
        for each in slower
        for steps, graph in graphs.items()
    }
    own = {each.level.name: each.level.widths for each in slower}
    others = {key: made for key, made in widths.items() if made != own[key[0]]}
    times = timed_files(session, {FULL: {}, **{"/".join(key): made for key, made in others.items()}})
    found = []
    for each in slower:
        ratios = {key: times["/".join(key)].ratio for key in others if key[0] == each.level.name}
        best = min(ratios, key=ratios.__getitem__, default=None)
        found.append(
            each if best is None else replace(each, steps=best[1], better=others[best], better_ratio=ratios[best])
        )
    return found


def best_steps(slower: Sequence[Slower]) -> str:
    """The steps that do for the level that gains least by them."""
    return max(slower, key=lambda each: each.better_ratio if each.steps else 0).steps or STEPS[0]


def refusal(slower: Sequence[Slower]) -> str:
    """The paragraph: which levels, by how much, which widths would be faster, and what to do."""
    lines = []
    for each in slower:
        lines.append(f"{each.text}.")
        odd = {n: w for n, w in each.better.items() if w != each.level.widths[n]}
        if not each.mended:
            what = (
                f"in whole steps of channels it takes {each.better_ratio:.2f}x" if odd else "its widths are whole steps"
            )
            lines.append(f"  {what}: so few operations are left that calling the layers takes the time.")
            continue
        named = ", ".join(f"{n!r} {each.level.widths[n]} -> {w}" for n, w in list(odd.items())[:SHOWN])
        more = f" and {len(odd) - SHOWN} more groups" if len(odd) > SHOWN else ""
        lines.append(f"  in whole steps of channels it takes {each.better_ratio:.2f}x: {named}{more}.")
    mended = [each for each in slower if each.mended]
    other = (
        f"--round-to {best_steps(mended)}, or --round-to measured for this machine's own steps"
        if mended
        else "other levels"
    )
    lines.append(f"  try: {other}. Nothing has been trained; --allow-slower keeps these levels.")
    return "\n".join(lines)


__all__ = ["Slower", "best_steps", "refusal", "slower_levels", "stepped", "timed_files"]
