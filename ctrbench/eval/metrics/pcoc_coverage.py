"""Coverage of the PCOC error: share of rows in the domains that it averages over."""

from __future__ import annotations

from ctrbench.eval.metrics.base import GroupMean
from ctrbench.eval.metrics.pcoc import Pcoc


class PcocCoverage(GroupMean):
    """Share of rows in domains with a click; 0 without rows."""

    name = "pcoc_coverage"
    title = "PCOC rows"
    bounds = (0.0, 1.0)
    higher_is_better = None
    order = 51
    in_table = None
    in_charts = False
    per_bin = False
    of = Pcoc()
    statistic = "coverage"
