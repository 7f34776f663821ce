"""Unweighted GAUC: mean over domains of the AUC within each domain, each domain counted once."""

from __future__ import annotations

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import GroupMean


class GaucUnweighted(GroupMean):
    """Mean of the AUC of each domain; domains with a single class are left out."""

    name = "gauc_unweighted"
    title = "unweighted GAUC"
    bounds = (0.0, 1.0)
    order = 32
    in_table = None
    in_charts = False
    per_bin = False
    of = Auc()
    statistic = "unweighted"
