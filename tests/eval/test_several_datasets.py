from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ctrbench.errors import DataError
from ctrbench.eval.several_datasets import critical_difference, mean_ranks, signed_rank

DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
"""AUC of four methods on 14 datasets: Demšar (2006), table 6; its ranks separate the two values of 0.975."""


def test_mean_ranks_are_those_of_demsars_example() -> None:
    result = mean_ranks(DEMSAR, higher_is_better=True)
    # Section 3.2.2: ranks 3.143, 2.000, 2.893 and 1.964; F = 3.69 with 3 and 39 degrees of freedom.
    assert result.ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert result.p == pytest.approx(stats.f.sf(3.69, 3, 39), abs=5e-4)
    # Section 3.2.3: the critical difference at 10 % is 2.291 * sqrt(4 * 5 / (6 * 14)) = 1.12.
    assert critical_difference(4, 14, level=0.10) == pytest.approx(1.12, abs=0.005)
    assert result.critical_difference == pytest.approx(2.569 * (20 / 84) ** 0.5, abs=1e-3)


@pytest.mark.parametrize(("num_methods", "quantile"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_values_are_those_of_demsars_table(num_methods: int, quantile: float) -> None:
    scale = (num_methods * (num_methods + 1) / 60) ** 0.5
    assert critical_difference(num_methods, 10) / scale == pytest.approx(quantile, abs=1e-3)


def test_ranks_follow_the_direction() -> None:
    values = [[1.0, 2.0], [1.0, 3.0], [2.0, 2.0]]
    assert mean_ranks(values, higher_is_better=True).ranks.tolist() == pytest.approx([5.5 / 3, 3.5 / 3])
    assert mean_ranks(values, higher_is_better=False).ranks.tolist() == pytest.approx([3.5 / 3, 5.5 / 3])


def test_the_friedman_statistic_agrees_with_scipy_without_ties() -> None:
    values = np.random.default_rng(0).normal(size=(12, 4))
    friedman = stats.friedmanchisquare(*values.T).statistic
    expected = stats.f.sf(11 * friedman / (12 * 3 - friedman), 3, 33)
    assert mean_ranks(values, higher_is_better=True).p == pytest.approx(expected, rel=1e-9)


def test_unanimous_ranks_have_p_zero() -> None:
    assert mean_ranks([[1.0, 2.0]] * 3, higher_is_better=True).p == 0.0


def signed_rank_in_a_loop(differences: list[float], margin: float, draws: int) -> list[float]:
    """Return the shares of draws in which each region has the largest mass, pair by pair."""
    draw = np.random.default_rng(99)
    values, counts = [0.0, *differences], [0, 0, 0]
    for weights in draw.dirichlet([0.6, *[1.0] * len(differences)], draws):
        masses = [0.0, 0.0, 0.0]
        for a, first in zip(weights, values, strict=True):
            for b, second in zip(weights, values, strict=True):
                total = first + second
                region = 0 if total < -2 * margin else 2 if total > 2 * margin else 1
                masses[region] += a * b
        counts[int(np.argmax(masses))] += 1
    return [count / draws for count in counts]


def test_the_signed_rank_test_equals_a_computation_pair_by_pair() -> None:
    differences = [0.003, 0.002, -0.001, 0.0005, 0.004, 0.0012]
    result = signed_rank(differences)
    expected = signed_rank_in_a_loop(differences, 0.001, 4_000)
    # 4,000 draws: a standard error of at most 0.8 %.
    assert [result.worse, result.equivalent, result.better] == pytest.approx(expected, abs=0.03)


def test_clear_cases() -> None:
    assert signed_rank([0.01] * 8).better > 0.99
    assert signed_rank([-0.01] * 8).worse > 0.99
    assert signed_rank([0.0001, -0.0002] * 4).equivalent > 0.99
    result = signed_rank([0.01, -0.01] * 3)
    assert result.better == pytest.approx(result.worse, abs=0.02)
    assert result.worse + result.equivalent + result.better == pytest.approx(1)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(DataError, match="two methods on two datasets"):
        mean_ranks([[1.0, 2.0]], higher_is_better=True)
    with pytest.raises(DataError, match="one finite difference per dataset"):
        signed_rank([])
