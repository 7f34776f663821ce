"""Rules about raw data that preparing a dataset and drafting a card check alike, with the same errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ctrbench.data.split import SPLITS, Codes
from ctrbench.errors import DataError
from ctrbench.readers.base import RawData

READ_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException)
"""Exceptions of the libraries that read files. A panic, as of damaged files, derives from no other exception."""


def read_error(raw: RawData, error: BaseException) -> DataError:
    """Return the error to raise for an exception of a library that reads raw data."""
    explained = raw.explain() if raw.explain is not None else None
    files = ", ".join(str(file) for file in raw.files)
    value = explained or f"{files}: {str(error).strip().splitlines()[0]}"
    return DataError("unreadable raw data", value=value, remedy="write or download the file again")


def no_rows_error(files: Sequence[Path]) -> DataError:
    """Return the error for data without rows."""
    remedy = "check the files and the card's separator"
    return DataError("the data must have rows", value=f"{', '.join(map(str, files))} has none", remedy=remedy)


def check_classes(column: str, rows: int, positives: int) -> None:
    """Raise `DataError` if all rows are of one class: nothing can be learned, and no AUC is defined."""
    if 0 < positives < rows:
        return
    raise DataError(
        "a label must have rows of both classes",
        value=f"column {column!r}: {positives:,} of {rows:,} rows are positive ({positives / rows:.0%})",
        remedy="set label.column to the outcome, or label.positive_from to the lowest positive value",
    )


def check_classes_of_splits(column: str, codes: Codes, labels: NDArray[np.int8]) -> None:
    """Raise `DataError` if all rows, or all rows of one split, are of one class."""
    check_classes(column, len(labels), int(labels.sum()))
    for code, split in enumerate(SPLITS):
        of_split = labels[codes == code]
        positives = int(of_split.sum())
        if not 0 < positives < len(of_split):
            raise DataError(
                "every split must have rows of both classes, since no AUC is defined otherwise",
                value=f"column {column!r}: {positives:,} of {len(of_split):,} rows of {split} are positive",
                remedy="add rows, change split.parts, or set split = { by = 'hash' }",
            )
