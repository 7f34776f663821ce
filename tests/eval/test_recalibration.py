from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from ctrbench.errors import DataError
from ctrbench.eval.arrays import logloss
from ctrbench.eval.recalibration import calibrating_shift, recalibrated_logloss


def test_equal_scores_are_shifted_to_the_logit_of_the_rate() -> None:
    assert calibrating_shift([1, 0, 0, 0], [2.0] * 4) == pytest.approx(logit(0.25) - 2.0)


def test_two_scores_by_hand() -> None:
    # Predictions of 1/2 ± d have the mean 1/2 for scores of 1 and -1.
    assert calibrating_shift([1, 0], [4.0, 2.0]) == pytest.approx(-3.0)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
def test_the_shift_has_the_smallest_logloss(bias: float) -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(-2, 1, 5_000)
    label = draw.random(5_000) < expit(truth)
    shift = calibrating_shift(label, (truth + bias).astype(np.float32))
    assert expit(truth + bias + shift).mean() == pytest.approx(label.mean(), abs=1e-6)
    best = minimize_scalar(
        lambda value: logloss(label, truth + bias + value), bounds=(-9, 9), method="bounded"
    )
    assert shift == pytest.approx(best.x, abs=1e-4)
    assert shift == pytest.approx(-bias, abs=0.1)


def test_a_shift_fitted_on_dev_repairs_the_level_of_test_predictions() -> None:
    draw = np.random.default_rng(1)
    truth = draw.normal(-2, 1, 20_000)
    label = draw.random(20_000) < expit(truth)
    dev, test = slice(0, 10_000), slice(10_000, None)
    shift = calibrating_shift(label[dev], truth[dev] + 1)
    repaired = recalibrated_logloss(label[test], truth[test] + 1, shift)
    assert repaired == pytest.approx(logloss(label[test], truth[test]), abs=1e-3)
    assert repaired < logloss(label[test], truth[test] + 1) - 0.02


def test_one_class_has_no_shift() -> None:
    assert calibrating_shift([0, 0], [1.0, 2.0]) is None
    assert calibrating_shift([], []) is None
    assert recalibrated_logloss([0, 1], [1.0, 2.0], None) is None


def test_scores_must_be_finite() -> None:
    with pytest.raises(DataError, match="finite"):
        calibrating_shift([0, 1], [np.inf, 0.0])
