"""A user's own tables: CSV (plain or .gz) and parquet, one file, several, or a folder of one form.

Every CSV value stays the text it is in the file, since an id such as 007 is no number; what a column means is the
card's to say. Lines with too few or too many fields are found before anything else is done, as the parser fills short
lines with nulls in silence.
"""

from __future__ import annotations

import csv
import gzip
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from ctrbench.errors import DataError, SourceError
from ctrbench.readers.base import RawData

FORMS = (".csv", ".tsv", ".txt", ".parquet")
BLOCK = 1 << 20
QUOTE = '"'
MAX_FIELD_CHARACTERS = 1 << 30

csv.field_size_limit(MAX_FIELD_CHARACTERS)


def read(
    paths: Sequence[Path],
    *,
    separator: str,
    scratch: Path,
    names: Sequence[str] = (),
    report: Callable[[float], None] | None = None,
) -> RawData:
    """Return the tables in the given files and folders, one under the other; of a folder only `names`, if any.

    Raises `SourceError` for files that are not there or of no form that we read, and `DataError` for files that are
    not what their name says. `report` is not used: the frame is read when it is collected.
    """
    del report
    files = tuple(file for path in paths for file in _files(path, names))
    forms = {_form(file) for file in files}
    if len(forms) != 1:
        found = ", ".join(sorted(forms)) or "no file"
        raise SourceError("the tables of a dataset have one form", value=found, remedy=_known_forms())
    if forms == {".parquet"}:
        return RawData(frame=_concat(files, [_scan_parquet(file) for file in files]), files=files)
    plain = [_gunzip(file, scratch) if file.suffix == ".gz" else file for file in files]
    frames = [_scan_csv(file, name, separator) for file, name in zip(plain, files, strict=True)]
    explain = partial(_explain, plain, files, separator)
    return RawData(frame=_concat(files, frames), files=files, explain=explain)


def _known_forms() -> str:
    return f"bring {', '.join(FORMS)} (the text forms also as .gz)"


def _form(file: Path) -> str:
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    known = FORMS[:-1] if file.suffix == ".gz" else FORMS
    if suffix not in known:
        raise SourceError("not a table that we read", value=file, remedy=_known_forms())
    return "text" if suffix != ".parquet" else suffix


def _files(path: Path, wanted: Sequence[str]) -> list[Path]:
    if path.is_dir() and wanted:
        return [file for name in wanted for file in _files(path / name, ())]
    if path.is_dir():
        # What else lies in a folder (a README, a licence, the card) is none of our business.
        names = (*FORMS, *(f"{form}.gz" for form in FORMS[:-1]))
        return sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(names))
    if not path.is_file():
        raise SourceError(
            "no such data file", value=path, remedy="correct the card's path, or give --source PATH"
        )
    return [path]


def _concat(files: Sequence[Path], frames: Sequence[pl.LazyFrame]) -> pl.LazyFrame:
    names = frames[0].collect_schema().names()
    for file, frame in zip(files, frames, strict=True):
        if set(other := frame.collect_schema().names()) != set(names):
            differing = ", ".join(sorted(set(names) ^ set(other)))
            rule = f"all tables of a dataset have the columns of {files[0].name}"
            raise DataError(rule, value=f"{file.name} differs in {differing}")
    selected = [frame.select(names) for frame in frames]
    return pl.concat(selected, how="vertical_relaxed") if len(frames) > 1 else frames[0]


def _scan_parquet(file: Path) -> pl.LazyFrame:
    try:
        frame = pl.scan_parquet(file, glob=False)
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError("not a parquet file", value=f"{file}: {_first_line(error)}") from None
    # As numbers, categories would be their places in a dictionary, and not what they say.
    coded = [name for name, dtype in schema.items() if isinstance(dtype, pl.Categorical | pl.Enum)]
    return frame.with_columns(pl.col(coded).cast(pl.String)) if coded else frame


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _gunzip(file: Path, scratch: Path) -> Path:
    """Unpack to `scratch`: the parser would hold the whole text in memory."""
    scratch.mkdir(parents=True, exist_ok=True)
    target = scratch / f"{len(list(scratch.iterdir()))}-{file.stem}"
    try:
        with gzip.open(file, "rb") as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain, BLOCK)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError("not a whole gzip file", value=f"{file}: {error}") from None
    return target


def _scan_csv(file: Path, name: Path, separator: str) -> pl.LazyFrame:
    header = _header(file, name, separator)
    if not _counts_fit(file, len(header), separator):
        problem = _find_problem(file, len(header), separator)
        if problem is not None:
            raise DataError("a line that is no row of the table", value=f"{name}: {problem}")
    # Polars leaves doubled quotes in names; an empty text and a missing one are the same to a card.
    return pl.scan_csv(
        file,
        separator=separator,
        infer_schema=False,
        with_column_names=lambda _: header,
        empty_string_is_null=True,
        glob=False,
    )


def _header(file: Path, name: Path, separator: str) -> list[str]:
    try:
        with file.open("rb") as raw:
            header = next(csv.reader(_decoded(raw), delimiter=separator), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("a CSV file is UTF-8 text with a header", value=f"{name}, line 1: {error}") from None
    twice = sorted({column for column in header if header.count(column) > 1})
    if not header or twice:
        found = f"{name}: {', '.join(twice)} twice" if twice else f"{name} is empty"
        raise DataError("a CSV file starts with a header, each column named once", value=found)
    return header


def _counts_fit(file: Path, num_columns: int, separator: str) -> bool:
    """Whether the separators are as many as rows of that many columns have; False where only a parser can tell."""
    separators = newlines = 0
    last = b"\n"
    with file.open("rb") as raw:
        while block := raw.read(BLOCK):
            if QUOTE.encode() in block:
                return False
            separators += block.count(separator.encode())
            newlines += block.count(b"\n")
            last = block[-1:]
    return separators == (newlines + (last != b"\n")) * (num_columns - 1)


def _find_problem(file: Path, num_columns: int, separator: str) -> str | None:
    """Parse the file slowly and say what is wrong with its first bad line."""
    with file.open("rb") as raw:
        rows = csv.reader(_decoded(raw), delimiter=separator, strict=True)
        try:
            for row in rows:
                if len(row) != num_columns:
                    return f"line {rows.line_num} has {len(row)} fields, the header has {num_columns}"
        except UnicodeDecodeError as error:
            return f"line {rows.line_num + 1} is not UTF-8 ({error.reason})"
        except csv.Error as error:
            return f"line {rows.line_num}: {error}"
    return None


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    # Not a text file: its decoder reads ahead, and the number of the bad line would be lost.
    return (line.decode("utf-8" if place else "utf-8-sig") for place, line in enumerate(lines))


def _explain(plain: Sequence[Path], names: Sequence[Path], separator: str) -> str | None:
    """Say which line of which file cannot be read, after the parser gave up."""
    for file, name in zip(plain, names, strict=True):
        problem = _find_problem(file, len(_header(file, name, separator)), separator)
        if problem is not None:
            return f"{name}: {problem}"
    return None
