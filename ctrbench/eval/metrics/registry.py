"""Registry of metrics: the only list of them.

Built-in metrics are the files of this folder and are always computed. Others are named explicitly, so that the content
of a record never depends on which packages happen to be installed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from ctrbench.discovery import PluginKind, builtin_plugins
from ctrbench.errors import ContractError, SettingError
from ctrbench.eval.metrics.base import GroupMean, Metric, RowMetric, Term
from ctrbench.names import Column

ROUNDING = 1e-9
"""Distance from its bounds that rounding can give a metric."""
METRICS: PluginKind[Metric] = PluginKind(
    name="metrics",
    package="ctrbench.eval.metrics",
    base="ctrbench.eval.metrics.base:Metric",
    helpers=("base", "registry"),
)


@dataclass(frozen=True)
class MetricSet:
    """Metrics that are computed together, sorted by `order` and name."""

    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, metrics: Iterable[Metric]) -> MetricSet:
        """Return a sorted set of metrics."""
        return cls(tuple(sorted(metrics, key=lambda metric: (metric.order, metric.name))))

    def __or__(self, other: MetricSet) -> MetricSet:
        return MetricSet.of((*self.metrics, *other.metrics))

    def available(self, columns: Iterable[str]) -> MetricSet:
        """Return the metrics that predictions with these columns have."""
        available = frozenset(columns)
        return MetricSet(tuple(metric for metric in self.metrics if metric.required_columns <= available))

    @cached_property
    def by_name(self) -> Mapping[str, Metric]:
        """The metrics by name."""
        return {metric.name: metric for metric in self.metrics}

    @cached_property
    def of_rows(self) -> tuple[RowMetric, ...]:
        """The metrics of sets of rows."""
        return tuple(metric for metric in self.metrics if isinstance(metric, RowMetric))

    def means(self, group_by: str) -> tuple[GroupMean, ...]:
        """Return the means over domains or users."""
        means = (metric for metric in self.metrics if isinstance(metric, GroupMean))
        return tuple(metric for metric in means if metric.group_by == group_by)

    @cached_property
    def of_domains(self) -> tuple[RowMetric, ...]:
        """The metrics of each domain: those that records include, and those that means over domains average."""
        own = [metric for metric in self.of_rows if metric.per_domain]
        return _unique_metrics([*own, *(metric.of for metric in self.means(Column.DOMAIN))])

    @cached_property
    def domain_terms(self) -> tuple[Term, ...]:
        """The terms that are summed per domain; bins add up the sums of their domains."""
        return terms_of([*self.of_domains, *self.of_bins])

    @cached_property
    def of_users(self) -> tuple[RowMetric, ...]:
        """The metrics of each user that means over users average."""
        return _unique_metrics(metric.of for metric in self.means(Column.USER))

    @cached_property
    def of_bins(self) -> tuple[Metric, ...]:
        """The metrics of bins of domains."""
        users = self.means(Column.USER)
        return tuple(metric for metric in self.metrics if metric.per_bin and metric not in users)

    @property
    def for_bins(self) -> MetricSet:
        """The metrics of bins alone, for evaluations that need nothing else."""
        return MetricSet(self.of_bins)

    @property
    def required_columns(self) -> frozenset[str]:
        """The optional columns of predictions that the metrics need."""
        return frozenset(column for metric in self.metrics for column in metric.required_columns)


def terms_of(metrics: Iterable[Metric]) -> tuple[Term, ...]:
    """Return the terms that metrics of rows declare, each once."""
    return tuple(
        dict.fromkeys(term for metric in metrics if isinstance(metric, RowMetric) for term in metric.terms)
    )


@cache
def builtin_metrics() -> MetricSet:
    """Return the built-in metrics."""
    return MetricSet.of(_load_metric(name) for name in builtin_plugins(METRICS))


def is_possible(name: str, value: float | None) -> bool:
    """Return whether a metric of that name can have the value; metrics that are not built in have any finite value."""
    if value is None:
        return True
    metric = builtin_metrics().by_name.get(name)
    low, high = (-math.inf, math.inf) if metric is None else metric.bounds
    return math.isfinite(value) and low - ROUNDING <= value <= high + ROUNDING


def load_metrics(names: Iterable[str]) -> MetricSet:
    """Return metrics from outside, each given as a path to a `.py` file or as the name of an entry point.

    Raises `SettingError` for a metric that has the name of a built-in one or of another of the list.
    """
    used = dict.fromkeys(builtin_metrics().by_name, "a built-in metric")
    metrics = []
    for name in names:
        metric = _load_metric(name)
        if metric.name in used:
            raise SettingError(
                "names of metrics must be unique",
                value=f"{metric.name} of {name} is {used[metric.name]}",
                remedy="give the metric another `name`",
            )
        used[metric.name] = f"also of {name}"
        metrics.append(metric)
    return MetricSet.of(metrics)


def _load_metric(name: str) -> Metric:
    kind = METRICS.load(name)
    missing = [attribute for attribute in ("name", "title") if not hasattr(kind, attribute)]
    if missing:
        remedy = f"add `{missing[0]}` to the class"
        raise ContractError(
            "a metric must have a name and a title", value=f"{name} lacks {missing}", remedy=remedy
        )
    return kind()


def _unique_metrics(metrics: Iterable[RowMetric]) -> tuple[RowMetric, ...]:
    return tuple({metric.name: metric for metric in metrics}.values())
