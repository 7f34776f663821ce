from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.report.comparison import compare
from ctrbench.report.estimate import estimate
from ctrbench.report.summary import Summary, summarize
from ctrbench.runs.record import RunRecord


def summary_of(records: list[RunRecord]) -> Summary:
    (comparison,) = compare(records)
    return summarize(comparison)


def test_mean_and_deviation_over_seeds(toy: list[RunRecord]) -> None:
    plain = summary_of(toy).rows[0].estimate("auc")
    assert plain.mean == pytest.approx(0.71)
    assert plain.std == pytest.approx(0.02 / 2**0.5)
    assert plain.num == 2


def test_the_interval_is_that_of_students_t() -> None:
    value = estimate([0.70, 0.72])
    # Two seeds: 12.706 times 0.01 on either side of 0.71.
    assert (value.low, value.high) == pytest.approx((0.71 - 0.12706, 0.71 + 0.12706), abs=1e-5)


def test_one_seed_has_no_deviation() -> None:
    value = estimate([0.5])
    assert (value.std, value.low, value.high) == (None, 0.5, 0.5)
    assert estimate([]) is None


def test_an_unknown_metric_has_an_empty_score(toy: list[RunRecord]) -> None:
    score = summary_of(toy).rows[0].score("unknown")
    assert (score.values, score.estimate, score.is_best, score.gain) == ({}, None, None, None)


def test_only_metrics_with_a_better_direction_have_a_best_row(toy: list[RunRecord]) -> None:
    scores = summary_of(toy).rows[0].scores
    assert {name for name, score in scores.items() if score.is_best is not None} >= {
        "auc",
        "gauc",
        "logloss",
        "pcoc_error",
    }
    assert scores["pcoc"].is_best is None


def test_gain_over_resampled_domains(record: Callable[..., RunRecord]) -> None:
    domains = record().result.domains
    better = domains.model_copy(update={"metrics": {**domains.metrics, "auc": (None, 0.9, 0.7, None)}})
    plain, apg = summary_of([record("plain"), record("apg", domains=better)]).rows
    value = apg.score("gauc").gain.over_domains
    # Both domains with two classes gain 0.1, so every draw of domains does.
    assert (value.low, value.mean, value.high) == pytest.approx((0.1, 0.1, 0.1))
    assert plain.score("gauc").gain is None
    assert apg.score("auc").gain.over_domains is None


def test_runs_that_did_not_collapse_have_a_separate_estimate(record: Callable[..., RunRecord]) -> None:
    collapsed = record("apg", 2, 0.5, dev={"auc": 0.51, "logloss": 0.6})
    (row,) = summary_of([record("apg", 1, 0.7), collapsed]).rows
    assert row.auc_of_trained.mean == 0.7
    assert row.estimate("auc").mean == pytest.approx(0.6)
