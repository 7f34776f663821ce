"""Metrics in expectation over labels, from true click probabilities: without the noise of drawn labels."""

from __future__ import annotations

import numpy as np

from ctrbench.synthetic.philox import Floats


def expected_auc(score: Floats, probability: Floats) -> float:
    """Return the expected AUC of a score when labels are drawn from the probabilities; ties count half."""
    values, index = np.unique(score, return_inverse=True)
    positive = np.bincount(index, probability, minlength=len(values))
    negative = np.bincount(index, 1 - probability, minlength=len(values))
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / (positive.sum() * negative.sum()))
