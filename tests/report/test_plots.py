from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import altair as alt

from ctrbench.report.charts.by_method import metric_chart
from ctrbench.report.plots import inline, save_chart
from ctrbench.report.summary import Summary
from ctrbench.runs.record import RunRecord


def test_charts_are_written_with_their_texts(
    six: list[RunRecord],
    summary_of: Callable[[list[RunRecord]], Summary],
    svg_texts: Callable[[str], list[str | None]],
    tmp_path: Path,
) -> None:
    summary = summary_of(six)
    svg, png = save_chart(metric_chart(summary, "auc"), tmp_path / "new" / "a.b")
    assert (svg.name, png.name) == ("a.b.svg", "a.b.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    texts = svg_texts(svg.read_text())
    assert {
        "plain",
        "adasparse",
        "0.7100",
        "0.7300",
        "AUC on the test rows, mean and 95 % interval over seeds",
    } <= {*texts}
    assert sorted(file.name for file in svg.parent.iterdir()) == ["a.b.png", "a.b.svg"]


def test_a_chart_shows_characters_that_xml_forbids_as_escapes(
    svg_texts: Callable[[str], list[str | None]], tmp_path: Path
) -> None:
    rows = [{"x": "a\x1b[31m", "y": 1}, {"x": "\x00\ufffe", "y": 2}]
    chart = alt.vconcat(alt.Chart(inline(rows), title="t\x07").mark_point().encode(x="x:N", y="y:Q"))
    svg, _ = save_chart(chart, tmp_path / "c")
    texts = svg_texts(svg.read_text(encoding="utf-8"))
    assert {"a\\x1b[31m", "\\x00\\ufffe", "t\\x07"} <= {*texts}
