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


def test_gains_in_bins_are_tested_with_holm(record: Callable[..., RunRecord]) -> None:
    plain, apg = summary_of(six_seeds(record)).rows
    # Twice 0.05, 0.0501, 0.05: t = 2373 on five degrees of freedom, p = 2.5e-16; five equal bins, hence times 5.
    assert apg.bins["auc"][0].p_holm == pytest.approx(5 * 2.521e-16, rel=1e-3)
    assert apg.bins["auc"][0].is_clear
    assert (plain.bins["auc"][0].p_holm, plain.bins["auc"][0].is_clear) == (None, False)


def test_gains_of_five_seeds_are_not_tested(record: Callable[..., RunRecord]) -> None:
    rows = summary_of([run for run in six_seeds(record) if run.key.seed < 5]).rows
    assert {score.p_holm for row in rows for scores in row.bins.values() for score in scores} == {None}


def test_gains_of_a_row_with_failed_runs_are_not_marked(record: Callable[..., RunRecord]) -> None:
    failed = record("apg", 6, status="failed", error="no memory")
    score = summary_of([*six_seeds(record), failed]).rows[1].bins["auc"][0]
    assert score.p_holm < 0.05
    assert not score.is_clear


def test_one_row_is_marked_per_bin_as_in_the_overall_table(record: Callable[..., RunRecord]) -> None:
    twins = [record(name, seed, 0.7) for name in ("plain", "apg") for seed in range(6)]
    rows = summary_of(twins).rows
    assert [score.is_marked for score in rows[0].bins["auc"]] == [True] * 5
    assert [score.is_marked for score in rows[1].bins["auc"]] == [False] * 5
    assert [row.score("auc").verdict.is_marked for row in rows] == [True, False]


def test_no_row_of_five_seeds_is_marked(record: Callable[..., RunRecord]) -> None:
    rows = summary_of([run for run in six_seeds(record) if run.key.seed < 5]).rows
    assert not any(score.is_marked for row in rows for score in row.bins["auc"])
    assert not any(row.score("auc").verdict.is_marked for row in rows)
