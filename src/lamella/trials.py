"""What a plan and its controls come to over their seeds, for the terminal and the page alike. Fractions; no torch.

for each in summaries(trials):          # the plan first
    each.name, each.test.mean           # ("uniform", 0.9132)
    each.ahead                          # Score(value=0.004, low=0.001, high=0.007, n=3); None for the plan itself
remarks(trials)                         # ("plan, origin: the same scores from all 3 seeds, ...", "uniform keeps 78 % of ...")
"""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from .schema import Score, Trial, Trials
from .statistics import over_seeds

APART = 0.05  # share of the plan's MACs by which a control of equal cost may miss them unremarked


class Spread(NamedTuple):
    """A mean over seeds, and the standard deviation where there are several and they differ."""

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
    plan, trials = found.of("plan"), found.of(name)
    seen = trials[:1] if _alike(trials) else trials
    return TrialSummary(
        name=name,
        validation=_spread([each.validation for each in seen]),
        test=_spread([each.test for each in seen]),
        ahead=None if name == "plan" else over_seeds(_differences(plan, trials)),
        seeds=len(trials),
        params=trials[0].params,
        macs=trials[0].macs,
    )


def remarks(found: Trials) -> tuple[str, ...]:
    """What the figures do not say by themselves."""
    return tuple(told for told in (_unvaried(found), _undiffering(found), _identical(found), _uneven(found)) if told)


def _identical(found: Trials) -> str | None:
    """Of controls that are the plan itself: a difference of zero would look like a measured one."""
    names = [name for name in found.names[1:] if _same(found, name)]
    if not names:
        return None
    return f"{', '.join(names)}: the plan's sizes and scores from every seed: most likely the very same cuts, and no control here."


def _same(found: Trials, name: str) -> bool:
    return [_outcome(each) for each in found.of(name)] == [_outcome(each) for each in found.of("plan")]


def _outcome(trial: Trial) -> tuple[float, float, int, int]:
    return trial.validation, trial.test, trial.params, trial.macs


def _uneven(found: Trials) -> str | None:
    """Of an even cut that could not come near the plan's MACs: it is then a smaller network, not only a plainer one."""
    plan = found.of("plan")[0].macs
    even = found.of("uniform")[0].macs if "uniform" in found.names else plan
    if abs(even - plan) <= APART * plan:
        return None
    return (
        f"uniform has {100 * even / plan:.0f} % of the plan's MACs: one ratio for all groups comes no nearer without more, so part of the "
        "difference is size."
    )


def _unvaried(found: Trials) -> str | None:
    """Of walks that came to the same scores from every seed: a spread of zero would look like a measured one."""
    names = [name for name in found.names if found.seeds > 1 and _alike(found.of(name))]
    if not names:
        return None
    return (
        f"{', '.join(names)}: the same scores from all {found.seeds} seeds, so there is no spread to give. Seeds change what tuning draws; "
        "a walk without epochs draws nothing."
    )


def _undiffering(found: Trials) -> str | None:
    """Of controls whose scores vary, but with the plan's: an interval without width would look like certainty."""
    plan = found.of("plan")
    names = [
        name
        for name in found.names[1:]
        if found.seeds > 1
        and not over_seeds(_differences(plan, found.of(name))).has_width
        and not (_alike(plan) and _alike(found.of(name)))
        and not _same(found, name)
    ]
    if not names:
        return None
    return (
        f"{', '.join(names)}: the same difference to the plan from all {found.seeds} seeds, so there is no interval to give. Scores of few "
        "samples go in coarse steps, and few seeds meet the same one by chance: more of them tell (--seeds)."
    )


def _differences(plan: Sequence[Trial], trials: Sequence[Trial]) -> list[float]:
    """How far the plan is ahead in test score, by seed."""
    return [ours.test - each.test for ours, each in zip(plan, trials, strict=True)]


def _alike(trials: Sequence[Trial]) -> bool:
    return len({(each.validation, each.test) for each in trials}) == 1


def _spread(values: Sequence[float]) -> Spread:
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)
