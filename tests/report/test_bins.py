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
    found = read_bins(comparison, num_bins=5, store=store, metrics=builtin_metrics())
    assert found.values(comparison.rows[0], 2, "auc") == pytest.approx({1: 0.73, 2: 0.75})
    assert not found.is_missing("auc")


def test_without_predictions_gauc_comes_from_the_domains(
    record: Callable[..., RunRecord], store: RunStore
) -> None:
    (comparison,) = compare([record()])
    found = read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics())
    # Domain 1 holds half of the training rows; domains 2 and 3 the rest, of which 3 has one class only.
    assert [(part.domains, part.rows_train) for part in found.bins] == [(1, 50), (2, 50)]
    assert [part.metrics["auc"] for part in found.bins] == [None, None]
    assert [part.metrics["gauc"] for part in found.bins] == [0.8, 0.6]
    assert found.bins[1].metrics["gauc_coverage"] == pytest.approx(30 / 40)
    assert found.is_missing("auc")


def write_predictions(store: RunStore, made: RunRecord, sha: str | None = None) -> RunRecord:
    frame = pl.DataFrame({
        "row": [0, 1, 2, 3, 4, 5], "domain": [1, 1, 1, 2, 3, 3], "label": [1, 0, 1, 0, 1, 0],
        "score": [2.0, 1.0, 0.0, 0.0, 3.0, 1.0],
    })  # fmt: skip
    file = store.predictions_file(made.key)
    file.parent.mkdir(parents=True)
    frame.write_parquet(file)
    digest = sha or hashlib.sha256(file.read_bytes()).hexdigest()
    return made.model_copy(update={"result": made.result.model_copy(update={"predictions_sha256": digest})})


def test_with_predictions_auc_is_pooled(record: Callable[..., RunRecord], store: RunStore) -> None:
    (comparison,) = compare([write_predictions(store, record())])
    found = read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics())
    # Domain 1: the positive 2.0 beats 1.0, the positive 0.0 does not. Domains 2 and 3: 3.0 beats 0.0 and 1.0.
    assert [part.metrics["auc"] for part in found.bins] == [0.5, 1.0]
    assert not found.is_missing("auc")


def test_predictions_of_another_run_are_not_used(record: Callable[..., RunRecord], store: RunStore) -> None:
    (comparison,) = compare([write_predictions(store, record(), sha="0" * 64)])
    assert read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics()).is_missing("auc")


def test_bins_from_records_that_lack_domains_say_so(
    record: Callable[..., RunRecord], store: RunStore
) -> None:
    short = record(bins=tuple(one.model_copy(update={"rows_train": 21}) for one in record().result.bins))
    (comparison,) = compare([short])
    assert read_bins(comparison, num_bins=2, store=store, metrics=builtin_metrics()).is_without_empty_domains
    assert not read_bins(
        comparison, num_bins=5, store=store, metrics=builtin_metrics()
    ).is_without_empty_domains
