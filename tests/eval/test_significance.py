from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ctrbench.errors import DataError
from ctrbench.eval.grouped import GroupMetrics
from ctrbench.eval.significance import bootstrap_domains, holm, paired, standings

GAINS = np.array([0.4, 1.1, -0.2, 0.9, 0.7, 0.3])


def groups(auc: list[float], rows: list[int]) -> GroupMetrics:
    size, ids = np.array(rows), np.arange(1, len(rows) + 1)
    return GroupMetrics(group=ids, rows=size, positives=size // 2, values={"auc": np.array(auc)})


def test_the_paired_t_test_equals_that_of_scipy() -> None:
    result, expected = paired(GAINS), stats.ttest_1samp(GAINS, 0.0)
    interval = expected.confidence_interval(0.95)
    assert result.p_t == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert (result.mean, result.std) == pytest.approx((GAINS.mean(), GAINS.std(ddof=1)))


def test_one_pair_has_only_a_mean() -> None:
    result = paired([0.2])
    assert (result.num_pairs, result.mean) == (1, 0.2)
    assert (result.std, result.low, result.high, result.p_t) == (None,) * 4


def test_without_pairs_there_is_no_mean() -> None:
    assert (paired([]).num_pairs, paired([]).mean) == (0, None)


def test_equal_methods_have_p_one() -> None:
    result = paired([0.0, 0.0, 0.0])
    assert (result.low, result.high, result.p_t) == (0.0, 0.0, 1.0)


def test_equal_differences_have_p_zero_in_the_t_test() -> None:
    result = paired([0.5, 0.5, 0.5])
    assert result.p_t == 0.0


def test_differences_must_be_finite() -> None:
    with pytest.raises(DataError, match=r"finite numbers: \[nan\]"):
        paired([0.1, np.nan])


def test_holm_by_hand() -> None:
    # Sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_at_most_one() -> None:
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_holm_of_no_tests_is_empty() -> None:
    assert holm([]).tolist() == []


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


def test_standings_find_best_tied_and_worse() -> None:
    values = {
        "plain": {seed: 0.70 + 0.001 * seed for seed in range(6)},
        "star": {seed: 0.72 + 0.001 * seed + (-1) ** seed * 0.002 for seed in range(6)},
        "adasparse": {seed: 0.7205 + 0.001 * seed for seed in range(6)},
    }
    plain, star, best = standings(values, higher_is_better=True)
    assert (best.name, best.is_best, best.is_tied, best.p_holm) == ("adasparse", True, False, None)
    assert star.is_tied
    assert not plain.is_tied


def test_standings_adjust_over_all_tested_rows() -> None:
    rng = np.random.default_rng(0)
    values = {
        name: (level + rng.normal(0, 1, 6)).tolist() for name, level in (("a", 3.0), ("b", 1.5), ("c", 1.0))
    }
    raw = [stats.ttest_rel(values[name], values["a"]).pvalue for name in ("b", "c")]
    best, second, third = standings(values, higher_is_better=True)
    assert best.is_best
    assert [second.p_holm, third.p_holm] == pytest.approx(stats_holm(raw))


def stats_holm(p: list[float]) -> list[float]:
    """Holm for two p-values, written out."""
    small = min(2 * min(p), 1.0)
    large = max(small, max(p))
    return [small, large] if p[0] < p[1] else [large, small]


def test_the_lowest_mean_is_best_where_lower_is_better() -> None:
    result = standings({"a": [0.5, 0.6], "b": [0.4, 0.5]}, higher_is_better=False)
    assert [row.is_best for row in result] == [False, True]


def test_pairs_share_a_seed() -> None:
    values = {"a": {1: 0.70, 2: 0.72, 3: 0.71}, "b": {2: 0.60, 3: 0.62, 4: 0.61}}
    other = standings(values, higher_is_better=True)[1]
    assert other.p_holm == pytest.approx(stats.ttest_rel([0.60, 0.62], [0.72, 0.71]).pvalue)


def test_a_row_with_one_common_seed_is_not_tested() -> None:
    other = standings({"a": {1: 0.9, 2: 0.9}, "b": {2: 0.1, 3: 0.1}}, higher_is_better=True)[1]
    assert (other.is_tied, other.p_holm) == (True, None)


def test_a_row_with_fewer_than_min_seeds_is_not_tested() -> None:
    values = {"a": [0.9, 0.8, 0.7], "b": [0.1, 0.3, 0.2]}
    assert standings(values, higher_is_better=True, min_seeds=4)[1].p_holm is None
    assert standings(values, higher_is_better=True, min_seeds=3)[1].p_holm is not None


def test_the_best_is_one_of_the_candidates() -> None:
    values = {"a": [0.9, 0.8], "b": [0.7, 0.6], "c": [0.1, 0.3]}
    result = standings(values, higher_is_better=True, candidates={"b", "c"})
    assert [row.is_best for row in result] == [False, True, False]


def test_single_runs_have_no_standard_deviation() -> None:
    best, other = standings({"a": [0.9], "b": [0.1]}, higher_is_better=True)
    assert (best.is_best, best.std, other.is_tied) == (True, None, True)


def test_a_row_with_undefined_values_is_neither_best_nor_tied() -> None:
    _, other = standings({"a": [0.9, 0.8], "b": [None, None]}, higher_is_better=True)
    assert (other.mean, other.std, other.is_best, other.is_tied) == (None, None, False, False)


def test_equal_methods_are_tied() -> None:
    best, other = standings({"a": [0.9, 0.8], "b": [0.9, 0.8]}, higher_is_better=True)
    assert (best.is_best, other.is_tied, other.p_holm) == (True, True, 1.0)


def test_without_rows_there_are_no_standings() -> None:
    assert standings({}, higher_is_better=True) == ()
