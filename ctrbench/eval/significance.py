"""Whether a difference is more than noise: over seeds, test rows, users and domains (METHODS 8.7).

Seeds are the primary source: two methods with the same seed start and shuffle alike, so their differences are paired.
DeLong's test and the bootstraps speak of one trained pair of models and of other rows, users or domains. A best row
is chosen after looking, so every competitor is tested against it and the p-values are adjusted by Holm's rule.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtr, stdtrit
from scipy.stats import rankdata

from ctrbench.errors import DataError
from ctrbench.eval.grouped import GroupMetrics, check_same_groups
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Floats, Ints
from ctrbench.names import UNSEEN

LEVEL = 0.05
"""Differences with a smaller adjusted p count as real; intervals hold 1 - LEVEL."""
MAX_EXACT_PAIRS = 16
"""Up to here all 2^R sign flips are enumerated."""
_NUM_FLIPS = 9_999
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Paired differences: mean, deviation, 95 % t-interval and two p-values, both two-sided; None = undefined."""

    num_pairs: int
    mean: float | None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    p_t: float | None = None
    p_signflip: float | None = None


@dataclass(frozen=True, kw_only=True)
class DelongTest:
    """DeLong's test of two models on the same rows; `difference` is a - b, `variance` that of the difference."""

    auc_a: float
    auc_b: float
    difference: float
    variance: float | None
    z: float | None
    p: float | None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference as observed (`mean`) and its 95 % percentile interval; None = undefined."""

    low: float | None
    high: float | None
    mean: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval speaks for a difference."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One row of a table against the best row of the table.

    `is_tied` = not the best, and the difference from it is not significant or not tested; `p_holm` is None for the
    best and where there are too few common seeds for a test. `domain_interval`: this row's GAUC minus the best's, over
    resampled domains.
    """

    name: str
    mean: float | None
    std: float | None
    is_best: bool
    is_tied: bool
    p_holm: float | None
    domain_interval: Interval | None = None


def paired(differences: npt.ArrayLike) -> PairedTest:
    """Test whether paired differences have mean 0: a t-test and a sign-flip permutation test.

    One pair has a mean and nothing else; differences that are all 0 have p = 1. The smallest p of the permutation
    test is 2 / 2^R, so R = 5 pairs can never reach p < 0.05. Exact up to 16 pairs, then by 9,999 random flips.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("differences are finite numbers", value=values[~np.isfinite(values)].tolist())
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
        p_signflip=_p_signflip(values),
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


def delong(label: npt.ArrayLike, score_a: npt.ArrayLike, score_b: npt.ArrayLike) -> DelongTest:
    """Test two models' AUCs on the same rows, in O(N log N) by mid-ranks (Sun & Xu 2014).

    It assumes independent rows: where users repeat, its variance is too small, and so is that of `bootstrap_users`,
    though less. Raises `DataError` if a class is missing. Where the variance is 0, p is 1 for equal AUCs and undefined
    for others.
    """
    is_positive = np.asarray(label).astype(bool)
    num_positive, num_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not num_positive or not num_negative:
        raise DataError(
            "AUC needs both classes", value=f"{num_positive:,} positives, {num_negative:,} negatives"
        )
    parts = [_structural_components(is_positive, np.asarray(score)) for score in (score_a, score_b)]
    auc_a, auc_b = (float(of_positives.mean()) for of_positives, _ in parts)
    # The variance of a difference is that of the differences: the covariances are in it.
    of_positives, of_negatives = (part_a - part_b for part_a, part_b in zip(*parts, strict=True))
    variance = _variance_of_mean(of_positives, of_negatives)
    z = (auc_a - auc_b) / variance**0.5 if variance else None
    p = float(2 * ndtr(-abs(z))) if z is not None else 1.0 if variance == 0 and auc_a == auc_b else None
    return DelongTest(auc_a=auc_a, auc_b=auc_b, difference=auc_a - auc_b, variance=variance, z=z, p=p)


def bootstrap_domains(
    groups_a: GroupMetrics, groups_b: GroupMetrics, *, replicates: int = 2000, seed: int = 0
) -> Interval:
    """Return the GAUC difference a - b with an interval over which domains happened to be there.

    Domains with both classes are drawn with replacement and weighted by their rows. Both sides must come from the same
    test rows (`DataError`); for one bin, pass `groups.select(...)`. Fewer than two domains have no interval.
    """
    check_same_groups(groups_a, groups_b)
    gain, rows = groups_a.values[Auc.name] - groups_b.values[Auc.name], groups_a.rows
    known = ~np.isnan(gain)
    gain, rows = gain[known], rows[known]
    if gain.size < 2:
        return Interval(low=None, high=None, mean=float(gain[0]) if gain.size else None)
    draw, weighted = np.random.default_rng(seed), gain * rows
    picks = (draw.integers(0, gain.size, gain.size) for _ in range(replicates))
    samples = [weighted[pick].sum() / rows[pick].sum() for pick in picks]
    return _percentiles(samples, mean=float(weighted.sum() / rows.sum()))


def bootstrap_users(
    user: npt.ArrayLike,
    label: npt.ArrayLike,
    score_a: npt.ArrayLike,
    score_b: npt.ArrayLike,
    *,
    replicates: int = 200,
    seed: int = 0,
) -> Interval:
    """Return the AUC difference a - b with an interval over which users happened to be there.

    Each user's rows get one Poisson(1) weight per replicate. Rows of the unseen user 0 belong to many users, which are
    not recorded, so each of these rows counts as a user of its own; where many test rows are of unseen users, the
    interval is too narrow (by 11 to 22 % on MovieLens-1M, where 57 % are). Replicates that lack a class are left out.
    """
    cluster = _clusters(np.asarray(user))
    is_positive, draw = np.asarray(label).astype(bool), np.random.default_rng(seed)
    ranked = [_Ranked.of(is_positive, np.asarray(score)) for score in (score_a, score_b)]

    def difference(weight: Floats) -> float:
        first, second = (scores.auc(weight) for scores in ranked)
        return first - second

    samples = [difference(draw.poisson(1.0, cluster.max() + 1)[cluster]) for _ in range(replicates)]
    return _percentiles(
        [sample for sample in samples if not np.isnan(sample)], mean=difference(np.ones(cluster.size))
    )


def standings(
    values: Mapping[str, Mapping[int, float | None] | Sequence[float | None]],
    *,
    higher_is_better: bool,
    domains: Mapping[str, GroupMetrics] | None = None,
    min_seeds: int = 2,
    candidates: Collection[str] | None = None,
) -> tuple[Standing, ...]:
    """Return where each row of a table stands against the best, in the order given.

    `values` holds a metric by seed (a sequence counts as seeds 0, 1, ...), None where undefined. The best has the best
    mean of the `candidates` (of all rows by default); every other is tested against it by a two-sided paired t-test
    over their common seeds, Holm-adjusted over the rows that can be tested, and is tied unless the adjusted p is below
    0.05. With fewer than `min_seeds` common seeds there is no test: the row is tied and its p is None.

    `domains`, a second source of evidence, holds per-domain metrics averaged over seeds (`metrics.average`) by name;
    rows that have them get the interval of their GAUC minus the best's. It does not decide about ties.
    """
    by_seed = {name: _known_seeds(column) for name, column in values.items()}
    means = {name: float(np.mean(list(column.values()))) for name, column in by_seed.items() if column}
    named = means if candidates is None else {name: means[name] for name in means if name in candidates}
    best = max(named, key=lambda name: named[name] if higher_is_better else -named[name], default=None)
    adjusted = _adjusted(by_seed, best, max(min_seeds, 2))
    intervals = _domain_intervals(domains or {}, best)

    def standing(name: str) -> Standing:
        p = adjusted.get(name)
        return Standing(
            name=name,
            mean=means.get(name),
            std=_std(by_seed[name]),
            is_best=name == best,
            is_tied=name != best and name in means and (p is None or p >= LEVEL),
            p_holm=p,
            domain_interval=intervals.get(name),
        )

    return tuple(standing(name) for name in values)


def _p_student(mean: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(mean / error)))


def _p_signflip(values: Floats) -> float:
    """Return the share of sign flips with a mean at least as far from 0 as the one observed."""
    reach = abs(values.sum()) - _ROUNDING * np.abs(values).sum()
    if values.size <= MAX_EXACT_PAIRS:
        # Flipping all signs changes nothing, so the first sign stays: half the work, the same share.
        rest = np.array(list(product((1.0, -1.0), repeat=values.size - 1)))
        return float(np.mean(np.abs(values[0] + rest @ values[1:]) >= reach))
    draw = np.random.default_rng(0)
    hits = sum(abs(draw.choice((-1.0, 1.0), values.size) @ values) >= reach for _ in range(_NUM_FLIPS))
    return float(hits + 1) / (_NUM_FLIPS + 1)


def _structural_components(
    is_positive: npt.NDArray[np.bool_], score: npt.NDArray[np.generic]
) -> tuple[Floats, Floats]:
    """Return V10 of each positive and V01 of each negative; the mean of either is the AUC."""
    overall = rankdata(score)
    num_positive, num_negative = np.count_nonzero(is_positive), np.count_nonzero(~is_positive)
    above = (overall[is_positive] - rankdata(score[is_positive])) / num_negative
    below = 1 - (overall[~is_positive] - rankdata(score[~is_positive])) / num_positive
    return above, below


def _variance_of_mean(of_positives: Floats, of_negatives: Floats) -> float | None:
    if min(of_positives.size, of_negatives.size) < 2:
        return None
    return float(sum(part.var(ddof=1) / part.size for part in (of_positives, of_negatives)))


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """Rows in the order of a score, ready for AUCs under many weights."""

    order: Ints
    is_positive: npt.NDArray[np.bool_]
    run_start: Ints
    """Where runs of equal scores begin."""

    @classmethod
    def of(cls, is_positive: npt.NDArray[np.bool_], score: npt.NDArray[np.generic]) -> _Ranked:
        order = np.argsort(score, kind="stable")
        ordered = score[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        return cls(order=order, is_positive=is_positive[order], run_start=starts)

    def auc(self, weight: Floats) -> float:
        """Return the AUC of weighted rows, ties counting half; NaN if a class has no weight."""
        ordered = weight[self.order]
        ups = np.add.reduceat(np.where(self.is_positive, ordered, 0.0), self.run_start)
        downs = np.add.reduceat(np.where(self.is_positive, 0.0, ordered), self.run_start)
        pairs = ups.sum() * downs.sum()
        return float(ups @ (np.cumsum(downs) - downs / 2) / pairs) if pairs > 0 else float("nan")


def _clusters(user: npt.NDArray[np.generic]) -> Ints:
    """Number the users; each row of the unseen user is a cluster of its own."""
    cluster: Ints = np.unique(user, return_inverse=True)[1].astype(np.int64)
    is_unseen = user == UNSEEN
    cluster[is_unseen] = cluster.max(initial=0) + 1 + np.arange(np.count_nonzero(is_unseen))
    return cluster


def _percentiles(samples: Sequence[float], *, mean: float) -> Interval:
    if not samples:
        return Interval(low=None, high=None, mean=mean)
    low, high = np.quantile(samples, (LEVEL / 2, 1 - LEVEL / 2)).tolist()
    return Interval(low=low, high=high, mean=mean)


def _known_seeds(column: Mapping[int, float | None] | Sequence[float | None]) -> dict[int, float]:
    pairs = column.items() if isinstance(column, Mapping) else enumerate(column)
    return {seed: value for seed, value in pairs if value is not None}


def _std(by_seed: Mapping[int, float]) -> float | None:
    return float(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else None


def _adjusted(
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


def _domain_intervals(domains: Mapping[str, GroupMetrics], best: str | None) -> dict[str, Interval]:
    if best is None or best not in domains:
        return {}
    others = (name for name in domains if name != best)
    return {name: bootstrap_domains(domains[name], domains[best]) for name in others}
