"""Calibration per domain: predicted clicks over observed clicks (PCOC)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ctrbench.eval.metrics.pcoc import Pcoc
from ctrbench.runs.store import RunStore
from ctrbench.studies.drawing import Drawing, Drawn, Part
from ctrbench.studies.per_domain import DomainMetric, draw_metric


class Calibration(Drawing):
    """PCOC per domain; 1 is calibrated."""

    min_positives: int = Field(default=100, ge=1, le=1_000_000_000)
    """Clicks in a domain's test rows from which on the chart shows the domain (spec: metrics-8.4)."""

    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return a table and a chart of PCOC per domain."""
        metric = DomainMetric(
            name="pcoc", overall=Pcoc.name, title="PCOC", digits=3, reference=1.0,
            min_positives=self.min_positives,
        )  # fmt: skip
        return draw_metric(parts, metric)
