from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ctrbench.report.charts.by_method import metric_chart
from ctrbench.report.plots import save_chart
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
        "0.7100 †",
        "0.7300",
        "AUC on the test rows, mean and 95 % interval over seeds",
    } <= {*texts}
    assert sorted(file.name for file in svg.parent.iterdir()) == ["a.b.png", "a.b.svg"]
