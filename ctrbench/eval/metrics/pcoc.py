"""PCOC: predicted over observed clicks, the calibration of a set of rows."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit

from ctrbench.eval.metrics.base import Floats, Groups, RowMetric, ScoredRows, ratio


def click_probability(rows: ScoredRows) -> Floats:
    """Return the predicted click probability of each row."""
    probability: Floats = expit(rows.score.astype(np.float64, copy=False))
    return probability


class Pcoc(RowMetric):
    """Sum of predicted click probabilities over the number of clicks (spec: metrics-8.4).

    The ideal is 1; undefined without a click.
    """

    name = "pcoc"
    title = "PCOC"
    bounds = (0.0, math.inf)
    higher_is_better = None
    digits = 3
    order = 40
    in_table = "mean"
    in_charts = False
    per_bin = False
    terms = (click_probability,)

    def values(self, groups: Groups) -> Floats:
        """Return predicted over observed clicks of each group."""
        return ratio(groups.sum(click_probability), groups.positives)
