"""A journal's baseline: what the dense network scored when the journal was begun, held against what it scores now.

    check_baseline(journal.path, was, now)        # MismatchError where they differ by more than rounding

Structure, weights and samples tell a journal's network by what it is. What it does follows from the task's score and the network's
forward as well, and of code there is no digest: the score of the dense network, which is measured at every start, tells them.
"""

import math
from pathlib import Path

from .errors import MismatchError
from .schema import Score
from .texts import told

THOUSANDTH = 1e-3  # of a score: what other threads, or tf32 on a GPU, make of the same numbers
SPREADS = 5  # of single scores, over the number of samples: one or two tip over where the answer was close


def check_baseline(path: Path, was: Score, now: Score) -> None:
    """MismatchError where the dense network, measured for a journal before, now scores otherwise on the same samples."""
    if _alike(was, now):
        return
    metric = "accuracy" if all(0 <= score.value <= 1 for score in (was, now)) else "score"
    raise MismatchError(
        f"{path}: belongs to another measurement: the dense network scored {told(was.value, metric)} there and scores "
        f"{told(now.value, metric)} here, with the same weights on the same samples, so the task's score or the network's forward is "
        "another. Change that back, name another run directory, or delete this file to start that stage afresh."
    )


def _alike(was: Score, now: Score) -> bool:
    """Whether two scores on the same samples are equal but for rounding."""
    # Of single scores: an interval reaches two standard errors either way.
    spread = (was.high - was.low) * math.sqrt(was.n) / 4
    rounding = max(THOUSANDTH * abs(was.value), SPREADS * spread / was.n)
    return abs(was.value - now.value) <= rounding
