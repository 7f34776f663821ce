"""Influence of clusters of test rows, such as users or domains, on AUC, GAUC, LogLoss and NE (spec: significance-8.8).

An influence value says how much a metric changes, to first order, when a cluster gets more weight. For AUC it is the
clustered form of DeLong's structural components (Obuchowski, 1997), from one sort per score vector. Influence values
are scaled so that the sum of their products over clusters is the covariance of two metrics, of the same or of different
score vectors on the same rows. Memory is one number per score vector and cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctrbench.errors import DataError
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Floats, Ints, sums_by_index
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.metrics.logloss import LogLoss, label_loss
from ctrbench.eval.metrics.ne import NormalizedEntropy
from ctrbench.eval.ranking import Keys, RankedRows

MAX_CLUSTERS = 2**11
"""Clusters beyond this number are merged at random, which keeps the expectation of every covariance; the relative
standard error of a variance from merging is the square root of two over this number, 3 %."""


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Assignment of test rows to clusters, numbered from 0."""

    index: Ints
    """Cluster of each row."""
    num: int
    """Number of clusters, after merging."""
    num_keys: int
    """Number of different keys: clusters before merging."""

    @classmethod
    def of(cls, keys: npt.NDArray[np.integer], *, limit: int = MAX_CLUSTERS) -> Clusters:
        """Return one cluster per key; more than `limit` are merged by a hash of their number."""
        unique, index = np.unique(keys, return_inverse=True)
        index = index.astype(np.int64)
        if unique.size <= limit:
            return cls(index=index, num=unique.size, num_keys=unique.size)
        merged = (_mixed(np.arange(unique.size, dtype=np.uint64)) % np.uint64(limit)).astype(np.int64)
        return cls(index=merged[index], num=limit, num_keys=unique.size)

    def sums(self, values: Floats, is_selected: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Return the sum of the values of each cluster, over all rows or the selected ones."""
        index = self.index if is_selected is None else self.index[is_selected]
        return sums_by_index(index, values if is_selected is None else values[is_selected], self.num)


@dataclass(frozen=True, kw_only=True)
class Influence:
    """A metric of one score vector and the influence of each cluster on it; NaN if it is undefined."""

    value: float
    clusters: Floats
    """One number per cluster; the sum of products with another influence is the covariance of the two metrics."""

    @property
    def variance(self) -> float:
        """Variance of the metric over samples of clusters."""
        return float(self.clusters @ self.clusters)


InfluenceFunction = Callable[[RankedRows, npt.NDArray[np.integer], Clusters], Influence]
"""Function of the ranked rows, the domain of each row and the clusters."""


def auc_influence(rows: RankedRows, domain: npt.NDArray[np.integer], clusters: Clusters) -> Influence:
    """Return AUC and its influence values; `domain` is not used."""
    return _mean_auc_influence(rows, np.zeros(domain.size, dtype=np.int64), 1, clusters)


def gauc_influence(rows: RankedRows, domain: npt.NDArray[np.integer], clusters: Clusters) -> Influence:
    """Return GAUC and its influence values; the weights of domains vary with the rows of the clusters, too."""
    ids, group = np.unique(domain, return_inverse=True)
    return _mean_auc_influence(rows, group.astype(np.int64), ids.size, clusters)


def logloss_influence(rows: RankedRows, domain: npt.NDArray[np.integer], clusters: Clusters) -> Influence:
    """Return LogLoss and its influence values; `domain` is not used."""
    losses = label_loss(rows.rows)
    return Influence(value=float(losses.mean()), clusters=_mean_influence(losses, clusters))


def ne_influence(rows: RankedRows, domain: npt.NDArray[np.integer], clusters: Clusters) -> Influence:
    """Return NE and its influence values, those of the base rate included; `domain` is not used."""
    logloss = logloss_influence(rows, domain, clusters)
    label = rows.rows.is_positive.astype(np.float64)
    rate = float(label.mean())
    if not 0 < rate < 1:
        return _undefined(clusters)
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    value = logloss.value / entropy
    entropy_influence = np.log((1 - rate) / rate) * _mean_influence(label, clusters)
    return Influence(value=value, clusters=(logloss.clusters - value * entropy_influence) / entropy)


INFLUENCES: Mapping[str, InfluenceFunction] = {
    Auc.name: auc_influence,
    Gauc.name: gauc_influence,
    LogLoss.name: logloss_influence,
    NormalizedEntropy.name: ne_influence,
}
"""Metrics with influence values, by name."""


def covariance(influences: npt.NDArray[np.float64]) -> Floats:
    """Return the covariance matrix of metrics over samples of clusters, shape (M, M), from influences (M, clusters)."""
    return influences @ influences.T


def _mean_auc_influence(rows: RankedRows, group: Ints, num_groups: int, clusters: Clusters) -> Influence:
    """Return the row-weighted mean of the AUC of each group with both classes, and its influence values."""
    is_positive = rows.rows.is_positive
    if is_positive.size != clusters.index.size:
        raise DataError(
            "every row must have one cluster", value=f"{clusters.index.size:,} of {is_positive.size:,}"
        )
    num_rows = np.bincount(group, minlength=num_groups)
    positives = np.bincount(group[is_positive], minlength=num_groups)
    negatives = num_rows - positives
    is_counted = ((positives > 0) & (negatives > 0))[group]
    total = int(np.count_nonzero(is_counted))
    if not total:
        return _undefined(clusters)
    placements = _placements(rows.codes, is_positive, group, num_rows, positives)
    aucs = sums_by_index(group[is_positive], placements[is_positive], num_groups) / np.maximum(positives, 1)
    share = np.where((positives > 0) & (negatives > 0), num_rows, 0) / total
    value = float(share @ aucs)
    num_of_class = np.where(is_positive, positives[group], negatives[group])
    deviations = share[group] * (placements - aucs[group]) / np.maximum(num_of_class, 1)
    parts = [
        _scaled_sums(deviations, is_counted & is_positive, clusters),
        _scaled_sums(deviations, is_counted & ~is_positive, clusters),
    ]
    if num_groups > 1:
        parts.append(_scaled_sums((aucs[group] - value) / total, is_counted, clusters))
    return Influence(value=value, clusters=np.sum(parts, axis=0))


def _placements(
    codes: Keys, is_positive: npt.NDArray[np.bool_], group: Ints, num_rows: Ints, positives: Ints
) -> Floats:
    """Return the share of the other class within its group that each row is ordered correctly with, ties as half."""
    keys = codes | (group.astype(np.uint64) << np.uint64(32))
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    start = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    end = np.append(start[1:], ordered.size)
    cumulative = np.concatenate(([0], np.cumsum(is_positive[order])))
    of_run = group[order[start]]
    offset = (np.cumsum(num_rows) - num_rows)[of_run]
    positives_within, positives_below = (
        cumulative[end] - cumulative[start],
        cumulative[start] - cumulative[offset],
    )
    negatives_within, negatives_below = (end - start) - positives_within, (start - offset) - positives_below
    positives_above = positives[of_run] - positives_below - positives_within
    num_negatives = (num_rows - positives)[of_run]
    of_positive = (negatives_below + negatives_within / 2) / np.maximum(num_negatives, 1)
    of_negative = (positives_above + positives_within / 2) / np.maximum(positives[of_run], 1)
    run = np.repeat(np.arange(start.size), end - start)
    placements: Floats = np.empty(ordered.size)
    placements[order] = np.where(is_positive[order], of_positive[run], of_negative[run])
    return placements


def _scaled_sums(values: Floats, is_selected: npt.NDArray[np.bool_], clusters: Clusters) -> Floats:
    """Return sums per cluster times sqrt(I / (I - 1)), where I is the number of clusters with selected rows.

    Without clusters (one per row) this makes variances of AUC those of DeLong exactly.
    """
    num = int(np.count_nonzero(np.bincount(clusters.index[is_selected], minlength=clusters.num)))
    scale = float(np.sqrt(num / max(num - 1, 1)))
    return scale * clusters.sums(values, is_selected)


def _mean_influence(values: Floats, clusters: Clusters) -> Floats:
    everything = np.ones(values.size, dtype=np.bool_)
    return _scaled_sums((values - values.mean()) / values.size, everything, clusters)


def _undefined(clusters: Clusters) -> Influence:
    return Influence(value=float("nan"), clusters=np.full(clusters.num, np.nan))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the values after the mixing steps of splitmix64 (Steele, Lea and Flood, 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
