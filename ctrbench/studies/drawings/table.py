"""Methods × backbones: the metrics of the test split, as in a paper's main table."""

from __future__ import annotations

from collections.abc import Sequence

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.report.charts.by_method import metric_chart
from ctrbench.report.published_figures import published_figures_table
from ctrbench.report.summary import summarize
from ctrbench.report.table import Table
from ctrbench.report.tables import overall_table, users_table
from ctrbench.runs.store import RunStore
from ctrbench.studies.drawing import Drawing, Drawn, Part, numbered


class MainTable(Drawing):
    """Overall metrics of all methods, one table and two charts per domain set."""

    by_user: bool = False
    """Add AUC within each user, weighted by rows, the measure of STAR's paper."""

    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return the overall table, the paper's own numbers where they are known, and charts of AUC and GAUC."""
        tables: list[Table] = []
        summaries = [summarize(part.comparison) for part in parts]
        for summary in summaries:
            users = users_table(summary) if self.by_user else None
            tables += [
                table for table in (overall_table(summary), users, published_figures_table(summary)) if table
            ]
        charts = [
            (numbered(metric, number, len(parts)), metric_chart(summary, metric))
            for number, summary in enumerate(summaries, start=1)
            for metric in (Auc.name, Gauc.name)
        ]
        return Drawn(tables=tuple(tables), charts=tuple(charts))
