"""All metrics of a table, overall and by domain."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ctrbench.eval.grouped import overall

NUM_DOMAINS = 5_000


def predictions(num_rows: int, kind: str) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    traffic = np.arange(1, NUM_DOMAINS + 1) ** -0.805
    score = rng.normal(-2, 1, num_rows).astype(kind)
    return pl.DataFrame(
        {
            "domain": rng.choice(NUM_DOMAINS, num_rows, p=traffic / traffic.sum()).astype(np.int32) + 1,
            "label": (rng.random(num_rows) < 1 / (1 + np.exp(-score))).astype(np.int8),
            "score": score,
        }
    )


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("num_rows", [1_000_000, 10_000_000])
def test_all_metrics_of_5000_domains(benchmark: BenchmarkFixture, num_rows: int, kind: str) -> None:
    rows = predictions(num_rows, kind)
    benchmark.group = f"all metrics of {num_rows:,} rows in {NUM_DOMAINS:,} domains"
    benchmark.pedantic(overall, args=(rows,), rounds=3, warmup_rounds=1)
