"""The width of every group and the bits of every layer chosen together, under any set of budgets, with proof.

    plan(profile, Budget(bytes="10%"), planner="knapsack")                          # the smallest drop that fits
    plan(profile, Budget(max_drop=2.0), planner="knapsack")                         # the fewest bytes within a drop
    plan(profile, Budget(macs="50%", memory="60%"), planner="knapsack", minimize="bytes")
    plan(profile, Budget(bytes="10%"), planner="knapsack", bit_drops={8: 0.0, 4: 0.4})   # bits for layers without a curve

One width per group among those measured, one number of bits per layer (32 for all, or fewer for all), costs as exact products,
drops added up over groups and layers (`solving` says how). Additivity is the one assumption; the walk measures how it holds.
Out of time, the best plan so far is returned with its gap; `Plan.proof` says what was proved.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import BudgetError, LamellaError
from ..schema import Group
from ..schema.plans import BUDGETS, WEIGHT_BITS
from ..texts import listed
from .asking import Ask, Draft, keeps, limits, precision_of
from .curves import Rung, bit_rungs, bits_drop, check_curves, group_rungs
from .drafting import value_of
from .modelling import Setting
from .solving import solved

WITHOUT_BITS = ("params", "macs", "memory")  # costs that bits do not change


def knapsack(
    ask: Ask,
    *,
    minimize: str | None = None,
    bit_drops: Mapping[int, float] | str | None = None,
    align: int = 1,
    depth_prior: float = 0.0,
    time_limit: float = 20.0,
    gap: float = 1e-3,
) -> Draft:
    """The plan of least drop (or least `minimize`) within the budget, to a relative `gap`, in at most `time_limit` seconds.

    `bit_drops`: {bits: points lost}, or a text such as "8:0,4:0.4", for every layer without a measured bits curve; without it such
    layers keep theirs.
    `align`: the channels that reach any layer are a multiple of it, or dense. `depth_prior` p weighs the drop of a group at
    depth d (0 first, 1 last) by 1 + p (1 - d): early layers are taken to matter more than measured.
    """
    unmeasured = check_curves(ask.profile, "bits")
    ask, limit_of = _without_settled(ask), limits(ask)
    goal = minimize or ("max_drop" if limit_of else "bytes")
    _check(ask, goal, limit_of)
    assumed = assumed_drops(bit_drops)
    _check_numbers(align, time_limit, gap)
    bits, lacking = _bit_choices(ask, assumed)
    setting = Setting(
        widths={g.name: group_rungs(ask.profile, g) for g in ask.graph.groups},
        bits=bits,
        factors=depth_factors(ask.graph.groups, depth_prior),
        align=align,
        seconds=time_limit,
        gap=gap,
    )
    notes: tuple[str, ...] = (f"no curve, so left dense: {', '.join(unmeasured)}",) if unmeasured else ()
    if lacking:
        notes += (_in_float(lacking),)
    settings = _in_integers_or_float(ask, setting)
    try:
        draft = solved(ask, settings, goal, limit_of)
    except BudgetError as error:
        raise (BudgetError(f"{error}\n  {_in_float(lacking)}.", error.nearest) if lacking else error) from None
    if goal in WITHOUT_BITS:
        draft = _mildest(ask, settings, goal, limit_of, draft)
    return replace(draft, notes=notes)


def _mildest(ask: Ask, settings: Sequence[Setting], goal: str, limit_of: Mapping[str, float], found: Draft) -> Draft:
    """Of all plans that reach what this one does, that of least drop: a cost that bits do not change leaves them open."""
    try:
        draft = solved(ask, settings, "max_drop", {**limit_of, goal: value_of(found)})
    except BudgetError:  # out of time
        return found
    return replace(draft, proof=found.proof)


def _without_settled(ask: Ask) -> Ask:
    """The drop that may still be chosen: what the bits that are settled lose is lost."""
    lost, most = bits_drop(ask.profile, ask.bits)[0], ask.budget.max_drop
    if most is None:
        return ask
    if not keeps(lost, most):
        raise BudgetError(
            f"the bits that every layer is given lose {lost:.1f} points by their curves, and max_drop={most:g} was asked. "
            "Leave `bits` to the knapsack, give more of them, or allow a larger drop."
        )
    return replace(ask, budget=replace(ask.budget, max_drop=max(0.0, most - lost)))


def _in_integers_or_float(ask: Ask, setting: Setting) -> list[Setting]:
    """A file holds its layers in float or in integers, never both (decision 0003): two kinds of plans, or that of the predictor."""
    if not setting.bits:
        return [setting]
    in_integers = replace(setting, bits={name: rungs[1:] for name, rungs in setting.bits.items()})
    kinds = {"int8": in_integers, "fp32": replace(setting, bits={})}
    said = precision_of(ask.latency)
    return [*kinds.values()] if said is None else [kinds[said]]


def _check(ask: Ask, goal: str, limit_of: Mapping[str, float]) -> None:
    if goal not in BUDGETS or (goal == "latency_ms" and ask.latency is None):
        known = [name for name in BUDGETS if name != "latency_ms" or ask.latency is not None]
        raise LamellaError(f"minimize={goal!r}: one of {', '.join(known)} was expected (latency_ms with latency=).")
    if not limit_of and ask.budget.max_drop is None:
        raise LamellaError(
            "knapsack weighs groups against a budget, and it is empty: give max_drop, bytes, params, macs, memory or "
            "latency_ms, such as Budget(bytes='10%')."
        )


def _check_numbers(align: int, time_limit: float, gap: float) -> None:
    if not isinstance(align, int) or align < 1:
        raise LamellaError(f"align {align!r} is below 1, or not a whole number: it is a number of channels.")
    for name, value, unit in (
        ("time_limit", time_limit, "seconds"),
        ("gap", gap, "a share of the best value, such as 1e-3"),
    ):
        if not _is_number(value) or not 0 <= value < math.inf:
            raise LamellaError(f"{name}={value!r}: {unit}, 0 or more, was expected.")


def assumed_drops(given: Mapping[int, float] | str | None) -> dict[int, float]:
    """`bit_drops` as numbers, whether it was a mapping or a text. LamellaError for others than bits and points of 0 or more."""
    found = _pairs(given) if isinstance(given, str) else dict(given or {})
    for bits, drop in found.items():
        if bits not in WEIGHT_BITS or not _is_number(drop) or not 0 <= drop < math.inf:
            raise LamellaError(
                f"bit_drops={{{bits!r}: {drop!r}}}: bits from 2 to 8 (or 32) and the points that they lose, 0 or more, were expected."
            )
    return found


def _pairs(text: str) -> dict[int, float]:
    try:
        return {int(bits): float(drop) for bits, drop in (pair.split(":") for pair in text.split(","))}
    except ValueError:
        raise LamellaError(f"bit_drops={text!r}: bits and points such as 8:0,4:0.4 were expected.") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bit_choices(ask: Ask, assumed: dict[int, float]) -> tuple[dict[str, tuple[Rung, ...]], tuple[str, ...]]:
    """The rungs of every layer that takes bits and whose bits are not settled already; none, and who lacks them, where some do."""
    names = [x.name for x in ask.graph.layers if x.takes_bits and x.name not in ask.bits]
    every = {name: bit_rungs(ask.profile, name, assumed) for name in names}
    lacking = tuple(name for name, rungs in every.items() if len(rungs) == 1)
    if len(lacking) == len(every):
        return {}, ()
    return ({}, lacking) if lacking else (every, ())


def _in_float(lacking: tuple[str, ...]) -> str:
    return f"in float alone: no bits curve for {listed(lacking, 4)} (bit_drops=8:0 gives them one), and a file is in integers as a whole"


def depth_factors(groups: tuple[Group, ...], prior: float) -> dict[str, float]:
    """1 + prior (1 - d), d from 0 at the first group to 1 at the last."""
    if not _is_number(prior) or not 0 <= prior < math.inf:
        kind = "negative" if _is_number(prior) and prior < 0 else "no finite number"
        raise LamellaError(f"depth_prior {prior} is {kind}; 0 switches it off.")
    last = max(1, len(groups) - 1)
    return {g.name: 1 + prior * (1 - i / last) for i, g in enumerate(groups)}
