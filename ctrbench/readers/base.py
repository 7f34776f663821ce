"""Base class of readers: parsers that turn the files of a raw format into rows.

A reader knows one raw format and nothing of fields, splits or ids, which the card describes and `ctrbench.data`
handles. A card names its reader: a file of this package (`table`), an installed plug-in, or the path of a `.py` file
beside the card. Each file defines one subclass of `Reader`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ctrbench.discovery import PluginKind

if TYPE_CHECKING:
    import polars as pl

Progress = Callable[[float], None]
"""Called with the fraction of the work that is done, 0 to 1."""


def _ignore(_done: float) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """Files to read and the settings of the card that concern a reader."""

    paths: tuple[Path, ...]
    """Files, archives or folders, in the order in which the user named them."""
    scratch: Path
    """Existing empty folder for temporary files; removed once the rows have been staged."""
    separator: str = ","
    """Column separator of the card; only for readers with `uses_separator`."""
    names: tuple[str, ...] = ()
    """File names of the dataset, to be selected from folders and archives; empty if the card names none."""
    columns: Mapping[str, int | None] = field(default_factory=dict)
    """Columns that the card's fields use, with the maximum length of their lists (None: unlimited or no list)."""
    progress: Progress = _ignore
    """For readers that convert files before they return."""


@dataclass(frozen=True, kw_only=True)
class RawData:
    """Rows of the raw files as a lazy frame, in the order of the files.

    A list is a list column, or text that is split at the field's separator.
    """

    frame: pl.LazyFrame
    files: tuple[Path, ...]
    """Files that were read; the manifest stores their sha256."""
    suffix: str = ""
    """Appended to the dataset's name to distinguish other data in the same format, such as "-twin"."""
    note: str = ""
    """Remark that is stored in the manifest and shown with the dataset."""
    locate: Callable[[int], str | None] | None = None
    """Called with the index of a row that has a wrong value; returns its file and line for the message, or None."""
    explain: Callable[[], str | None] | None = None
    """Called if collecting the frame fails; returns the file, line and problem, or None if they are not found."""


class Reader(ABC):
    """Parser of one raw format.

    A subclass implements `read` and takes no arguments. It must not hold a whole table in memory: return a lazy scan,
    or convert the files to parquet in `request.scratch` and scan those.

    >>> class JsonLinesReader(Reader):
    ...     def read(self, request: ReadRequest) -> RawData:
    ...         return RawData(frame=pl.scan_ndjson(list(request.paths)), files=request.paths)
    """

    uses_separator: ClassVar[bool] = False
    """Whether the format has a column separator that the card may set."""

    @abstractmethod
    def read(self, request: ReadRequest) -> RawData:
        """Return the rows of the requested files.

        Raises `SourceError` for a file that is missing or has another format, and `DataError` for a file that is
        damaged or breaks a rule of its format; the error's value names the file and the line.
        """


READERS: PluginKind[Reader] = PluginKind(
    name="readers",
    package="ctrbench.readers",
    base="ctrbench.readers.base:Reader",
    helpers=("base", "csv_text", "text_files"),
)
"""Built-in readers, entry points of the group `ctrbench.readers`, and paths of `.py` files."""
