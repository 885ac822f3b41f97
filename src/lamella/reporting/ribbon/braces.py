"""Braces: which layers can only give channels together, as intervals that do not overlap.

braces = find_braces(facts, places)     # one per set of layers and line of the ribbon; row 0 lies next to the band
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..facts import LayerFacts
from .layout import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Brace:
    """Layers of one line that share the same groups. An open end goes on in another line."""

    groups: tuple[str, ...]
    line: int
    layers: tuple[str, ...]
    first: int
    last: int
    row: int = 0
    opens: tuple[bool, bool] = (False, False)


def find_braces(facts: Iterable[LayerFacts], places: Mapping[str, Place]) -> tuple[Brace, ...]:
    """One brace per line for each set of layers that share groups, short ones innermost."""
    sharing: dict[str, tuple[str, ...]] = {}
    for fact in facts:
        sharing |= {group: (*sharing.get(group, ()), fact.name) for group in fact.groups}
    alike: dict[tuple[str, ...], tuple[str, ...]] = {}
    for group, names in sharing.items():
        alike |= {names: (*alike.get(names, ()), group)} if len(names) > 1 else {}
    braces = [b for names, groups in alike.items() for b in _per_line(groups, names, places)]
    return _stacked(sorted(braces, key=lambda b: (b.line, b.last - b.first, b.first)))


def _per_line(groups: tuple[str, ...], names: tuple[str, ...], places: Mapping[str, Place]) -> Iterator[Brace]:
    lines = sorted({places[n].line for n in names})
    for line in lines:
        here = tuple(n for n in names if places[n].line == line)
        slots = [places[n].slot for n in here]
        opens = (line > lines[0], line < lines[-1])
        yield Brace(groups=groups, line=line, layers=here, first=min(slots), last=max(slots), opens=opens)


def _stacked(braces: list[Brace]) -> tuple[Brace, ...]:
    placed: list[Brace] = []
    for brace in braces:
        row = 0
        while any(_clash(brace, other) for other in placed if other.row == row):
            row += 1
        placed.append(replace(brace, row=row))
    return tuple(placed)


def _clash(one: Brace, other: Brace) -> bool:
    reach = {
        b: (float("-inf") if b.opens[0] else b.first, float("inf") if b.opens[1] else b.last) for b in (one, other)
    }
    return one.line == other.line and reach[one][0] <= reach[other][1] and reach[other][0] <= reach[one][1]
