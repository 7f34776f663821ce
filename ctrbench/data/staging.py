"""Staging: one pass over the raw data that writes flat columns of numbers to disk.

Every value is read once, checked, and written as a number to one file per column; texts become codes in the order of
their first occurrence. Later steps read one column at a time and no raw data. Memory is bounded by a batch of raw rows,
the distinct values and a few columns of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctrbench.data.card import DatasetCard
from ctrbench.data.raw_errors import no_rows_error
from ctrbench.data.staged_columns import StagedColumn, decode_binary, staged_columns
from ctrbench.errors import DataError
from ctrbench.readers.base import RawData

BATCH_ROWS = 1 << 17


@dataclass(frozen=True, kw_only=True)
class FlatColumn:
    """Numbers of one type, one per row, in a file without a header."""

    path: Path
    dtype: np.dtype[Any]

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return the values of a range of rows."""
        count = -1 if stop is None else stop - start
        return np.fromfile(self.path, self.dtype, count, offset=start * self.dtype.itemsize)

    def map(self) -> NDArray[Any]:
        """Return all values, memory-mapped."""
        if not self.path.stat().st_size:
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.path, self.dtype, mode="r")


def write_flat(path: Path, values: NDArray[Any]) -> FlatColumn:
    """Write an array and return the column; a full disk raises `OSError` with its error number."""
    with path.open("wb") as file:
        append_values(file, values)
    return FlatColumn(path=path, dtype=values.dtype)


def append_values(file: BinaryIO, values: NDArray[Any]) -> None:
    """Append an array to an open file as raw numbers."""
    # `tofile` raises an error without the error number of a full disk.
    file.write(np.ascontiguousarray(values).data.cast("B") if len(values) else b"")


@dataclass(frozen=True, kw_only=True)
class Staged:
    """The raw data as flat columns; `texts` holds the distinct values of columns of codes."""

    rows: int
    columns: dict[str, FlatColumn]
    lengths: dict[str, FlatColumn]
    """List lengths of sequences, whose columns hold the elements of all rows."""
    texts: dict[str, pl.Series]
    separators: dict[str, str]
    """Separator of the texts of each multi-valued field."""


def stage(raw: RawData, card: DatasetCard, *, folder: Path, progress: Callable[[int], None]) -> Staged:
    """Write the columns that the card names to `folder`; `progress` receives the number of rows done.

    Raises `CardError` for missing columns, and `DataError` with the location of the first value that breaks a rule.
    """
    frame = decode_binary(raw.frame)
    columns = staged_columns(frame, card)
    writer = _Writer(folder=folder, columns=columns)
    rows = 0
    with writer:
        expressions = [expression for column in columns for expression in column.expressions]
        for batch in _raw_batches(frame.select(expressions)):
            for column in columns:
                check_rule(column, batch, raw, rows)
                writer.append(column, batch[column.name])
            rows += batch.height
            progress(rows)
    if rows == 0:
        raise no_rows_error(raw.files)
    return writer.staged(rows)


def _raw_batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    return iter(frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True, engine="streaming"))


def check_rule(column: StagedColumn, batch: pl.DataFrame, raw: RawData, rows_before: int = 0) -> None:
    """Raise `DataError` with the location of the first value of a batch that breaks the rule of its column."""
    if column.rule is None or not batch[f"bad {column.name}"].any():
        return
    row = rows_before + int(batch[f"bad {column.name}"].arg_true()[0])
    value = raw.frame.select(column.source).slice(row, 1).collect().item()
    location = None if raw.locate is None else raw.locate(row)
    location = location or f"row {row + 1} of {', '.join(file.name for file in raw.files)}"
    # NaN is unequal to itself.
    is_missing = value is None or value != value
    shown = "no value" if is_missing else repr(value)
    rule, remedy = column.rule
    raise DataError(
        rule,
        value=f"column {column.source!r} has {shown} in {location}",
        remedy="fill in the value, or remove the row" if is_missing else remedy,
    )


@dataclass(kw_only=True)
class _Writer:
    """The open files of a staging."""

    folder: Path
    columns: list[StagedColumn]
    files: dict[str, BinaryIO] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, column in enumerate(self.columns):
            self.files[column.name] = self.stack.enter_context((self.folder / f"{index}.values").open("wb"))
            if column.kind == "list":
                lengths = self.stack.enter_context((self.folder / f"{index}.lengths").open("wb"))
                self.files[f"lengths of {column.name}"] = lengths

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def append(self, column: StagedColumn, values: pl.Series) -> None:
        if column.kind == "single":
            append_values(self.files[column.name], values.to_numpy().astype(column.dtype, copy=False))
            return
        lists = values.to_arrow()
        append_values(
            self.files[f"lengths of {column.name}"], _to_numpy(pc.list_value_length(lists)).astype(np.int32)
        )
        append_values(
            self.files[column.name], _to_numpy(pc.list_flatten(lists)).astype(column.dtype, copy=False)
        )

    def staged(self, rows: int) -> Staged:
        return Staged(
            rows=rows,
            columns={column.name: self._flat_column(column.name, column.dtype) for column in self.columns},
            lengths={
                column.name: self._flat_column(f"lengths of {column.name}", np.dtype(np.int32))
                for column in self.columns
                if column.kind == "list"
            },
            texts={column.name: column.texts.values() for column in self.columns if column.texts is not None},
            separators={
                column.name: column.separator for column in self.columns if column.separator is not None
            },
        )

    def _flat_column(self, name: str, dtype: np.dtype[Any]) -> FlatColumn:
        return FlatColumn(path=Path(self.files[name].name), dtype=dtype)


def _to_numpy(values: pa.Array) -> NDArray[Any]:
    return np.asarray(values.to_numpy(zero_copy_only=False))
