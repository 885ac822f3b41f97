"""Sums that a small constant keeps from zero before something is divided by them, or by their root: the denominators of norms that are
written by hand. They stay in float, since a grid of 256 levels makes zero of variances smaller than a step, and of the constant too.

    made.numbers, made.sources = numbers(name, args), values        # as an operator makes a value of others
    kept_from_zero(name, made)                                      # the values that stay in float because of what it divides by

`exporting.denominators` finds the same ones in files.
"""

from typing import Any, Protocol

from torch import Tensor

from ..ranges import SMALL

MEANS = {"mean", "mean_in_float", "sum", "var", "std", "_adaptive_avg_pool2d", "avg_pool2d"}
COUNTED = {"add", "mul", "div", "pow"}  # the operators whose numbers matter
Numbers = tuple[float | None, ...]


class Made(Protocol):
    """A value, by the operator that made it, the numbers that this was given, and the values that it read."""

    numbers: Numbers
    sources: "tuple[Any, ...]"

    @property
    def operator(self) -> str: ...


def numbers(name: str, args: tuple[Any, ...]) -> Numbers:
    """An operator's first two arguments where they are single numbers, None where they are tensors."""
    return tuple(_number(arg) for arg in args[:2]) if name in COUNTED else ()


def _number(arg: Any) -> float | None:
    is_number = isinstance(arg, int | float) or (isinstance(arg, Tensor) and not arg.dim())
    return float(arg) if is_number else None


def kept_from_zero(name: str, made: Any) -> list[Any]:
    """Of an operator of this name: the denominator that is kept from zero, all that it is made of, from the squares on, and its
    reciprocal, which is the operator's result.
    """
    if name == "mul" and made.sources and any(made.numbers):  # 1 / x is the reciprocal, and a product with 1
        return [made] * any(
            value is made.sources[0] for value in kept_from_zero(made.sources[0].operator, made.sources[0])
        )
    inverse = name in ("reciprocal", "rsqrt") or (name == "pow" and made.numbers[1:] == (-0.5,))
    if not made.sources or not (inverse or (name == "div" and made.numbers[1:] == (None,))):
        return []
    chain = [made.sources[0] if inverse else made.sources[-1]]
    if _is_root(chain[0]) and chain[0].sources:
        chain.append(chain[0].sources[0])
    if not _is_kept(chain[-1]):
        return []
    inverse = inverse or made.numbers[0] is not None
    return [*chain, *_sources(chain[-1].sources[0]), *[made] * inverse]


def _is_root(value: Made) -> bool:
    return value.operator == "sqrt" or (value.operator == "pow" and value.numbers[1:] == (0.5,))


def _is_kept(value: Made) -> bool:
    """Whether a small constant is added there."""
    return value.operator == "add" and bool(value.sources) and any(0 < (n or 0) <= SMALL for n in value.numbers)


def _sources(value: Any) -> list[Any]:
    """A mean, or its root, and the squares that it is one of, and the differences that these are of."""
    found = [value]
    while value.sources and (_is_root(value) or (value.operator in ("mul", "div") and any(value.numbers))):
        found.append(value := value.sources[0])
    if value.operator not in MEANS:
        return []
    squares = [source for source in value.sources[:1] if _squares(source)]
    return found + squares + [each.sources[0] for each in squares if each.sources[0].operator == "sub"]


def _squares(value: Made) -> bool:
    is_power = value.operator == "pow" and value.numbers[1:] == (2,)
    return is_power or (value.operator == "mul" and len(value.sources) == 2 and value.sources[0] is value.sources[1])
