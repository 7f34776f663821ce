from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.runs.grid import make_config, make_grid
from ctrbench.speed.workload import from_prepared, synthetic


def test_the_schema_counts_the_rows_of_each_domain() -> None:
    workload = synthetic(rows=1_000, num_domains=5, embedding_rows=500)
    counts = np.bincount(workload.data.indicator_B.numpy(), minlength=6)
    assert workload.schema.indicator_rows == tuple(counts.tolist())
    assert sum(workload.schema.indicator_rows) == len(workload.data) == 1_000


def test_of_streamed_data_the_latest_window_is_read(
    tmp_path: Path, write_tiny: Callable[..., DatasetCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", 50)
    rows = np.arange(300)
    card = write_tiny(tmp_path, {"time": rows, "shop": rows % 3, "click": rows % 2})
    prepared = prepare(card, home=tmp_path / "home")
    (run,) = make_grid(
        prepared, methods=["plain"], backbones=["dnn"], seeds=[1], domain_set="default", indicator=None,
        config=make_config(),
    )  # fmt: skip
    assert len(from_prepared(prepared, run.key).data) == 200
    monkeypatch.setattr("ctrbench.runs.grid.MOST_HELD", 199)
    monkeypatch.setattr("ctrbench.runs.grid.WINDOW", 100)
    large = from_prepared(prepared, run.key)
    assert large.data.row.tolist() == list(range(100, 200))
    assert sum(large.schema.indicator_rows) == 200
