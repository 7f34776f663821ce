"""Metrics of a file of predictions: in memory, and by external sorting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ctrbench.eval.evaluate import measure_file
from ctrbench.eval.external import Limits
from ctrbench.eval.measures import DomainTable
from ctrbench.names import Column

NUM_DOMAINS = 5_000
TRAFFIC = np.arange(1, NUM_DOMAINS + 1) ** -0.805
TABLE = DomainTable(
    domain=np.arange(NUM_DOMAINS + 1), rows_train=np.r_[0, 1e9 * TRAFFIC].astype(np.int64), num_bins=5
)
WAYS: dict[str, Callable[[Path], object]] = {
    "held": lambda file: measure_file(file, table=TABLE, limits=Limits(held=10**9)),
    "external": lambda file: measure_file(file, table=TABLE, limits=Limits(held=0)),
}


@pytest.fixture(scope="module", params=[1_000_000, 10_000_000])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions in 5,000 domains and of some million users."""
    num_rows, rng = request.param, np.random.default_rng(0)
    score = rng.normal(-3, 1, num_rows)
    path = tmp_path_factory.mktemp("predictions") / f"{num_rows}.parquet"
    pl.DataFrame(
        {
            Column.DOMAIN: rng.choice(NUM_DOMAINS, num_rows, p=TRAFFIC / TRAFFIC.sum()).astype(np.int32) + 1,
            Column.USER: (3e6 * rng.random(num_rows) ** 2).astype(np.int32),
            Column.LABEL: (rng.random(num_rows) < 1 / (1 + np.exp(-score))).astype(np.int8),
            Column.SCORE: score.astype(np.float32),
        }
    ).write_parquet(path)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_metrics_of_a_file(benchmark: BenchmarkFixture, file: Path, way: str) -> None:
    benchmark.group = f"metrics of a file of {int(file.stem):,} rows"
    benchmark.pedantic(WAYS[way], args=(file,), rounds=1)
