"""Runs whose rows are read shard by shard: the same protocol, resumed in the middle of an epoch bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl
import pyarrow as pa
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.names import Column, Split
from ctrbench.plugins.registry import find
from ctrbench.runs.execute import execute
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.store import RunStore
from ctrbench.train.loop import Tick


@pytest.fixture
def store(store: RunStore, card: DatasetCard, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """Ten shards of training rows, three each of dev and test."""
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", 200)
    prepare(card, home=store.home)
    return store


def run_of(store: RunStore, method: str = "plain", **settings: object) -> Run:
    given = {"epochs": 2, "patience": 5, "batch_size": 64, "embedding_size": 4, "window": 500, **settings}
    (only,) = make_grid(
        open_prepared("tiny", store.home),
        methods=[method],
        backbones=["dnn[hidden=8-4]"],
        seeds=[1],
        domain_set="default",
        indicator=None,
        config=make_config(**given),
    )
    return only


def elsewhere(store: RunStore) -> RunStore:
    """The same data, with records and run folders of its own."""
    home = store.home.parent / "again"
    home.mkdir()
    (home / "datasets").symlink_to(store.home / "datasets")  # type: ignore[arg-type]
    return RunStore(results=home / "results", home=home)


def test_every_row_is_trained_on_and_scored_once(store: RunStore) -> None:
    run = run_of(store)
    result = execute(run, store).result
    assert result is not None
    assert result.rows_seen == 2 * 2000
    frame = pl.read_parquet(store.predictions_file(run.key))
    assert frame[Column.ROW].to_list() == list(range(2500, 3000))
    assert run.key.train["window"] == 500


def test_a_window_of_all_rows_scores_as_held_rows_do(store: RunStore) -> None:
    """Training differs in the order of rows; what the same weights predict does not."""
    streamed, held = run_of(store, epochs=1, lr=1e-9), run_of(store, epochs=1, lr=1e-9, window=None)
    scores = []
    for run in (streamed, held):
        execute(run, store)
        scores.append(pl.read_parquet(store.predictions_file(run.key))[Column.SCORE].to_numpy())
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        "plain",
        "adasparse",
        "star",
        "mamdr",
        "maml[tasks=2,support=16,query=16]",
        "plain[min_count=70,dropout=0.2,lr_schedule=cosine]",
    ],
)
@pytest.mark.parametrize("step", [3, 21])
def test_killed_in_the_middle_of_an_epoch_and_resumed_equals_uninterrupted(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, method: str, step: int
) -> None:
    run, other = run_of(store, method), elsewhere(store)
    whole = execute(run, store)
    monkeypatch.setattr("ctrbench.train.loop.PROGRESS_SECONDS", 0.0)

    def kill(tick: Tick) -> None:
        if tick.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, other, progress=kill, checkpoint_seconds=0.0)
    again = execute(run, other, checkpoint_seconds=0.0)
    assert whole.error is None
    assert again.measured.resumed == 1
    assert again.reproducible() == whole.reproducible()


def test_the_test_split_is_read_once_after_training(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[str] = []
    read_shard = Prepared.read_shard

    def record(self: Prepared, split: Split, index: int, columns: Sequence[str]) -> pa.Table:
        splits.append(str(split))
        return read_shard(self, split, index, columns)

    monkeypatch.setattr(Prepared, "read_shard", record)
    execute(run_of(store, epochs=1), store)
    assert "train" not in splits[splits.index("test") :]
    # Once for the predictions, and the latest rows once more for a method with an inspection.
    assert splits.count("test") <= 2 * 3


def test_an_estimator_asks_for_all_rows(store: RunStore) -> None:
    run, trees = run_of(store), find("methods", "gbdt")
    choice = run.key.method.model_copy(update={"name": "gbdt", "settings": {**trees.load()().key()}})
    record = execute(replace(run, key=run.key.model_copy(update={"method": choice}), method=trees), store)
    assert record.status == "failed"
    assert "--window 0" in (record.error or "")
