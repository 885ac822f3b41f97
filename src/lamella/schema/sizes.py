"""Sizes that follow the widths of groups, and the axes they are made of: fixed + sum(times x width(group))."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..records import check


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`times` the channels that lie in some parts of a balanced group: width * numerator / denominator.

    Where the parts differ in size, `table` holds the number for every possible width.
    """

    group: str
    times: int = 1
    numerator: int = 1
    denominator: int = 1
    table: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        check(self.times > 0, "times", "a share enters a size at least once")
        check(0 < self.numerator <= self.denominator, "numerator", f"{self.numerator} of {self.denominator} parts")

    def at(self, width: int) -> int:
        """The number when the group has this width."""
        if self.table:
            return self.times * dict(self.table)[width]
        return self.times * (width * self.numerator // self.denominator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """fixed + sum(times x width(group)) + shares: the extent of an axis, or the elements of a tensor (per sample)."""

    fixed: int = 0
    terms: tuple[tuple[str, int], ...] = ()
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        check(self.fixed >= 0, "fixed", f"{self.fixed} is negative")
        check(all(times > 0 for _, times in self.terms), "terms", "a group enters a size at least once")

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that this size follows."""
        return (*(group for group, _ in self.terms), *dict.fromkeys(share.group for share in self.shares))

    def at(self, widths: Mapping[str, int]) -> int:
        """The number this size has when the groups have these widths."""
        linear = sum(times * widths[group] for group, times in self.terms)
        return self.fixed + linear + sum(share.at(widths[share.group]) for share in self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stretch of an axis: channels start .. start + count of a group, each `repeat` times in a row; group None is fixed."""

    group: str | None
    start: int = 0
    count: int = 1
    repeat: int = 1

    def __post_init__(self) -> None:
        check(self.start >= 0, "start", f"{self.start} is negative")
        check(self.count > 0 and self.repeat > 0, "count", "an empty run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a parameter.

    `role`: "out" makes channels, "in" consumes them, "each" has one entry per channel, "fixed" holds none.
    `blocks` > 1: the input axis of a grouped convolution. Its runs list the columns of every block in turn, and each
    block keeps its own. `shares`: for groups of which the axis holds some parts only.
    """

    role: Literal["out", "in", "each", "fixed"]
    runs: tuple[Run, ...]
    blocks: int = 1
    shares: tuple[Share, ...] = ()

    @property
    def size(self) -> Size:
        """Extent as a sum over groups (of all blocks together). Every channel of a group lies on an axis equally often."""
        fixed, first, times = 0, dict[str, int](), dict[str, int]()
        partly = {share.group for share in self.shares}
        for run in self.runs:
            if run.group in partly:
                continue
            if run.group is None:
                fixed += run.count * run.repeat
                continue
            channel = first.setdefault(run.group, run.start)
            if run.start <= channel < run.start + run.count:
                times[run.group] = times.get(run.group, 0) + run.repeat
        return Size(fixed=fixed, terms=tuple(times.items()), shares=self.shares)
