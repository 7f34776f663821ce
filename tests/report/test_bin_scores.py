from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.report.comparison import compare
from ctrbench.report.summary import Summary, summarize
from ctrbench.runs.record import RunRecord


def summary_of(records: list[RunRecord]) -> Summary:
    (comparison,) = compare(records)
    return summarize(comparison)


def six_seeds(record: Callable[..., RunRecord]) -> list[RunRecord]:
    auc = {"plain": (0.70, 0.71, 0.69) * 2, "apg": (0.75, 0.7601, 0.74) * 2}
    return [record(name, seed, value) for name, values in auc.items() for seed, value in enumerate(values)]


def test_gains_in_bins_are_paired_by_seed(toy: list[RunRecord]) -> None:
    value = summary_of(toy).rows[1].bins["gauc"][4].gain
    assert (value.mean, value.num) == (pytest.approx(0.04), 2)


def test_one_row_is_marked_per_bin_as_in_the_overall_table(record: Callable[..., RunRecord]) -> None:
    twins = [record(name, seed, 0.7) for name in ("plain", "apg") for seed in range(6)]
    rows = summary_of(twins).rows
    assert [score.is_marked for score in rows[0].bins["auc"]] == [True] * 5
    assert [score.is_marked for score in rows[1].bins["auc"]] == [False] * 5
    assert [row.score("auc").is_marked for row in rows] == [True, False]


def test_no_row_of_five_seeds_is_marked(record: Callable[..., RunRecord]) -> None:
    rows = summary_of([run for run in six_seeds(record) if run.key.seed < 5]).rows
    assert not any(score.is_marked for row in rows for score in row.bins["auc"])
    assert not any(row.score("auc").is_marked for row in rows)
