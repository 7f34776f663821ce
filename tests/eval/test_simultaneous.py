from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ctrbench.eval.crossed import CrossedRows
from ctrbench.eval.simultaneous import (
    Block,
    MaximumDistribution,
    deviate,
    simulate_maxima,
    standardized,
    statistic,
)

SEEDS = 6


def block(num_rows: int, *, seeds: float, users: float, to_first: bool) -> Block:
    """Return rows with independent errors of these sizes, compared with the first row or all with each other."""
    by_seed = seeds * np.random.default_rng(0).normal(size=(num_rows, SEEDS))
    pairs = tuple((i, j) for i in range(num_rows) for j in range(i) if j == 0 or not to_first)
    return Block(
        rows=CrossedRows(
            seeds=tuple(range(SEEDS)),
            by_seed=by_seed,
            influences=users * np.eye(num_rows),
            interaction=np.zeros((num_rows, num_rows)),
        ),
        pairs=pairs,
    )


@pytest.mark.parametrize("freedom", [5.0, 20.0, 1e6])
def test_deviates_have_the_p_value_of_the_t_statistic(freedom: float) -> None:
    for p in (0.2, 0.05, 0.001):
        value = deviate(np.array([stats.t.isf(p / 2, freedom)]), np.array([freedom]))
        assert value == pytest.approx(stats.norm.isf(p / 2), rel=0.01)


def test_statistics_are_the_inverse_of_deviates() -> None:
    values, freedom = np.array([0.0, 1.0, 4.0]), np.array([5.0, 7.5, 300.0])
    assert statistic(deviate(values, freedom), freedom) == pytest.approx(values)


@pytest.mark.parametrize("num_rows", [2, 3, 5, 10])
def test_all_pairs_over_users_have_tukeys_critical_value(num_rows: int) -> None:
    maximum = simulate_maxima([block(num_rows, seeds=0, users=1, to_first=False)])
    tukey = stats.studentized_range.ppf(0.95, num_rows, np.inf) / 2**0.5
    # 20,000 draws: a standard error of about 0.015.
    assert maximum.critical_deviate(0.05) == pytest.approx(tukey, abs=0.05)


@pytest.mark.parametrize(("num_rows", "dunnett"), [(3, 2.21), (4, 2.35), (5, 2.44), (10, 2.69)])
def test_pairs_with_one_row_over_users_have_dunnetts_critical_value(num_rows: int, dunnett: float) -> None:
    # Two-sided values at 5 % with infinite degrees of freedom from Dunnett (1964), table 1.
    maximum = simulate_maxima([block(num_rows, seeds=0, users=1, to_first=True)])
    assert maximum.critical_deviate(0.05) == pytest.approx(dunnett, abs=0.05)


def test_one_pair_over_seeds_has_the_critical_value_of_a_t_test() -> None:
    maximum = simulate_maxima([block(2, seeds=1, users=0, to_first=True)])
    critical = statistic(np.array([maximum.critical_deviate(0.05)]), np.array([SEEDS - 1.0]))
    assert critical == pytest.approx(stats.t.ppf(0.975, SEEDS - 1), rel=0.03)


def test_blocks_are_one_family() -> None:
    part = block(2, seeds=0, users=1, to_first=True)
    critical = simulate_maxima([part, part, part]).critical_deviate(0.05)
    # Three independent tests: Šidák.
    assert critical == pytest.approx(stats.norm.isf((1 - 0.95 ** (1 / 3)) / 2), abs=0.05)


def test_adjusted_p_values_agree_with_the_critical_deviate() -> None:
    maximum = MaximumDistribution(np.sort(np.random.default_rng(0).chisquare(4, 999)))
    critical = maximum.critical_deviate(0.05)
    p = maximum.p_values(np.array([0.0, critical - 1e-9, critical + 1e-9, 1e9]))
    assert p[0] == 1.0
    assert p[1] > 0.05
    assert p[2] <= 0.05
    assert p[3] == pytest.approx(1 / 1000)


def test_a_family_is_not_more_liberal_than_a_single_test() -> None:
    maximum = MaximumDistribution(np.zeros(100))
    assert maximum.critical_deviate(0.05) == pytest.approx(1.96, abs=0.001)
    assert maximum.p_values(np.array([1.0]))[0] == pytest.approx(2 * stats.norm.sf(1.0))


def test_rows_without_variance() -> None:
    rows = block(2, seeds=0, users=0, to_first=True)
    means, parts = rows.rows.differences(rows.pairs)
    assert standardized(means, parts).tolist() == [0.0]
    assert standardized(means + 1, parts).tolist() == [np.inf]
