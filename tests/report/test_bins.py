from __future__ import annotations

import hashlib
from collections.abc import Callable

import polars as pl
import pytest

from ctrbench.eval.metrics.registry import builtin_metrics
from ctrbench.report.bins import read_bins
from ctrbench.report.comparison import compare
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


def test_five_bins_come_from_the_record(toy: list[RunRecord], store: RunStore) -> None:
    (comparison,) = compare(toy)
    run_bins = read_bins(comparison, num_bins=5, store=store, metrics=builtin_metrics())
    assert run_bins.values(comparison.rows[0], 2, "auc") == pytest.approx({1: 0.73, 2: 0.75})
    assert not run_bins.is_missing("auc")


def test_without_predictions_gauc_comes_from_the_domains(
    record: Callable[..., RunRecord], store: RunStore
) -> None:
    (comparison,) = compare([record()])
    run_bins = read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics())
    # Domain 1 holds half of the training rows; domains 2 and 3 the rest, of which 3 has one class only.
    assert [(bin_.domains, bin_.rows_train) for bin_ in run_bins.bins] == [(1, 50), (2, 50)]
    assert [bin_.metrics["auc"] for bin_ in run_bins.bins] == [None, None]
    assert [bin_.metrics["gauc"] for bin_ in run_bins.bins] == [0.8, 0.6]
    assert run_bins.bins[1].metrics["gauc_coverage"] == pytest.approx(30 / 40)
    assert run_bins.is_missing("auc")


def write_predictions(store: RunStore, run: RunRecord, sha: str | None = None) -> RunRecord:
    frame = pl.DataFrame({
        "row": [0, 1, 2, 3, 4, 5], "domain": [1, 1, 1, 2, 3, 3], "label": [1, 0, 1, 0, 1, 0],
        "score": [2.0, 1.0, 0.0, 0.0, 3.0, 1.0],
    })  # fmt: skip
    file = store.predictions_file(run.key)
    file.parent.mkdir(parents=True)
    frame.write_parquet(file)
    digest = sha or hashlib.sha256(file.read_bytes()).hexdigest()
    return run.model_copy(update={"result": run.result.model_copy(update={"predictions_sha256": digest})})


def test_with_predictions_auc_is_pooled(record: Callable[..., RunRecord], store: RunStore) -> None:
    (comparison,) = compare([write_predictions(store, record())])
    run_bins = read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics())
    # Domain 1: the positive 2.0 beats 1.0, the positive 0.0 does not. Domains 2 and 3: 3.0 beats 0.0 and 1.0.
    assert [bin_.metrics["auc"] for bin_ in run_bins.bins] == [0.5, 1.0]
    assert not run_bins.is_missing("auc")


def test_predictions_of_another_run_are_not_used(record: Callable[..., RunRecord], store: RunStore) -> None:
    (comparison,) = compare([write_predictions(store, record(), sha="0" * 64)])
    assert read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics()).is_missing("auc")


def test_bins_know_that_records_lack_domains(record: Callable[..., RunRecord], store: RunStore) -> None:
    short = record(bins=tuple(bin_.model_copy(update={"rows_train": 21}) for bin_ in record().result.bins))
    (comparison,) = compare([short])
    assert read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics()).is_without_empty_domains
    assert not read_bins(
        comparison, num_bins=5, store=store, metrics=builtin_metrics()
    ).is_without_empty_domains
