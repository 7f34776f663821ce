"""User GAUC: mean over users of the AUC within each user, weighted by rows."""

from __future__ import annotations

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import GroupMean
from ctrbench.names import Column


class UserGauc(GroupMean):
    """Row-weighted mean of the AUC of each user; users with a single class or unseen in training are left out."""

    name = "user_gauc"
    title = "GAUC over users"
    bounds = (0.0, 1.0)
    order = 33
    in_table = None
    in_charts = False
    per_bin = False
    of = Auc()
    group_by = Column.USER
