"""Intervals over seeds alone and over domains alone (spec: significance-8.7).

Two methods with the same seed share initialization and shuffling, so their differences are paired. The bootstrap over
domains describes one pair of trained models and other sets of domains. Claims about methods need the uncertainty over
seeds and test users together: see `contrasts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from ctrbench.errors import DataError
from ctrbench.eval.grouped import GroupMetrics, check_same_groups
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Floats
from ctrbench.eval.protocol import LEVEL


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Paired differences: mean, deviation and 95 % t-interval over seeds; None = undefined."""

    num_pairs: int
    mean: float | None
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An observed difference (`mean`) and its 95 % percentile interval; None = undefined."""

    low: float | None
    high: float | None
    mean: float | None


def paired(differences: npt.ArrayLike) -> PairedTest:
    """Return mean, deviation and t-interval of paired differences; one pair has a mean only."""
    values = _as_finite(differences)
    num_pairs = values.size
    if num_pairs < 2:
        return PairedTest(num_pairs=num_pairs, mean=float(values[0]) if num_pairs else None)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    error = std / num_pairs**0.5
    margin = error * float(stdtrit(num_pairs - 1, 1 - LEVEL / 2))
    return PairedTest(
        num_pairs=num_pairs,
        mean=mean,
        std=std,
        low=mean - margin,
        high=mean + margin,
    )


def bootstrap_domains(
    groups_a: GroupMetrics, groups_b: GroupMetrics, *, replicates: int = 2000, seed: int = 0
) -> Interval:
    """Return the GAUC difference a - b with an interval over resampled domains.

    Domains with both classes are drawn with replacement and weighted by their rows. Raises `DataError` unless both
    sides come from the same test rows. For one bin, pass `groups.select(...)`. Fewer than two domains have no interval.
    """
    check_same_groups(groups_a, groups_b)
    gain, rows = groups_a.values[Auc.name] - groups_b.values[Auc.name], groups_a.rows
    is_defined = ~np.isnan(gain)
    gain, rows = gain[is_defined], rows[is_defined]
    if gain.size < 2:
        return Interval(low=None, high=None, mean=float(gain[0]) if gain.size else None)
    draw, weighted = np.random.default_rng(seed), gain * rows
    picks = (draw.integers(0, gain.size, gain.size) for _ in range(replicates))
    samples = [weighted[pick].sum() / rows[pick].sum() for pick in picks]
    return _percentile_interval(samples, mean=float(weighted.sum() / rows.sum()))


def _as_finite(differences: npt.ArrayLike) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("differences must be finite numbers", value=values[~np.isfinite(values)].tolist())
    return values


def _percentile_interval(samples: Sequence[float], *, mean: float) -> Interval:
    low, high = np.quantile(samples, (LEVEL / 2, 1 - LEVEL / 2)).tolist()
    return Interval(low=low, high=high, mean=mean)
