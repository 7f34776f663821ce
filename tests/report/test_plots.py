from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

from ctrbench.report.charts.by_method import metric_chart
from ctrbench.report.charts.gain_by_bin import gain_chart
from ctrbench.report.comparison import compare
from ctrbench.report.domain_chart import domain_chart
from ctrbench.report.plots import save_chart
from ctrbench.report.summary import Summary, summarize
from ctrbench.runs.record import RunRecord


def summary_of(records: list[RunRecord]) -> Summary:
    (comparison,) = compare(records)
    return summarize(comparison)


def texts(svg: str) -> list[str | None]:
    return [node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def values(chart: alt.VConcatChart, key: str) -> list[dict[str, Any]]:
    return [row for data in chart.to_dict()["datasets"].values() for row in data if key in row]


def test_charts_are_written_with_their_texts(six: list[RunRecord], tmp_path: Path) -> None:
    summary = summary_of(six)
    svg, png = save_chart(metric_chart(summary, "auc"), tmp_path / "new" / "a.b")
    assert (svg.name, png.name) == ("a.b.svg", "a.b.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    shown = texts(svg.read_text())
    assert {
        "plain",
        "adasparse",
        "0.7100 †",
        "0.7300",
        "AUC on the test rows, mean and 95 % interval over seeds",
    } <= {*shown}
    assert sorted(file.name for file in svg.parent.iterdir()) == ["a.b.png", "a.b.svg"]


def test_charts_of_five_seeds_have_no_mark(six: list[RunRecord]) -> None:
    summary = summary_of([one for one in six if one.key.seed < 6])
    assert {point["text"] for point in values(metric_chart(summary, "auc"), "mean")} == {"0.7080", "0.7440"}


def test_intervals_are_those_of_student(toy: list[RunRecord]) -> None:
    summary = summary_of(toy)
    chart = metric_chart(summary, "auc").to_dict()
    point = next(row for data in chart["datasets"].values() for row in data if row.get("method") == "plain")
    # Two seeds: 12.706 times 0.01 on either side of 0.71.
    assert (point["low"], point["high"]) == pytest.approx((0.71 - 0.12706, 0.71 + 0.12706), abs=1e-5)


def test_gains_are_drawn_for_every_bin_but_not_for_plain(toy: list[RunRecord]) -> None:
    summary = summary_of(toy)
    points = values(gain_chart(summary, "auc"), "gain")
    assert {point["method"] for point in points} == {"adasparse"}
    assert [point["gain"] for point in points] == pytest.approx([0.04] * 5)
    assert points[0]["bin"] == "BIN1|1 domain"


def test_without_values_there_is_no_chart(record: Callable[..., RunRecord]) -> None:
    summary = summary_of([record("apg"), record("star", status="failed", error="x")])
    assert gain_chart(summary, "auc") is None
    failed = summary_of([record("star", status="failed", error="x")])
    assert metric_chart(failed, "auc") is None


def test_methods_differ_in_shape_and_colour(record: Callable[..., RunRecord]) -> None:
    names = ["plain", *(f"m{i}" for i in range(8))]
    summary = summary_of([record(name) for name in names])
    encoding = metric_chart(summary, "auc").to_dict()["vconcat"][0]["layer"]
    (points,) = [layer["encoding"] for layer in encoding if "shape" in layer["encoding"]]
    styles = list(zip(points["shape"]["scale"]["range"], points["color"]["scale"]["range"], strict=True))
    assert len(set(styles)) == len(names)


@pytest.mark.parametrize(("oracle", "label"), [(0.76, "oracle 0.7600"), (9.0, "oracle 9.0000 →")])
def test_the_oracle_is_a_line_or_an_arrow(
    toy: list[RunRecord], record: Callable[..., RunRecord], tmp_path: Path, oracle: float, label: str
) -> None:
    summary = summary_of([*toy, record("apg", oracle={"auc": oracle})])
    svg, _ = save_chart(metric_chart(summary, "auc"), tmp_path / "a")
    assert label in texts(svg.read_text())


def test_domains_are_ranked_by_training_rows() -> None:
    table = pl.DataFrame({
        "domain": [0, 1, 2, 3], "key": ["", "a", "b", "c"], "rows_train": [0, 10, 100, 50],
        "positives_train": [0, 5, 20, 15],
    })  # fmt: skip
    points = values(domain_chart(table), "ctr")
    unique = {point["rank"]: point for point in points}
    assert [unique[rank]["rows"] for rank in (1, 2, 3)] == [100, 50, 10]
    assert [unique[rank]["ctr"] for rank in (1, 2, 3)] == pytest.approx([0.2, 0.3, 0.5])
    # 40 of 160 are positive; 1.96 sqrt(0.25 · 0.75 / 100) = 0.08487.
    assert unique[1]["high"] == pytest.approx(0.25 + 0.08487, abs=1e-5)
    assert unique[3]["low"] == 0.0
