"""Composite domains: a domain is a tuple of ids of the domain features that occurs in training.

Ids go 1, 2, … by training rows, descending, ties by the feature ids; 0 is every tuple that training never had, and
every tuple with an unseen value. All of it is counted from encoded columns, so any feature set can be a domain set at
any time, without the raw data.
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
"""Columns of counted tuples, beside those of the features; no field can have such a name."""

Ids = NDArray[np.int32]


def domain_ids(columns: Mapping[str, Ids], table: pl.DataFrame) -> Ids:
    """Return the domain of each row, given the rows' feature ids (by feature) and the domain table.

    The tuple is folded feature by feature into the rank of its beginning among those of the table, so that codes stay
    small however many features there are; a beginning that no domain has becomes -1 and stays so.
    """
    known = np.zeros(table.height - 1, dtype=np.int64)
    rows = np.zeros(len(next(iter(columns.values()))), dtype=np.int64)
    for feature, ids in columns.items():
        own = table[feature].to_numpy()[1:]
        radix = int(max(own.max(initial=0), ids.max(initial=0))) + 1
        codes, known = np.unique(known * radix + own, return_inverse=True)
        rows = _ranks(codes, rows * radix + ids)
    domains = np.empty(len(known) + 1, dtype=np.int32)
    domains[known] = table[Column.DOMAIN].to_numpy()[1:]
    domains[-1] = UNSEEN
    return domains[rows]


def _ranks(codes: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each value among the sorted codes, -1 where it is none of them."""
    if not len(codes):
        return np.full(len(values), -1, dtype=np.int64)
    span = int(codes[-1]) + 1
    if span <= 1 << 22:
        # A direct table is several times faster than a search and fits in the cache.
        places = np.full(span + 1, -1, dtype=np.int64)
        places[codes] = np.arange(len(codes))
        inside = (values >= 0) & (values < span)
        return places[np.where(inside, values, span)]
    found = np.minimum(np.searchsorted(codes, values), len(codes) - 1)
    return np.where(codes[found] == values, found, -1)


def count_tuples(rows: pa.Table, features: Sequence[str]) -> pl.DataFrame:
    """Return each tuple of the features' ids that occurs, with its rows and positives."""
    frame: pl.DataFrame = pl.from_arrow(rows.select([Column.LABEL, *features]))  # type: ignore[assignment]
    label = pl.col(Column.LABEL).cast(pl.Int64)
    counted = frame.group_by(features).agg(pl.len().cast(pl.Int64).alias(ROWS), label.sum().alias(POSITIVES))
    return counted.with_columns(pl.col(features).cast(pl.Int32))


def merge_counts(parts: Sequence[pl.DataFrame], features: Sequence[str]) -> pl.DataFrame:
    """Add up what `count_tuples` found in parts of the rows."""
    if not parts:
        return pl.DataFrame(schema={**dict.fromkeys(features, pl.Int32), ROWS: pl.Int64, POSITIVES: pl.Int64})
    return pl.concat(parts).group_by(features).agg(pl.col(ROWS, POSITIVES).sum())


def make_domain_table(counts: Mapping[Split, pl.DataFrame], values: Mapping[str, pl.Series]) -> pl.DataFrame:
    """Return the domain table of the features in `values`, one row a domain, the unseen domain first.

    `counts` holds each split's tuples as `merge_counts` gives them, `values` the text of each feature's ids from 1 on.
    """
    features = list(values)
    seen = counts[Split.TRAIN].filter(pl.all_horizontal(pl.col(features) != UNSEEN))
    seen = seen.sort([ROWS, *features], descending=[True, *(False for _ in features)])
    unseen = pl.DataFrame(
        {feature: [UNSEEN] for feature in features}, schema=dict.fromkeys(features, pl.Int32)
    )
    table = pl.concat([unseen, seen.select(features)])
    table = table.select(
        pl.Series(Column.DOMAIN, np.arange(table.height, dtype=np.int32)), _keys(table, values), *features
    )
    return table.with_columns(*_counts(table, counts))


def _keys(table: pl.DataFrame, values: Mapping[str, pl.Series]) -> pl.Series:
    # The first row is the unseen domain, whose ids 0 have no value.
    parts = {name: text.gather(table[name].slice(1).cast(pl.UInt32) - 1) for name, text in values.items()}
    keys = pl.DataFrame(parts).select(
        pl.concat_str(pl.all(), separator=KEY_SEPARATOR).alias(DomainColumn.KEY)
    )
    return pl.concat([pl.Series(DomainColumn.KEY, [UNSEEN_KEY]), keys[DomainColumn.KEY]])


def _counts(table: pl.DataFrame, counts: Mapping[Split, pl.DataFrame]) -> list[pl.Series]:
    columns = []
    features = [name for name in table.columns if name not in (Column.DOMAIN, DomainColumn.KEY)]
    for split in Split:
        found = counts[split]
        ids = domain_ids({name: found[name].to_numpy() for name in features}, table)
        for name, count in ((DomainColumn.ROWS, ROWS), (DomainColumn.POSITIVES, POSITIVES)):
            sums = np.zeros(table.height, dtype=np.int64)
            np.add.at(sums, ids, found[count].to_numpy())
            columns.append(pl.Series(name.format(split=split), sums))
    return columns
