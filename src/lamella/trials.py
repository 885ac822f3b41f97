"""What a plan and its controls come to over their seeds, for the terminal and the page alike. Fractions; no torch.

for each in summaries(trials):          # the plan first
    each.name, each.test.mean           # ("uniform", 0.9132)
    each.ahead                          # Score(value=0.004, low=0.001, high=0.007, n=3); None for the plan itself
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from .schema import Score, Trials
from .statistics import over_seeds


class Spread(NamedTuple):
    """A mean over seeds, and the standard deviation where there are several."""

    mean: float
    deviation: float | None


class TrialSummary(NamedTuple):
    """One variant over its seeds; `ahead`: the plan's test score less this one's, paired by seed."""

    name: str
    validation: Spread
    test: Spread
    ahead: Score | None
    seeds: int
    params: int
    macs: int


def summaries(found: Trials) -> tuple[TrialSummary, ...]:
    """The plan and each of its controls, in the order of `found.names`."""
    return tuple(_summary(found, name) for name in found.names)


def _summary(found: Trials, name: str) -> TrialSummary:
    trials = found.of(name)
    ahead = [ours.test - each.test for ours, each in zip(found.of("plan"), trials, strict=True)]
    return TrialSummary(
        name=name,
        validation=_spread([each.validation for each in trials]),
        test=_spread([each.test for each in trials]),
        ahead=None if name == "plan" else over_seeds(ahead),
        seeds=len(trials),
        params=trials[0].params,
        macs=trials[0].macs,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)
