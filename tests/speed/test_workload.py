from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.runs.grid import make_config, make_grid
from ctrbench.speed.workload import FIELD_SIZES, field_sizes, from_prepared, synthetic, synthetic_ids


def test_the_default_shape_has_200808_ids_in_23_fields() -> None:
    assert sum(field_sizes()) == 200_808
    assert len(field_sizes()) == 23


def test_more_embedding_rows_do_not_change_the_number_of_domains() -> None:
    sizes = field_sizes(2_000_000, 300)
    assert sizes[0] == 300
    assert abs(sum(sizes) - 2_000_000) <= len(FIELD_SIZES)


def test_ids_fit_their_fields_and_none_is_unseen() -> None:
    ids_BF = synthetic_ids(5_000, (7, 3), seed=0)
    assert ids_BF.min(axis=0).tolist() == [1, 1]
    assert ids_BF.max(axis=0).tolist() == [7, 3]


def test_ids_depend_on_the_seed_only() -> None:
    first, again, other = (synthetic_ids(50, (7, 30), seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


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
