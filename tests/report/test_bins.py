from __future__ import annotations

import hashlib
from collections.abc import Callable

import polars as pl
import pytest

from ctrbench.report.bins import bin_table
from ctrbench.report.comparison import compare
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


def test_five_bins_come_from_the_record(toy: list[RunRecord], store: RunStore) -> None:
    (comparison,) = compare(toy)
    table = bin_table(comparison, num_bins=5, store=store)
    assert table.values(comparison.rows[0], 3, "auc") == pytest.approx({1: 0.73, 2: 0.75})
    assert not table.is_pooled_auc_missing


def test_gains_over_plain_of_the_same_seed(toy: list[RunRecord], store: RunStore) -> None:
    (comparison,) = compare(toy)
    table = bin_table(comparison, num_bins=5, store=store)
    assert table.gains(comparison.rows[1], 5, "gauc") == pytest.approx({1: 0.03, 2: 0.05})


def test_without_predictions_gauc_comes_from_the_domains(
    record: Callable[..., RunRecord], store: RunStore
) -> None:
    (comparison,) = compare([record()])
    table = bin_table(comparison, num_bins=2, store=store)
    # Domain 1 holds half of the training rows; domains 2 and 3 the rest, of which 3 has one class only.
    assert [(part.domains, part.rows_train) for part in table.bins] == [(1, 50), (2, 50)]
    assert [part.metrics["auc"] for part in table.bins] == [None, None]
    assert [part.metrics["gauc"] for part in table.bins] == [0.8, 0.6]
    assert table.bins[1].metrics["gauc_coverage"] == pytest.approx(30 / 40)
    assert table.is_pooled_auc_missing


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
    table = bin_table(comparison, num_bins=2, store=store)
    # Domain 1: the positive 2.0 beats 1.0, the positive 0.0 does not. Domains 2 and 3: 3.0 beats 0.0 and 1.0.
    assert [part.metrics["auc"] for part in table.bins] == [0.5, 1.0]
    assert not table.is_pooled_auc_missing


def test_predictions_of_another_run_are_not_used(record: Callable[..., RunRecord], store: RunStore) -> None:
    (comparison,) = compare([write_predictions(store, record(), sha="0" * 64)])
    assert bin_table(comparison, num_bins=2, store=store).is_pooled_auc_missing


def test_gains_are_tested_with_holm(record: Callable[..., RunRecord], store: RunStore) -> None:
    auc = {"plain": (0.70, 0.71, 0.69) * 2, "apg": (0.75, 0.7601, 0.74) * 2}
    runs = [record(name, seed, value) for name, values in auc.items() for seed, value in enumerate(values)]
    (comparison,) = compare(runs)
    table = bin_table(comparison, num_bins=5, store=store)
    # Twice 0.05, 0.0501, 0.05: t = 2373 on five degrees of freedom, p = 2.5e-16; five equal bins, hence times 5.
    assert table.p_values["dnn", "apg", 1, "auc"] == pytest.approx(5 * 2.521e-16, rel=1e-3)
    assert table.is_clear(comparison.rows[1], 1, "auc")
    assert not table.is_clear(comparison.rows[0], 1, "auc")


def test_gains_of_five_seeds_are_not_tested(record: Callable[..., RunRecord], store: RunStore) -> None:
    auc = {"plain": 0.70, "apg": 0.75}
    (comparison,) = compare([record(name, seed, auc[name] + seed / 100) for name in auc for seed in range(5)])
    assert bin_table(comparison, num_bins=5, store=store).p_values == {}


def test_gains_of_a_row_with_failed_runs_are_not_marked(
    record: Callable[..., RunRecord], store: RunStore
) -> None:
    runs = [record(name, seed, auc) for name, auc in (("plain", 0.70), ("apg", 0.75)) for seed in range(6)]
    (comparison,) = compare([*runs, record("apg", 6, status="failed", error="no memory")])
    table = bin_table(comparison, num_bins=5, store=store)
    assert table.p_values["dnn", "apg", 1, "auc"] < 0.05
    assert not table.is_clear(comparison.rows[1], 1, "auc")


def test_records_that_lack_domains_are_told(record: Callable[..., RunRecord], store: RunStore) -> None:
    short = record(bins=tuple(one.model_copy(update={"rows_train": 21}) for one in record().result.bins))
    (comparison,) = compare([short])
    assert bin_table(comparison, num_bins=2, store=store).is_without_empty_domains
    assert not bin_table(comparison, num_bins=5, store=store).is_without_empty_domains
