"""Differences between rows of a comparison, over seeds and test users; part of the summary.

The rules are in `eval.contrasts` and `eval.verdicts`. Here rows of records become samples, and families of pairs are
chosen: each method with plain, each method with its control, and all pairs for the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

from ctrbench.eval.cluster_influence import unpack
from ctrbench.eval.crossed import RowSample
from ctrbench.report.comparison import Row

Name = tuple[str, str]
"""Labels of backbone and method."""


def row_samples(rows: Sequence[Row], metric: str) -> dict[Name, RowSample]:
    """Return values and influence values of each row; those of clusters unlike the first run's are left out."""
    influences = [result.influence for row in rows for result in row.results.values()]
    digest = next((influence.digest for influence in influences if influence), None)
    return {row.name: _row_sample(row, metric, digest) for row in rows}


def _row_sample(row: Row, metric: str, digest: str | None) -> RowSample:
    known = {
        seed: result.influence.metrics[metric]
        for seed, result in row.results.items()
        if result.influence and result.influence.digest == digest and metric in result.influence.metrics
    }
    return RowSample(
        values=row.values(metric), influences={seed: unpack(packed) for seed, packed in known.items()}
    )
