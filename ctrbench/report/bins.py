"""Metrics of every row of a comparison by size of domain, for any number of bins.

Records carry five bins. For another number the predictions serve, where they are still there; where they are not, the
per-domain metrics in the record give the GAUC of a bin, but not its pooled AUC, which stays undefined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import file_digest
from pathlib import Path

from ctrbench.eval.evaluate import measure_bins
from ctrbench.eval.longtail import bin_metrics
from ctrbench.eval.measures import DomainTable, grouped_columns
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.registry import builtin_metrics
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.eval.significance import LEVEL, holm, paired
from ctrbench.eval.stored import BinMetrics
from ctrbench.report.comparison import Comparison, Estimate, Row, estimate
from ctrbench.runs.record import Result, RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import Location, local_copy

BinMetric = str
BIN_METRICS = tuple(
    metric.name for metric in builtin_metrics().of_bins if metric.higher_is_better is not None
)
"""Metrics of bins that have a better end."""
Name = tuple[str, str]
"""Labels of backbone and method."""


@dataclass(frozen=True, kw_only=True)
class BinTable:
    """Bin metrics of every finished run of a comparison."""

    comparison: Comparison
    num_bins: int
    runs: Mapping[Name, Mapping[int, tuple[BinMetrics, ...]]]
    """Bins by row and seed."""

    @property
    def bins(self) -> tuple[BinMetrics, ...]:
        """What the bins hold; their metrics are those of one run and mean nothing here."""
        return next((bins for by_seed in self.runs.values() for bins in by_seed.values()), ())

    @property
    def is_pooled_auc_missing(self) -> bool:
        """Whether some run had neither stored bins of this number nor predictions to make them from."""
        everything = (found for by_seed in self.runs.values() for found in by_seed.values())
        return any(all(one.metrics.get(Auc.name) is None for one in bins) for bins in everything)

    @property
    def is_without_empty_domains(self) -> bool:
        """Whether the bins were made anew from records that lack the training rows of some domains."""
        record = next(iter(self.comparison.records), None)
        if record is None or record.result is None or len(record.result.bins) == self.num_bins:
            return False
        return sum(record.result.domains.rows_train) < sum(one.rows_train for one in record.result.bins)

    def values(self, row: Row, number: int, metric: BinMetric) -> dict[int, float]:
        """A metric of one bin (from 1) by seed; undefined seeds are left out."""
        by_seed = self.runs.get((row.backbone, row.method), {})
        found = {seed: bins[number - 1].metrics.get(metric) for seed, bins in by_seed.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, row: Row, number: int, metric: BinMetric) -> Estimate | None:
        """Mean and deviation over seeds."""
        return estimate(self.values(row, number, metric).values())

    def gains(self, row: Row, number: int, metric: BinMetric) -> dict[int, float]:
        """Gain over the plain backbone by seed, over the seeds that both have."""
        plain = self.comparison.plain(row.backbone)
        if plain is None:
            return {}
        base = self.values(plain, number, metric)
        return {s: value - base[s] for s, value in self.values(row, number, metric).items() if s in base}

    @cached_property
    def p_values(self) -> dict[tuple[str, str, int, BinMetric], float]:
        """Holm-adjusted p of each gain over `MIN_SEEDS` seeds, over all methods and bins of one backbone and metric."""
        found: dict[tuple[str, str, int, BinMetric], float] = {}
        for backbone in self.comparison.backbones:
            for metric in BIN_METRICS:
                found |= self._family(backbone, metric)
        return found

    def is_clear(self, row: Row, number: int, metric: BinMetric) -> bool:
        """Whether a gain differs from 0 significantly, in a row without failed runs."""
        return (
            not row.num_failed and self.p_values.get((row.backbone, row.method, number, metric), 1.0) < LEVEL
        )

    def _family(self, backbone: str, metric: BinMetric) -> dict[tuple[str, str, int, BinMetric], float]:
        rows = [row for row in self.comparison.of_backbone(backbone) if not row.is_plain]
        tests = {
            (backbone, row.method, number, metric): paired(gains).p_t
            for row in rows
            for number in range(1, self.num_bins + 1)
            if len(gains := list(self.gains(row, number, metric).values())) >= MIN_SEEDS
        }
        known = {place: p for place, p in tests.items() if p is not None}
        return dict(zip(known, holm(list(known.values())).tolist(), strict=True)) if known else {}


def bin_table(comparison: Comparison, *, num_bins: int, store: RunStore) -> BinTable:
    """Return the bin metrics of every run, from the record if it has this number of bins."""
    runs = {
        (row.backbone, row.method): dict(_by_seed(row.finished, num_bins=num_bins, store=store))
        for row in comparison.rows
    }
    return BinTable(comparison=comparison, num_bins=num_bins, runs=runs)


def _by_seed(
    records: Iterable[RunRecord], *, num_bins: int, store: RunStore
) -> Iterable[tuple[int, tuple[BinMetrics, ...]]]:
    for record in records:
        if record.result is not None:
            yield record.key.seed, _bins(record, record.result, num_bins, store)


def _bins(record: RunRecord, result: Result, num_bins: int, store: RunStore) -> tuple[BinMetrics, ...]:
    if len(result.bins) == num_bins:
        return result.bins
    return _from_predictions(store.predictions_file(record.key), result, num_bins) or _from_domains(
        result, num_bins
    )


def _from_predictions(file: Location, result: Result, num_bins: int) -> tuple[BinMetrics, ...]:
    """Return the bins; none where the predictions are gone or are not those of the record."""
    try:
        with local_copy(file, result.predictions_sha256) as path:
            is_same = _sha256_of(path) == result.predictions_sha256
            return measure_bins(path, table=_table(result, num_bins)) if is_same else ()
    except FileNotFoundError:
        return ()


def _sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _from_domains(result: Result, num_bins: int) -> tuple[BinMetrics, ...]:
    """Return the means over domains in each bin; metrics of the rows of a bin need predictions and are None."""
    domains, table = grouped_columns(result.domains), _table(result, num_bins)
    return bin_metrics(domains, None, table=table, metrics=builtin_metrics())


def _table(result: Result, num_bins: int) -> DomainTable:
    domains = result.domains
    return DomainTable(domain=domains.domain, rows_train=domains.rows_train, num_bins=num_bins)
