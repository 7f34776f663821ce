"""Tests of differences between methods, over seeds and over domains (spec: significance-8.7).

Seeds are the primary source of randomness: two methods with the same seed share initialization and shuffling, so their
differences are paired. The bootstrap over domains describes one pair of trained models and other sets of domains. The
best row is chosen after the results are known, so every other row is tested against it with Holm's adjustment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from ctrbench.errors import DataError
from ctrbench.eval.grouped import GroupMetrics, check_same_groups
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Floats
from ctrbench.eval.protocol import LEVEL


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Paired differences: mean, deviation, 95 % t-interval and two-sided p of a t-test; None = undefined."""

    num_pairs: int
    mean: float | None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    p_t: float | None = None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An observed difference (`mean`) and its 95 % percentile interval; None = undefined."""

    low: float | None
    high: float | None
    mean: float | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One row of a table compared with the best row.

    `is_tied` means that the row is not the best and that its difference from the best is not significant or not
    tested. `p_holm` is None for the best row, and for rows that share too few seeds with it for a test.
    """

    name: str
    mean: float | None
    std: float | None
    is_best: bool
    is_tied: bool
    p_holm: float | None


def paired(differences: npt.ArrayLike) -> PairedTest:
    """Test by a t-test whether paired differences have mean 0.

    One pair has a mean only; differences that are all 0 have p = 1.
    """
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
        p_t=_p_student(mean, error, num_pairs - 1),
    )


def holm(p_values: npt.ArrayLike) -> Floats:
    """Return Holm's adjusted p-values: the k-th smallest of m times m - k + 1, monotone, at most 1.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.arange(values.size, 0, -1) * values[order]
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


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


def standings(
    values: Mapping[str, Mapping[int, float | None] | Sequence[float | None]],
    *,
    higher_is_better: bool,
    min_seeds: int = 2,
    candidates: Collection[str] | None = None,
) -> tuple[Standing, ...]:
    """Compare each row of a table with the best row; the result has the order of `values`.

    `values` holds a metric by seed (a sequence means seeds 0, 1, ...), None where undefined. The best row has the best
    mean of the `candidates` (default: all rows). Every other row is tested against it by a two-sided paired t-test over
    their common seeds, Holm-adjusted over the rows that can be tested, and is tied unless the adjusted p is below 0.05.
    A row with fewer than `min_seeds` common seeds is not tested: it is tied and its p is None.
    """
    by_seed = {name: _defined_seeds(column) for name, column in values.items()}
    means = {name: float(np.mean(list(column.values()))) for name, column in by_seed.items() if column}
    eligible = means if candidates is None else {name: means[name] for name in means if name in candidates}
    best = max(eligible, key=lambda name: means[name] if higher_is_better else -means[name], default=None)
    adjusted = _holm_p_values(by_seed, best, max(min_seeds, 2))

    def standing(name: str) -> Standing:
        p = adjusted.get(name)
        return Standing(
            name=name,
            mean=means.get(name),
            std=_std_over_seeds(by_seed[name]),
            is_best=name == best,
            is_tied=name != best and name in means and (p is None or p >= LEVEL),
            p_holm=p,
        )

    return tuple(standing(name) for name in values)


def _as_finite(differences: npt.ArrayLike) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("differences must be finite numbers", value=values[~np.isfinite(values)].tolist())
    return values


def _p_student(mean: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(mean / error)))


def _percentile_interval(samples: Sequence[float], *, mean: float) -> Interval:
    low, high = np.quantile(samples, (LEVEL / 2, 1 - LEVEL / 2)).tolist()
    return Interval(low=low, high=high, mean=mean)


def _defined_seeds(column: Mapping[int, float | None] | Sequence[float | None]) -> dict[int, float]:
    pairs = column.items() if isinstance(column, Mapping) else enumerate(column)
    return {seed: value for seed, value in pairs if value is not None}


def _std_over_seeds(by_seed: Mapping[int, float]) -> float | None:
    return float(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else None


def _holm_p_values(
    by_seed: Mapping[str, Mapping[int, float]], best: str | None, min_seeds: int
) -> dict[str, float]:
    """Return Holm's p of every row that shares at least `min_seeds` seeds with the best."""
    if best is None:
        return {}
    p_values: dict[str, float] = {}
    for name, column in by_seed.items():
        seeds = sorted(column.keys() & by_seed[best].keys())
        test = paired([column[seed] - by_seed[best][seed] for seed in seeds])
        if name != best and test.p_t is not None and test.num_pairs >= min_seeds:
            p_values[name] = test.p_t
    return dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
