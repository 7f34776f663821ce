"""Every metric of predictions, in memory or in a parquet file of any size.

`measure_file` reads a file of moderate size into memory; a larger one is evaluated in passes by `external`. Both
use the same definitions of the metrics.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ctrbench.eval.external import ExternalEvaluation, Limits
from ctrbench.eval.external_sort import scratch, scratch_parent
from ctrbench.eval.grouped import Summary, overall, ranked_rows, summarize
from ctrbench.eval.longtail import bin_metrics, bins_of_rows, check_known, with_sums_of_domains
from ctrbench.eval.measures import DomainTable, Measures
from ctrbench.eval.metrics.registry import MetricSet, builtin_metrics
from ctrbench.eval.oracle import oracle
from ctrbench.eval.prediction_file import PredictionFile, variant_columns
from ctrbench.eval.stored import BinMetrics
from ctrbench.names import Column


def measure_file(
    file: Path,
    *,
    table: DomainTable,
    limits: Limits | None = None,
    folder: Path | None = None,
    metrics: MetricSet | None = None,
) -> Measures:
    """Return metrics (default: the built-in ones) of a file of predictions.

    Columns are named as in `names.Column`; further ones are scores. Scratch files, at most 30 bytes per row at a time,
    are written to `folder` (default: `scratch_parent(file)`). Raises `DataError` for invalid scores or probabilities,
    for domains that the table lacks, and for a file that does not hold predictions.
    """
    limits = limits or Limits()
    predictions = PredictionFile.open(file, limits.chunk)
    if predictions.num_rows <= limits.held:
        return measure_frame(pl.read_parquet(file), table=table, metrics=metrics)
    with scratch(folder or scratch_parent(file)) as inside:
        chosen = metrics or builtin_metrics()
        return ExternalEvaluation(predictions, table, limits, inside, chosen).measures()


def measure_bins(
    file: Path,
    *,
    table: DomainTable,
    limits: Limits | None = None,
    folder: Path | None = None,
    metrics: MetricSet | None = None,
) -> tuple[BinMetrics, ...]:
    """Return the metrics of the bins alone; otherwise as `measure_file`."""
    limits = limits or Limits()
    predictions = PredictionFile.open(file, limits.chunk)
    chosen = (metrics or builtin_metrics()).available(predictions.columns).for_bins
    if predictions.num_rows <= limits.held:
        columns = {Column.DOMAIN, Column.LABEL, Column.SCORE, *chosen.required_columns}
        return bins_of_frame(pl.read_parquet(file, columns=sorted(columns)), table=table, metrics=chosen)
    with scratch(folder or scratch_parent(file)) as inside:
        return ExternalEvaluation(predictions, table, limits, inside, chosen).bins()


def measure_frame(
    predictions: pl.DataFrame, *, table: DomainTable, metrics: MetricSet | None = None
) -> Measures:
    """Return metrics (default: the built-in ones) of predictions in memory."""
    chosen = metrics or builtin_metrics()
    main, bins = _main_results(predictions, table, chosen.available(predictions.columns))
    has_truth = Column.PROBABILITY in predictions.columns
    variants = variant_columns(predictions.columns)
    return Measures(
        overall=main.values(),
        variants={name: overall(predictions, score=name, metrics=chosen) for name in variants},
        oracle=oracle(predictions, metrics=chosen) if has_truth else {},
        domains=main.domain_metrics,
        bins=bins,
    )


def bins_of_frame(
    predictions: pl.DataFrame, *, table: DomainTable, metrics: MetricSet | None = None
) -> tuple[BinMetrics, ...]:
    """Return the metrics of the bins alone of predictions in memory."""
    chosen = (metrics or builtin_metrics()).available(predictions.columns).for_bins
    return _main_results(predictions, table, chosen)[1]


def _main_results(
    predictions: pl.DataFrame, table: DomainTable, metrics: MetricSet
) -> tuple[Summary, tuple[BinMetrics, ...]]:
    """Return the sums of the main score, and the metrics of the bins."""
    rows = ranked_rows(predictions)
    main = summarize(predictions, rows, metrics)
    check_known(main.domains.group, table.domain)
    bins = rows.grouped(bins_of_rows(predictions[Column.DOMAIN].to_numpy(), table))
    pooled = with_sums_of_domains(bins, main.domains, table)
    return main, bin_metrics(main.domain_metrics, pooled, table=table, metrics=metrics)
