from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ctrbench.errors import DataError
from ctrbench.eval.grouped import GroupMetrics
from ctrbench.eval.significance import bootstrap_domains, paired

GAINS = np.array([0.4, 1.1, -0.2, 0.9, 0.7, 0.3])


def groups(auc: list[float], rows: list[int]) -> GroupMetrics:
    size, ids = np.array(rows), np.arange(1, len(rows) + 1)
    return GroupMetrics(group=ids, rows=size, positives=size // 2, values={"auc": np.array(auc)})


def test_the_paired_interval_equals_that_of_scipy() -> None:
    result, expected = paired(GAINS), stats.ttest_1samp(GAINS, 0.0)
    interval = expected.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert (result.mean, result.std) == pytest.approx((GAINS.mean(), GAINS.std(ddof=1)))


def test_one_pair_has_only_a_mean() -> None:
    result = paired([0.2])
    assert (result.num_pairs, result.mean) == (1, 0.2)
    assert (result.std, result.low, result.high) == (None,) * 3


def test_without_pairs_there_is_no_mean() -> None:
    assert (paired([]).num_pairs, paired([]).mean) == (0, None)


def test_differences_must_be_finite() -> None:
    with pytest.raises(DataError, match=r"finite numbers: \[nan\]"):
        paired([0.1, np.nan])


def test_equal_gains_have_an_interval_of_width_zero() -> None:
    result = bootstrap_domains(groups([0.8, 0.7, 0.6], [5, 9, 2]), groups([0.7, 0.6, 0.5], [5, 9, 2]))
    assert (result.low, result.mean, result.high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_interval_over_two_domains_spans_their_gains() -> None:
    result = bootstrap_domains(groups([0.6, 0.5], [30, 10]), groups([0.5, 0.6], [30, 10]))
    assert (result.low, result.mean, result.high) == pytest.approx((-0.1, 0.05, 0.1))


def test_the_interval_over_domains_has_the_theoretical_width() -> None:
    gain = np.random.default_rng(4).normal(0.01, 0.02, 400)
    rows = [10] * 400
    result = bootstrap_domains(groups(list(0.6 + gain), rows), groups([0.6] * 400, rows))
    assert result.high - result.low == pytest.approx(2 * 1.96 * gain.std() / 20, rel=0.1)


def test_single_class_domains_are_left_out_of_the_bootstrap() -> None:
    nan = float("nan")
    result = bootstrap_domains(groups([0.6, nan, 0.7], [5, 99, 5]), groups([0.5, nan, 0.6], [5, 99, 5]))
    assert result.mean == pytest.approx(0.1)


def test_one_domain_has_no_interval() -> None:
    result = bootstrap_domains(groups([0.6], [5]), groups([0.5], [5]))
    assert (result.low, result.high, result.mean) == (None, None, pytest.approx(0.1))


def test_the_bootstrap_over_domains_is_reproducible() -> None:
    first, second = groups([0.6, 0.5, 0.9], [3, 1, 2]), groups([0.5, 0.6, 0.4], [3, 1, 2])
    assert bootstrap_domains(first, second) == bootstrap_domains(first, second)


def test_the_bootstrap_over_domains_needs_the_same_rows() -> None:
    first = groups([0.6, 0.5], [3, 1])
    with pytest.raises(DataError, match="same test rows"):
        bootstrap_domains(first, replace(first, rows=np.array([3, 2])))
