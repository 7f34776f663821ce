"""AUC and log loss of two arrays, for training loops and scripts that have no predictions file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import defined
from ctrbench.eval.metrics.logloss import cross_entropy
from ctrbench.eval.ranking import RankedRows, as_scores, check_scores


def auc(label: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Return the share of (positive, negative) pairs in the right order, ties counting half.

    None if a class is missing. Raises `DataError` for scores that are not finite.

    >>> auc([0, 1, 0, 1], [0.1, 0.1, 0.4, 0.8])
    0.625
    """
    return defined(Auc().values(RankedRows.of(label, score).pooled())[0])


def logloss(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Return the mean of softplus(s) - y s over rows with logit s and label y, without clipping; NaN without rows.

    Raises `DataError` for scores that are not finite.
    """
    values = as_scores(np.asarray(score))
    check_scores(values.size - np.count_nonzero(np.isfinite(values)), values.size)
    losses = cross_entropy(np.asarray(label), values)
    return float(np.mean(losses)) if losses.size else float("nan")
