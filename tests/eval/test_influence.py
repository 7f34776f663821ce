from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctrbench.errors import DataError
from ctrbench.eval.influence import (
    INFLUENCES,
    Clusters,
    Influence,
    auc_influence,
    covariance,
    gauc_influence,
    logloss_influence,
)
from ctrbench.eval.ranking import RankedRows


class Sample:
    """Rows of users of different activity, with an effect of each user on labels and scores."""

    def __init__(self, users: int = 60, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.user = np.repeat(np.arange(users), draw.integers(2, 12, users))
        size = self.user.size
        taste = draw.normal(size=users)[self.user]
        self.domain = draw.integers(0, 3, size)
        self.label = draw.random(size) < 1 / (1 + np.exp(-taste - 0.3 * self.domain))
        # Rounded, so that some scores are equal.
        self.first = np.round(taste + draw.normal(size=size), 1)
        self.second = np.round(0.5 * taste + draw.normal(size=size) + self.label, 1)

    def metric(self, name: str, score: np.ndarray, rows: np.ndarray | None = None) -> Influence:
        chosen = np.arange(self.user.size) if rows is None else rows
        ranked = RankedRows.of(self.label[chosen], score[chosen])
        return INFLUENCES[name](ranked, self.domain[chosen], Clusters.of(self.user[chosen]))


def delong(label: np.ndarray, scores: list[np.ndarray]) -> np.ndarray:
    """Return the covariance of AUCs by the formula of DeLong et al. (1988), with all pairs of rows in a loop."""
    positives, negatives = np.flatnonzero(label), np.flatnonzero(~label)
    v10 = np.zeros((len(scores), positives.size))
    v01 = np.zeros((len(scores), negatives.size))
    for m, score in enumerate(scores):
        for a, i in enumerate(positives):
            for b, j in enumerate(negatives):
                kernel = 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
                v10[m, a] += kernel / negatives.size
                v01[m, b] += kernel / positives.size
    return np.cov(v10) / positives.size + np.cov(v01) / negatives.size


def test_six_rows_of_three_users_by_hand() -> None:
    label = np.array([1, 1, 1, 0, 0, 0])
    score = np.array([3.0, 2.0, 1.0, 2.5, 1.0, 0.0])
    user = np.array([7, 7, 9, 9, 4, 4])
    result = auc_influence(RankedRows.of(label, score), np.zeros(6, dtype=int), Clusters.of(user))
    # Placements: positives 3/3, 2/3, 1.5/3; negatives 1/3, 2.5/3, 3/3; AUC = 6.5/9.
    auc = 6.5 / 9
    assert result.value == pytest.approx(auc)
    # Users 4, 7, 9; positives are in two clusters, negatives in two: each part times sqrt(2 / 1).
    by_hand = (
        np.array([2.5 / 3 + 1 - 2 * auc, 1 + 2 / 3 - 2 * auc, (1.5 / 3 - auc) + (1 / 3 - auc)]) / 3 * 2**0.5
    )
    assert result.clusters == pytest.approx(by_hand)
    assert result.variance == pytest.approx(np.sum(by_hand**2))


@pytest.mark.parametrize("seed", range(3))
def test_auc_equals_that_of_scikit_learn(seed: int) -> None:
    sample = Sample(seed=seed)
    assert sample.metric("auc", sample.first).value == pytest.approx(
        roc_auc_score(sample.label, sample.first), abs=1e-14
    )


def test_gauc_equals_the_mean_of_domains_with_both_classes() -> None:
    sample = Sample()
    sample.label[sample.domain == 2] = True
    values = {
        d: roc_auc_score(sample.label[sample.domain == d], sample.first[sample.domain == d]) for d in (0, 1)
    }
    rows = {d: np.count_nonzero(sample.domain == d) for d in (0, 1)}
    expected = sum(values[d] * rows[d] for d in (0, 1)) / sum(rows.values())
    assert sample.metric("gauc", sample.first).value == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_without_clusters_the_covariance_is_that_of_delong(seed: int) -> None:
    sample = Sample(users=20, seed=seed)
    scores = [sample.first, sample.second]
    rows = Clusters.of(np.arange(sample.user.size))
    influences = [auc_influence(RankedRows.of(sample.label, s), sample.domain, rows).clusters for s in scores]
    assert covariance(np.array(influences)) == pytest.approx(delong(sample.label, scores), rel=1e-12)


def obuchowski(label: np.ndarray, scores: list[np.ndarray], user: np.ndarray) -> np.ndarray:
    """Return the covariance of AUCs by equations 3 to 6 of Obuchowski (1997)."""
    num_positive, num_negative = np.count_nonzero(label), np.count_nonzero(~label)
    users = np.unique(user)
    positives, negatives = [], []
    for score in scores:
        kernel = np.heaviside(score[label][:, None] - score[~label][None, :], 0.5)
        auc = kernel.mean()
        v10, v01 = kernel.mean(axis=1) - auc, kernel.mean(axis=0) - auc
        positives.append([v10[user[label] == u].sum() for u in users])
        negatives.append([v01[user[~label] == u].sum() for u in users])
    x10, x01 = np.array(positives), np.array(negatives)
    with_positive, with_negative = np.unique(user[label]).size, np.unique(user[~label]).size
    s10 = with_positive / ((with_positive - 1) * num_positive) * x10 @ x10.T
    s01 = with_negative / ((with_negative - 1) * num_negative) * x01 @ x01.T
    s11 = users.size / (users.size - 1) * x10 @ x01.T
    return s10 / num_positive + s01 / num_negative + (s11 + s11.T) / (num_positive * num_negative)


def test_clustered_covariance_is_that_of_obuchowski_up_to_the_factor_of_the_cross_term() -> None:
    sample = Sample(users=80)
    scores = [sample.first, sample.second]
    influences = np.array([sample.metric("auc", score).clusters for score in scores])
    # I/(I-1) of all users against that of users with a positive and of users with a negative: 1/80 and 1/75.
    assert covariance(influences) == pytest.approx(obuchowski(sample.label, scores, sample.user), rel=5e-3)


@pytest.mark.parametrize("metric", sorted(INFLUENCES))
def test_influence_predicts_the_effect_of_a_left_out_user(metric: str) -> None:
    sample = Sample(users=400)
    full = sample.metric(metric, sample.first)
    changes = [
        full.value - sample.metric(metric, sample.first, np.flatnonzero(sample.user != user)).value
        for user in range(400)
    ]
    # Leaving a user out changes the metric by its influence, but for terms of second order.
    assert np.corrcoef(changes, full.clusters)[0, 1] > 0.999
    assert np.std(changes) == pytest.approx(np.std(full.clusters), rel=0.03)
    # The jackknife variance: (I - 1) / I times the sum of squared changes.
    assert full.variance == pytest.approx(399 / 400 * np.sum(np.square(changes - np.mean(changes))), rel=0.05)


@pytest.mark.parametrize("metric", sorted(INFLUENCES))
def test_variance_of_a_difference_is_that_of_a_bootstrap_over_users(metric: str) -> None:
    sample = Sample(users=300)
    rows = [np.flatnonzero(sample.user == user) for user in range(300)]
    draw = np.random.default_rng(1)

    def difference(chosen: np.ndarray) -> float:
        first, second = (sample.metric(metric, s, chosen).value for s in (sample.first, sample.second))
        return first - second

    picks = draw.integers(0, 300, (400, 300))
    replicates = [difference(np.concatenate([rows[user] for user in pick])) for pick in picks]
    delta = sample.metric(metric, sample.first).clusters - sample.metric(metric, sample.second).clusters
    # 400 replicates: a standard error of 3.5 % in the standard deviation.
    assert np.sqrt(delta @ delta) == pytest.approx(np.std(replicates), rel=0.11)


def test_influence_values_sum_to_zero() -> None:
    sample = Sample()
    for metric in INFLUENCES:
        clusters = sample.metric(metric, sample.first).clusters
        assert abs(clusters.sum()) < 0.02 * np.abs(clusters).sum()


def test_domains_as_clusters_of_gauc_leave_the_variance_of_a_weighted_mean() -> None:
    sample = Sample()
    ranked = RankedRows.of(sample.label, sample.first)
    result = gauc_influence(ranked, sample.domain, Clusters.of(sample.domain))
    rows = np.bincount(sample.domain)
    aucs = np.array(
        [roc_auc_score(sample.label[sample.domain == d], sample.first[sample.domain == d]) for d in range(3)]
    )
    deviations = rows * (aucs - result.value) / rows.sum()
    assert result.clusters == pytest.approx(deviations * (3 / 2) ** 0.5)


def test_logloss_is_a_mean_with_the_variance_of_cluster_sums() -> None:
    label, score = np.array([1, 0, 1, 0]), np.zeros(4)
    score[0] = 2.0
    result = logloss_influence(
        RankedRows.of(label, score), np.zeros(4, dtype=int), Clusters.of(np.array([1, 1, 2, 2]))
    )
    losses = np.array([np.log1p(np.exp(-2.0)), *[np.log(2)] * 3])
    assert result.value == pytest.approx(losses.mean())
    deviation = (losses[0] - losses.mean() + losses[1] - losses.mean()) / 4
    assert result.clusters == pytest.approx(np.array([deviation, -deviation]) * 2**0.5)


@pytest.mark.parametrize("metric", ["auc", "gauc", "ne"])
def test_a_metric_without_both_classes_is_undefined(metric: str) -> None:
    ranked = RankedRows.of(np.ones(4), np.arange(4.0))
    result = INFLUENCES[metric](ranked, np.zeros(4, dtype=int), Clusters.of(np.arange(4)))
    assert np.isnan(result.value)
    assert np.isnan(result.clusters).all()


def test_many_clusters_are_merged_without_bias() -> None:
    draw = np.random.default_rng(0)
    label, score = draw.random(40_000) < 0.3, draw.normal(size=40_000)
    ranked, domain = RankedRows.of(label, score + label), np.zeros(40_000, dtype=int)
    every = auc_influence(ranked, domain, Clusters.of(np.arange(40_000), limit=40_000))
    merged = Clusters.of(np.arange(40_000), limit=2_000)
    assert (merged.num, merged.num_keys) == (2_000, 40_000)
    # Relative standard error of the variance from merging: sqrt(2 / 2000) = 3 %.
    assert auc_influence(ranked, domain, merged).variance == pytest.approx(every.variance, rel=0.1)


def test_every_row_needs_a_cluster() -> None:
    with pytest.raises(DataError, match="every row must have one cluster"):
        auc_influence(RankedRows.of([0, 1, 1], [1, 2, 3]), np.zeros(3, dtype=int), Clusters.of(np.arange(2)))
