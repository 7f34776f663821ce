from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.errors import ContractError, SettingError
from ctrbench.report.chart import draw_figures, load_charts
from ctrbench.report.summary import Summary
from ctrbench.runs.record import RunRecord

OWN = """
import altair as alt

from ctrbench.report.chart import Chart, Figure


class Own(Chart):
    def draw(self, summary):
        yield Figure(stem="own-of-test", title=summary.comparison.title, chart=alt.vconcat())
"""
Summarize = Callable[[list[RunRecord]], Summary]


def test_figures_follow_the_names_of_their_files(toy: list[RunRecord], summary_of: Summarize) -> None:
    expected = ["auc", "gauc", "gain-auc", "gain-gauc"]
    stems = [figure.stem for figure in draw_figures(load_charts(), summary_of(toy))]
    assert [stem for stem in stems if stem in expected] == expected


def test_a_chart_from_a_file_is_drawn_after_the_built_in_ones(
    record: Callable[..., RunRecord], summary_of: Summarize, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    summary = summary_of([record()])
    built_in = [figure.stem for figure in draw_figures(load_charts(), summary)]
    charts = load_charts([str(tmp_path / "own.py")])
    assert [figure.stem for figure in draw_figures(charts, summary)] == [*built_in, "own-of-test"]


def test_a_chart_that_is_named_twice_is_drawn_once(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    own = str(tmp_path / "own.py")
    assert len(load_charts([own, own, "by_method"])) == len(load_charts([own]))


def test_two_figures_of_the_same_file_name_are_refused(
    record: Callable[..., RunRecord], summary_of: Summarize, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN.replace('"own-of-test"', '"auc"'), encoding="utf-8")
    with pytest.raises(ContractError, match="stems of figures must be unique: auc of Own"):
        draw_figures(load_charts([str(tmp_path / "own.py")]), summary_of([record()]))


def test_an_unknown_chart_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingError, match=r"no such chart: gain_by_bins.*gain_by_bin"):
        load_charts(["gain_by_bins"])
