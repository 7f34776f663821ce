"""Plain at equal cost: plain on a backbone whose tower is so wide that a row costs as much as with a method.

Cost is the number of multiply-adds per row of a forward pass; training takes about three times as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

TOLERANCE = 0.05
"""Methods whose costs differ by at most this share are compared with the same row of plain."""
MAX_WIDTH = 65_536
"""Largest width of a layer of a backbone."""


def widths_at_cost(
    widths: Sequence[int], cost: int, cost_of: Callable[[tuple[int, ...]], int]
) -> tuple[int, ...] | None:
    """Return the widths, multiplied by one common factor, whose cost is the smallest that is not below `cost`.

    The factor is above 1; None if the widths themselves cost that much, or if no widths do. Even widths stay even, as
    some backbones split a layer in two. `cost_of` must not fall as widths grow.

    >>> widths_at_cost((128, 64), 20_000, lambda widths: widths[0] * widths[1])
    (200, 100)
    """
    base = max(widths)

    def scaled(widest: int) -> tuple[int, ...]:
        steps = [math.gcd(width, 2) for width in widths]
        return tuple(
            max(width, step * round(width * widest / base / step))
            for width, step in zip(widths, steps, strict=True)
        )

    low, high = base, base
    while cost_of(scaled(high)) < cost:
        if high == MAX_WIDTH:
            return None
        low, high = high, min(2 * high, MAX_WIDTH)
    if high == base:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if cost_of(scaled(middle)) < cost else (low, middle)
    return scaled(high)


def grouped_by_cost(costs: Iterable[tuple[str, int]]) -> list[tuple[int, list[str]]]:
    """Group names whose costs are nearly equal; return the largest cost of each group, and its names.

    >>> grouped_by_cost([("star", 100), ("ple", 210), ("apg", 104)])
    [(104, ['star', 'apg']), (210, ['ple'])]
    """
    groups: list[tuple[int, int, list[str]]] = []
    for name, cost in sorted(costs, key=lambda item: item[1]):
        if groups and cost <= groups[-1][0] * (1 + TOLERANCE):
            smallest, _, names = groups.pop()
            groups.append((smallest, cost, [*names, name]))
        else:
            groups.append((cost, cost, [name]))
    return [(largest, names) for _, largest, names in groups]
