"""Hidden widths as numbers: pairs, parameter counts, published shapes, and shapes of a given size.

    pairs(7)                                       # ((0, 6), (1, 5), (2, 4), (3,)): from the outside in, the latent layer last
    params((4, 2, 6, 2, 6, 2, 4), 29, 29)          # 351
    monotone((4, 2, 6, 2, 6, 2, 4))                # (6, 4, 2, 2, 2, 4, 6): the same nodes, falling and rising

Widths run along depth, hidden layers only. A shape is *symmetric* if it reads the same from both ends, *monotone* if it falls to its
narrowest layer and rises from there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import LamellaError

Widths = tuple[int, ...]
Pair = tuple[int, ...]

LADDER = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True, slots=True)
class Published:
    """A shape from the literature and its count of trainable parameters."""

    widths: Widths
    inputs: int
    outputs: int
    params: int


PUBLISHED: dict[str, Published] = {  # Anik, Kelso, Lee 2024; plain ladders and the same with layers 1-2 and 4-5 swapped
    "fraud-baseline": Published((16, 8, 4, 2, 4, 8, 16), 29, 29, 1_351),
    "fraud-accordion": Published((4, 2, 6, 2, 6, 2, 4), 29, 29, 351),
    "mnist-baseline": Published((128, 64, 32, 64, 128), 784, 10, 122_538),
    "mnist-accordion": Published((8, 16, 4, 16, 8), 784, 10, 6_798),
    "mnist-64-32-16": Published((64, 32, 16, 32, 64), 784, 10, 56_154),
    "mnist-32-64-16": Published((32, 64, 16, 64, 32), 784, 10, 31_770),
    "mnist-32-16-8": Published((32, 16, 8, 16, 32), 784, 10, 26_802),
    "mnist-16-32-8": Published((16, 32, 8, 32, 16), 784, 10, 14_354),
    "mnist-16-8-4": Published((16, 8, 4, 8, 16), 784, 10, 13_086),
    "mnist-8-4-2": Published((8, 4, 2, 4, 8), 784, 10, 6_468),
    "mnist-4-8-2": Published((4, 8, 2, 8, 4), 784, 10, 3_308),
}


def checked(widths: Sequence[int]) -> Widths:
    """The widths as a tuple. LamellaError unless there is one, all whole and from 1 on."""
    bad = [w for w in widths if isinstance(w, bool) or not isinstance(w, int) or w < 1]
    if bad or not widths:
        seen = ", ".join(map(str, widths)) or "none"
        raise LamellaError(f"widths {seen}: at least one hidden layer was expected, and whole numbers from 1 on.")
    return tuple(widths)


def pairs(depth: int) -> tuple[Pair, ...]:
    """Layers that share a width in a symmetric shape, outermost first."""
    return tuple((i, depth - 1 - i) if i < depth - 1 - i else (i,) for i in range((depth + 1) // 2))


def singles(depth: int) -> tuple[Pair, ...]:
    """Every layer alone, in the order of `pairs`."""
    return tuple((layer,) for pair in pairs(depth) for layer in pair)


def with_width(widths: Widths, layers: Pair, width: int) -> Widths:
    """The same shape with these layers at this width."""
    return tuple(width if i in layers else w for i, w in enumerate(widths))


def params(widths: Sequence[int], inputs: int, outputs: int) -> int:
    """Weights and biases of a dense network: sum of (n_in + 1) n_out.

    >>> params((8, 16, 4, 16, 8), 784, 10)
    6798
    """
    return sum((a + 1) * b for a, b in pairwise((inputs, *widths, outputs)))


def is_symmetric(widths: Widths) -> bool:
    return widths == widths[::-1]


def is_monotone(widths: Widths) -> bool:
    """Falls to its narrowest layer, the first of them, and rises from there.

    >>> is_monotone((8, 4, 6, 12)), is_monotone((2, 3, 8)), is_monotone((4, 2, 6, 2, 4))
    (True, True, False)
    """
    turn = widths.index(min(widths))
    down, up = widths[: turn + 1], widths[turn:]
    return all(a >= b for a, b in pairwise(down)) and all(a <= b for a, b in pairwise(up))


def monotone(widths: Widths) -> Widths:
    """The same widths in another order: each half sorted, so that the shape falls to the middle and rises."""
    middle = len(widths) // 2
    first = sorted((*widths[:middle], *widths[middle : len(widths) - middle]), reverse=True)
    second = sorted(widths[len(widths) - middle :])
    return (*first, *second)


def scaled(widths: Widths, inputs: int, outputs: int, target: int) -> Widths:
    """The shape in the proportions of `widths` whose parameter count is nearest to `target`."""
    most = max(widths)
    shapes = {tuple(max(1, round(w * step / (8 * most))) for w in widths) for step in range(1, 16 * most + 1)}
    return min(shapes, key=lambda shape: (abs(params(shape, inputs, outputs) - target), shape))


def shallow(inputs: int, outputs: int, target: int) -> Widths:
    """One hidden layer with as near to `target` parameters as there is."""
    width = max(1, round((target - outputs) / (inputs + 1 + outputs)))
    return (width,)


def default_candidates(widths: Widths) -> Widths:
    """The ladder 2, 3, 4, 6, 8, 12, ... up to the widest layer, and the shape's own widths."""
    return tuple(sorted({w for w in LADDER if w <= max(widths)} | set(widths)))


def symmetric_shapes(depth: int, candidates: Sequence[int]) -> Iterator[Widths]:
    """Every symmetric shape of this depth over these widths."""
    halves: list[Widths] = [()]
    for _ in pairs(depth):
        halves = [(*half, width) for half in halves for width in candidates]
    for half in halves:
        yield (*half, *half[: depth // 2][::-1])


def named(widths: Widths) -> str:
    """A shape as it is written: 4-2-6-2-6-2-4."""
    return "-".join(map(str, widths))
