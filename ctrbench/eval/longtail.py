"""Metrics by size of domain: bins of domains that hold equal shares of the training rows (spec: longtail-8.6).

BIN1 holds the few large domains, the last bin the many small ones. Sizes come from the training split alone; metrics
are those of the bin's test rows. Bins are assigned in integer arithmetic, so that rounding cannot move a domain.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ctrbench.errors import DataError, SettingError
from ctrbench.eval.grouped import GroupMetrics
from ctrbench.eval.measures import DomainTable
from ctrbench.eval.metrics.base import Floats, GroupMean, Groups, Ints, defined, sums_by_index
from ctrbench.eval.metrics.registry import MetricSet
from ctrbench.eval.stored import BinMetrics
from ctrbench.names import Column

NOT_BINNED = 0
"""Bin of domains without training rows, the unseen domain among them."""


def assign_bins(rows_train: npt.ArrayLike, num_bins: int) -> Ints:
    """Return the bin 1..num_bins of each domain, given training rows by ascending domain id.

    Domains are sorted by rows, descending, ties by id; domain k of share w_k and cumulative share C_k belongs to bin
    min(num_bins - 1, floor(num_bins (C_k - w_k / 2))) + 1. Domains without training rows, such as the unseen domain
    0, get bin 0: they are not binned.

    >>> assign_bins([0, 50, 20, 20, 10], 2).tolist()
    [0, 1, 2, 2, 2]
    """
    if num_bins < 1:
        raise SettingError("the number of bins must be at least 1", value=num_bins)
    rows = np.asarray(rows_train, dtype=np.int64)
    order = np.argsort(-rows, kind="stable")
    ordered = rows[order]
    twice_midpoint = 2 * np.cumsum(ordered) - ordered
    bins = np.full(rows.size, NOT_BINNED)
    # A midpoint lies below the total, hence the quotient below num_bins without a minimum.
    bins[order] = num_bins * twice_midpoint // max(2 * rows.sum(), 1) + 1
    bins[rows == 0] = NOT_BINNED
    return bins


def bins_of_rows(row_domain: npt.NDArray[np.integer], table: DomainTable) -> Ints:
    """Return the bin of each row, given its domain and the domain table."""
    return _counts_of_ids(np.asarray(table.domain, dtype=np.int64), _bins_of_domains(table), row_domain)


def with_sums_of_domains(pooled: Groups, domains: Groups, table: DomainTable) -> Groups:
    """Return the bins, each a group of rows, with the sums of the terms over their domains."""
    bins = bins_of_rows(domains.group, table)
    return pooled.with_sums(
        {
            term: sums_by_index(bins, sums, table.num_bins + 1)[pooled.group]
            for term, sums in domains.sums.items()
        }
    )


def bin_metrics(
    domains: GroupMetrics, pooled: Groups | None, *, table: DomainTable, metrics: MetricSet
) -> tuple[BinMetrics, ...]:
    """Return metrics of the test rows of every bin, BIN1 first.

    Means over domains are computed from `domains`, the metrics of each domain with test rows; metrics of sets of rows
    from `pooled`, the rows of each bin as one group by number of the bin. Without predictions there is no `pooled`
    (None), and the metrics of sets of rows are None too.
    """
    ids, bins = np.asarray(table.domain, dtype=np.int64), _bins_of_domains(table)
    rows_train = np.asarray(table.rows_train, dtype=np.int64)
    aligned = GroupMetrics(
        group=ids,
        rows=_counts_of_ids(domains.group, domains.rows, ids),
        positives=_counts_of_ids(domains.group, domains.positives, ids),
        values={name: _values_of_ids(domains.group, values, ids) for name, values in domains.values.items()},
    )
    of_rows = {} if pooled is None else _pooled_values(pooled, metrics)

    def result(number: int) -> BinMetrics:
        inside = bins == number
        members = aligned.select(inside)
        means = {metric.name: _mean_of_group(metric, members) for metric in metrics.means(Column.DOMAIN)}
        return BinMetrics(
            bin=number,
            domains=int(inside.sum()),
            rows_train=int(rows_train[inside].sum()),
            rows=int(members.rows.sum()),
            positives=int(members.positives.sum()),
            metrics={
                metric.name: means.get(metric.name, of_rows.get((metric.name, number)))
                for metric in metrics.of_bins
            },
        )

    return tuple(result(number) for number in range(1, table.num_bins + 1))


def check_known(domains: npt.NDArray[np.integer], table: npt.ArrayLike) -> None:
    """Raise `DataError` for domains that the domain table lacks."""
    missing = np.setdiff1d(domains, np.asarray(table))
    if missing.size:
        raise DataError(
            "predictions contain domains that the domain table lacks",
            value=f"{missing.size:,} unknown, the first is {missing[0]}",
            remedy="use the domain table of the dataset and domain set of the run",
        )


def _mean_of_group(metric: GroupMean, members: GroupMetrics) -> float | None:
    values = members.values.get(metric.of.name)
    if values is None:
        return None
    return metric.combine(metric.totals(values, members.rows), int(members.rows.sum()))


def _pooled_values(pooled: Groups, metrics: MetricSet) -> dict[tuple[str, int], float | None]:
    """Return the metrics of the rows of each bin, by metric and bin."""
    return {
        (metric.name, number): defined(value)
        for metric in metrics.of_rows
        if metric.per_bin
        for number, value in zip(pooled.group.tolist(), metric.values(pooled), strict=True)
    }


def _bins_of_domains(table: DomainTable) -> Ints:
    """Return the bin of each domain of the table, in the order of the table."""
    domain = np.asarray(table.domain, dtype=np.int64)
    order = np.argsort(domain, kind="stable")
    bins = np.empty_like(domain)
    bins[order] = assign_bins(np.asarray(table.rows_train)[order], table.num_bins)
    return bins


def _counts_of_ids(ids: Ints, counts: Ints, requested: npt.NDArray[np.integer]) -> Ints:
    """Return the count of each requested id; 0 where an id has none."""
    by_id = np.zeros(_num_ids(ids, requested), dtype=np.int64)
    by_id[ids] = counts
    selected: Ints = by_id[requested]
    return selected


def _values_of_ids(ids: Ints, values: Floats, requested: npt.NDArray[np.integer]) -> Floats:
    """Return the value of each requested id; NaN where an id has none."""
    by_id = np.full(_num_ids(ids, requested), np.nan)
    by_id[ids] = values
    selected: Floats = by_id[requested]
    return selected


def _num_ids(ids: Ints, requested: npt.NDArray[np.integer]) -> int:
    return int(max(ids.max(initial=0), requested.max(initial=0))) + 1
