"""AUC per domain: one table and one chart per domain set and backbone."""

from __future__ import annotations

from collections.abc import Sequence

from ctrbench.eval.metrics.auc import Auc
from ctrbench.runs.store import RunStore
from ctrbench.studies.drawing import Drawing, Drawn, Part
from ctrbench.studies.per_domain import DomainMetric, draw_metric


class Domains(Drawing):
    """AUC per domain."""

    by_user: bool = False
    """Add AUC within each user, weighted by rows, the measure of STAR's paper."""

    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return a table and a chart of AUC per domain."""
        metric = DomainMetric(name="auc", overall=Auc.name, title="AUC", digits=4, by_user=self.by_user)
        return draw_metric(parts, metric)
