"""The width of every group and the bits of every layer chosen together, under any set of budgets, with proof.

    plan(profile, Budget(bytes="10%"), planner="knapsack")                          # the smallest drop that fits
    plan(profile, Budget(max_drop=2.0), planner="knapsack")                         # the fewest bytes within a drop
    plan(profile, Budget(macs="50%", memory="60%"), planner="knapsack", minimize="bytes")
    plan(profile, Budget(bytes="10%"), planner="knapsack", bit_drops={8: 0.0, 4: 0.4})   # bits for layers without a curve

One width per group among those measured, one number of bits per layer (32 for all, or fewer for all), costs as exact products,
drops added up over groups and layers (`solving` says how). Additivity is the one assumption; the walk measures how it holds.
Out of time, the best plan so far is returned with its gap; `Plan.proof` says what was proved.
"""

from collections.abc import Mapping
from dataclasses import replace

from ..errors import LamellaError
from ..schema import Group
from .asking import COSTS, Ask, Draft, limits
from .curves import Rung, bit_rungs, check_curves, group_rungs
from .modelling import Setting
from .solving import solved

OBJECTIVES = ("max_drop", *COSTS, "latency_ms")


def knapsack(
    ask: Ask,
    *,
    minimize: str | None = None,
    bit_drops: Mapping[int, float] | None = None,
    align: int = 1,
    depth_prior: float = 0.0,
    time_limit: float = 20.0,
    gap: float = 1e-3,
) -> Draft:
    """The plan of least drop (or least `minimize`) within the budget, to a relative `gap`, in at most `time_limit` seconds.

    `bit_drops`: {bits: points lost} for every layer without a measured bits curve; without it such layers keep theirs.
    `align`: the channels that reach any layer are a multiple of it, or dense. `depth_prior` p weighs the drop of a group at
    depth d (0 first, 1 last) by 1 + p (1 - d): early layers are taken to matter more than measured.
    """
    unmeasured = check_curves(ask.profile)
    limit_of = limits(ask)
    goal = minimize or ("max_drop" if limit_of else "bytes")
    _check(ask, goal, limit_of, align)
    setting = Setting(
        widths={g.name: group_rungs(ask.profile, g) for g in ask.graph.groups},
        bits=_bit_choices(ask, dict(bit_drops or {})),
        factors=depth_factors(ask.graph.groups, depth_prior),
        align=align,
        seconds=time_limit,
        gap=gap,
    )
    draft = solved(ask, _in_integers_or_float(setting), goal, limit_of)
    return replace(draft, notes=(f"no curve, so left dense: {', '.join(unmeasured)}",)) if unmeasured else draft


def _in_integers_or_float(setting: Setting) -> list[Setting]:
    """A file holds its layers in float or in integers, never both (decision 0003): two kinds of plans."""
    if not setting.bits:
        return [setting]
    in_integers = replace(setting, bits={name: rungs[1:] for name, rungs in setting.bits.items()})
    return [in_integers, replace(setting, bits={})]


def _check(ask: Ask, goal: str, limit_of: Mapping[str, float], align: int) -> None:
    if goal not in OBJECTIVES or (goal == "latency_ms" and ask.latency is None):
        known = [name for name in OBJECTIVES if name != "latency_ms" or ask.latency is not None]
        raise LamellaError(f"minimize={goal!r}: one of {', '.join(known)} was expected (latency_ms with latency=).")
    if not limit_of and ask.budget.max_drop is None:
        raise LamellaError(
            "knapsack weighs groups against a budget, and it is empty: give max_drop, bytes, params, macs, memory or "
            "latency_ms, such as Budget(bytes='10%')."
        )
    if align < 1:
        raise LamellaError(f"align {align} is below 1: it is a number of channels.")


def _bit_choices(ask: Ask, assumed: dict[int, float]) -> dict[str, tuple[Rung, ...]]:
    """The rungs of every layer that multiplies and whose bits are not settled already."""
    found = {}
    for layer in ask.graph.layers:
        if layer.weight and layer.positions and layer.name not in ask.bits:
            rungs = bit_rungs(ask.profile, layer.name, assumed)
            if len(rungs) > 1:
                found[layer.name] = rungs
    return found


def depth_factors(groups: tuple[Group, ...], prior: float) -> dict[str, float]:
    """1 + prior (1 - d), d from 0 at the first group to 1 at the last."""
    if prior < 0:
        raise LamellaError(f"depth_prior {prior} is negative; 0 switches it off.")
    last = max(1, len(groups) - 1)
    return {g.name: 1 + prior * (1 - i / last) for i, g in enumerate(groups)}
