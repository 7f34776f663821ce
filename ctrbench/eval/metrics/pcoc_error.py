"""PCOC error: calibration within domains, the mean of |PCOC - 1| weighted by rows."""

from __future__ import annotations

import math

import numpy as np

from ctrbench.eval.metrics.base import Floats, GroupMean
from ctrbench.eval.metrics.pcoc import Pcoc


class PcocError(GroupMean):
    """Row-weighted mean over domains of |PCOC - 1|; domains without a click are left out."""

    name = "pcoc_error"
    title = "|PCOC−1|"
    bounds = (0.0, math.inf)
    higher_is_better = False
    digits = 3
    order = 50
    in_table = "mean"
    in_charts = False
    per_bin = False
    of = Pcoc()

    def transform(self, values: Floats) -> Floats:
        """Return the distance of each domain's PCOC from 1."""
        distance: Floats = np.abs(values - 1)
        return distance
