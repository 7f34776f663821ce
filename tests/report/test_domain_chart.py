from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt
import polars as pl
import pytest

from ctrbench.eval.domain_rates import domain_rates
from ctrbench.report.domain_chart import domain_chart

ChartRows = Callable[[alt.VConcatChart, str], list[dict[str, Any]]]


def test_domains_are_ranked_by_training_rows(chart_rows: ChartRows) -> None:
    table = pl.DataFrame({
        "domain": [0, 1, 2, 3], "key": ["", "a", "b", "c"], "rows_train": [0, 10, 100, 50],
        "positives_train": [0, 5, 20, 15],
    })  # fmt: skip
    points = chart_rows(domain_chart(domain_rates(table)), "ctr")
    unique = {point["rank"]: point for point in points}
    assert [unique[rank]["rows"] for rank in (1, 2, 3)] == [100, 50, 10]
    assert [unique[rank]["ctr"] for rank in (1, 2, 3)] == pytest.approx([0.2, 0.3, 0.5])
