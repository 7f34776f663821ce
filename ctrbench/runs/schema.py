"""Schemas, the descriptions of data that models are built from: of a prepared dataset, and of synthetic rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctrbench.data.prepared import Prepared
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.runs.record import SHUFFLED_DOMAINS, RunKey
from ctrbench.synthetic.click_log import BASE_RATE, ROLES


def make_schema(prepared: Prepared, key: RunKey) -> Schema:
    """Return the description of the data that a model is built from; counts are those of the training rows."""
    manifest = prepared.manifest
    train = manifest.splits[Split.TRAIN]
    if key.indicator == "all":
        domain_table = prepared.domain_table(key.domain_set).sort(Column.DOMAIN)
        rows = domain_table[DomainColumn.ROWS.format(split=Split.TRAIN)].to_list()[1:]
    else:
        rows = prepared.vocabulary(key.indicator).sort("id")["rows"].to_list()
    rate = train.positives / train.rows
    return Schema(
        fields=field_shapes(prepared),
        embedding_size=key.train["embedding_size"],
        domain_features=key.domain_features,
        num_domains=manifest.domain_sets[key.domain_set].num_domains,
        indicator_rows=(train.rows - sum(rows), *rows),
        base_rate=min(max(rate, 1e-6), 1.0 - 1e-6),
        has_copies=key.control == SHUFFLED_DOMAINS,
    )


def with_min_count(schema: Schema, prepared: Prepared, min_count: int) -> Schema:
    """Return the schema whose models read ids of fewer than `min_count` training rows as unseen.

    Buckets of numbers are no ids. A sequence with a target has the target's ids.
    """
    if min_count == 1:
        return schema
    counted = [
        field.name
        for field in schema.fields
        if field.size and field.kind != "numeric" and field.target is None
    ]
    return schema.with_rare_ids(min_count, prepared.rows_per_id(counted))


def field_shapes(prepared: Prepared) -> tuple[FieldShape, ...]:
    """Return the shape of each field."""
    manifest = prepared.manifest
    return tuple(
        FieldShape(
            name=field.name,
            kind=field.kind,
            role=field.role,
            size=field.size,
            target=manifest.card.field(field.name).target,
        )
        for field in manifest.fields
    )


def synthetic_schema(domain_B: np.ndarray, sizes: Sequence[int], *, embedding_size: int) -> Schema:
    """Return the schema of synthetic rows with these domains; `sizes` has the number of ids per field, domain first."""
    return Schema(
        fields=tuple(
            FieldShape(
                name=f"field{index}", kind="categorical", role=ROLES.get(index, "context"), size=size + 1
            )
            for index, size in enumerate(sizes)
        ),
        embedding_size=embedding_size,
        domain_features=("field0",),
        num_domains=sizes[0],
        indicator_rows=tuple(np.bincount(domain_B, minlength=sizes[0] + 1).tolist()),
        base_rate=BASE_RATE,
    )
