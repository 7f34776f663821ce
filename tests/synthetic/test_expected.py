from __future__ import annotations

import numpy as np
import pytest

from ctrbench.synthetic.expected import expected_auc


def test_expected_auc_equals_the_sum_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    score, probability = rng.integers(0, 5, 30).astype(float), rng.random(30)
    order = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    weight = probability[:, None] * (1 - probability)[None, :]
    assert expected_auc(score, probability) == pytest.approx((order * weight).sum() / weight.sum())
