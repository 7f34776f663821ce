"""Mean, standard deviation and 95 % interval over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from ctrbench.eval.significance import paired


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean, sample standard deviation and 95 % t-interval of one value per seed.

    A single seed has no standard deviation, and its interval is its value.
    """

    mean: float
    std: float | None
    num: int
    """Number of seeds."""
    low: float
    high: float


def estimate(values: Iterable[float]) -> Estimate | None:
    """Return the estimate of one value per seed; None for no values."""
    numbers = list(values)
    if not numbers:
        return None
    mean = statistics.fmean(numbers)
    interval = paired(numbers)
    return Estimate(
        mean=mean,
        std=statistics.stdev(numbers) if len(numbers) > 1 else None,
        num=len(numbers),
        low=mean if interval.low is None else interval.low,
        high=mean if interval.high is None else interval.high,
    )
