"""Every number and test of a comparison, computed once.

Tables, charts, CSV files, page and leaderboard only show a `Summary`, so they cannot disagree about a mean, a gain or a
significance test. Nothing else in this folder computes statistics.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.logloss import LogLoss
from ctrbench.eval.metrics.registry import MetricSet, builtin_metrics
from ctrbench.eval.oracle import AUC_EXPECTED
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.eval.verdicts import RankRange
from ctrbench.report.bin_scores import BinScore, bin_metrics, score_bins
from ctrbench.report.bins import DEFAULT_NUM_BINS, RunBins, read_bins
from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.control_gains import ControlGains, control_gains
from ctrbench.report.differences import Gain, Name, Power, gains_over, power, rank_rows
from ctrbench.report.estimate import Estimate, estimate
from ctrbench.runs.store import RunStore

ORIGINS = {Auc.name: AUC_EXPECTED, LogLoss.name: LogLoss.name}
"""Metrics whose distance from the true click probability is computed, and the oracle's metric to subtract."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One test metric of one row."""

    values: Mapping[int, float] = field(default_factory=dict)
    """By seed; undefined values are left out."""
    estimate: Estimate | None = None
    is_best: bool | None = None
    """Whether the mean is the best of the backbone, which is no claim; None for a metric without a better direction."""
    gain: Gain | None = None
    """Over plain; None for plain itself, and for backbones without plain."""

    @property
    def is_marked(self) -> bool:
        """Whether tables mark the row as best: its mean is the best, over at least `MIN_SEEDS` seeds."""
        return bool(self.is_best) and len(self.values) >= MIN_SEEDS


@dataclass(frozen=True, kw_only=True)
class RowSummary:
    """The numbers of one row: quality (`scores`, `variants`, `bins`) and cost (`costs`)."""

    row: Row
    scores: Mapping[str, Score]
    """By metric."""
    variants: Mapping[str, Mapping[str, Estimate | None]]
    """By name of the variant and by metric."""
    costs: Mapping[str, Estimate | None]
    """Numbers of parameters and seconds of training, by name."""
    distances: Mapping[str, Estimate | None]
    """AUC and LogLoss minus those of the true click probability, by metric; empty if that is unknown."""
    auc_of_trained: Estimate | None
    """AUC of the runs that did not collapse."""
    bins: Mapping[str, tuple[BinScore, ...]]
    """By metric, largest domains first; metrics without a better direction are left out."""
    rank: RankRange | None
    """Possible ranks by AUC among the rows of all backbones; None with fewer than `MIN_SEEDS` seeds."""

    def score(self, metric: str) -> Score:
        """Return a test metric; without a value in any run, an empty score."""
        return self.scores.get(metric, Score())

    def estimate(self, metric: str) -> Estimate | None:
        """Return mean and deviation of a test metric; None if it is undefined for all seeds."""
        return self.score(metric).estimate


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of a comparison."""

    comparison: Comparison
    rows: tuple[RowSummary, ...]
    bins: RunBins
    metrics: MetricSet
    """Titles, digits and directions of the metrics, in the order of table columns."""
    controls: Mapping[str, tuple[ControlGains, ...]] = field(default_factory=dict)
    """Gains over controls by metric, for metrics that have a better direction; empty tuples without controls."""
    powers: Mapping[str, Power] = field(default_factory=dict)
    """Power of the differences from plain in AUC, by backbone; backbones without a tested difference are left out."""

    def of_backbone(self, backbone: str) -> tuple[RowSummary, ...]:
        """Return the rows of one backbone."""
        return tuple(row for row in self.rows if row.row.backbone == backbone)

    @property
    def bin_metrics(self) -> tuple[Metric, ...]:
        """Metrics of bins that have a better direction."""
        return bin_metrics(self.metrics)

    def plain(self, backbone: str) -> RowSummary | None:
        """Return the row over which gains are measured."""
        plain = self.comparison.plain(backbone)
        return next((row for row in self.rows if row.row is plain), None)


def summarize(
    comparison: Comparison,
    *,
    num_bins: int = DEFAULT_NUM_BINS,
    store: RunStore | None = None,
    metrics: MetricSet | None = None,
) -> Summary:
    """Compute the numbers and tests of a comparison, by `metrics` (default: the built-in ones).

    Bins of another number than that of the records are computed from predictions in `store`.
    """
    metrics = metrics or builtin_metrics()
    bins = read_bins(comparison, num_bins=num_bins, store=store, metrics=metrics)
    gains = {
        (name, metric.name): gain
        for metric in metrics.metrics
        for backbone in comparison.backbones
        for name, gain in _gains_over_plain(comparison, backbone, metric).items()
    }
    best = _best_rows(comparison, metrics)
    bin_scores = score_bins(comparison, bins, metrics)
    ranks = rank_rows(comparison.rows)
    rows = tuple(
        RowSummary(
            row=row,
            scores={metric: _score(row, metric, gains, best) for metric in _metric_names(row)},
            variants=_variant_estimates(row),
            costs=_cost_estimates(row),
            distances=_distances_from_truth(row, comparison.oracle),
            auc_of_trained=_auc_of_trained(row),
            bins={metric.name: bin_scores[row.name, metric.name] for metric in bin_metrics(metrics)},
            rank=ranks.get(row.name),
        )
        for row in comparison.rows
    )
    controls = {
        metric.name: control_gains(comparison, metric)
        for metric in metrics.metrics
        if metric.higher_is_better is not None
    }
    powers = {backbone: _power(comparison, backbone, gains) for backbone in comparison.backbones}
    return Summary(
        comparison=comparison,
        rows=rows,
        bins=bins,
        metrics=metrics,
        controls=controls,
        powers={backbone: power for backbone, power in powers.items() if power is not None},
    )


# Scores of rows.


def _score(
    row: Row,
    metric: str,
    gains: Mapping[tuple[Name, str], Gain],
    best: Mapping[tuple[str, str], Name | None],
) -> Score:
    has_best = (row.backbone, metric) in best and bool(row.values(metric))
    return Score(
        values=row.values(metric),
        estimate=estimate(row.values(metric).values()),
        is_best=best[row.backbone, metric] == row.name if has_best else None,
        gain=gains.get((row.name, metric)),
    )


def _gains_over_plain(comparison: Comparison, backbone: str, metric: Metric) -> dict[Name, Gain]:
    """Return the gain of each row of a backbone over plain, by name; they are one family."""
    plain = comparison.plain(backbone)
    rows = [row for row in comparison.of_backbone(backbone) if row is not plain]
    gains = gains_over([(row, plain) for row in rows], metric) if plain else ()
    return {row.name: gain for row, gain in zip(rows, gains, strict=bool(plain))}


def _power(comparison: Comparison, backbone: str, gains: Mapping[tuple[Name, str], Gain]) -> Power | None:
    rows = comparison.of_backbone(backbone)
    return power(rows, [gains[row.name, Auc.name] for row in rows if (row.name, Auc.name) in gains])


def _best_rows(comparison: Comparison, metrics: MetricSet) -> dict[tuple[str, str], Name | None]:
    """Return the row with the best mean by backbone and metric, for metrics with a better direction."""
    return {
        (backbone, metric.name): _best_row(comparison.of_backbone(backbone), metric)
        for backbone in comparison.backbones
        for metric in metrics.metrics
        if metric.higher_is_better is not None
    }


def _best_row(rows: Sequence[Row], metric: Metric) -> Name | None:
    """Return the row with the best mean: of those with enough seeds first, then of those without failed runs."""
    with_value = [row for row in rows if row.values(metric.name)]
    with_seeds = [row for row in with_value if len(row.values(metric.name)) >= MIN_SEEDS] or with_value
    candidates = [row for row in with_seeds if not row.num_failed] or with_seeds
    means = {row.name: statistics.fmean(row.values(metric.name).values()) for row in candidates}
    return max(means, key=lambda name: means[name] if metric.higher_is_better else -means[name], default=None)


def _metric_names(row: Row) -> list[str]:
    return sorted({metric for result in row.results.values() for metric in result.test})


def _variant_estimates(row: Row) -> dict[str, dict[str, Estimate | None]]:
    def estimates(variant: str) -> dict[str, Estimate | None]:
        metrics = {metric for result in row.results.values() for metric in result.variants.get(variant, {})}
        return {metric: estimate(row.values(metric, variant=variant).values()) for metric in sorted(metrics)}

    return {variant: estimates(variant) for variant in row.variants}


def _cost_estimates(row: Row) -> dict[str, Estimate | None]:
    counts = row.parameters.model_dump() if row.parameters else {}
    seconds = [record.measured.seconds for record in row.finished]
    return {
        **{f"parameters_{name}": estimate([count]) for name, count in counts.items()},
        "train_seconds": estimate(phases["train"] for phases in seconds if "train" in phases),
    }


def _distances_from_truth(row: Row, oracle: Mapping[str, float | None]) -> dict[str, Estimate | None]:
    origins = {metric: oracle.get(origin) for metric, origin in ORIGINS.items()}
    return {
        metric: estimate(value - origin for value in row.values(metric).values())
        for metric, origin in origins.items()
        if origin is not None
    }


def _auc_of_trained(row: Row) -> Estimate | None:
    return estimate(value for seed, value in row.values(Auc.name).items() if seed not in row.collapsed)


def auc_order(row: Row) -> tuple[bool, float]:
    """Return the key by which rows are sorted: whether runs failed, then the mean AUC, highest first."""
    auc = estimate(row.values(Auc.name).values())
    return row.num_failed > 0, -(auc.mean if auc else 0.0)
