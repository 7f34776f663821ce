"""Coverage of user GAUC: share of rows of the users that it averages over."""

from __future__ import annotations

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import GroupMean
from ctrbench.names import Column


class UserGaucCoverage(GroupMean):
    """Share of rows of users with both classes who were seen in training; 0 without rows."""

    name = "user_gauc_coverage"
    title = "user GAUC rows"
    bounds = (0.0, 1.0)
    higher_is_better = None
    order = 34
    in_table = None
    in_charts = False
    per_bin = False
    of = Auc()
    group_by = Column.USER
    statistic = "coverage"
