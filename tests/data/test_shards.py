from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.shards import ContentDigest
from ctrbench.names import Split


def test_a_content_digest_distinguishes_lists_with_equal_values() -> None:
    digests = set()
    for lists in ([[1], [2]], [[1, 2], []], [[], [1, 2]]):
        digest = ContentDigest()
        digest.update(pa.table({"x": pa.array(lists, pa.list_(pa.int32()))}))
        digests.add(digest.hexdigest({Split.TRAIN: 2}, []))
    assert len(digests) == 3


def test_a_content_digest_does_not_depend_on_table_boundaries() -> None:
    table = pa.table(
        {"x": np.arange(10), "y": pa.array([[i] * (i % 3) for i in range(10)], pa.list_(pa.int32()))}
    )
    single, parts = ContentDigest(), ContentDigest()
    single.update(table)
    for start in range(0, 10, 3):
        parts.update(table.slice(start, 3))
    assert single.hexdigest({}, []) == parts.hexdigest({}, [])


def test_shards_written_in_parallel_are_in_order(
    card: DatasetCard, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.data.shards.SHARD_ROWS", 1)
    prepared = prepare(card, home=home)
    assert prepared.read(Split.TRAIN, ["time"])["time"].to_pylist() == list(range(1, 9))
    names = [shard.file for shard in prepared.manifest.splits[Split.DEV].shards]
    assert names == ["shards/dev-00000.parquet", "shards/dev-00001.parquet"]
