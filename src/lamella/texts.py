"""What a person types, as values; and scores and counts as a person reads them."""

from collections.abc import Iterable, Sequence
from typing import Any


def parsed(text: str) -> Any:
    """An option's text as an int, a float, a tuple of them ('32,64,128'), or itself.

    >>> parsed("32,64,128"), parsed("0.5"), parsed("B")
    ((32, 64, 128), 0.5, 'B')
    """
    if "," in text:
        return tuple(parsed(part) for part in text.split(",") if part)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def figure(score: float, metric: str = "accuracy", digits: int = 2, sign: str = "") -> str:
    """A score as a cell of a table holds it: in hundredths and without their unit, but for a score of the task's own.

    >>> figure(0.98123), figure(0.98123, "f1", 1, "+"), figure(-0.012345, "score")
    ('98.12', '+98.1', '-0.01235')
    """
    return f"{score:{sign}.4g}" if metric == "score" else f"{100 * score:{sign}.{digits}f}"


def percent(share: float, digits: int = 2) -> str:
    """A fraction as per cent.

    >>> percent(0.12345)
    '12.35 %'
    """
    return f"{100 * share:.{digits}f} %"


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "layer"), counted(3, "layer")
    ('1 layer', '3 layers')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def told(score: float, metric: str = "accuracy", digits: int = 2) -> str:
    """A score in words: an accuracy in percent, a score of the task's own as the number it is.

    >>> told(0.98123), told(-0.012345, "score")
    ('98.12 %', '-0.01235')
    """
    return percent(score, digits) if metric == "accuracy" else figure(score, "score")


def told_between(value: float, low: float, high: float, metric: str = "accuracy") -> str:
    """A score with its interval.

    >>> told_between(0.5, 0.4, 0.6), told_between(-2.5, -3, -2, "score")
    ('50.00 % [40.00 %, 60.00 %]', '-2.5 [-3, -2]')
    """
    return f"{told(value, metric)} [{told(low, metric)}, {told(high, metric)}]"


def told_drop(points: float, metric: str = "accuracy") -> str:
    """A difference of scores, given in points (hundredths of the score).

    >>> told_drop(1.174), told_drop(1.174, "score")
    ('1.17 points', '0.01174')
    """
    return f"{points:.2f} points" if metric == "accuracy" else f"{points / 100:.4g}"


def told_bits(bits: Iterable[int]) -> str:
    """Which bits there are: 8 bits; 4, 8 bits."""
    return f"{', '.join(str(each) for each in sorted(set(bits)))} bits"


def listed(names: Sequence[str], most: int, mark: str = ",") -> str:
    """The first `most` names, and how many more there are.

    >>> listed(["a", "b", "c"], 2), listed(["a", "b"], 2), listed(["a: 1", "b: 2", "c: 3"], 2, ";")
    ('a, b and 1 more', 'a, b', 'a: 1; b: 2; and 1 more')
    """
    first, rest = f"{mark} ".join(names[:most]), len(names) - most
    return f"{first}{mark.strip(',')} and {rest} more" if rest > 0 else first


def unfinished(command: str) -> str:
    """What is said of a network that a later walk, by this command, would have replaced."""
    return f"`{command}` was begun and not finished; this is the model of the walk before it. The same command goes on with it."


def short(value: float) -> str:
    """A count with three digits and a letter.

    >>> short(40_812_544), short(999_999), short(950)
    ('40.8 M', '1 M', '950')
    """
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g} {unit}" if value < 999.5 * scale else f"{value / scale:.0f} {unit}"
    return f"{value:g}"
