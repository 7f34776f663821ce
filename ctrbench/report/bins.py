"""Metrics of runs per bin of domains, for any number of bins.

Records hold five bins. For another number, bins are computed from the stored predictions; without predictions, the
per-domain metrics in the record give the GAUC of a bin, but not its pooled AUC, which stays undefined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ctrbench.errors import SettingError
from ctrbench.eval.evaluate import measure_bins
from ctrbench.eval.longtail import bin_metrics
from ctrbench.eval.measures import DomainTable, grouped_columns
from ctrbench.eval.metrics.registry import MetricSet
from ctrbench.eval.stored import BinMetrics
from ctrbench.report.comparison import Comparison, Row
from ctrbench.runs.record import Result, RunRecord
from ctrbench.runs.store import RunStore

DEFAULT_NUM_BINS = 5
MAX_NUM_BINS = 1_000


@dataclass(frozen=True, kw_only=True)
class RunBins:
    """Bin metrics of every finished run of a comparison."""

    num_bins: int
    runs: Mapping[tuple[str, str], Mapping[int, tuple[BinMetrics, ...]]]
    """Bins by name of the row and by seed."""
    is_without_empty_domains: bool
    """Whether bins were computed from a record that lacks domains without test rows."""

    @property
    def bins(self) -> tuple[BinMetrics, ...]:
        """Bins of one run, whose numbers of domains and rows are those of all runs; empty without results."""
        return next((bins for by_seed in self.runs.values() for bins in by_seed.values()), ())

    def is_missing(self, metric: str) -> bool:
        """Return whether some run has no value of a metric, for lack of the predictions to compute it from."""
        return any(
            all(bin_.metrics.get(metric) is None for bin_ in bins)
            for by_seed in self.runs.values()
            for bins in by_seed.values()
        )

    def values(self, row: Row, index: int, metric: str) -> dict[int, float]:
        """Return a metric of the bin with this index (from 0), by seed; undefined values are left out."""
        by_seed = self.runs.get(row.name, {})
        values = {seed: bins[index].metrics.get(metric) for seed, bins in by_seed.items()}
        return {seed: value for seed, value in values.items() if value is not None}


def check_num_bins(num_bins: int, comparisons: Iterable[Comparison]) -> None:
    """Raise `SettingError` unless some comparison has that many domains in training."""
    results = [
        record.result
        for comparison in comparisons
        for record in comparison.records
        if record.result is not None
    ]
    domains = max((sum(rows > 0 for rows in result.domains.rows_train) for result in results), default=0)
    limit = min(MAX_NUM_BINS, max(domains, DEFAULT_NUM_BINS))
    if not 1 <= num_bins <= limit:
        reason = f"the largest number of bins; the records have {domains:,} domains"
        raise SettingError(
            f"--bins must be between 1 and {limit:,}", value=num_bins, remedy=f"{limit:,} is {reason}"
        )


def read_bins(
    comparison: Comparison, *, num_bins: int, store: RunStore | None, metrics: MetricSet
) -> RunBins:
    """Return the bins of every run: from its record if it has `num_bins` bins, else from its predictions in `store`."""
    return RunBins(
        num_bins=num_bins,
        runs={
            row.name: dict(_bins_by_seed(row.finished, num_bins=num_bins, store=store, metrics=metrics))
            for row in comparison.rows
        },
        is_without_empty_domains=_is_without_empty_domains(comparison, num_bins),
    )


def _is_without_empty_domains(comparison: Comparison, num_bins: int) -> bool:
    record = next(iter(comparison.records), None)
    if record is None or record.result is None or len(record.result.bins) == num_bins:
        return False
    bin_rows = sum(bin_.rows_train for bin_ in record.result.bins)
    return sum(record.result.domains.rows_train) < bin_rows


def _bins_by_seed(
    records: Iterable[RunRecord], *, num_bins: int, store: RunStore | None, metrics: MetricSet
) -> Iterable[tuple[int, tuple[BinMetrics, ...]]]:
    for record in records:
        if record.result is not None:
            yield record.key.seed, _bins_of_record(record, record.result, num_bins, store, metrics)


def _bins_of_record(
    record: RunRecord, result: Result, num_bins: int, store: RunStore | None, metrics: MetricSet
) -> tuple[BinMetrics, ...]:
    if len(result.bins) == num_bins:
        return result.bins
    table = DomainTable(domain=result.domains.domain, rows_train=result.domains.rows_train, num_bins=num_bins)
    measured = _from_predictions(record, store, table, metrics) if store else ()
    # Metrics of the rows of a bin need predictions; without them only means over domains are defined.
    return measured or bin_metrics(grouped_columns(result.domains), None, table=table, metrics=metrics)


def _from_predictions(
    record: RunRecord, store: RunStore, table: DomainTable, metrics: MetricSet
) -> tuple[BinMetrics, ...]:
    """Return the bins; empty if the predictions are missing or are not those of the record."""
    with store.predictions(record) as file:
        return measure_bins(file, table=table, metrics=metrics) if file is not None else ()
