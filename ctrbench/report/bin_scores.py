"""Estimates, gains and tests of metrics per bin of domains; part of the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.registry import MetricSet
from ctrbench.eval.protocol import LEVEL, MIN_SEEDS
from ctrbench.eval.significance import holm, paired
from ctrbench.report.bins import RunBins
from ctrbench.report.comparison import Comparison, Row, difference_by_seed
from ctrbench.report.estimate import Estimate, estimate

Name = tuple[str, str]
"""Labels of backbone and method."""


@dataclass(frozen=True, kw_only=True)
class BinScore:
    """One metric of one row in one bin of domains."""

    estimate: Estimate | None
    gain: Estimate | None
    """Over plain, paired by seed."""
    p_holm: float | None
    """Of the gain, Holm-adjusted over all methods and bins of the backbone; None with fewer than `MIN_SEEDS` seeds."""
    is_clear: bool
    """Whether the gain differs from 0 significantly, in a row without failed runs."""
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
    p_values = _p_values(
        {key: gains[key] for key in product((r.name for r in rows if not r.is_plain), indices)}
    )
    candidates = [row for row in rows if not row.num_failed] or rows
    best_names = [
        _best_name({row.name: estimates[row.name, index] for row in candidates}, definition.higher_is_better)
        for index in indices
    ]

    def score(row: Row, index: int) -> BinScore:
        own, p_holm = estimates[row.name, index], p_values.get((row.name, index))
        return BinScore(
            estimate=own,
            gain=estimate(gains[row.name, index].values()),
            p_holm=p_holm,
            is_clear=not row.num_failed and p_holm is not None and p_holm < LEVEL,
            is_marked=row.name == best_names[index],
        )

    return {row.name: tuple(score(row, index) for index in indices) for row in rows}


def _bin_gain(bins: RunBins, row: Row, plain: Row | None, index: int, metric: str) -> dict[int, float]:
    if plain is None:
        return {}
    return difference_by_seed(bins.values(row, index, metric), bins.values(plain, index, metric))


def _p_values(gains: Mapping[tuple[Name, int], Mapping[int, float]]) -> dict[tuple[Name, int], float]:
    """Return the Holm-adjusted p of each gain with at least `MIN_SEEDS` seeds."""
    tests = {
        key: paired(list(by_seed.values())).p_t for key, by_seed in gains.items() if len(by_seed) >= MIN_SEEDS
    }
    tested = {key: p for key, p in tests.items() if p is not None}
    return dict(zip(tested, holm(list(tested.values())).tolist(), strict=True)) if tested else {}


def _best_name(estimates: Mapping[Name, Estimate | None], higher_is_better: bool | None) -> Name | None:
    """Return the row with the best mean over at least `MIN_SEEDS` seeds, the first of equal ones; None without one."""
    means = {name: own.mean for name, own in estimates.items() if own is not None and own.num >= MIN_SEEDS}
    return max(means, key=lambda name: means[name] if higher_is_better else -means[name], default=None)
