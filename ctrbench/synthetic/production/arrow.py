"""Generated rows as an Arrow table, and the space that they need on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BYTES_PER_ROW, BYTES_PER_SLOT = 60, 3
"""Estimated bytes on disk per row, and per element of its sequences."""


def to_table(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Return columns as a table: sequences as lists of their non-zero ids, floats in 32 bits."""
    return pa.table({name: _to_array(values) for name, values in columns.items()})


def _to_array(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 2:
        is_filled = values > 0
        ends = np.concatenate([[0], np.cumsum(is_filled.sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(values[is_filled]))
    return pa.array(values.astype(np.float32) if values.dtype == np.float64 else values)
