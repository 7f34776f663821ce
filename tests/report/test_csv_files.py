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


def test_csv_has_p_and_tie_from_six_seeds_on(six: list[RunRecord]) -> None:
    def tie(records: list[RunRecord]) -> tuple[str, str]:
        rows = csv.DictReader(io.StringIO(overall_csv(summaries(records))))
        (row,) = [row for row in rows if row["method"] == "plain" and row["metric"] == "auc"]
        return row["is_tied"], row["p_holm"][:4]

    assert tie(six) == ("true", "0.60")
    assert tie([run for run in six if run.key.seed < 6]) == ("", "")


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
