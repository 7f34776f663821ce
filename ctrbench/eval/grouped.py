"""Metrics of predictions in memory: of all rows, per domain and over users."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from ctrbench.errors import DataError
from ctrbench.eval.metrics.base import Floats, Groups, GroupTotals, Ints, RowMetric, defined, evaluate_groups
from ctrbench.eval.metrics.registry import MetricSet, builtin_metrics, terms_of
from ctrbench.eval.ranking import RankedRows
from ctrbench.names import UNSEEN, Column


@dataclass(frozen=True, kw_only=True)
class GroupMetrics:
    """Metrics of groups of rows, as arrays of equal length, sorted by group id; NaN = undefined."""

    group: Ints
    rows: Ints
    positives: Ints
    values: Mapping[str, Floats]
    """By name of the metric."""

    @classmethod
    def of(cls, groups: Groups, metrics: Iterable[RowMetric]) -> GroupMetrics:
        """Compute metrics of groups; the sums of the groups must include the terms of the metrics."""
        return cls(
            group=groups.group,
            rows=groups.rows,
            positives=groups.positives,
            values={metric.name: evaluate_groups(metric, groups) for metric in metrics},
        )

    def select(self, is_selected: npt.NDArray[np.bool_]) -> GroupMetrics:
        """Return the groups marked in `is_selected`, such as those of one bin."""
        return GroupMetrics(
            group=self.group[is_selected],
            rows=self.rows[is_selected],
            positives=self.positives[is_selected],
            values={name: values[is_selected] for name, values in self.values.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts and sums of predictions, from which metrics are computed."""

    pooled: Groups
    """All rows as one group."""
    domains: Groups
    users: Mapping[str, GroupTotals]
    """Totals over seen users by name of the mean; empty where users are unknown."""
    metrics: MetricSet

    @cached_property
    def domain_metrics(self) -> GroupMetrics:
        """The metrics of each domain."""
        return GroupMetrics.of(self.domains, self.metrics.of_domains)

    def values(self) -> dict[str, float | None]:
        """Return the metrics of all rows by name; None = undefined."""
        num_rows, domains = int(self.pooled.rows[0]), self.domain_metrics
        values = {metric.name: defined(metric.values(self.pooled)[0]) for metric in self.metrics.of_rows}
        for mean in self.metrics.means(Column.DOMAIN):
            totals = mean.totals(domains.values[mean.of.name], domains.rows)
            values[mean.name] = mean.combine(totals, num_rows)
        for mean in self.metrics.means(Column.USER):
            values[mean.name] = mean.combine(self.users[mean.name], num_rows)
        return {metric.name: values[metric.name] for metric in self.metrics.metrics}


def overall(
    predictions: pl.DataFrame, *, score: str = Column.SCORE, metrics: MetricSet | None = None
) -> dict[str, float | None]:
    """Return every metric that applies to these predictions (default: the built-in ones); None = undefined.

    Columns: label, domain and the score (a logit); metrics over users need the user column, the expected log loss the
    probability column. The unseen domain 0 is a group like any other. Rows of the unseen user 0 belong to many users:
    they are left out of metrics over users and count against their coverage. Raises `DataError` for scores that are
    not finite.
    """
    available = (metrics or builtin_metrics()).available(predictions.columns)
    return summarize(predictions, ranked_rows(predictions, score), available).values()


def ranked_rows(predictions: pl.DataFrame, score: str = Column.SCORE) -> RankedRows:
    """Return the rows in the order of a score; raises `DataError` for invalid scores or probabilities."""
    has_truth = Column.PROBABILITY in predictions.columns
    return RankedRows.of(
        predictions[Column.LABEL].to_numpy(),
        predictions[score].to_numpy(),
        probability=probabilities(predictions) if has_truth else None,
    )


def summarize(predictions: pl.DataFrame, rows: RankedRows, metrics: MetricSet) -> Summary:
    """Return the counts and sums that these metrics need; `rows` are those of the predictions."""
    return Summary(
        pooled=rows.pooled(terms_of(metrics.of_rows)),
        domains=rows.grouped(predictions[Column.DOMAIN].to_numpy(), metrics.domain_terms),
        users=_totals_of_users(predictions, rows, metrics) if metrics.means(Column.USER) else {},
        metrics=metrics,
    )


def user_totals(users: Groups, metrics: MetricSet) -> dict[str, GroupTotals]:
    """Return the totals of each mean over users, given all rows of some seen users."""
    values = GroupMetrics.of(users, metrics.of_users).values
    return {mean.name: mean.totals(values[mean.of.name], users.rows) for mean in metrics.means(Column.USER)}


def _totals_of_users(
    predictions: pl.DataFrame, rows: RankedRows, metrics: MetricSet
) -> dict[str, GroupTotals]:
    user = predictions[Column.USER].to_numpy()
    is_seen = user != UNSEEN
    return user_totals(rows.select(is_seen).grouped(user[is_seen], terms_of(metrics.of_users)), metrics)


def group_metrics(
    group: npt.ArrayLike,
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    *,
    metrics: Sequence[RowMetric] | None = None,
) -> GroupMetrics:
    """Return metrics of every group (default: those that records keep per domain), with one sort for all groups.

    Raises `DataError` for scores that are not finite.
    """
    chosen = builtin_metrics().of_domains if metrics is None else metrics
    groups = RankedRows.of(label, score).grouped(np.asarray(group), terms_of(chosen))
    return GroupMetrics.of(groups, chosen)


def average(runs: Sequence[GroupMetrics]) -> GroupMetrics:
    """Return the mean over runs (seeds) of each metric of each group; all runs have the same test rows."""
    first = runs[0]
    for other in runs[1:]:
        check_same_groups(first, other)
    return replace(
        first, values={name: np.mean([run.values[name] for run in runs], axis=0) for name in first.values}
    )


def check_same_groups(first: GroupMetrics, second: GroupMetrics) -> None:
    """Raise `DataError` unless both were computed on the same test rows."""
    same = all(np.array_equal(getattr(first, n), getattr(second, n)) for n in ("group", "rows", "positives"))
    if not same:
        raise DataError(
            "per-domain metrics can only be compared on the same test rows",
            value=f"{first.rows.sum():,} rows in {first.group.size:,} domains against "
            f"{second.rows.sum():,} in {second.group.size:,}",
            remedy="compare runs on the same prepared data and the same domain set",
        )


def probabilities(predictions: pl.DataFrame, column: str = Column.PROBABILITY) -> Floats:
    """Return a column of click probabilities; raises `DataError` where it is absent or not within [0, 1]."""
    if column not in predictions.columns:
        raise DataError(
            "predictions lack the true click probability",
            value=f"column {column}",
            remedy="only synthetic data have it",
        )
    values = predictions[column].to_numpy().astype(np.float64)
    check_probabilities(values.size - np.count_nonzero((values >= 0) & (values <= 1)), values.size)
    return values


def check_probabilities(num_bad: int | np.integer, num_rows: int) -> None:
    """Raise `DataError` if `num_bad`, the number of rows with a probability outside [0, 1], is not 0."""
    if num_bad:
        raise DataError("probabilities must be within [0, 1]", value=f"{num_bad:,} of {num_rows:,} are not")
