"""Constants of the protocol: the conditions under which a report ranks and tests rows.

Tables, charts, CSV files, page and leaderboard all use these.
"""

from __future__ import annotations

from collections.abc import Mapping

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.logloss import LogLoss

MIN_SEEDS = 6
"""Smallest number of seeds of a row that is ranked and tested; with fewer, a sign-flip test cannot reach 5 %."""
LEVEL = 0.05
"""Probability of at least one false claim in a family of differences; intervals have coverage 1 - LEVEL."""
MARGIN = 0.001
"""Difference in AUC below which two rows are equivalent, declared before any result."""
POWER = 0.8
"""Probability with which the gap printed under a table is found."""
COLLAPSED_AUC = 0.52
"""Dev AUC up to which a run counts as collapsed: 0.5 plus a margin for noise (0.013 at 500 positives)."""


def is_collapsed(dev: Mapping[str, float | None], base_logloss: float | None = None) -> bool:
    """Return whether a run failed: its best weights are no better on dev than a constant prediction.

    `base_logloss` is the dev LogLoss of the constant training rate; a LogLoss that is not below it is a failure. Where
    it is unknown, as in old records, the dev AUC decides; a run whose dev AUC is undefined does not count as failed.

    >>> is_collapsed({"auc": 0.506, "logloss": 0.039}), is_collapsed({"auc": 0.64, "logloss": 0.041})
    (True, False)
    """
    logloss, auc = dev.get(LogLoss.name), dev.get(Auc.name)
    if base_logloss is not None and logloss is not None:
        return logloss >= base_logloss
    return auc is not None and auc <= COLLAPSED_AUC
