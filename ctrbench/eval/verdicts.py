"""Verdicts on differences between rows of a table, and the ranks that a row may have (spec: significance-8.9)."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TypeVar

from ctrbench.eval.contrasts import Contrast, Uncertainty
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.protocol import MARGIN, MIN_SEEDS

Name = TypeVar("Name", bound=Hashable)

MARGINS: Mapping[str, float] = {Auc.name: MARGIN, Gauc.name: MARGIN}
"""Largest difference without practical importance, by metric; other metrics have no verdict `equivalent`."""


class Verdict(StrEnum):
    """Conclusion about the difference between a row and the row that it is compared with."""

    BETTER = "better"
    """The simultaneous interval lies on the better side of 0."""
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    """The simultaneous interval lies within the margin on both sides of 0."""
    UNDECIDED = "undecided"
    """None of these, or not testable: a run failed, or predictions are not available."""
    TOO_FEW_SEEDS = "too few seeds"
    """Fewer than `MIN_SEEDS` common seeds."""


@dataclass(frozen=True, kw_only=True)
class RankRange:
    """First and last rank that a row may have, given the simultaneous intervals of all pairs."""

    first: int
    last: int


def verdict(contrast: Contrast, *, higher_is_better: bool, margin: float | None = None) -> Verdict:
    """Return the verdict on a contrast; `margin` is the largest difference without practical importance.

    An interval within the margin means `equivalent`, even if it excludes 0.
    """
    if contrast.num_seeds < MIN_SEEDS:
        return Verdict.TOO_FEW_SEEDS
    if contrast.uncertainty is None:
        return Verdict.UNDECIDED
    low, high = contrast.uncertainty.low, contrast.uncertainty.high
    if margin is not None and -margin < low and high < margin:
        return Verdict.EQUIVALENT
    if low <= 0 <= high:
        return Verdict.UNDECIDED
    return Verdict.BETTER if (low > 0) == higher_is_better else Verdict.WORSE


def rank_ranges(
    means: Mapping[Name, float],
    pairs: Mapping[tuple[Name, Name], Contrast],
    *,
    higher_is_better: bool,
    failed: Collection[Name] = (),
) -> dict[Name, RankRange]:
    """Return the ranks that each row may have, by name, best mean first.

    `pairs` holds each pair of rows once, in either order. A row ranks after those that are better and before those that
    are worse by their simultaneous intervals; ranges are widened where they would not be monotone in the mean. Rows
    with failed runs share the ranks after all others.
    """
    order = sorted(means, key=lambda name: -means[name] if higher_is_better else means[name])
    ranked = [name for name in order if name not in failed]
    num_above, num_below = dict.fromkeys(ranked, 0), dict.fromkeys(ranked, 0)
    for (first, second), contrast in pairs.items():
        sign = _sign(contrast.uncertainty) * (1 if higher_is_better else -1)
        if sign and first in num_above and second in num_above:
            winner, loser = (first, second) if sign > 0 else (second, first)
            num_below[winner] += 1
            num_above[loser] += 1
    firsts = [*accumulate((1 + num_above[name] for name in reversed(ranked)), min)][::-1]
    lasts = accumulate((len(ranked) - num_below[name] for name in ranked), max)
    ranges = {
        name: RankRange(first=first, last=last)
        for name, first, last in zip(ranked, firsts, lasts, strict=True)
    }
    others = RankRange(first=len(ranked) + 1, last=len(order))
    return {name: ranges.get(name, others) for name in order}


def _sign(uncertainty: Uncertainty | None) -> int:
    """Return the sign of an interval that excludes 0, else 0."""
    if uncertainty is None:
        return 0
    return int(uncertainty.low > 0) - int(uncertainty.high < 0)
