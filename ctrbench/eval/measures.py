"""Results of evaluating predictions, and the domain table that the evaluation by bins needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctrbench.eval.grouped import GroupMetrics
from ctrbench.eval.metrics.base import Floats
from ctrbench.eval.stored import BinMetrics, ClusterInfluence, DomainMetrics


@dataclass(frozen=True, kw_only=True)
class DomainTable:
    """Every domain with its training rows, and the number of bins that domains are assigned to."""

    domain: npt.ArrayLike
    rows_train: npt.ArrayLike
    num_bins: int

    @property
    def num_ids(self) -> int:
        """One more than the largest domain id."""
        return int(np.max(self.domain, initial=0)) + 1


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Every metric of a set of predictions."""

    overall: dict[str, float | None]
    variants: dict[str, dict[str, float | None]]
    """Overall metrics of each further score column."""
    oracle: dict[str, float | None]
    """Metrics of the true click probability; empty where it is unknown."""
    domains: GroupMetrics
    bins: tuple[BinMetrics, ...]
    influence: ClusterInfluence | None = None
    """None where it was not computed."""


def domain_columns(groups: GroupMetrics, table: DomainTable) -> DomainMetrics:
    """Return a row for every domain of the table (sorted by id); domains without test rows shape the bins too."""
    domain, rows_train = np.asarray(table.domain), np.asarray(table.rows_train)
    index = np.searchsorted(domain, groups.group)

    def aligned(values: npt.NDArray[np.generic], missing: float) -> npt.NDArray[np.generic]:
        column = np.full(len(domain), missing, dtype=values.dtype)
        column[index] = values
        return column

    return DomainMetrics(
        domain=tuple(domain.tolist()),
        rows_train=tuple(rows_train.tolist()),
        rows=tuple(aligned(groups.rows, 0).tolist()),
        positives=tuple(aligned(groups.positives, 0).tolist()),
        metrics={name: _none_for_nan(aligned(values, np.nan)) for name, values in groups.values.items()},
    )


def grouped_columns(domains: DomainMetrics) -> GroupMetrics:
    """Return stored columns as arrays; undefined values are NaN."""
    metrics: Mapping[str, Floats] = {
        name: np.asarray(column, dtype=np.float64) for name, column in domains.metrics.items()
    }
    return GroupMetrics(
        group=np.asarray(domains.domain, dtype=np.int64),
        rows=np.asarray(domains.rows, dtype=np.int64),
        positives=np.asarray(domains.positives, dtype=np.int64),
        values=metrics,
    )


def _none_for_nan(values: npt.NDArray[np.generic]) -> tuple[float | None, ...]:
    """Return None for undefined values; eight digits exceed the precision that the rows of a domain allow."""
    return tuple(None if np.isnan(value) else float(f"{value:.8g}") for value in values.tolist())
