"""AUC: probability that a random positive row has a higher score than a random negative row.

Pairs are counted in integers, ties as half a pair, so AUC is exact and independent of the order of rows.
"""

from __future__ import annotations

from ctrbench.eval.metrics.base import Floats, Groups, RowMetric, ratio


class Auc(RowMetric):
    """Share of (positive, negative) pairs in the right order, ties counting half (spec: metrics-8.2).

    Undefined without both classes.
    """

    name = "auc"
    title = "AUC"
    bounds = (0.0, 1.0)
    order = 20

    def values(self, groups: Groups) -> Floats:
        """Return the AUC of each group."""
        return ratio(groups.wins, 2 * groups.pairs)
