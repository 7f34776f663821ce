"""Metrics by size of domain: bins of domains that hold equal shares of the training rows (METHODS 8.6).

BIN1 holds the few large domains, the last bin the many small ones. Sizes come from the training split alone; metrics
are those of the bin's test rows. Bins are found in integers, so that no rounding moves a domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from ctrbench.errors import DataError, SettingError
from ctrbench.eval.metrics import (
    Floats,
    GroupMetrics,
    GroupPairs,
    Ints,
    group_metrics,
    group_pairs,
    weighted_auc,
)
from ctrbench.names import Column

NOT_BINNED = 0
"""Bin of domains without training rows, the unseen domain among them."""


@dataclass(frozen=True, kw_only=True)
class BinResult:
    """Metrics of the test rows of one bin; None = undefined.

    `gauc_coverage` is the share of the bin's test rows in domains with both classes (0 for a bin without test rows).
    """

    bin: int
    domains: int
    """Domains of the bin, with test rows or without."""
    rows_train: int
    rows: int
    positives: int
    auc: float | None
    """Pooled over the bin's test rows."""
    gauc: float | None
    gauc_coverage: float


def assign_bins(rows_train: npt.ArrayLike, num_bins: int) -> Ints:
    """Return the bin 1..num_bins of each domain, given training rows by ascending domain id.

    Domains are sorted by rows, descending, ties by id; domain k of share w_k and cumulative share C_k belongs to bin
    min(num_bins - 1, floor(num_bins (C_k - w_k / 2))) + 1. Domains without training rows, such as the unseen domain
    0, get bin 0: they are not binned.

    >>> assign_bins([0, 50, 20, 20, 10], 2).tolist()
    [0, 1, 2, 2, 2]
    """
    if num_bins < 1:
        raise SettingError("the number of bins is at least 1", value=num_bins)
    rows = np.asarray(rows_train, dtype=np.int64)
    order = np.argsort(-rows, kind="stable")
    ordered = rows[order]
    twice_midpoint = 2 * np.cumsum(ordered) - ordered
    bins = np.full(rows.size, NOT_BINNED)
    # A midpoint lies below the total, hence the quotient below num_bins without a minimum.
    bins[order] = num_bins * twice_midpoint // max(2 * rows.sum(), 1) + 1
    bins[rows == 0] = NOT_BINNED
    return bins


def bin_metrics(
    predictions: pl.DataFrame,
    *,
    domain: npt.ArrayLike,
    rows_train: npt.ArrayLike,
    num_bins: int,
    score: str = Column.SCORE,
) -> tuple[BinResult, ...]:
    """Return pooled AUC and impression-weighted GAUC of the test rows of every bin, BIN1 first.

    `domain` and `rows_train` are columns of the domain table, every domain in it. Raises `DataError` for predictions
    of a domain that the table lacks.
    """
    row_domain, label = predictions[Column.DOMAIN].to_numpy(), predictions[Column.LABEL].to_numpy()
    value = predictions[score].to_numpy()
    groups = group_metrics(row_domain, label, value)
    check_known(groups.group, domain)
    row_bin = bins_of_rows(row_domain, domain=domain, rows_train=rows_train, num_bins=num_bins)
    pooled = group_pairs(row_bin, label, value)
    return join_bins(groups, pooled, domain=domain, rows_train=rows_train, num_bins=num_bins)


def bins_of_rows(
    row_domain: npt.NDArray[np.integer], *, domain: npt.ArrayLike, rows_train: npt.ArrayLike, num_bins: int
) -> Ints:
    """Return the bin of each row, given its domain and the domain table."""
    table = np.asarray(domain, dtype=np.int64)
    found: Ints = _spread(table, _bins(table, rows_train, num_bins), row_domain).astype(np.int64, copy=False)
    return found


def join_bins(
    groups: GroupMetrics,
    pooled: GroupPairs,
    *,
    domain: npt.ArrayLike,
    rows_train: npt.ArrayLike,
    num_bins: int,
) -> tuple[BinResult, ...]:
    """Return the results of every bin, given the metrics of its domains and the pairs of its rows."""
    table = np.asarray(domain, dtype=np.int64)
    by_domain = {
        name: _spread(groups.group, getattr(groups, name), table) for name in ("rows", "positives", "auc")
    }
    results = bin_gauc(domain=table, rows_train=rows_train, num_bins=num_bins, **by_domain)
    auc_of_bin = {
        int(number): float(auc)
        for number, auc in zip(pooled.group, pooled.auc(), strict=True)
        if not np.isnan(auc)
    }
    return tuple(replace(result, auc=auc_of_bin.get(result.bin)) for result in results)


def bin_gauc(
    *,
    domain: npt.ArrayLike,
    rows_train: npt.ArrayLike,
    rows: npt.ArrayLike,
    positives: npt.ArrayLike,
    auc: npt.ArrayLike | Sequence[float | None],
    num_bins: int,
) -> tuple[BinResult, ...]:
    """Return the GAUC of every bin from the metrics of its domains, for records without predictions.

    The arrays are aligned and name every domain with training rows, those without test rows too, since all of them
    shape the bins; an undefined AUC is None or NaN. The pooled AUC is not known and stays None.
    """
    bins = _bins(np.asarray(domain, dtype=np.int64), rows_train, num_bins)
    size, test_rows, clicks = (np.asarray(column, dtype=np.int64) for column in (rows_train, rows, positives))
    domain_auc = np.asarray(auc, dtype=np.float64)

    def result(number: int) -> BinResult:
        inside = bins == number
        mean = weighted_auc(domain_auc[inside], test_rows[inside])
        return BinResult(
            bin=number,
            domains=int(inside.sum()),
            rows_train=int(size[inside].sum()),
            rows=int(test_rows[inside].sum()),
            positives=int(clicks[inside].sum()),
            auc=None,
            gauc=mean.value,
            gauc_coverage=mean.coverage,
        )

    return tuple(result(number) for number in range(1, num_bins + 1))


def check_known(domains: npt.NDArray[np.integer], table: npt.ArrayLike) -> None:
    """Raise `DataError` for domains that the domain table lacks."""
    missing = np.setdiff1d(domains, np.asarray(table))
    if missing.size:
        raise DataError(
            "predictions name only domains of the domain table",
            value=f"{missing.size:,} unknown, the first is {missing[0]}",
            remedy="use the domain table of the data and the domain set that the run was made with",
        )


def _bins(domain: Ints, rows_train: npt.ArrayLike, num_bins: int) -> Ints:
    """Assign bins to domains given in any order."""
    order = np.argsort(domain, kind="stable")
    bins = np.empty_like(domain)
    bins[order] = assign_bins(np.asarray(rows_train)[order], num_bins)
    return bins


def _spread(ids: Ints, values: npt.NDArray[np.generic], wanted: npt.NDArray[np.integer]) -> Floats | Ints:
    """Return the value of each wanted id; 0, or NaN for floats, where an id has none."""
    blank = np.nan if values.dtype.kind == "f" else 0
    by_id = np.full(int(max(ids.max(initial=0), wanted.max(initial=0))) + 1, blank, dtype=values.dtype)
    by_id[ids] = values
    found: Floats | Ints = by_id[wanted]
    return found
