"""Splits of prepared data as tensors: tables of ids, lists and numbers become the rows that models read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from ctrbench.data.batches import SplitData
from ctrbench.data.prepared import Prepared
from ctrbench.names import Column, Split

BLOCK_ROWS = 4096
"""Rows copied at a time, so that the columns of a block share the cache."""


def load_split(prepared: Prepared, split: Split, *, domain_set: str, indicator: str) -> SplitData:
    """Load a complete split of prepared data.

    `indicator` is the feature that indexes per-domain parameters, or `all` for the composite domain.
    """
    return to_split_data(
        prepared, prepared.read(split, prepared.model_columns), domain_set=domain_set, indicator=indicator
    )


def to_split_data(prepared: Prepared, table: pa.Table, *, domain_set: str, indicator: str) -> SplitData:
    """Convert a table of prepared rows to tensors; see `load_split` for `domain_set` and `indicator`."""
    manifest = prepared.manifest
    one_id = [
        field.name for field in manifest.fields if field.size and field.kind in ("categorical", "numeric")
    ]
    bags = [field.name for field in manifest.fields if field.kind in ("multi_valued", "sequence")]
    numeric = [field.name for field in manifest.fields if not field.size]
    domain = torch.from_numpy(prepared.domain_ids(table, domain_set).astype(np.int64))
    user = manifest.card.user
    return SplitData(
        ids_BF=torch.from_numpy(_column_matrix(table, one_id, np.int32)),
        bags=tuple(_to_bag(table.column(name)) for name in bags),
        numeric_BK=torch.from_numpy(_column_matrix(table, numeric, np.float32)),
        domain_B=domain,
        indicator_B=(
            domain
            if indicator == "all"
            else torch.from_numpy(_column_array(table, indicator).astype(np.int64))
        ),
        label_B=torch.from_numpy(_column_array(table, Column.LABEL).astype(np.float32)),
        row=_column_array(table, Column.ROW),
        user=_column_array(table, user).astype(np.int32) if user else None,
        probability=_column_array(table, Column.PROBABILITY) if manifest.has_probability else None,
        ceiling=_column_array(table, Column.CEILING) if Column.CEILING in table.column_names else None,
        user_key=_user_key(prepared, table),
    )


def _user_key(prepared: Prepared, table: pa.Table) -> np.ndarray | None:
    """Return the user of each row; ids of generated users are all known."""
    manifest = prepared.manifest
    if manifest.has_user_key:
        return _column_array(table, Column.USER_KEY)
    if manifest.generator is None or manifest.card.user is None:
        return None
    return _column_array(table, manifest.card.user).astype(np.int64)


def _column_array(table: pa.Table, name: str) -> np.ndarray:
    array: np.ndarray = table.column(name).combine_chunks().to_numpy(zero_copy_only=False)
    return array


def _column_matrix(table: pa.Table, names: Sequence[str], dtype: type) -> np.ndarray:
    block = np.empty((table.num_rows, len(names)), dtype=dtype)
    columns = [_column_array(table, name) for name in names]
    # In blocks of rows, so that the columns of a block share the cache.
    for start in range(0, len(block), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        for index, column in enumerate(columns):
            block[rows, index] = column[rows]
    return block


def _to_bag(column: pa.ChunkedArray) -> tuple[torch.Tensor, torch.Tensor]:
    lists = column.combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.array(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int32)
    return torch.from_numpy(values), torch.from_numpy(offsets)
