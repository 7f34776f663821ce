"""LogLoss after a recalibration with one parameter: a shift of all logits, fitted on dev (spec: significance-8.10).

Where the click rate differs between training and test rows, LogLoss mixes a wrong level with a wrong order. A shift
that is fitted on the dev rows removes the level and leaves the order, so AUC does not change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit

from ctrbench.eval.arrays import logloss
from ctrbench.eval.ranking import as_scores, check_scores


def calibrating_shift(label: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Return the number whose addition to all logits makes the mean prediction equal the click rate.

    It is the shift with the smallest LogLoss. None without both classes. Raises `DataError` for scores that are not
    finite.
    """
    logits = as_scores(np.asarray(score)).astype(np.float64)
    check_scores(logits.size - np.count_nonzero(np.isfinite(logits)), logits.size)
    rate = float(np.mean(np.asarray(label, dtype=np.float64))) if logits.size else 0.0
    if not 0 < rate < 1:
        return None
    # At the lower end no prediction exceeds the rate, at the upper end none is below it.
    low, high = float(logit(rate) - logits.max()), float(logit(rate) - logits.min())
    if high - low < 1e-12:
        return low
    return float(brentq(lambda shift: float(expit(logits + shift).mean()) - rate, low, high, xtol=1e-12))


def recalibrated_logloss(label: npt.ArrayLike, score: npt.ArrayLike, shift: float | None) -> float | None:
    """Return the LogLoss of logits plus a shift that was fitted on other rows; None without a shift."""
    if shift is None:
        return None
    return logloss(label, as_scores(np.asarray(score)).astype(np.float64) + shift)
