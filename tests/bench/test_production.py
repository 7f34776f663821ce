"""Rows of the Production-scale data a second on one core: what is asked for decides what they cost."""

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
from ctrbench.synthetic.production.spec import preset

ROWS = 1 << 17
START = 1_234_567_890
GROUP = f"{ROWS:,} rows of the full preset"


@pytest.fixture(scope="module")
def full() -> Production:
    spec = preset("full").model_copy(update={"calibration_rows": 1 << 16})
    return Production(spec, calibrate(spec))


def timed(benchmark: BenchmarkFixture, full: Production, columns: list[str]) -> None:
    benchmark.pedantic(lambda: full.rows(START, START + ROWS, columns), rounds=3, warmup_rounds=1)
    benchmark.extra_info["rows per second"] = round(ROWS / benchmark.stats.stats.min)


@pytest.mark.benchmark(group=GROUP)
def test_domains_alone(benchmark: BenchmarkFixture, full: Production) -> None:
    timed(benchmark, full, list(DOMAIN_FEATURES))


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("more", [[], [ITEM_SEQUENCE, CATEGORY_SEQUENCE]], ids=["fields", "sequences"])
def test_what_training_reads(benchmark: BenchmarkFixture, full: Production, more: list[str]) -> None:
    names = [field.name for field in full.fields]
    timed(benchmark, full, [Column.ROW, Column.TIME, Column.LABEL, Column.PROBABILITY, *names, *more])
