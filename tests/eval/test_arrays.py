from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score

from ctrbench.eval.arrays import auc, logloss

ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(-6, 6).map(lambda n: n / 4)),
    min_size=1,
    max_size=60,
)


def test_auc_counts_ties_as_half() -> None:
    # Pairs (positive, negative): (.1, .1) half, (.1, .4) wrong, (.8, .1) and (.8, .4) right.
    assert auc([0, 1, 0, 1], [0.1, 0.1, 0.4, 0.8]) == 2.5 / 4


def test_auc_of_equal_scores_is_one_half() -> None:
    assert auc([0, 1, 1, 0, 1], [3.0] * 5) == 0.5


@pytest.mark.parametrize("label", [[0, 0], [1, 1], []])
def test_auc_without_both_classes_is_undefined(label: list[int]) -> None:
    assert auc(label, [float(value) for value in label]) is None


def test_minus_zero_ties_with_zero() -> None:
    assert auc([0, 1], np.array([0.0, -0.0], dtype=np.float32)) == 0.5


def test_float64_scores_that_are_equal_in_float32_are_not_tied() -> None:
    assert auc([0, 1], [1.0, 1.0 + 1e-12]) == 1.0


@pytest.mark.parametrize("scores", [[-2e300, 1e300], [-3.0, -2.0], [-1e-40, 1e-40], [1e-40, 2e-40]])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_extreme_scores_keep_their_order(scores: list[float], kind: type[np.floating]) -> None:
    if kind is np.float32 and max(map(abs, scores)) > 1e38:
        scores = [value / 1e270 for value in scores]
    assert auc([0, 1], np.array(scores, dtype=kind)) == 1.0


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_auc_equals_that_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    label, score = (list(column) for column in zip(*rows, strict=True))
    expected = pytest.approx(roc_auc_score(label, score)) if len(set(label)) == 2 else None
    assert auc(label, score) == expected


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_auc_is_invariant_under_monotone_maps(rows: list[tuple[bool, float]]) -> None:
    label, score = (np.array(column) for column in zip(*rows, strict=True))
    assert auc(label, score) == auc(label, np.exp(score) * 1e-3) == auc(label, score**3 - 17.3)


def test_logloss_equals_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(7)
    score = rng.normal(-1.5, 1.0, 3_000)
    label = rng.random(3_000) < expit(score)
    assert logloss(label, score) == pytest.approx(log_loss(label, expit(score)), rel=1e-12)


def test_logloss_is_not_clipped() -> None:
    assert logloss([0, 1, 1], [1000.0, -2000.0, 500.0]) == 1000.0
