"""The command that reads results: report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ctrbench.report.leaderboard import END, START

Call = Callable[..., CompletedProcess[str]]
pytestmark = pytest.mark.usefixtures("trained_here")
CLICKS = """
from ctrbench.eval.metrics.base import RowMetric, ratio


class ClickRate(RowMetric):
    name, title, higher_is_better = "click_rate", "Click rate", None

    def values(self, groups):
        return ratio(groups.positives, groups.rows)
"""
ROWS = """
import altair as alt

from ctrbench.report.chart import Chart, Figure
from ctrbench.report.plots import inline, styled


class Rows(Chart):
    def draw(self, summary):
        rows = [{"rows": sum(record.result.domains.rows)} for record in summary.comparison.records]
        chart = alt.Chart(inline(rows)).mark_bar().encode(x="rows:Q")
        yield Figure(stem="rows", title="Test rows", chart=styled(alt.vconcat(chart)))
"""


def test_a_report_prints_each_file_it_writes(prepared: Path, call: Call, train: Call) -> None:
    assert train("--methods", "plain").returncode == 0
    done = call("report", "--bins", "3")
    assert done.returncode == 0
    written = [line for line in done.stdout.splitlines() if line.startswith("report/")]
    assert {"report/index.html", "report/overall.md"} <= set(written)
    assert all((prepared / file).is_file() for file in written)


def test_a_report_includes_a_metric_from_a_file(prepared: Path, call: Call, train: Call) -> None:
    assert train("--methods", "plain").returncode == 0
    (prepared / "clicks.py").write_text(CLICKS, encoding="utf-8")
    done = call("report", "--metrics", "clicks.py")
    assert done.returncode == 0, done.stderr
    assert "| Click rate |" in (prepared / "report" / "overall.md").read_text(encoding="utf-8")
    assert ",click_rate,0." in (prepared / "report" / "overall.csv").read_text(encoding="utf-8")


def test_a_report_includes_a_chart_from_a_file(prepared: Path, call: Call, train: Call) -> None:
    assert train("--methods", "plain").returncode == 0
    (prepared / "rows.py").write_text(ROWS, encoding="utf-8")
    done = call("report", "--charts", "rows.py")
    assert done.returncode == 0, done.stderr
    assert "report/rows.svg" in done.stdout.splitlines()
    assert "Test rows" in (prepared / "report" / "index.html").read_text(encoding="utf-8")


def test_a_leaderboard_is_updated_only_on_request(prepared: Path, call: Call, train: Call) -> None:
    assert train("--methods", "plain").returncode == 0
    board = prepared / "BENCHMARKS.md"
    before = f"# Title\n{START}\nold\n{END}\n"
    board.write_text(before, encoding="utf-8")
    assert call("report").returncode == 0
    assert board.read_text(encoding="utf-8") == before
    done = call("report", "--leaderboard", "BENCHMARKS.md")
    assert done.returncode == 0, done.stderr
    assert "old" not in board.read_text(encoding="utf-8")
    assert done.stdout.splitlines()[-1] == "BENCHMARKS.md"


def test_a_dataset_without_records_is_one_clear_error(prepared: Path, call: Call) -> None:
    done = call("report", "--dataset", "tiny")
    assert done.returncode == 2
    assert "ctrbench run" in done.stderr


def test_records_of_a_newer_schema_are_one_clear_error(prepared: Path, call: Call, train: Call) -> None:
    assert train("--methods", "plain").returncode == 0
    record = next((prepared / "results" / "tiny").glob("*.json"))
    content = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**content, "schema_version": 99}), encoding="utf-8")
    for done in (call("report"), train("--methods", "plain")):
        assert done.returncode == 2
        assert "upgrade ctrbench" in done.stderr
