from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt
import pytest

from ctrbench.report.charts.gain_by_bin import gain_chart
from ctrbench.report.summary import Summary
from ctrbench.runs.record import RunRecord

ChartRows = Callable[[alt.VConcatChart, str], list[dict[str, Any]]]
Summarize = Callable[[list[RunRecord]], Summary]


def test_plain_has_no_gain_in_any_bin(
    toy: list[RunRecord], summary_of: Summarize, chart_rows: ChartRows
) -> None:
    summary = summary_of(toy)
    points = chart_rows(gain_chart(summary, "auc"), "gain")
    assert {point["method"] for point in points} == {"adasparse"}
    assert [point["gain"] for point in points] == pytest.approx([0.04] * 5)
    assert points[0]["bin"] == "BIN1|1 domain"


def test_without_plain_there_is_no_chart(record: Callable[..., RunRecord], summary_of: Summarize) -> None:
    assert gain_chart(summary_of([record("apg")]), "auc") is None
