"""External distribution sort: rows in ascending order of one field, in bounded memory.

A sample of values splits the range of the field. Rows are written to one scratch file per range, and a range that is
still too large is split again. A sampled value has a file of its own, so that equal values never share a file with
others: every piece is small or has a single value, for which counts suffice. Rows are records of plain numbers, stored
as numpy bytes. Rows within a piece are not sorted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir, mkdtemp
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ctrbench.errors import DataError
from ctrbench.storage.files import is_disk_full

Rows = npt.NDArray[np.void]
"""Rows with named fields."""
Values = npt.NDArray[Any]

SAMPLE_SIZE = 2**16
"""Approximate number of sampled values by which a range is split."""
_MAX_SPLITS = 127
"""Ranges and single values are numbered in one byte, which numpy sorts fastest; larger sources are split again."""


class Source(Protocol):
    """Rows that can be read repeatedly, a chunk at a time."""

    @property
    def num_rows(self) -> int:
        """The number of rows, or an upper bound of it."""

    def chunks(self) -> Iterator[Rows]:
        """Yield all rows."""

    def values(self, field: str) -> Iterator[Values]:
        """Yield one field of all rows."""


@dataclass(frozen=True, kw_only=True)
class ScratchRows:
    """Rows in a scratch file; a `Source`."""

    file: Path
    dtype: np.dtype[np.void]
    chunk: int
    """Rows read at a time."""
    is_single: bool
    """Whether all rows have the same value of the field by which they were split."""

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return self.file.stat().st_size // self.dtype.itemsize

    def chunks(self) -> Iterator[Rows]:
        """Yield all rows."""
        with self.file.open("rb") as stream:
            while (rows := np.fromfile(stream, dtype=self.dtype, count=self.chunk)).size:
                yield rows

    def values(self, field: str) -> Iterator[Values]:
        """Yield one field of all rows."""
        return (rows[field] for rows in self.chunks())


def scratch_parent(file: Path) -> Path:
    """Return the parent of scratch folders: that of the file where it is writable, else the temporary directory."""
    return file.parent if os.access(file.parent, os.W_OK) else Path(gettempdir())


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder within `folder`; raises `DataError` where the disk is full."""
    try:
        with TemporaryDirectory(dir=folder, prefix=".scratch-") as inside:
            yield Path(inside)
    except OSError as error:
        if is_disk_full(error):
            remedy = "free about 30 bytes per row there"
            raise DataError("no space left for sorting", value=folder, remedy=remedy) from None
        raise


def read_all(source: Source) -> Rows:
    """Return all rows as one array."""
    return np.concatenate(list(source.chunks()))


def sorted_pieces(source: Source, by: str, *, limit: int, chunk: int, folder: Path) -> Iterator[Source]:
    """Yield pieces of a source in ascending order of a field; equal values are never in two pieces.

    Each piece holds at most `limit` rows, or rows with a single value of the field. A piece is deleted when the next
    one is requested.
    """
    if source.num_rows <= limit:
        if source.num_rows:
            yield source
        return
    for part in _split_by_range(source, by, limit=limit, chunk=chunk, folder=folder):
        if part.is_single:
            yield part
        else:
            yield from sorted_pieces(part, by, limit=limit, chunk=chunk, folder=folder)
        part.file.unlink()


def _split_by_range(source: Source, by: str, *, limit: int, chunk: int, folder: Path) -> list[ScratchRows]:
    """Write the rows to files by range: range 2k is below the k-th split value, range 2k + 1 equal to it."""
    splits = _split_values(source, by, limit)
    inside, parts = Path(mkdtemp(dir=folder)), {}
    for rows in source.chunks():
        range_of_row = np.searchsorted(splits, rows[by], side="left").astype(np.uint8)
        range_of_row += np.searchsorted(splits, rows[by], side="right").astype(np.uint8)
        ordered = rows[np.argsort(range_of_row, kind="stable")]
        ends = np.cumsum(np.bincount(range_of_row))
        for i in np.unique(range_of_row).tolist():
            part = ScratchRows(file=inside / f"{i}", dtype=rows.dtype, chunk=chunk, is_single=i % 2 == 1)
            append_rows(ordered[ends[i - 1] if i else 0 : ends[i]], part.file)
            parts[i] = part
    return [parts[i] for i in sorted(parts)]


def append_rows(rows: Rows, file: Path) -> None:
    """Append rows to a scratch file."""
    # Opened per call, since some systems allow fewer open files than there are ranges.
    with file.open("ab") as stream:
        stream.write(rows.view(np.uint8).data)


def _split_values(source: Source, by: str, limit: int) -> Values:
    """Return distinct values that split the rows into ranges of about half the limit."""
    step = max(source.num_rows // SAMPLE_SIZE, 1)
    # Copies, since a view would keep the sampled rows in memory.
    sample = np.sort(np.concatenate([values[::step].copy() for values in source.values(by)]))
    if not sample.size:
        return sample
    num_ranges = min(math.ceil(2 * source.num_rows / limit), _MAX_SPLITS + 1)
    return np.unique(sample[np.arange(1, num_ranges) * sample.size // num_ranges])
