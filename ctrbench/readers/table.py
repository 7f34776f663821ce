"""Reader of tables: CSV (plain or .gz) and parquet, as one file, several files or a folder.

CSV values stay text, since an id such as 007 is not a number; the card decides what a column means. Lines with too few
or too many fields are detected before parsing, because the parser silently fills short lines with nulls.
"""

from __future__ import annotations

import csv
import gzip
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from ctrbench.errors import DataError, SourceError
from ctrbench.readers.base import RawData, Reader, ReadRequest

TEXT_FORMS = (".csv", ".tsv", ".txt")
PARQUET = ".parquet"
BLOCK = 1 << 20
QUOTE = '"'
MAX_FIELD_CHARACTERS = 1 << 30

csv.field_size_limit(MAX_FIELD_CHARACTERS)


class TableReader(Reader):
    """Reader of CSV and parquet tables."""

    uses_separator = True

    def read(self, request: ReadRequest) -> RawData:
        """Return the rows of all tables, one table after the other.

        A folder contributes the files in `request.names`, or all its tables if there are none.
        """
        files = tuple(file for path in request.paths for file in _table_files(path, request.names))
        forms = {_format_of(file) for file in files}
        if len(forms) != 1:
            value = ", ".join(sorted(forms)) or "no file"
            raise SourceError(
                "all tables of a dataset must have the same format", value=value, remedy=_supported_formats()
            )
        if forms == {PARQUET}:
            frame = _concatenate(files, [_scan_parquet(file) for file in files])
            return RawData(frame=frame, files=files, locate=partial(_locate_parquet_row, files))
        separator = request.separator
        plain = [_gunzip(file, request.scratch) if file.suffix == ".gz" else file for file in files]
        frames = [_scan_csv(text, file, separator) for text, file in zip(plain, files, strict=True)]
        explain = partial(_explain_error, plain, files, separator)
        locate = partial(_locate_text_row, plain, files, separator)
        return RawData(frame=_concatenate(files, frames), files=files, explain=explain, locate=locate)


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
    if path.is_dir() and names:
        return [file for name in names for file in _table_files(path / name, ())]
    if path.is_dir():
        # Other files of the folder (a README, a license, the card) are ignored.
        suffixes = (*TEXT_FORMS, *(f"{form}.gz" for form in TEXT_FORMS), PARQUET)
        return sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(suffixes))
    if not path.is_file():
        raise SourceError(
            "no such data file", value=path, remedy="correct the card's path, or pass --source PATH"
        )
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
        frame = pl.scan_parquet(file, glob=False)
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("not a parquet file", value=f"{file}: {_first_line(error)}") from None
    # The card sees categories as text: their codes depend on the file.
    coded = [name for name, dtype in schema.items() if isinstance(dtype, pl.Categorical | pl.Enum)]
    return frame.with_columns(pl.col(coded).cast(pl.String)) if coded else frame


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _gunzip(file: Path, scratch: Path) -> Path:
    """Decompress to `scratch`, since the parser would hold the whole text in memory."""
    target = scratch / f"{len(list(scratch.iterdir()))}-{file.stem}"
    try:
        with gzip.open(file, "rb") as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain, BLOCK)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError("damaged gzip file", value=f"{file}: {error}") from None
    return target


def _scan_csv(text: Path, file: Path, separator: str) -> pl.LazyFrame:
    """Scan an uncompressed text; messages name `file`, the file that the user gave."""
    header = _header(text, file, separator)
    if not _has_even_lines(text, len(header), separator):
        problem = _find_problem(text, len(header), separator)
        if problem is not None:
            raise DataError("each line must have as many fields as the header", value=f"{file}: {problem}")
    # Polars keeps doubled quotes in column names. Cards do not distinguish empty from missing values.
    return pl.scan_csv(
        text,
        separator=separator,
        infer_schema=False,
        with_column_names=lambda _: header,
        empty_string_is_null=True,
        glob=False,
    )


def _header(text: Path, file: Path, separator: str) -> list[str]:
    try:
        with text.open("rb") as raw:
            header = next(csv.reader(_decode_lines(raw), delimiter=separator), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            "a CSV file must be UTF-8 text with a header", value=f"{file}, line 1: {error}"
        ) from None
    duplicates = sorted({column for column in header if header.count(column) > 1})
    if not header or duplicates:
        value = f"{file}: {', '.join(duplicates)} twice" if duplicates else f"{file} is empty"
        raise DataError("a CSV file must start with a header of distinct column names", value=value)
    return header


def _has_even_lines(text: Path, num_columns: int, separator: str) -> bool:
    """Return whether the number of separators fits the number of lines; False if a quote needs a real parser."""
    separators = newlines = 0
    last = b"\n"
    with text.open("rb") as raw:
        while block := raw.read(BLOCK):
            if QUOTE.encode() in block:
                return False
            separators += block.count(separator.encode())
            newlines += block.count(b"\n")
            last = block[-1:]
    return separators == (newlines + (last != b"\n")) * (num_columns - 1)


def _find_problem(text: Path, num_columns: int, separator: str) -> str | None:
    """Parse line by line and describe the first bad line; None if there is none."""
    with text.open("rb") as raw:
        rows = csv.reader(_decode_lines(raw), delimiter=separator, strict=True)
        try:
            for row in rows:
                if len(row) != num_columns:
                    return f"line {rows.line_num} has {len(row)} fields, the header has {num_columns}"
        except UnicodeDecodeError as error:
            return f"line {rows.line_num + 1} is not UTF-8 ({error.reason})"
        except csv.Error as error:
            return f"line {rows.line_num}: {error}"
    return None


def _decode_lines(lines: Iterable[bytes]) -> Iterator[str]:
    # A file in text mode decodes ahead of the parser, which would lose the number of the bad line.
    return (line.decode("utf-8" if index else "utf-8-sig") for index, line in enumerate(lines))


def _explain_error(texts: Sequence[Path], files: Sequence[Path], separator: str) -> str | None:
    """Return the first line that the parser could not read, with its file and problem."""
    for text, file in zip(texts, files, strict=True):
        problem = _find_problem(text, len(_header(text, file, separator)), separator)
        if problem is not None:
            return f"{file}: {problem}"
    return None


def _locate_text_row(texts: Sequence[Path], files: Sequence[Path], separator: str, index: int) -> str | None:
    """Return file and line of a row, counted over all files; None if it is not found."""
    for text, file in zip(texts, files, strict=True):
        with text.open("rb") as raw:
            rows = csv.reader(_decode_lines(raw), delimiter=separator)
            next(rows, None)
            for _ in rows:
                if index == 0:
                    return f"{file}, line {rows.line_num}"
                index -= 1
    return None


def _locate_parquet_row(files: Sequence[Path], index: int) -> str | None:
    """Return file and row of a row, counted over all files; None if it is not found."""
    for file in files:
        num_rows = int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())
        if index < num_rows:
            return f"{file}, row {index + 1}"
        index -= num_rows
    return None
