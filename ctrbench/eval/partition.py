"""Rows in ascending order of one field, in bounded memory: an external distribution sort.

Values drawn from the rows split the range of the field; rows go to one scratch file for each range, in order, and a
range that is still too large is split again. A value that was drawn has a file of its own, so that many equal values
can never fill a file with anything else: every piece is small, or holds one single value, of which counts suffice.
Rows are records of plain numbers, hence numpy's own bytes on disk. Sorting inside a piece is left to who reads it.
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

_SAMPLE = 2**16
"""Values drawn, about, to split a range."""
_MAX_SPLITS = 127
"""Ranges and single values are numbered in a byte, which numpy sorts fastest; larger sources are split again."""


class Source(Protocol):
    """Rows that can be read again and again, a chunk at a time."""

    @property
    def num_rows(self) -> int:
        """The number of rows, or more."""

    def chunks(self) -> Iterator[Rows]:
        """Yield all rows."""

    def values(self, field: str) -> Iterator[Values]:
        """Yield one field of all rows."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows in a scratch file."""

    file: Path
    dtype: np.dtype[np.void]
    chunk: int
    """Rows read at a time."""
    is_single: bool
    """Whether all rows have the same value in the field that they were split by."""

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
    """Return a folder for scratch files: the file's own, or, where that can't be written to, the temporary files'."""
    return file.parent if os.access(file.parent, os.W_OK) else Path(gettempdir())


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yield a folder for scratch files, within another; it is gone in the end. A full disk is a user's error."""
    try:
        with TemporaryDirectory(dir=folder, prefix=".scratch-") as made:
            yield Path(made)
    except OSError as error:
        if is_disk_full(error):
            remedy = "make room there for about 30 bytes a row, or name another folder"
            raise DataError("no space left for sorting", value=folder, remedy=remedy) from None
        raise


def read_all(source: Source) -> Rows:
    """Return all rows at once."""
    return np.concatenate(list(source.chunks()))


def in_order(source: Source, by: str, *, limit: int, chunk: int, folder: Path) -> Iterator[Source]:
    """Yield pieces of a source in ascending order of a field; equal values never lie in two pieces.

    Each piece holds at most `limit` rows, or rows with one single value of the field. A piece can be read until the
    next one is asked for.
    """
    if source.num_rows <= limit:
        if source.num_rows:
            yield source
        return
    for part in _split(source, by, limit=limit, chunk=chunk, folder=folder):
        if part.is_single:
            yield part
        else:
            yield from in_order(part, by, limit=limit, chunk=chunk, folder=folder)
        part.file.unlink()


def _split(source: Source, by: str, *, limit: int, chunk: int, folder: Path) -> list[Part]:
    """Write the rows to files by range: number 2k lies below the k-th split value, number 2k + 1 equals it."""
    splits = _split_values(source, by, limit)
    inside, parts = Path(mkdtemp(dir=folder)), {}
    for rows in source.chunks():
        number = np.searchsorted(splits, rows[by], side="left").astype(np.uint8)
        number += np.searchsorted(splits, rows[by], side="right").astype(np.uint8)
        ordered = rows[np.argsort(number, kind="stable")]
        ends = np.cumsum(np.bincount(number))
        for place in np.unique(number).tolist():
            is_single = place % 2 == 1
            part = Part(file=inside / f"{place}", dtype=rows.dtype, chunk=chunk, is_single=is_single)
            _append(ordered[ends[place - 1] if place else 0 : ends[place]], part.file)
            parts[place] = part
    return [parts[place] for place in sorted(parts)]


def _append(rows: Rows, file: Path) -> None:
    # Opened each time: hundreds of files at once are more than some systems allow.
    with file.open("ab") as stream:
        stream.write(rows.view(np.uint8).data)


def _split_values(source: Source, by: str, limit: int) -> Values:
    """Return distinct values that split the rows into ranges of about half the limit."""
    step = max(source.num_rows // _SAMPLE, 1)
    # Copies: a view would keep the rows that it was drawn from.
    sample = np.sort(np.concatenate([values[::step].copy() for values in source.values(by)]))
    if not sample.size:
        return sample
    num_ranges = min(math.ceil(2 * source.num_rows / limit), _MAX_SPLITS + 1)
    return np.unique(sample[np.arange(1, num_ranges) * sample.size // num_ranges])
