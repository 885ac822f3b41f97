"""What a plan and its controls come to over their seeds, for the terminal and the page alike. Fractions; no torch.

for each in summaries(trials):          # the plan first
    each.name, each.test.mean           # ("uniform", 0.9132)
    each.ahead                          # Score(value=0.004, low=0.001, high=0.007, n=3); None for the plan itself
unvaried(trials)                        # "plan, origin: the same scores from all 3 seeds, ..."; None where seeds differ
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from .schema import Score, Trial, Trials
from .statistics import over_seeds


class Spread(NamedTuple):
    """A mean over seeds, and the standard deviation where there are several and they differ."""

    mean: float
    deviation: float | None


class TrialSummary(NamedTuple):
    """One variant over its seeds; `ahead`: the plan's test score less this one's, paired by seed; one value where all are alike."""

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
    plan, trials = found.of("plan"), found.of(name)
    ahead = [ours.test - each.test for ours, each in zip(plan, trials, strict=True)]
    if _alike(plan) and _alike(trials):
        ahead = ahead[:1]
    seen = trials[:1] if _alike(trials) else trials
    return TrialSummary(
        name=name,
        validation=_spread([each.validation for each in seen]),
        test=_spread([each.test for each in seen]),
        ahead=None if name == "plan" else over_seeds(ahead),
        seeds=len(trials),
        params=trials[0].params,
        macs=trials[0].macs,
    )


def unvaried(found: Trials) -> str | None:
    """What to say of walks that came to the same scores from every seed: a spread of zero would look like a measured one."""
    names = [name for name in found.names if found.seeds > 1 and _alike(found.of(name))]
    if not names:
        return None
    return (
        f"{', '.join(names)}: the same scores from all {found.seeds} seeds, so there is no spread to give. Seeds change what tuning draws; "
        "a walk without epochs draws nothing."
    )


def _alike(trials: Sequence[Trial]) -> bool:
    return len({(each.validation, each.test) for each in trials}) == 1


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)
