"""Tables about tuning: the best settings of each method, and how much each setting matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctrbench.cli import console
from ctrbench.cli.formats import DASH, listing, metric
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    from ctrbench.tuning.search import Search

NUM_IMPORTANT = 3
"""Number of settings that are shown with their importance."""


def show_searches(searches: Sequence[Search]) -> None:
    """Print one row per search: dev AUC of the default and of the best trial, its settings, and what matters most."""
    table = listing("Dev AUC of the default settings and of the best trial")
    for heading in ("method", "backbone"):
        table.add_column(heading, overflow="fold")
    for heading in ("trials", "failed", "default", "best"):
        table.add_column(heading, justify="right")
    table.add_column("best settings", overflow="fold")
    table.add_column("importance", overflow="fold")
    for search in searches:
        best, important = search.best, search.importances()[:NUM_IMPORTANT]
        cells = (
            *search.default.labels,
            str(len(search.records)),
            str(search.scores.count(None)),
            metric(search.scores[0], 4),
            metric(search.best_score, 4),
            DASH if best is None else search.describe(best) or "default",
            ", ".join(f"{name} {share:.0%}" for name, share in important) or DASH,
        )
        table.add_row(*map(one_line, cells))
    console.print_table(table)
