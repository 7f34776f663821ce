"""What a reader hands to `prepare`: raw rows as a lazy frame, and the files that they come from.

Every reader module has `read(paths, *, separator, scratch, report) -> RawData`; `report` hears the share done of a
reader that does not wait for the frame to be collected. A reader knows one raw form and nothing of fields, splits or
ids; it may write under `scratch`, which is removed afterwards, but holds no whole table in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl


@dataclass(frozen=True, kw_only=True)
class RawData:
    """Raw rows in the files' order; lists are list columns or text split at the field's separator."""

    frame: pl.LazyFrame
    files: tuple[Path, ...]
    """The files that were read; their sha256 goes into the manifest."""
    suffix: str = ""
    """Added to the dataset's name, so that a twin is never taken for the real data: "-twin"."""
    note: str = ""
    explain: Callable[[], str | None] | None = None
    """Called when the frame turns out unreadable: says which line of which file it is, if that can be found."""
