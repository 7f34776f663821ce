"""Gains over plain by size of domain: domains in bins of equal shares of training rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ctrbench.report.charts.gain_by_bin import gain_chart
from ctrbench.report.summary import summarize
from ctrbench.report.tables import bins_table
from ctrbench.runs.store import RunStore
from ctrbench.studies.drawing import Drawing, Drawn, Part, numbered


class Bins(Drawing):
    """Metrics and gains per bin of domains."""

    needs_plain: ClassVar[bool] = True

    bins: int = Field(default=5, ge=1, le=1_000)
    """Number of bins."""

    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return a table and a chart per domain set and metric."""
        summaries = [summarize(part.comparison, num_bins=self.bins, store=store) for part in parts]
        tables = [bins_table(summary, metric.name) for summary in summaries for metric in summary.bin_metrics]
        charts = [
            (numbered(f"gain-{metric.name}", number, len(summaries)), gain_chart(summary, metric.name))
            for number, summary in enumerate(summaries, start=1)
            for metric in summary.bin_metrics
        ]
        return Drawn(tables=tuple(tables), charts=tuple(charts))
