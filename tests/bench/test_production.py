"""Throughput of the Production-scale generator on one core, per selection of columns."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ctrbench.names import Column
from ctrbench.synthetic.production.calibration import calibrate
from ctrbench.synthetic.production.generator import (
    CATEGORY_SEQUENCE,
    DOMAIN_FEATURES,
    ITEM_SEQUENCE,
    Production,
)
from ctrbench.synthetic.production.spec import spec_of_size

ROWS = 1 << 17
START = 1_234_567_890
GROUP = f"{ROWS:,} rows of the full size"


@pytest.fixture(scope="module")
def full() -> Production:
    spec = spec_of_size("full").model_copy(update={"calibration_rows": 1 << 16})
    return Production(spec, calibrate(spec))


def timed(benchmark: BenchmarkFixture, full: Production, columns: list[str]) -> None:
    benchmark.pedantic(lambda: full.rows(START, START + ROWS, columns), rounds=3, warmup_rounds=1)
    benchmark.extra_info["rows per second"] = round(ROWS / benchmark.stats.stats.min)


@pytest.mark.benchmark(group=GROUP)
def test_domains_only(benchmark: BenchmarkFixture, full: Production) -> None:
    timed(benchmark, full, list(DOMAIN_FEATURES))


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("more", [[], [ITEM_SEQUENCE, CATEGORY_SEQUENCE]], ids=["fields", "sequences"])
def test_columns_of_training(benchmark: BenchmarkFixture, full: Production, more: list[str]) -> None:
    names = [field.name for field in full.fields]
    timed(benchmark, full, [Column.ROW, Column.TIME, Column.LABEL, Column.PROBABILITY, *names, *more])
