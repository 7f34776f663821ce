from __future__ import annotations

import pytest

from ctrbench.eval.protocol import is_collapsed


@pytest.mark.parametrize(
    ("auc", "expected"),
    # The two collapsed runs of APG v5 on the twin of IAAC, and the lowest dev AUC of all other published runs.
    [(0.5062658500156548, True), (0.5130289783316628, True), (0.5839188565257196, False), (None, False)],
)
def test_a_dev_auc_of_chance_is_a_collapse(auc: float | None, expected: bool) -> None:
    assert is_collapsed({"auc": auc, "logloss": 0.04}) is expected


def test_a_dev_logloss_not_below_that_of_the_training_rate_is_a_collapse() -> None:
    assert is_collapsed({"auc": 0.6, "logloss": 0.5}, base_logloss=0.5)
    assert not is_collapsed({"auc": 0.51, "logloss": 0.499}, base_logloss=0.5)
    assert is_collapsed({"auc": 0.51, "logloss": None}, base_logloss=0.5)


def test_metrics_without_auc_are_not_judged() -> None:
    assert not is_collapsed({"logloss": 0.04})
