"""Estimates and gains of metrics per bin of domains; part of the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.registry import MetricSet
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.report.bins import RunBins
from ctrbench.report.comparison import Comparison, Row, difference_by_seed
from ctrbench.report.differences import Name
from ctrbench.report.estimate import Estimate, estimate


@dataclass(frozen=True, kw_only=True)
class BinScore:
    """One metric of one row in one bin of domains."""

    estimate: Estimate | None
    gain: Estimate | None
    """Over plain, paired by seed."""
    is_marked: bool
    """Whether tables mark the row as best: as in the overall table, one row with at least `MIN_SEEDS` seeds."""


def bin_metrics(metrics: MetricSet) -> tuple[Metric, ...]:
    """Return the metrics of bins that have a better direction."""
    return tuple(metric for metric in metrics.of_bins if metric.higher_is_better is not None)


def score_bins(
    comparison: Comparison, bins: RunBins, metrics: MetricSet
) -> dict[tuple[Name, str], tuple[BinScore, ...]]:
    """Return the scores of every row by its name and by metric, one per bin."""
    return {
        (name, metric.name): scores
        for backbone, metric in product(comparison.backbones, bin_metrics(metrics))
        for name, scores in _bin_scores(comparison, backbone, bins, metric).items()
    }


def _bin_scores(
    comparison: Comparison, backbone: str, bins: RunBins, definition: Metric
) -> dict[Name, tuple[BinScore, ...]]:
    rows, plain, metric = comparison.of_backbone(backbone), comparison.plain(backbone), definition.name
    indices = range(len(bins.bins))
    estimates = {
        (row.name, index): estimate(bins.values(row, index, metric).values())
        for row, index in product(rows, indices)
    }
    gains = {
        (row.name, index): _bin_gain(bins, row, plain, index, metric) for row, index in product(rows, indices)
    }
    candidates = [row for row in rows if not row.num_failed] or rows
    best_names = [
        _best_name({row.name: estimates[row.name, index] for row in candidates}, definition.higher_is_better)
        for index in indices
    ]

    def score(row: Row, index: int) -> BinScore:
        return BinScore(
            estimate=estimates[row.name, index],
            gain=estimate(gains[row.name, index].values()),
            is_marked=row.name == best_names[index],
        )

    return {row.name: tuple(score(row, index) for index in indices) for row in rows}


def _bin_gain(bins: RunBins, row: Row, plain: Row | None, index: int, metric: str) -> dict[int, float]:
    if plain is None:
        return {}
    return difference_by_seed(bins.values(row, index, metric), bins.values(plain, index, metric))


def _best_name(estimates: Mapping[Name, Estimate | None], higher_is_better: bool | None) -> Name | None:
    """Return the row with the best mean over at least `MIN_SEEDS` seeds, the first of equal ones; None without one."""
    means = {name: own.mean for name, own in estimates.items() if own is not None and own.num >= MIN_SEEDS}
    return max(means, key=lambda name: means[name] if higher_is_better else -means[name], default=None)
