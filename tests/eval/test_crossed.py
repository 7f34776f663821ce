from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.sandwich_covariance import cov_cluster, cov_cluster_2groups

from ctrbench.errors import DataError
from ctrbench.eval.crossed import CrossedRows, RowSample, VarianceParts, common_seeds

SEEDS, USERS = 6, 40


def effects(draw: np.random.Generator, *, seeds: float, users: float, both: float) -> np.ndarray:
    """Return one value per seed and user: effects of both and their interaction."""
    return (
        seeds * draw.normal(size=(SEEDS, 1))
        + users * draw.normal(size=(1, USERS))
        + both * draw.normal(size=(SEEDS, USERS))
    )


def sample_of(values: np.ndarray) -> RowSample:
    """Return the row whose metric is the mean over users of these values."""
    num_users = values.shape[1]
    scale = (num_users / (num_users - 1)) ** 0.5 / num_users
    return RowSample(
        values={seed: row.mean() for seed, row in enumerate(values, start=1)},
        influences={seed: (row - row.mean()) * scale for seed, row in enumerate(values, start=1)},
    )


def parts_of(first: np.ndarray, second: np.ndarray) -> tuple[float, VarianceParts]:
    means, parts = CrossedRows.of([sample_of(first), sample_of(second)]).differences([(0, 1)])
    return float(means[0]), parts


def test_two_seeds_and_two_users_by_hand() -> None:
    # Differences: seed 1 has 1 and 3 for the two users, seed 2 has 3 and 9.
    mean, parts = parts_of(np.array([[1.0, 3.0], [3.0, 9.0]]), np.zeros((2, 2)))
    assert mean == 4.0
    # Means of the seeds 2 and 6: sample variance 8, halved. Means of the users 2 and 6: the same.
    assert (parts.seeds[0], parts.users[0]) == pytest.approx((4.0, 4.0))
    # Interaction: residuals +1, -1, -1 and +1 of rows and columns; sum of squares 4 over 1 * 1 degrees, over 4 values.
    assert parts.interaction[0] == pytest.approx(1.0)
    assert parts.total[0] == pytest.approx(4 + 4 - 1)


def test_satterthwaites_degrees_of_freedom_by_hand() -> None:
    parts = VarianceParts(
        seeds=np.array([4.0, 4.0]),
        users=np.array([2.0, 0.0]),
        interaction=np.array([1.0, 0.0]),
        num_seeds=6,
        freedom_of_users=np.array([100.0, 100.0]),
    )
    # 5^2 / (4^2 / 5 + 2^2 / 100 + 1 / 500); without users, the degrees of the seeds.
    assert parts.freedom == pytest.approx([25 / (3.2 + 0.04 + 0.002), 5.0])


def test_few_users_with_most_of_the_influence_have_few_degrees_of_freedom() -> None:
    draw = np.random.default_rng(0)
    scales = np.where(np.arange(400) < 20, 100.0, 1.0)
    influence = np.array([scales * draw.normal(size=400), draw.normal(size=400), np.zeros(400)])
    rows = CrossedRows(
        seeds=(1, 2), by_seed=np.zeros((3, 2)), influences=influence, interaction=np.zeros((3, 3))
    )
    _, parts = rows.differences([(0, 2), (1, 2)])
    # Of 20 normal values, and of 400; the fourth moment is that of a sample.
    assert parts.freedom_of_users == pytest.approx([20, 400], rel=0.5)
    assert rows.differences([(2, 2)])[1].freedom_of_users == 399


def test_the_total_is_at_least_either_part() -> None:
    parts = VarianceParts(
        seeds=np.array([2.0]),
        users=np.array([3.0]),
        interaction=np.array([2.5]),
        num_seeds=6,
        freedom_of_users=np.array([49.0]),
    )
    assert parts.total[0] == 3.0


def test_equal_rows_have_no_variance() -> None:
    mean, parts = parts_of(np.ones((3, 4)), np.ones((3, 4)))
    assert (mean, parts.total[0]) == (0.0, 0.0)
    assert np.isfinite(parts.freedom[0])


def long_table(values: np.ndarray) -> pd.DataFrame:
    seed, user = np.indices(values.shape)
    return pd.DataFrame({"x": values.ravel(), "seed": seed.ravel(), "user": user.ravel()})


@pytest.mark.parametrize("seed", range(3))
def test_one_way_parts_are_clustered_covariances_of_statsmodels(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, second = (effects(draw, seeds=0.5, users=1, both=2) for _ in range(2))
    _, parts = parts_of(first, second)
    table = long_table(first - second)
    fit = ols("x ~ 1", table).fit()
    by_seed, by_user = (cov_cluster(fit, table[name]).item() for name in ("seed", "user"))
    assert (parts.seeds[0], parts.users[0]) == pytest.approx((by_seed, by_user), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_interaction_is_the_residual_mean_square_of_a_two_way_analysis_of_variance(seed: int) -> None:
    values = effects(np.random.default_rng(seed), seeds=0.5, users=1, both=2)
    _, parts = parts_of(values, np.zeros_like(values))
    fit = ols("x ~ C(seed) + C(user)", long_table(values)).fit()
    assert parts.interaction[0] == pytest.approx(fit.mse_resid / values.size, rel=1e-10)


def test_two_way_clusters_of_statsmodels_subtract_more() -> None:
    values = effects(np.random.default_rng(0), seeds=1, users=1, both=0.5)
    _, parts = parts_of(values, np.zeros_like(values))
    table = long_table(values)
    fit = ols("x ~ 1", table).fit()
    both, by_seed, by_user = (
        matrix.item() for matrix in cov_cluster_2groups(fit, table["seed"], table["user"])
    )
    assert (parts.seeds[0], parts.users[0]) == pytest.approx((by_seed, by_user), rel=1e-10)
    # Its third term is the variance of single values, which includes the effects of seeds and users themselves.
    single = values.var(ddof=1) / values.size
    assert both == pytest.approx(by_seed + by_user - single, rel=1e-10)
    assert both < parts.total[0]


def test_the_variance_is_unbiased() -> None:
    draw = np.random.default_rng(0)
    scales = {"seeds": 0.3, "users": 1.0, "both": 1.0}
    samples = [parts_of(effects(draw, **scales), np.zeros((SEEDS, USERS))) for _ in range(3_000)]
    estimate = np.mean([(part.seeds + part.users - part.interaction)[0] for _, part in samples])
    true = 0.3**2 / SEEDS + 1 / USERS + 1 / (SEEDS * USERS)
    assert estimate == pytest.approx(true, rel=0.03)
    assert np.var([mean for mean, _ in samples]) == pytest.approx(true, rel=0.1)


def test_intervals_cover_the_true_difference() -> None:
    draw = np.random.default_rng(1)
    is_covered = []
    for _ in range(2_000):
        mean, parts = parts_of(effects(draw, seeds=0.3, users=1, both=1), np.zeros((SEEDS, USERS)))
        half_width = stats.t.ppf(0.975, parts.freedom[0]) * parts.total[0] ** 0.5
        is_covered.append(abs(mean) <= half_width)
    # 2,000 samples: a standard error of 0.5 %.
    assert 0.935 < np.mean(is_covered) < 0.97


def crossed_bootstrap(row: RowSample, replicates: int, seed: int) -> float:
    """Return the standard error by drawing seeds and users with replacement, independently of each other."""
    draw = np.random.default_rng(seed)
    values, influences = np.array(list(row.values.values())), np.array(list(row.influences.values()))
    num_seeds, num_users = influences.shape
    seeds = draw.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), replicates) / num_seeds
    users = draw.multinomial(num_users, np.full(num_users, 1 / num_users), replicates) - 1
    return float(np.std(seeds @ values + np.sum((seeds @ influences) * users, axis=1)))


def test_a_crossed_bootstrap_agrees_where_seeds_are_many() -> None:
    draw = np.random.default_rng(2)
    values = 0.3 * draw.normal(size=(60, 1)) + draw.normal(size=(1, 60)) + draw.normal(size=(60, 60))
    row = sample_of(values)
    _, parts = parts_of(values, np.zeros_like(values))
    # The bootstrap counts the interaction three times, which is little with 60 seeds and users: at most 4 %.
    assert crossed_bootstrap(row, 4_000, 0) == pytest.approx(parts.total[0] ** 0.5, rel=0.06)


def test_seeds_are_those_of_all_rows() -> None:
    first = RowSample(values={3: 0.1, 1: 0.2, 2: 0.3}, influences={})
    second = RowSample(values={2: 0.1, 3: 0.2, 4: 0.3}, influences={})
    assert common_seeds([first, second]) == (2, 3)
    assert not first.is_complete
    assert sample_of(np.zeros((2, 2))).is_complete


def test_rows_need_common_seeds_and_the_same_clusters() -> None:
    with pytest.raises(DataError, match="two common seeds and the same clusters"):
        CrossedRows.of([sample_of(np.zeros((2, 3))), sample_of(np.zeros((2, 4)))])
    with pytest.raises(DataError, match="two common seeds and the same clusters"):
        CrossedRows.of([sample_of(np.zeros((1, 3))), sample_of(np.zeros((1, 3)))])
