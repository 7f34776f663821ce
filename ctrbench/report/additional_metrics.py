"""Additional metrics of a report, computed from the stored predictions of each run.

Records hold the built-in metrics. A metric from another file is computed when a report asks for it and added to a copy
of each record, so that tables, charts and CSV files treat it like any other.
"""

from __future__ import annotations

from ctrbench.eval.evaluate import measure_file
from ctrbench.eval.measures import DomainTable, Measures, domain_columns
from ctrbench.eval.metrics.registry import MetricSet
from ctrbench.eval.stored import BinMetrics, DomainMetrics
from ctrbench.runs.record import Result, RunRecord
from ctrbench.runs.store import RunStore


def with_additional_metrics(record: RunRecord, metrics: MetricSet, store: RunStore) -> RunRecord:
    """Return a record with these metrics added; the record itself where its predictions are not available.

    Metrics that the record already has are not replaced.
    """
    if record.result is None or not metrics.metrics:
        return record
    table = DomainTable(
        domain=record.result.domains.domain,
        rows_train=record.result.domains.rows_train,
        num_bins=len(record.result.bins),
    )
    with store.predictions(record) as file:
        if file is None:
            return record
        measures = measure_file(file, table=table, metrics=metrics)
    return record.model_copy(update={"result": _merge_result(record.result, measures, table)})


def _merge_result(result: Result, measures: Measures, table: DomainTable) -> Result:
    return result.model_copy(
        update={
            "test": {**measures.overall, **result.test},
            "variants": {
                name: {**values, **result.variants.get(name, {})}
                for name, values in measures.variants.items()
            },
            "oracle": {**measures.oracle, **result.oracle},
            "domains": _merge_domains(result.domains, domain_columns(measures.domains, table)),
            "bins": tuple(map(_merge_bin, result.bins, measures.bins)),
        }
    )


def _merge_domains(stored: DomainMetrics, measured: DomainMetrics) -> DomainMetrics:
    return stored.model_copy(update={"metrics": {**measured.metrics, **stored.metrics}})


def _merge_bin(stored: BinMetrics, measured: BinMetrics) -> BinMetrics:
    return stored.model_copy(update={"metrics": {**measured.metrics, **stored.metrics}})
