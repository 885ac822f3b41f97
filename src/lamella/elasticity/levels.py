"""Which levels an elastic network has: from ratios, plans or budgets to Level records, the smallest first.

    make_levels(graph, ROUNDS)                                     # three rounds of 20 %: core, level1, level2, full
    make_levels(graph, {"half": 0.5, "planned": plan})             # names of your own
    make_levels(graph, [Budget(latency_ms="50%")], latency=predictor)

A number is a pruning ratio: the fraction of every group's channels that leaves. A budget gives the widest network that keeps it: all
groups by one ratio, the last step of it by no more groups than it takes. The dense network is always the last level, `full`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ..costs import cost, numel
from ..errors import BudgetError, LamellaError, with_context
from ..records import check
from ..schema import Budget, Graph, Level, Plan, check_levels
from ..schema.plans import COSTS, FLOAT

ROUNDS = (1 - 0.8**3, 1 - 0.8**2, 0.2)
FULL = "full"
STEPS = 200  # ratios tried for a budget

Setting = float | Plan | Budget | Level
Settings = Sequence[Setting] | Mapping[str, Setting]
Widths = Mapping[str, int]


class LatencyOf(Protocol):
    """What predicts a network's milliseconds: a `LatencyPredictor`, or anything that measures."""

    def predict(self, graph: Graph, widths: Widths, bits: Mapping[str, int]) -> float: ...


def make_levels(graph: Graph, settings: Settings | None = None, latency: LatencyOf | None = None) -> tuple[Level, ...]:
    """The levels, the smallest first, with their costs. RecordError where they do not nest, are equal, or lie below a floor.

    Without settings: three rounds of 20 %, less those that rounding to whole steps of channels makes equal to another.

    BudgetError where no width keeps a budget; LamellaError for a latency budget without `latency`.
    """
    if settings is None:
        settings = _different(graph, ROUNDS)
    if not isinstance(settings, Mapping | Sequence) or isinstance(settings, str):
        raise LamellaError(f"levels: {settings!r} was given; a list of settings, or names with settings, was expected.")
    named = dict(settings) if isinstance(settings, Mapping) else dict(enumerate(settings))
    check(bool(named), "levels", "none but the dense network; name one, or pass None for three rounds of 20 %")
    if isinstance(settings, Mapping):
        _check_names(settings)
    levels = []
    for key, setting in named.items():
        with with_context(f"level {key!r}"):
            levels.append(_level(graph, str(key), setting, latency))
    levels.sort(key=lambda level: _size(graph, level))
    if not isinstance(settings, Mapping):
        levels = [_named(level, index, setting) for index, (level, setting) in enumerate(_with(levels, settings))]
    levels.append(Level(name=FULL, widths={}))
    made = tuple(_costed(graph, level) for level in levels)
    check_levels(made, graph)
    return made


def _check_names(settings: Mapping[str, Setting]) -> None:
    for key, setting in settings.items():
        known = not isinstance(setting, Level) or setting.name == key
        check(
            known,
            "levels",
            f"{key!r} is given a Level of another name, {getattr(setting, 'name', '')!r}: name both alike",
        )


def _different(graph: Graph, ratios: Sequence[float]) -> list[float]:
    """The ratios that lead to different widths; LamellaError where none narrows anything."""
    found = {tuple(sorted(widths_at(graph, ratio).items())): ratio for ratio in ratios}
    found.pop((), None)
    if not found:
        raise LamellaError(
            "no group can be narrowed by 20 to 49 %: all are frozen, or at their least width in whole steps. Trace with "
            "round_to=1, or name levels of your own."
        )
    return list(found.values())


def _size(graph: Graph, level: Level) -> tuple[int, int]:
    """What the smaller of two levels has less of: parameters, and where these are as many, bits of weights."""
    widths = graph.completed(level.widths)
    weights = ((graph.parameter_of[each.weight], each.name) for each in graph.layers if each.weight)
    bits = sum(numel(weight, widths) * level.bits.get(name, FLOAT) for weight, name in weights)
    return cost(graph, widths).params, bits


def _with(levels: Sequence[Level], settings: Sequence[Setting]) -> list[tuple[Level, bool]]:
    own = [setting.name for setting in settings if isinstance(setting, Level)]
    return [(level, level.name in own) for level in levels]


def _named(level: Level, index: int, own: bool) -> Level:
    return level if own else replace(level, name="core" if index == 0 else f"level{index}")


def _level(graph: Graph, name: str, setting: Setting, latency: LatencyOf | None) -> Level:
    if isinstance(setting, Level):
        with with_context("widths"):
            graph.check_widths(setting.widths)
        return setting
    if isinstance(setting, Plan):
        setting.check_fits(graph)
        return Level(name=name, widths=_narrowed(graph, setting.widths), bits=setting.bits)
    if isinstance(setting, Budget):
        return Level(name=name, widths=_widest(graph, setting, latency))
    number = isinstance(setting, int | float)
    check(number, "", f"{setting!r}: a pruning ratio, a Plan, a Budget or a Level was expected")
    check(0 < setting < 1, "", f"{setting} is not in (0, 1): a pruning ratio is the fraction that leaves")
    widths = widths_at(graph, setting)
    check(
        bool(widths),
        "",
        f"{setting} removes no channel: every group keeps its width. Name a larger ratio, or trace in finer steps (round_to)",
    )
    return Level(name=name, widths=widths)


def widths_at(graph: Graph, ratio: float) -> dict[str, int]:
    """The widths of all groups that narrow when this fraction of each one's channels leaves."""
    return _narrowed(graph, {g.name: g.legal(g.width * (1 - ratio)) for g in graph.free})


def _narrowed(graph: Graph, widths: Widths) -> dict[str, int]:
    return {name: width for name, width in widths.items() if width < graph.group_of[name].width}


def _widest(graph: Graph, budget: Budget, latency: LatencyOf | None) -> dict[str, int]:
    if budget.latency_ms is not None and latency is None:
        raise LamellaError("a latency target needs something that predicts it: make_levels(..., latency=predictor).")
    check(budget.max_drop is None, "max_drop", "a level's budget is of costs; its score is measured after training")
    limits = budget.limits(_costs(graph, {}, latency))

    def over(widths: Widths) -> dict[str, float]:
        found = _costs(graph, widths, latency)
        return {name: found[name] for name, limit in limits.items() if found[name] > limit}

    widths: dict[str, int] = {}
    for step in range(STEPS):
        wider, widths = widths, widths_at(graph, step / STEPS)
        if not over(widths):
            return next(each for each in _between(graph, wider, widths) if not over(each))
    facts = ", ".join(f"{name} {seen:.6g} where {limits[name]:.6g} is asked" for name, seen in over(widths).items())
    raise BudgetError(f"the narrowest network has {facts}. Ask for more, or trace with a lower floor or round_to=1.")


def _between(graph: Graph, wider: Widths, narrower: Widths) -> Iterator[dict[str, int]]:
    """From `wider` to `narrower`, one group at a time: those first that save the fewest MACs: fine steps, and all levels nest."""
    changed = [name for name, width in narrower.items() if width != wider.get(name)]
    widths = dict(wider)
    yield dict(widths)
    for name in sorted(changed, key=lambda name: -cost(graph, {**wider, name: narrower[name]}).macs):
        widths[name] = narrower[name]
        yield dict(widths)


def _costs(graph: Graph, widths: Widths, latency: LatencyOf | None) -> dict[str, float]:
    now = cost(graph, widths)
    costs: dict[str, float] = {n: getattr(now, n) for n in COSTS}
    return costs | ({"latency_ms": latency.predict(graph, widths, {})} if latency else {})


def _costed(graph: Graph, level: Level) -> Level:
    graph.check_widths(level.widths)
    now = cost(graph, level.widths, level.bits)
    return replace(level, params=now.params, macs=now.macs, memory=now.memory)


__all__ = ["FULL", "ROUNDS", "LatencyOf", "Settings", "make_levels", "widths_at"]
