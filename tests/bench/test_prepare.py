"""From a CSV to shards, against only reading the CSV."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import polars as pl
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare

GROUP = "a CSV of 150,000 rows"


@pytest.mark.benchmark(group=GROUP)
def test_prepare(benchmark: BenchmarkFixture, card: DatasetCard, tmp_path: Path) -> None:
    homes = (tmp_path / str(number) for number in count())
    benchmark.pedantic(lambda: prepare(card, home=next(homes)), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group=GROUP)
def test_only_read(benchmark: BenchmarkFixture, card: DatasetCard) -> None:
    assert card.path is not None
    benchmark.pedantic(pl.read_csv, args=(card.path,), rounds=5, warmup_rounds=1)
