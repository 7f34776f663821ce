"""Click-through rate of each domain, and the range expected if all domains had the same rate."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ctrbench.names import UNSEEN, Column, DomainColumn, Split

NORMAL_95 = 1.96
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class DomainRates:
    """Training rows and click-through rates of the domains of a set."""

    ranked: pl.DataFrame
    """One row per domain, largest first; columns rank (from 1), rows, ctr, low and high.

    `low` to `high` contains the CTR of 95 % of domains of that size if all domains have the overall CTR.
    """
    overall: float
    """CTR of all rows."""


def domain_rates(domain_table: pl.DataFrame) -> DomainRates:
    """Return the rates of the domains of a domain table that have training rows, so without the unseen domain."""
    rows, positives = (
        column.format(split=Split.TRAIN) for column in (DomainColumn.ROWS, DomainColumn.POSITIVES)
    )
    seen = domain_table.filter((pl.col(Column.DOMAIN) != UNSEEN) & (pl.col(rows) > 0))
    overall = float(seen[positives].sum()) / max(float(seen[rows].sum()), 1.0)
    noise = NORMAL_95 * (overall * (1 - overall) / pl.col("rows")).sqrt()
    ranked = (
        seen.select(rows=pl.col(rows), ctr=pl.col(positives) / pl.col(rows))
        .sort("rows", descending=True, maintain_order=True)
        .with_row_index("rank", offset=1)
        .with_columns(low=(overall - noise).clip(0), high=(overall + noise).clip(None, 1))
    )
    return DomainRates(ranked=ranked, overall=overall)
