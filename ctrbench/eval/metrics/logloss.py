"""Log loss: mean cross-entropy of the labels, in nats, computed from logits without clipping."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ctrbench.eval.metrics.base import Floats, Groups, RowMetric, ScoredRows, Scores, ratio


def cross_entropy(target: npt.NDArray[np.generic], score: Scores) -> Floats:
    """Return softplus(s) - t s of each row, where the target t is a label or a probability."""
    wide = score.astype(np.float64, copy=False)
    losses: Floats = np.logaddexp(0.0, wide) - wide * target.astype(np.float64)
    return losses


def label_loss(rows: ScoredRows) -> Floats:
    """Return the cross-entropy of each row's label."""
    return cross_entropy(rows.is_positive, rows.score)


class LogLoss(RowMetric):
    """Mean of softplus(s) - y s over rows with logit s and label y (spec: metrics-8.1)."""

    name = "logloss"
    title = "LogLoss"
    bounds = (0.0, math.inf)
    higher_is_better = False
    digits = 5
    order = 10
    in_charts = False
    per_bin = False
    terms = (label_loss,)

    def values(self, groups: Groups) -> Floats:
        """Return the log loss of each group."""
        return ratio(groups.sum(label_loss), groups.rows)
