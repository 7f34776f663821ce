"""Figures of a prepared dataset for tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctrbench.data.prepared import Prepared
from ctrbench.names import DomainColumn, Split


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """Figures of a prepared dataset and of one of its domain sets."""

    name: str
    title: str
    rows: dict[Split, int]
    positives: dict[Split, int]
    num_fields: int
    num_ids: int
    domain_set: str
    domain_features: tuple[str, ...]
    num_domains: int
    largest: int
    """Training rows of the largest domain."""
    median: float
    """Median of the training rows per domain."""
    smallest: int
    """Training rows of the smallest domain."""
    unseen_share: dict[Split, float]
    """Share of a split's rows whose domain has no training row."""


def summarize(prepared: Prepared, domain_set: str = "default") -> DatasetSummary:
    """Return the figures of a prepared dataset and of one of its domain sets."""
    manifest, table = prepared.manifest, prepared.domain_table(domain_set)
    sizes = table[DomainColumn.ROWS.format(split=Split.TRAIN)].to_numpy()[1:]
    info = prepared.domain_set(domain_set)
    return DatasetSummary(
        name=manifest.name,
        title=manifest.title,
        rows={split: part.rows for split, part in manifest.splits.items()},
        positives={split: part.positives for split, part in manifest.splits.items()},
        num_fields=len(manifest.fields),
        # The ids of a sequence with a target are those of the target.
        num_ids=sum(field.size for field in manifest.fields if not manifest.card.field(field.name).target),
        domain_set=domain_set,
        domain_features=info.features,
        num_domains=info.num_domains,
        largest=int(sizes.max(initial=0)),
        median=float(np.median(sizes)) if len(sizes) else 0.0,
        smallest=int(sizes.min()) if len(sizes) else 0,
        unseen_share={split: info.rows_unseen[split] / part.rows for split, part in manifest.splits.items()},
    )
