"""Composite domains: a domain is a tuple of domain feature ids that occurs in training.

Ids 1, 2, … are assigned by training rows, descending, with ties in the order of the feature ids. Id 0 stands for all
tuples without a training row or with an unseen value. Domains are computed from encoded columns, so a new domain set
does not need the raw data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ctrbench.names import UNSEEN, Column, DomainColumn, Split

UNSEEN_KEY = "unseen"
KEY_SEPARATOR = " · "
ROWS, POSITIVES = "#rows", "#positives"
"""Columns of counted tuples beside the features; `#` is not allowed in the name of a field."""

Ids = NDArray[np.int32]


def domain_ids(columns: Mapping[str, Ids], table: pl.DataFrame) -> Ids:
    """Return the domain of each row from the feature ids of the rows, by feature, and the domain table.

    Each prefix of the tuple is replaced by its rank among the prefixes of the table, so codes stay small for any number
    of features. A prefix that no domain has becomes -1 and remains -1.
    """
    prefixes = np.zeros(table.height - 1, dtype=np.int64)
    rows = np.zeros(len(next(iter(columns.values()))), dtype=np.int64)
    for feature, ids in columns.items():
        domain_values = table[feature].to_numpy()[1:]
        radix = int(max(domain_values.max(initial=0), ids.max(initial=0))) + 1
        codes, prefixes = np.unique(prefixes * radix + domain_values, return_inverse=True)
        rows = _index_in_codes(codes, rows * radix + ids)
    domains = np.empty(len(prefixes) + 1, dtype=np.int32)
    domains[prefixes] = table[Column.DOMAIN].to_numpy()[1:]
    domains[-1] = UNSEEN
    return domains[rows]


def _index_in_codes(codes: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of each value in the sorted codes, or -1."""
    if not len(codes):
        return np.full(len(values), -1, dtype=np.int64)
    span = int(codes[-1]) + 1
    if span <= 1 << 22:
        # A look-up table is several times faster than a binary search and fits in the cache.
        ranks = np.full(span + 1, -1, dtype=np.int64)
        ranks[codes] = np.arange(len(codes))
        is_inside = (values >= 0) & (values < span)
        return ranks[np.where(is_inside, values, span)]
    ranks = np.minimum(np.searchsorted(codes, values), len(codes) - 1)
    return np.where(codes[ranks] == values, ranks, -1)


def count_tuples(rows: pa.Table, features: Sequence[str]) -> pl.DataFrame:
    """Count rows and positives of each distinct tuple of ids of the features."""
    frame: pl.DataFrame = pl.from_arrow(rows.select([Column.LABEL, *features]))  # type: ignore[assignment]
    label = pl.col(Column.LABEL).cast(pl.Int64)
    counted = frame.group_by(features).agg(pl.len().cast(pl.Int64).alias(ROWS), label.sum().alias(POSITIVES))
    return counted.with_columns(pl.col(features).cast(pl.Int32))


def merge_counts(parts: Sequence[pl.DataFrame], features: Sequence[str]) -> pl.DataFrame:
    """Add up the results of `count_tuples` for parts of the rows."""
    if not parts:
        return pl.DataFrame(schema={**dict.fromkeys(features, pl.Int32), ROWS: pl.Int64, POSITIVES: pl.Int64})
    return pl.concat(parts).group_by(features).agg(pl.col(ROWS, POSITIVES).sum())


def make_domain_table(counts: Mapping[Split, pl.DataFrame], values: Mapping[str, pl.Series]) -> pl.DataFrame:
    """Return the domain table of the features in `values`, one row per domain, starting with domain 0 (unseen).

    `counts` holds the tuples per split, as `merge_counts` returns them; `values` holds the texts of each feature's ids,
    starting with id 1.
    """
    features = list(values)
    tuples = counts[Split.TRAIN].filter(pl.all_horizontal(pl.col(features) != UNSEEN))
    tuples = tuples.sort([ROWS, *features], descending=[True, *(False for _ in features)])
    unseen = pl.DataFrame(
        {feature: [UNSEEN] for feature in features}, schema=dict.fromkeys(features, pl.Int32)
    )
    table = pl.concat([unseen, tuples.select(features)])
    table = table.select(
        pl.Series(Column.DOMAIN, np.arange(table.height, dtype=np.int32)),
        _domain_keys(table, values),
        *features,
    )
    return table.with_columns(*_count_columns(table, counts))


def _domain_keys(table: pl.DataFrame, values: Mapping[str, pl.Series]) -> pl.Series:
    # The first row is domain 0, whose ids 0 have no value.
    parts = {name: text.gather(table[name].slice(1).cast(pl.UInt32) - 1) for name, text in values.items()}
    keys = pl.DataFrame(parts).select(
        pl.concat_str(pl.all(), separator=KEY_SEPARATOR).alias(DomainColumn.KEY)
    )
    return pl.concat([pl.Series(DomainColumn.KEY, [UNSEEN_KEY]), keys[DomainColumn.KEY]])


def _count_columns(table: pl.DataFrame, counts: Mapping[Split, pl.DataFrame]) -> list[pl.Series]:
    columns = []
    features = [name for name in table.columns if name not in (Column.DOMAIN, DomainColumn.KEY)]
    for split in Split:
        tuples = counts[split]
        ids = domain_ids({name: tuples[name].to_numpy() for name in features}, table)
        for name, count in ((DomainColumn.ROWS, ROWS), (DomainColumn.POSITIVES, POSITIVES)):
            sums = np.zeros(table.height, dtype=np.int64)
            np.add.at(sums, ids, tuples[count].to_numpy())
            columns.append(pl.Series(name.format(split=split), sums))
    return columns
