from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.report import charts
from ctrbench.report.charts.figure import draw_figures
from ctrbench.report.comparison import compare
from ctrbench.report.summary import summarize
from ctrbench.runs.record import RunRecord

OWN = """
import altair as alt
from ctrbench.report.charts.figure import Figure

def draw(summary):
    yield Figure(stem="own", title=summary.comparison.title, chart=alt.vconcat())
"""


def test_figures_follow_the_names_of_their_files(toy: list[RunRecord]) -> None:
    (comparison,) = compare(toy)
    stems = [figure.stem for figure in draw_figures(summarize(comparison))]
    assert stems == ["auc", "gauc", "gain-auc", "gain-gauc"]


def test_a_file_in_the_folder_is_a_figure(
    record: Callable[..., RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(charts, "__path__", [*charts.__path__, str(tmp_path)])
    (comparison,) = compare([record()])
    assert [figure.stem for figure in draw_figures(summarize(comparison))] == ["auc", "gauc", "own"]
