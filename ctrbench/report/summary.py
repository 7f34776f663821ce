"""Every number and test of a comparison, computed once.

Tables, charts, CSV files, page and leaderboard only show a `Summary`, so they cannot disagree about a mean, a gain or a
significance test. Nothing else in this folder computes statistics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ctrbench.eval.grouped import average
from ctrbench.eval.measures import grouped_columns
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.metrics.logloss import LogLoss
from ctrbench.eval.metrics.registry import MetricSet, builtin_metrics
from ctrbench.eval.oracle import AUC_EXPECTED
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.eval.significance import (
    Interval,
    Standing,
    bootstrap_domains,
    standings,
)
from ctrbench.report.bin_scores import BinScore, Name, bin_metrics, score_bins
from ctrbench.report.bins import DEFAULT_NUM_BINS, RunBins, read_bins
from ctrbench.report.comparison import Comparison, Row, gain
from ctrbench.report.control_gains import ControlGains, control_gains
from ctrbench.report.estimate import Estimate, estimate
from ctrbench.runs.store import RunStore

ORIGINS = {Auc.name: AUC_EXPECTED, LogLoss.name: LogLoss.name}
"""Metrics whose distance from the true click probability is computed, and the oracle's metric to subtract."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Comparison of a row with the best row, by one metric."""

    is_best: bool
    is_tied: bool | None
    """Whether the difference from the best row is not significant; False for the best row, None for untested rows."""
    is_marked: bool
    """Whether tables mark the row as best: it is the best row and has at least `MIN_SEEDS` seeds."""
    p_holm: float | None
    """Holm-adjusted p of the paired t-test over common seeds; None for the best row and for untested rows."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Gain of a row over plain, paired by seed."""

    estimate: Estimate | None
    """None without common seeds."""
    over_domains: Interval | None
    """Gain in GAUC, mean over seeds, with its interval over resampled domains; None for other metrics."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One test metric of one row."""

    values: Mapping[int, float] = field(default_factory=dict)
    """By seed; undefined values are left out."""
    estimate: Estimate | None = None
    verdict: Verdict | None = None
    """Within the backbone; None for a metric without a better direction and for a row without a value."""
    gain: Gain | None = None
    """None for plain itself, and for backbones without plain."""


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
    rank: int | None
    """By mean AUC among the rows of all backbones; None with fewer than `MIN_SEEDS` seeds."""
    overall_verdict: Verdict | None
    """By AUC, among the ranked rows of all backbones."""

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
    scores = {
        row.name: score
        for b in comparison.backbones
        for row, score in _scores_of_backbone(comparison, b, metrics)
    }
    bin_scores = score_bins(comparison, bins, metrics)
    ranks, overall_verdicts = _rank_rows(comparison.rows), _overall_verdicts(comparison.rows)
    rows = tuple(
        RowSummary(
            row=row,
            scores=scores[row.name],
            variants=_variant_estimates(row),
            costs=_cost_estimates(row),
            distances=_distances_from_truth(row, comparison.oracle),
            auc_of_trained=_auc_of_trained(row),
            bins={metric.name: bin_scores[row.name, metric.name] for metric in bin_metrics(metrics)},
            rank=ranks.get(row.name),
            overall_verdict=overall_verdicts.get(row.name),
        )
        for row in comparison.rows
    )
    controls = {
        metric.name: control_gains(comparison, metric.name)
        for metric in metrics.metrics
        if metric.higher_is_better is not None
    }
    return Summary(comparison=comparison, rows=rows, bins=bins, metrics=metrics, controls=controls)


# Scores of rows.


def _scores_of_backbone(
    comparison: Comparison, backbone: str, metrics: MetricSet
) -> list[tuple[Row, dict[str, Score]]]:
    rows, plain = comparison.of_backbone(backbone), comparison.plain(backbone)
    verdicts = {
        metric.name: _verdicts(rows, metric.name, higher_is_better=metric.higher_is_better)
        for metric in metrics.metrics
        if metric.higher_is_better is not None
    }
    return [
        (
            row,
            {
                metric: Score(
                    values=row.values(metric),
                    estimate=estimate(row.values(metric).values()),
                    verdict=verdicts.get(metric, {}).get(row.name),
                    gain=_gain(row, plain, metric),
                )
                for metric in _metric_names(row)
            },
        )
        for row in rows
    ]


def _metric_names(row: Row) -> list[str]:
    return sorted({metric for result in row.results.values() for metric in result.test})


def _gain(row: Row, plain: Row | None, metric: str) -> Gain | None:
    if plain is None or row is plain:
        return None
    over_domains = _domain_gain(row, plain) if metric == Gauc.name else None
    return Gain(estimate=estimate(gain(row, plain, metric).values()), over_domains=over_domains)


def _domain_gain(row: Row, plain: Row) -> Interval | None:
    """Return the gain in GAUC with its interval over resampled domains, for per-domain means over common seeds."""
    seeds = sorted(row.results.keys() & plain.results.keys())
    if not seeds:
        return None
    own, base = (average([grouped_columns(r.results[seed].domains) for seed in seeds]) for r in (row, plain))
    return bootstrap_domains(own, base)


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


# Tests against the best row.


def _verdicts(rows: Sequence[Row], metric: str, *, higher_is_better: bool) -> dict[Name, Verdict]:
    """Compare each row with the best one, by name; rows without a value are left out.

    Pairs with at least `MIN_SEEDS` common seeds are tested. The best row has enough seeds and no failed run, if there
    is such a row. A row with failed runs is not tested: its deviation includes the failures.
    """
    by_label = {f"{row.backbone}/{row.method}": row for row in rows if row.values(metric)}
    results = standings(
        {label: row.values(metric) for label, row in by_label.items()},
        higher_is_better=higher_is_better,
        min_seeds=MIN_SEEDS,
        candidates=_candidates_for_best(by_label, metric),
    )
    return {by_label[result.name].name: _verdict(result, by_label[result.name], metric) for result in results}


def _verdict(standing: Standing, row: Row, metric: str) -> Verdict:
    p_holm = None if row.num_failed else standing.p_holm
    is_tested = p_holm is not None or standing.is_best
    is_tied = standing.is_tied and not row.num_failed
    return Verdict(
        is_best=standing.is_best,
        is_tied=is_tied if is_tested else None,
        is_marked=standing.is_best and len(row.values(metric)) >= MIN_SEEDS,
        p_holm=p_holm,
    )


def _candidates_for_best(rows: Mapping[str, Row], metric: str) -> Collection[str]:
    """Return the labels of the rows that may be the best: with enough seeds first, then without failed runs."""
    with_seeds = {label: row for label, row in rows.items() if len(row.values(metric)) >= MIN_SEEDS} or rows
    return {label for label, row in with_seeds.items() if not row.num_failed} or set(with_seeds)


def _rank_rows(rows: Sequence[Row]) -> dict[Name, int]:
    """Rank rows by mean AUC, those with failed runs after those without; equal means share a rank."""
    order = {row.name: auc_order(row) for row in rows if len(row.results) >= MIN_SEEDS}
    return {name: 1 + sum(other < own for other in order.values()) for name, own in order.items()}


def auc_order(row: Row) -> tuple[bool, float]:
    """Return the key by which rows are ranked: whether runs failed, then the mean AUC, highest first."""
    auc = estimate(row.values(Auc.name).values())
    return row.num_failed > 0, -(auc.mean if auc else 0.0)


def _overall_verdicts(rows: Sequence[Row]) -> dict[Name, Verdict]:
    ranked = [row for row in rows if len(row.results) >= MIN_SEEDS]
    return _verdicts(ranked, Auc.name, higher_is_better=True)
