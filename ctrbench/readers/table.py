"""Reader of tables: CSV (plain or .gz) and parquet, as one file, several files or a folder.

CSV values stay text, since an id such as 007 is not a number; the card decides what a column means. Lines with too few
or too many fields are detected before parsing, because the parser silently fills short lines with nulls.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctrbench.errors import DataError, SourceError
from ctrbench.readers.base import RawData, Reader, ReadRequest
from ctrbench.readers.csv_text import CsvText, check_column_names
from ctrbench.readers.text_files import check_file_names, missing_file_error, path_exists

TEXT_FORMS = (".csv", ".tsv", ".txt")
PARQUET = ".parquet"
GUNZIP_BLOCK = 1 << 24
MIN_FREE_BYTES = 1 << 28
"""Space that decompression leaves on the disk."""


class TableReader(Reader):
    """Reader of CSV and parquet tables."""

    uses_separator = True

    def read(self, request: ReadRequest) -> RawData:
        """Return the rows of all tables, one table after the other.

        A folder contributes the files in `request.names`, or all its tables if there are none.
        """
        files = tuple(file for path in request.paths for file in _table_files(path, request.names))
        check_file_names(files)
        forms = {_format_of(file) for file in files}
        if len(forms) != 1:
            value = ", ".join(sorted(forms)) or "no file"
            raise SourceError(
                "all tables of a dataset must have the same format", value=value, remedy=_supported_formats()
            )
        if forms == {PARQUET}:
            frame = _concatenate(files, [_scan_parquet(file) for file in files])
            return RawData(frame=frame, files=files, locate=partial(_locate_parquet_row, files))
        plain = [_gunzip(file, request.scratch) if file.suffix == ".gz" else file for file in files]
        texts = [
            CsvText(text=text, file=file, separator=request.separator)
            for text, file in zip(plain, files, strict=True)
        ]
        return RawData(
            frame=_concatenate(files, [_scan_csv(text) for text in texts]),
            files=files,
            explain=partial(_explain_error, texts),
            locate=partial(_locate_text_row, texts),
        )


def _supported_formats() -> str:
    return f"use {', '.join((*TEXT_FORMS, PARQUET))} (text also as .gz)"


def _format_of(file: Path) -> str:
    """Return "text" or ".parquet" by the file's name."""
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    if suffix in TEXT_FORMS:
        return "text"
    if file.suffix == PARQUET:
        return PARQUET
    raise SourceError("a table must be a text or parquet file", value=file, remedy=_supported_formats())


def _table_files(path: Path, names: Sequence[str]) -> list[Path]:
    if not path_exists(path):
        raise missing_file_error(path)
    if path.is_dir() and names:
        return [file for name in names for file in _table_files(path / name, ())]
    if path.is_dir():
        # Other files of the folder (a README, a license, the card) are ignored.
        suffixes = (*TEXT_FORMS, *(f"{form}.gz" for form in TEXT_FORMS), PARQUET)
        return sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(suffixes))
    if not path.is_file():
        raise missing_file_error(path)
    return [path]


def _concatenate(files: Sequence[Path], frames: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    names = frames[0].collect_schema().names()
    for file, frame in zip(files, frames, strict=True):
        if set(other := frame.collect_schema().names()) != set(names):
            differing = ", ".join(sorted(set(names) ^ set(other)))
            rule = f"all tables of a dataset have the columns of {files[0].name}"
            raise DataError(rule, value=f"{file.name} differs in {differing}")
    if len(frames) == 1:
        return frames[0]
    return pl.concat([frame.select(names) for frame in frames], how="vertical_relaxed")


def _scan_parquet(file: Path) -> pl.LazyFrame:
    try:
        # Polars panics, with a backtrace on the screen, for some damaged footers.
        pq.read_metadata(file)
        frame = pl.scan_parquet(file, glob=False)
        schema = frame.collect_schema()
    except (pa.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        remedy = "write the file again, or copy it again"
        raise DataError("not a parquet file", value=f"{file}: {_first_line(error)}", remedy=remedy) from None
    check_column_names(schema.names(), file)
    # The card sees categories as text: their codes depend on the file.
    coded = [name for name, dtype in schema.items() if isinstance(dtype, pl.Categorical | pl.Enum)]
    return frame.with_columns(pl.col(coded).cast(pl.String)) if coded else frame


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _gunzip(file: Path, scratch: Path) -> Path:
    """Decompress to `scratch`, since the parser would hold the whole text in memory."""
    target = scratch / f"{len(list(scratch.iterdir()))}-text"
    try:
        with gzip.open(file, "rb") as packed, target.open("wb") as plain:
            while block := packed.read(GUNZIP_BLOCK):
                _check_disk_space(file, scratch)
                plain.write(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        remedy = "copy or download the file again"
        raise DataError("damaged gzip file", value=f"{file}: {error}", remedy=remedy) from None
    return target


def _check_disk_space(file: Path, scratch: Path) -> None:
    if shutil.disk_usage(scratch).free < MIN_FREE_BYTES:
        raise DataError(
            "the decompressed text must fit the disk",
            value=f"{file} needs more than the disk of {scratch.parent} has",
            remedy="free some space, or set CTRBENCH_HOME (of a draft: TMPDIR) to a folder on another disk",
        )


def _scan_csv(text: CsvText) -> pl.LazyFrame:
    header = text.header()
    text.check(len(header))
    # Polars keeps doubled quotes in column names. Cards do not distinguish empty from missing values.
    return pl.scan_csv(
        text.text,
        separator=text.separator,
        infer_schema=False,
        with_column_names=lambda _: header,
        empty_string_is_null=True,
        glob=False,
    )


def _explain_error(texts: Sequence[CsvText]) -> str | None:
    """Return the first line that the parser could not read, with its file and problem."""
    for text in texts:
        problem = text.find_problem(len(text.header()))
        if problem is not None:
            return f"{text.file}: {problem}"
    return None


def _locate_text_row(texts: Sequence[CsvText], index: int) -> str | None:
    """Return file and line of a row, counted over all files; None if it is not found."""
    for text in texts:
        line, num_rows = text.line_of_row(index)
        if line is not None:
            return f"{text.file}, line {line}"
        index -= num_rows
    return None


def _locate_parquet_row(files: Sequence[Path], index: int) -> str | None:
    """Return file and row of a row, counted over all files; None if it is not found."""
    for file in files:
        num_rows = int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())
        if index < num_rows:
            return f"{file}, row {index + 1}"
        index -= num_rows
    return None
