"""Checks of CSV text before it is parsed: encoding, line ends and the number of fields in every line.

The parser fills short lines with nulls, drops rows or reports a position without a line. The checks read the text
once, block by block; only a text with quotes, or with a problem, is parsed line by line.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ctrbench.errors import DataError, shorten
from ctrbench.problems import control_character

BLOCK = 1 << 20
QUOTE = b'"'
MAX_LINE_BYTES = 1 << 26
"""Largest length of a line, and of a value in quotes."""
MAX_NAME_CHARACTERS = 1000
LINE_END, CARRIAGE_RETURN, NUL = b"\n", b"\r", b"\0"

csv.field_size_limit(MAX_LINE_BYTES)


class _LineError(ValueError):
    """A line that is not CSV text; the message is the problem."""


@dataclass(frozen=True, kw_only=True)
class CsvText:
    """An uncompressed text with a header line."""

    text: Path
    file: Path
    """The file that the user gave, for messages: the text itself or a compressed file."""
    separator: str

    def header(self) -> list[str]:
        """Return the names of the columns; raises `DataError` unless there are some and all are distinct."""
        try:
            with self.text.open("rb") as raw:
                header = next(csv.reader(_decode_lines(raw), delimiter=self.separator), [])
        except (_LineError, csv.Error) as error:
            raise self._error(
                "a CSV file must be UTF-8 text with a header", f"line 1 {_describe(error)}"
            ) from None
        if not header:
            raise self._error(
                "a CSV file must start with a header of distinct column names", "the file is empty"
            )
        check_column_names(header, self.file)
        return header

    def check(self, num_columns: int) -> None:
        """Raise `DataError` with the first line that is not UTF-8 text of `num_columns` fields."""
        problem = None if self._is_regular(num_columns) else self.find_problem(num_columns)
        if problem is not None:
            raise self._error("each line must be UTF-8 text with as many fields as the header", problem)

    def _error(self, rule: str, problem: str) -> DataError:
        remedy = "correct the file; is the separator of the card the one of the file?"
        return DataError(rule, value=f"{self.file}: {problem}", remedy=remedy)

    def _is_regular(self, num_columns: int) -> bool:
        """Return whether all lines have as many fields as the header; False if only a real parser can tell."""
        with self.text.open("rb") as raw:
            for block in _read_blocks(raw):
                if QUOTE in block or NUL in block or not _is_utf8(block):
                    return False
                if CARRIAGE_RETURN in block and block.count(CARRIAGE_RETURN) != block.count(b"\r\n"):
                    return False
                if not _is_even(block, self.separator, num_columns):
                    return False
        return True

    def find_problem(self, num_columns: int) -> str | None:
        """Parse line by line and describe the first bad line; None if there is none."""
        with self.text.open("rb") as raw:
            rows = csv.reader(_decode_lines(raw), delimiter=self.separator, strict=True)
            try:
                for row in rows:
                    if len(row) != num_columns:
                        return f"line {rows.line_num} has {len(row)} fields, the header has {num_columns}"
            except _LineError as error:
                return f"line {rows.line_num + 1} {error}"
            except csv.Error as error:
                return f"line {rows.line_num} {_describe(error)}"
        return None

    def line_of_row(self, index: int) -> tuple[int | None, int]:
        """Return the line of a row, or None if the text has fewer rows; and the number of rows before the end."""
        num_rows = 0
        with self.text.open("rb") as raw:
            rows = csv.reader(_decode_lines(raw), delimiter=self.separator)
            next(rows, None)
            for _ in rows:
                if num_rows == index:
                    return rows.line_num, num_rows
                num_rows += 1
        return None, num_rows


def check_column_names(names: list[str], file: Path) -> None:
    """Raise `DataError` unless the names of the columns are distinct and free of control characters."""
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        raise DataError(
            "the columns of a table must have distinct names",
            value=f"{file}: {shorten(', '.join(duplicates))} twice",
            remedy="rename one of them in the header",
        )
    for number, name in enumerate(names, start=1):
        code = control_character(name)
        if code is not None or len(name) > MAX_NAME_CHARACTERS:
            raise DataError(
                f"the name of a column must have at most {MAX_NAME_CHARACTERS:,} characters and no control characters",
                value=f"{file}: column {number} has {code or f'{len(name):,} characters'}",
                remedy="correct the header; is the separator of the card the one of the file?",
            )


def _read_blocks(raw: BinaryIO) -> Iterator[bytes]:
    """Yield blocks of complete lines; a line that is too long ends a block, and the line-by-line check refuses it."""
    while block := raw.read(BLOCK):
        yield block if block.endswith(LINE_END) else block + raw.readline(MAX_LINE_BYTES)


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_even(block: bytes, separator: str, num_columns: int) -> bool:
    """Return whether every line of a block without quotes has `num_columns` fields."""
    values = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(values == LINE_END[0])
    starts = np.concatenate([[0], ends + 1])
    starts = starts[starts < len(block)]
    is_separator = (values == ord(separator)).view(np.uint8)
    return bool((np.add.reduceat(is_separator, starts, dtype=np.int32) == num_columns - 1).all())


def _decode_lines(raw: BinaryIO) -> Iterator[str]:
    """Yield the lines of a text; raises `_LineError` for a line that is no text."""
    # A file in text mode decodes ahead of the parser, which would lose the number of the bad line.
    for index, line in enumerate(iter(lambda: raw.readline(MAX_LINE_BYTES + 1), b"")):
        if len(line) > MAX_LINE_BYTES:
            raise _LineError(f"is longer than {MAX_LINE_BYTES:,} bytes")
        if NUL in line:
            raise _LineError("has a NUL byte")
        try:
            yield line.decode("utf-8" if index else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise _LineError(f"is not UTF-8 ({error.reason})") from None


def _describe(error: Exception) -> str:
    if isinstance(error, _LineError):
        return str(error)
    text = str(error)
    return (
        "has a carriage return without a line feed"
        if "new-line character" in text
        else f"cannot be parsed: {text}"
    )
