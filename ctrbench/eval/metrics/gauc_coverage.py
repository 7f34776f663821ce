"""Coverage of GAUC: share of rows in the domains that GAUC averages over."""

from __future__ import annotations

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import GroupMean


class GaucCoverage(GroupMean):
    """Share of rows in domains with both classes; 0 without rows."""

    name = "gauc_coverage"
    title = "GAUC rows"
    bounds = (0.0, 1.0)
    higher_is_better = None
    order = 31
    in_table = None
    in_charts = False
    of = Auc()
    statistic = "coverage"
