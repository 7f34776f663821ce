from __future__ import annotations

import polars as pl
import pytest

from ctrbench.eval.domain_rates import domain_rates

TABLE = pl.DataFrame({
    "domain": [0, 1, 2, 3, 4], "rows_train": [0, 10, 100, 50, 0], "positives_train": [0, 5, 20, 15, 0],
})  # fmt: skip


def test_domains_with_training_rows_are_ranked_by_size() -> None:
    rates = domain_rates(TABLE)
    assert rates.ranked["rows"].to_list() == [100, 50, 10]
    assert rates.ranked["rank"].to_list() == [1, 2, 3]
    assert rates.ranked["ctr"].to_list() == pytest.approx([0.2, 0.3, 0.5])


def test_the_range_is_that_of_domains_with_the_overall_rate() -> None:
    rates = domain_rates(TABLE)
    assert rates.overall == 40 / 160
    largest, *_, smallest = rates.ranked.to_dicts()
    # 1.96 sqrt(0.25 · 0.75 / 100) = 0.08487.
    assert largest["high"] == pytest.approx(0.25 + 0.08487, abs=1e-5)
    assert largest["low"] == pytest.approx(0.25 - 0.08487, abs=1e-5)
    assert smallest["low"] == 0.0
