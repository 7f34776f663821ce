from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest

from ctrbench.report.comparison import compare
from ctrbench.report.csv_files import bins_csv, overall_csv
from ctrbench.report.summary import Summary, summarize
from ctrbench.runs.record import RunRecord


def summaries(records: list[RunRecord]) -> list[Summary]:
    return [summarize(comparison) for comparison in compare(records)]


def test_csv_has_unrounded_numbers_and_their_names(toy: list[RunRecord]) -> None:
    rows = list(csv.DictReader(io.StringIO(overall_csv(summaries(toy)))))
    (line,) = [row for row in rows if row["method"] == "adasparse" and row["metric"] == "auc"]
    assert (float(line["mean"]), line["seeds"], line["is_best"]) == (0.75, "2", "true")
    assert float(line["std"]) == pytest.approx(0.04 / 2**0.5, rel=1e-12)
    assert {row["metric"] for row in rows} >= {"pcoc", "parameters_embedding", "train_seconds"}


def test_csv_has_verdicts_and_intervals_from_six_seeds_on(six_with_users: list[RunRecord]) -> None:
    def row_of(records: list[RunRecord]) -> dict[str, str]:
        rows = csv.DictReader(io.StringIO(overall_csv(summaries(records))))
        (row,) = [row for row in rows if row["method"] == "adasparse" and row["metric"] == "auc"]
        return row

    row = row_of(six_with_users)
    assert (row["verdict"], row["rank_first"], row["rank_last"]) == ("undecided", "1", "2")
    assert float(row["gain_low"]) < float(row["gain_mean"]) < float(row["gain_high"])
    assert float(row["gain_se_seeds"]) == pytest.approx(float(row["gain_std"]) / 6**0.5)
    assert 0.5 < float(row["gain_p"]) < 0.7
    few = row_of([run for run in six_with_users if run.key.seed < 6])
    assert few["verdict"] == "too few seeds"
    assert {few[name] for name in ("gain_low", "gain_p", "rank_first")} == {""}


def test_csv_without_influences_has_no_intervals(six: list[RunRecord]) -> None:
    rows = csv.DictReader(io.StringIO(overall_csv(summaries(six))))
    assert {(row["verdict"], row["gain_low"]) for row in rows if row["metric"] == "auc"} == {
        ("", ""),
        ("undecided", ""),
    }


def test_csv_counts_failed_runs(record: Callable[..., RunRecord]) -> None:
    collapsed = record("apg", 2, 0.5, dev={"auc": 0.51, "logloss": 0.6})
    broken = record("apg", 3, status="failed", error="no memory")
    rows = csv.DictReader(io.StringIO(overall_csv(summaries([record("apg", 1), collapsed, broken]))))
    assert {(row["seeds"], row["failed"]) for row in rows if row["metric"] == "auc"} == {("2", "2")}


def test_csv_has_no_best_row_for_metrics_without_direction(toy: list[RunRecord]) -> None:
    rows = csv.DictReader(io.StringIO(overall_csv(summaries(toy))))
    assert {row["is_best"] for row in rows if row["metric"] in ("pcoc", "gauc_coverage")} == {""}


def test_bins_csv_has_gains(toy: list[RunRecord]) -> None:
    text = bins_csv(summaries(toy))
    rows = [
        row
        for row in csv.DictReader(io.StringIO(text))
        if row["method"] == "adasparse" and row["metric"] in ("auc", "gauc")
    ]
    assert len(rows) == 5 * 2
    assert {row["gain_seeds"] for row in rows} == {"2"}
    assert all(float(row["gain_mean"]) == pytest.approx(0.04) for row in rows)
