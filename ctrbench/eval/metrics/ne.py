"""Normalized entropy: log loss divided by the log loss of always predicting the base rate (He et al., 2014)."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import entr

from ctrbench.eval.metrics.base import Floats, Groups, RowMetric, ratio
from ctrbench.eval.metrics.logloss import label_loss


class NormalizedEntropy(RowMetric):
    """Log loss over the entropy of the base rate; 1 for a constant prediction, undefined without both classes."""

    name = "ne"
    title = "NE"
    bounds = (0.0, math.inf)
    higher_is_better = False
    digits = 5
    order = 12
    in_table = None
    in_charts = False
    per_bin = False
    per_domain = False
    terms = (label_loss,)

    def values(self, groups: Groups) -> Floats:
        """Return the normalized entropy of each group."""
        rate = ratio(groups.positives, groups.rows)
        entropy = entr(rate) + entr(1 - rate)
        return ratio(ratio(groups.sum(label_loss), groups.rows), np.where(entropy > 0, entropy, 0.0))
