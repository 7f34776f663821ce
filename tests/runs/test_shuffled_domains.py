"""Runs whose method reads shuffled domains: what they learn, what they record, and that they resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.names import Column, Split
from ctrbench.runs import run_data
from ctrbench.runs.execute import execute
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.record import SHUFFLED_DOMAINS, RunRecord
from ctrbench.runs.store import RunStore


def pair(prepared: Prepared, method: str, **settings: object) -> tuple[Run, Run]:
    """A run and its control."""
    given = {"epochs": 2, "patience": 5, "batch_size": 64, "embedding_size": 4, **settings}
    (run,) = make_grid(
        prepared,
        methods=[method],
        backbones=["dnn[hidden=8-4]"],
        seeds=[1],
        domain_set="default",
        indicator=None,
        config=make_config(**given),
    )
    return run, replace(run, key=run.key.model_copy(update={"control": SHUFFLED_DOMAINS}))


def aucs(prepared: Prepared, store: RunStore, method: str, **settings: object) -> list[float]:
    records = [execute(run, store) for run in pair(prepared, method, **settings)]
    return [value for record in records if record.result and (value := record.result.test["auc"]) is not None]


OWN = '''
"""A network per domain that does not see the domain features: a method from outside that declares nothing."""

from dataclasses import replace

from ctrbench.extend import DomainDense, Method


class Own(Method):
    def rewrite(self, plan):
        return replace(plan.map_dense(DomainDense.like), hides_domain=True)
'''


def test_a_method_gains_from_domains_that_tell_the_label(
    tmp_path: Path, card: DatasetCard, store: RunStore
) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    own, control = aucs(prepare(card, home=store.home), store, str(file), lr=0.01)
    assert own > 0.6
    assert control < 0.54


def test_a_method_gains_nothing_from_domains_without_effect(
    tmp_path: Path, store: RunStore, write_tiny: Callable[..., DatasetCard]
) -> None:
    generator = np.random.default_rng(0)
    item = generator.integers(0, 8, 3_000)
    columns = {
        "time": np.arange(3_000),
        "shop": generator.integers(0, 4, 3_000),
        "item": item,
        "click": (generator.random(3_000) < 0.1 + 0.1 * item).astype(int),
    }
    prepared = prepare(write_tiny(tmp_path, columns), home=store.home)
    own, control = aucs(prepared, store, "star", lr=0.01)
    assert own > 0.65
    assert own == pytest.approx(control, abs=0.02)
    assert own != control


def result_of(record: RunRecord) -> tuple[int, ...]:
    assert record.result is not None
    domains = record.result.domains
    return (*domains.domain, *domains.rows_train, *domains.rows, *domains.positives)


@pytest.mark.parametrize("window", [None, 500])
def test_metrics_are_of_the_true_domains(
    card: DatasetCard, store: RunStore, monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", 200)
    run, control = pair(prepare(card, home=store.home), "star", epochs=1, window=window)
    records = [execute(each, store) for each in (run, control)]
    assert [record.status for record in records] == ["finished", "finished"]
    assert result_of(records[0]) == result_of(records[1])
    own, other = (pl.read_parquet(store.predictions_file(each.key)) for each in (run, control))
    assert own[Column.DOMAIN].to_list() == other[Column.DOMAIN].to_list()
    assert own[Column.SCORE].to_list() != other[Column.SCORE].to_list()


def test_a_control_is_a_run_of_its_own_with_domains_fixed_by_the_data(
    card: DatasetCard, store: RunStore
) -> None:
    prepare(card, home=store.home)
    prepared = open_prepared("tiny", store.home)
    run, control = pair(prepared, "adasparse")
    assert run.key.digest != control.key.digest
    keys = [control.key, control.key.model_copy(update={"seed": 2})]
    first, second = (run_data.load(prepared, Split.TRAIN, key) for key in keys)
    assert first is second
    assert run_data.load(prepared, Split.TRAIN, run.key).copies_BD is None
