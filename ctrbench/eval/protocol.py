"""Constants of the protocol that decide what a report may state (PROTOCOL 5).

Tables, pictures, CSV files, page and leaderboard read them here, so that no two of them draw the line elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from ctrbench.names import Metric

MIN_SEEDS = 6
"""Seeds from which a row is ranked and tested. Below, a sign-flip test can't reach 5 %: no test, no mark, no rank."""
COLLAPSED_AUC = 0.52
"""Dev AUC up to which a run counts as collapsed: 0.5 with some room for noise (0.013 at 500 positives)."""


def is_collapsed(dev: Mapping[str, float | None]) -> bool:
    """Return whether the dev metrics of a run's best weights are those of a model that learned nothing.

    The protocol compares the dev LogLoss with that of the constant training rate. Records of schema 1 hold no training
    rate, so the dev AUC decides; a run whose dev AUC is undefined is not judged.

    >>> is_collapsed({"auc": 0.506, "logloss": 0.039}), is_collapsed({"auc": 0.64, "logloss": 0.041})
    (True, False)
    """
    auc = dev.get(Metric.AUC)
    return auc is not None and auc <= COLLAPSED_AUC
