from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.names import Column, Split
from ctrbench.plugins.registry import find
from ctrbench.runs import execute as module
from ctrbench.runs import run_data, schema
from ctrbench.runs.execute import execute
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.record import Choice
from ctrbench.runs.store import RunStore


def run_of(prepared: Prepared, backbone: str) -> Run:
    (only,) = make_grid(
        prepared,
        methods=["plain"],
        backbones=[backbone],
        seeds=[1],
        domain_set="default",
        indicator=None,
        config=make_config(epochs=1, batch_size=64, embedding_size=4),
    )
    return only


@pytest.fixture
def run(card: DatasetCard, store: RunStore) -> Run:
    return run_of(prepare(card, home=store.home), "dnn[hidden=8-4]")


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("pooling", ["din", "dien"])
def test_a_sequence_is_compared_with_its_target(
    tmp_path: Path, store: RunStore, write_tiny: Callable[..., DatasetCard], pooling: str
) -> None:
    table = pl.read_csv(tmp_path / "tiny.csv").with_columns(
        pl.concat_str(pl.col("item").shift(7), pl.col("item").shift(3), separator="|").alias("past")
    )
    prepared = prepare(
        write_tiny(tmp_path, table, past='kind = "sequence", target = "item"'), home=store.home
    )
    only = run_of(prepared, f"dnn[hidden=8-4,pooling={pooling}]")
    assert [field.target for field in schema.field_shapes(prepared)] == [None, None, "item"]
    assert (
        run_data.load(prepared, Split.TRAIN, only.key).bags[0][0].max()
        <= prepared.manifest.field("item").size
    )
    record = execute(only, store)
    assert record.status == "finished"
    assert record.result is not None
    assert ("pooling.past.aux" in record.result.history[0].logs) is (pooling == "dien")


def test_a_pooling_of_sequences_that_there_are_not_is_said(run: Run, store: RunStore) -> None:
    changed = run.key.backbone.model_copy(update={"settings": {"hidden": [8, 4], "pooling": "din"}})
    record = execute(replace(run, key=run.key.model_copy(update={"backbone": changed})), store)
    assert record.status == "failed"
    assert "pooling=din must have a sequence" in (record.error or "")


def test_the_test_split_is_read_once_after_training(
    run: Run, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    load, fit = run_data.load, module.Trainer.fit
    monkeypatch.setattr(run_data, "load", lambda *a: (heard.append(str(a[1])), load(*a))[1])
    monkeypatch.setattr(module.Trainer, "fit", lambda *a, **k: (heard.append("fit"), fit(*a, **k))[1])
    assert execute(run, store).status == "finished"
    assert heard == [Split.TRAIN, Split.DEV, "fit", Split.TEST]


def test_every_figure_can_be_computed_again_from_the_predictions(run: Run, store: RunStore) -> None:
    result = execute(run, store).result
    assert result is not None
    file = store.predictions_file(run.key)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == result.predictions_sha256
    frame = pl.read_parquet(file)
    label, score = frame[Column.LABEL].to_numpy(), frame[Column.SCORE].to_numpy().astype(np.float64)
    assert len(frame) == 500
    assert result.test["auc"] == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert result.test["logloss"] == pytest.approx(log_loss(label, 1 / (1 + np.exp(-score))), rel=1e-9)
    of_first = frame.filter(pl.col(Column.DOMAIN) == 1)
    first = result.domains.domain.index(1)
    expected = roc_auc_score(of_first[Column.LABEL].to_numpy(), of_first[Column.SCORE].to_numpy())
    assert result.domains.metrics["auc"][first] == pytest.approx(expected, rel=1e-7)
    assert sum(result.domains.rows) == 500


def test_a_domain_without_test_rows_is_undefined_not_zero(run: Run, store: RunStore) -> None:
    result = execute(run, store).result
    assert result is not None
    assert result.domains.domain[0] == 0
    assert (result.domains.rows[0], result.domains.metrics["auc"][0]) == (0, None)


def test_an_estimator_is_fitted_in_place_of_training(run: Run, store: RunStore) -> None:
    trees = find("methods", "gbdt")
    choice = Choice(name="gbdt", settings={**trees.load()(max_trees=5).key()})
    key = run.key.model_copy(update={"method": choice})
    record = execute(replace(run, key=key, method=trees), store)
    assert record.error is None
    result = record.result
    assert result is not None
    assert (result.parameters.embedding, result.parameters.per_domain) == (0, 0)
    assert result.notes == {"trees": result.steps}
    assert 1 <= result.steps <= 5
    assert result.parameters.dense >= 2 * result.steps
    assert (result.best_evaluation, result.rows_seen, len(result.history)) == (1, 2000, 1)
    assert result.history[0].dev == result.dev
    assert set(record.measured.seconds) == {"load", "train", "dev", "test"}
    frame = pl.read_parquet(store.predictions_file(key))
    expected = roc_auc_score(frame[Column.LABEL].to_numpy(), frame[Column.SCORE].to_numpy())
    assert result.test["auc"] == pytest.approx(expected)
    assert expected > 0.55
