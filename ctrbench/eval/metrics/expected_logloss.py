"""Expected log loss: mean cross-entropy against the true click probability, free of label noise."""

from __future__ import annotations

import math

from ctrbench.eval.metrics.base import Floats, Groups, RowMetric, ScoredRows, ratio
from ctrbench.eval.metrics.logloss import cross_entropy
from ctrbench.names import Column


def expected_loss(rows: ScoredRows) -> Floats:
    """Return the cross-entropy of each row against its true click probability."""
    assert rows.probability is not None
    return cross_entropy(rows.probability, rows.score)


class ExpectedLogLoss(RowMetric):
    """Mean of softplus(s) - p s over rows with logit s and true click probability p (spec: metrics-8.9).

    Synthetic data only.
    """

    name = "expected_logloss"
    title = "expected LogLoss"
    bounds = (0.0, math.inf)
    higher_is_better = False
    digits = 5
    order = 60
    in_table = None
    in_charts = False
    per_bin = False
    per_domain = False
    needs = (Column.PROBABILITY,)
    terms = (expected_loss,)

    def values(self, groups: Groups) -> Floats:
        """Return the expected log loss of each group."""
        return ratio(groups.sum(expected_loss), groups.rows)
