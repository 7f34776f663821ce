"""GAUC: mean over domains of the AUC within each domain, weighted by rows."""

from __future__ import annotations

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import GroupMean


class Gauc(GroupMean):
    """Row-weighted mean of the AUC of each domain; domains with a single class are left out (spec: metrics-8.3)."""

    name = "gauc"
    title = "GAUC"
    bounds = (0.0, 1.0)
    order = 30
    of = Auc()
