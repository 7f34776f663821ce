from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt
import pytest

from ctrbench.report.charts.by_method import metric_chart
from ctrbench.report.summary import Summary
from ctrbench.runs.record import RunRecord

ChartRows = Callable[[alt.VConcatChart, str], list[dict[str, Any]]]
Summarize = Callable[[list[RunRecord]], Summary]


def test_charts_of_five_seeds_have_no_mark(
    six: list[RunRecord], summary_of: Summarize, chart_rows: ChartRows
) -> None:
    summary = summary_of([run for run in six if run.key.seed < 6])
    assert {point["text"] for point in chart_rows(metric_chart(summary, "auc"), "mean")} == {
        "0.7080",
        "0.7440",
    }


def test_intervals_are_students_t_intervals(
    toy: list[RunRecord], summary_of: Summarize, chart_rows: ChartRows
) -> None:
    summary = summary_of(toy)
    points = chart_rows(metric_chart(summary, "auc"), "method")
    point = next(point for point in points if point["method"] == "plain")
    # Two seeds: 12.706 times 0.01 on either side of 0.71.
    assert (point["low"], point["high"]) == pytest.approx((0.71 - 0.12706, 0.71 + 0.12706), abs=1e-5)


def test_methods_differ_in_shape_and_color(record: Callable[..., RunRecord], summary_of: Summarize) -> None:
    names = ["plain", *(f"m{i}" for i in range(8))]
    summary = summary_of([record(name) for name in names])
    encoding = metric_chart(summary, "auc").to_dict()["vconcat"][0]["layer"]
    (points,) = [layer["encoding"] for layer in encoding if "shape" in layer["encoding"]]
    styles = list(zip(points["shape"]["scale"]["range"], points["color"]["scale"]["range"], strict=True))
    assert len(set(styles)) == len(names)


@pytest.mark.parametrize(("oracle", "label"), [(0.76, "oracle 0.7600"), (9.0, "oracle 9.0000 →")])
def test_the_oracle_is_a_line_or_an_arrow(
    toy: list[RunRecord],
    record: Callable[..., RunRecord],
    summary_of: Summarize,
    chart_rows: ChartRows,
    oracle: float,
    label: str,
) -> None:
    summary = summary_of([*toy, record("apg", oracle={"auc": oracle})])
    assert label in {row["text"] for row in chart_rows(metric_chart(summary, "auc"), "text")}


def test_without_values_there_is_no_chart(record: Callable[..., RunRecord], summary_of: Summarize) -> None:
    assert metric_chart(summary_of([record("star", status="failed", error="x")]), "auc") is None
