"""Base classes of metrics, and the counts and sums that metrics are computed from.

A metric never sees how predictions are stored. It declares which per-row terms are summed per group of rows, and
computes its value from those sums, the row counts and the number of correctly ordered pairs. The same definition
therefore serves predictions in memory, files larger than memory, single domains, bins of domains and users.
Undefined values are NaN in arrays and None in records, never 0 and never 0.5.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ctrbench.errors import ContractError
from ctrbench.names import Column

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Labels and scores of rows, as arrays of equal length."""

    is_positive: npt.NDArray[np.bool_]
    score: Scores
    """Logits, float32 or float64."""
    probability: Floats | None = None
    """True click probability; None where the data do not include it."""

    def select(self, keep: npt.NDArray[np.bool_]) -> ScoredRows:
        """Return the rows marked in `keep`."""
        probability = None if self.probability is None else self.probability[keep]
        return ScoredRows(is_positive=self.is_positive[keep], score=self.score[keep], probability=probability)


Term: TypeAlias = Callable[[ScoredRows], Floats]
"""Function that returns one float64 per row; its sums per group are passed to metrics."""


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Counts and sums of groups of rows, as arrays of equal length, sorted by group id."""

    group: Ints
    rows: Ints
    positives: Ints
    wins: Ints
    """Twice the number of (positive, negative) pairs in the right order; a tie counts 1."""
    sums: Mapping[Term, Floats]
    """Sum over the rows of each group, per term."""

    def sum(self, term: Term) -> Floats:
        """Return the sums of a term that the metric declares in `terms`."""
        return self.sums[term]

    @property
    def pairs(self) -> Ints:
        """Number of (positive, negative) pairs per group."""
        return self.positives * (self.rows - self.positives)

    def with_sums(self, sums: Mapping[Term, Floats]) -> Groups:
        """Return the groups with these sums."""
        return replace(self, sums=sums)


@dataclass(frozen=True, kw_only=True)
class GroupTotals:
    """Totals of one value per group, from which means over groups are computed.

    Totals of disjoint sets of groups add up, so users need not be in memory at once.
    """

    weighted: float = 0.0
    """Sum of value times rows, over the groups whose value is defined."""
    unweighted: float = 0.0
    groups: int = 0
    """Number of groups whose value is defined."""
    rows_defined: int = 0
    """Rows in those groups."""
    rows: int = 0
    """Rows in all groups."""

    @classmethod
    def of(cls, values: npt.ArrayLike, rows: npt.ArrayLike) -> GroupTotals:
        """Return the totals of groups, given a value (NaN = undefined) and the rows of each."""
        value, weight = np.asarray(values, dtype=np.float64), np.asarray(rows, dtype=np.int64)
        is_defined = ~np.isnan(value) & (weight > 0)
        value, share = value[is_defined], weight[is_defined]
        return cls(
            weighted=float(value @ share),
            unweighted=float(value.sum()),
            groups=value.size,
            rows_defined=int(share.sum()),
            rows=int(weight.sum()),
        )

    def __add__(self, other: GroupTotals) -> GroupTotals:
        return GroupTotals(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def mean(self) -> float | None:
        """Return the mean over groups weighted by rows; None where no value is defined."""
        return self.weighted / self.rows_defined if self.groups else None

    def unweighted_mean(self) -> float | None:
        """Return the mean over groups; None where no value is defined."""
        return self.unweighted / self.groups if self.groups else None

    def coverage(self, num_rows: int) -> float:
        """Return the share of `num_rows` that lies in groups whose value is defined."""
        return self.rows_defined / self.rows * (self.rows / num_rows) if self.groups else 0.0


class Metric(ABC):
    """A number that says how good predictions are. One file defines one metric.

    Subclass `RowMetric` for a value of any set of rows (AUC, log loss), or `GroupMean` for a mean over domains or users
    of such a value (GAUC). A file in `ctrbench/eval/metrics` is a built-in metric: it is computed for every run and
    appears in records, tables, CSV files and charts without further registration. Use a metric from elsewhere with
    `ctrbench report --metrics`, given as the path of its file or as a name in the entry point group
    `ctrbench.metrics`; it is computed from the stored predictions.

    A complete metric, the file `my_brier.py`:

        \"\"\"Brier score: mean squared error of the predicted click probability.\"\"\"

        import numpy as np

        from ctrbench.eval.metrics.base import Floats, Groups, RowMetric, ScoredRows, ratio


        def squared_error(rows: ScoredRows) -> Floats:
            return (1 / (1 + np.exp(-rows.score.astype(np.float64))) - rows.is_positive) ** 2


        class Brier(RowMetric):
            \"\"\"Mean squared error of the predicted click probability.\"\"\"

            name = "my_brier"
            title = "My Brier"
            higher_is_better = False
            digits = 5
            terms = (squared_error,)

            def values(self, groups: Groups) -> Floats:
                return ratio(groups.sum(squared_error), groups.rows)
    """

    name: ClassVar[str]
    """Name in records and CSV files: lower case, unique."""
    title: ClassVar[str]
    """Name in tables and charts."""
    higher_is_better: ClassVar[bool | None] = True
    """None for a metric that is neither, such as a ratio whose ideal is 1; tables mark no best row by it."""
    digits: ClassVar[int] = 4
    """Digits after the decimal point in tables."""
    order: ClassVar[int] = 100
    """Position among the columns of a table, ascending; ties are sorted by name."""
    in_table: ClassVar[Literal["ranked", "mean"] | None] = "ranked"
    """Column of the overall table: mean ± std with the best row marked, the mean only, or no column."""
    in_charts: ClassVar[bool] = True
    """Whether reports draw the metric by method and, where `per_bin`, its gain by size of domain."""
    per_bin: ClassVar[bool] = True
    """Whether records and reports include the metric of each bin of domains."""
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """Smallest and largest possible value; a record with another one is refused."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Optional columns of predictions that the metric needs, from `names.Column`; it is left out without them."""

    @property
    def required_columns(self) -> frozenset[str]:
        """Columns of predictions without which the metric is left out."""
        return frozenset(self.needs)


class RowMetric(Metric):
    """A metric with a value for any set of rows: all rows, one domain, one bin of domains."""

    terms: ClassVar[tuple[Term, ...]] = ()
    """Module-level functions, one float64 per row each, whose sums per group `values` uses."""
    per_domain: ClassVar[bool] = True
    """Whether records include the metric of each domain."""

    @abstractmethod
    def values(self, groups: Groups) -> Floats:
        """Return the value of each group; NaN where it is undefined."""


class GroupMean(Metric):
    """A mean over domains, or over users, of a `RowMetric`; groups whose value is undefined are left out.

    Gauc is `of = Auc()` with the defaults below. A group mean has no value of a single domain.
    """

    of: ClassVar[RowMetric]
    """The metric whose values are averaged."""
    group_by: ClassVar[str] = Column.DOMAIN
    """`Column.DOMAIN` or `Column.USER`. The unseen domain 0 is a group; rows of the unseen user 0 are in no group."""
    statistic: ClassVar[Literal["mean", "unweighted", "coverage"]] = "mean"
    """Mean weighted by rows, mean of groups, or share of rows in groups whose value is defined."""

    @property
    def required_columns(self) -> frozenset[str]:
        """Columns of predictions without which the metric is left out."""
        return super().required_columns | self.of.required_columns | {self.group_by}

    def transform(self, values: Floats) -> Floats:
        """Transform the values of the groups before they are averaged (default: unchanged)."""
        return values

    def totals(self, values: Floats, rows: npt.ArrayLike) -> GroupTotals:
        """Return the totals of groups, given the value of `of` and the rows of each."""
        return GroupTotals.of(self.transform(values), rows)

    def combine(self, totals: GroupTotals, num_rows: int) -> float | None:
        """Return the metric from the totals of all groups; `num_rows` includes rows that are in no group."""
        if self.statistic == "coverage":
            return totals.coverage(num_rows)
        return totals.mean() if self.statistic == "mean" else totals.unweighted_mean()


def evaluate_term(term: Term, rows: ScoredRows) -> Floats:
    """Return a term of some rows; raises `ContractError` unless it is one number per row."""
    values = term(rows)
    if np.shape(values) != rows.is_positive.shape:
        raise ContractError(
            "a term of a metric must return an array with one number per row",
            value=f"{term.__module__}.{term.__name__} returned {_describe_type(values)} for "
            f"{rows.is_positive.size} rows",
            remedy="compute it element by element from rows.score and rows.is_positive",
        )
    return values


def evaluate_groups(metric: RowMetric, groups: Groups) -> Floats:
    """Return a metric of groups of rows; raises `ContractError` unless it is one number per group."""
    values = metric.values(groups)
    if not isinstance(values, np.ndarray) or values.shape != groups.rows.shape:
        raise ContractError(
            "values() of a metric must return an array with one number per group",
            value=f"metric {metric.name} returned {_describe_type(values)} for {groups.rows.size} groups",
            remedy="compute it element by element from groups.sum(term) and groups.rows",
        )
    return values


def _describe_type(values: object) -> str:
    return f"an array of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__


def ratio(numerator: npt.NDArray[np.number], denominator: npt.NDArray[np.number]) -> Floats:
    """Divide element by element; NaN where the denominator is 0."""
    undefined = np.full(numerator.shape, np.nan)
    quotient: Floats = np.divide(numerator, denominator, out=undefined, where=denominator != 0)
    return quotient


def sums_by_index(index: npt.NDArray[np.integer], values: Floats, num_groups: int) -> Floats:
    """Return the sum of the values of each group, given the index of each value's group."""
    sums: Floats = np.bincount(index, weights=values, minlength=num_groups).astype(np.float64, copy=False)
    return sums


def defined(value: float) -> float | None:
    """Return the value as it is stored in records: None for NaN."""
    return None if np.isnan(value) else float(value)
