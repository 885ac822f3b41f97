"""What layers multiply, where that is not their weight's elements at all their positions.

    tokens.0       16 columns x tokens.0 x stem: a linear layer over the 16 tokens of every channel of the stem
    weight         576 x stem x weight, and 324 x stem x weight#2: two convolutions with one slice each of one parameter

Every call says how often it multiplies, and with which ids (`channels.flow.Work`); the calls of a layer are summed. What comes to
the elements of its weight times its positions is the rule, and is not written down.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from math import gcd, prod

import numpy as np

from ..channels import Flow
from ..schema import Layer, Parameter, Product, Size
from .groups import Groups
from .naming import Naming

Factors = tuple[Size, ...]


def products_of(
    flow: Flow,
    channels: np.ndarray,
    groups: Groups,
    named: Naming,
    layers: Iterable[Layer],
    parameters: Iterable[Parameter],
) -> tuple[Product, ...]:
    """The products of the layers whose MACs are not their weight's elements x their positions."""
    found: dict[str, dict[Factors, Fraction]] = {}
    for call in flow.calls:
        work = call.work
        if not work.multiplied:
            continue
        dense = work.samples * prod(map(len, work.ids))
        times, factors = _reduced([groups.size(channels[i]) for i in work.ids], Fraction(work.multiplied, dense))
        of_layer = found.setdefault(named.of(call), {})
        of_layer[factors] = of_layer.get(factors, Fraction(0)) + times
    weights = {p.name: p for p in parameters}
    return tuple(
        Product(layer=layer.name, times=times.numerator, sizes=factors, divisor=times.denominator)
        for layer in layers
        if layer.multiplies and found.get(layer.name) != _as_a_rule(layer, weights)
        for factors, times in found.get(layer.name, {}).items()
    )


def _as_a_rule(layer: Layer, weights: Mapping[str, Parameter]) -> dict[Factors, Fraction]:
    """The weight's elements x the positions."""
    axes = weights[layer.weight or ""].axes
    times, factors = _reduced([axis.size for axis in axes], Fraction(layer.positions, prod(a.blocks for a in axes)))
    return {factors: times}


def _reduced(sizes: Iterable[Size], times: Fraction) -> tuple[Fraction, Factors]:
    """Equal products in one form: numbers before the sizes that follow groups, these without a common divisor and in order."""
    factors = []
    for size in sizes:
        common = gcd(size.fixed, *(n for _, n in size.terms), *(share.times for share in size.shares))
        times *= common
        if size.groups:
            terms = tuple(sorted((group, n // common) for group, n in size.terms))
            shares = tuple(replace(share, times=share.times // common) for share in size.shares)
            factors.append(Size(fixed=size.fixed // common, terms=terms, shares=shares))
    return times, tuple(sorted(factors, key=repr))
