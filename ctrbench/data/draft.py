"""Draft of a card for undescribed data, from a sample of their rows.

The card loads and prepares unchanged. A comment explains each guess and names what to check, because a wrong label or
a column that knows the outcome makes all results worthless.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from ctrbench.data.guesses import (
    SCENARIO,
    USER,
    GuessedField,
    SampledColumn,
    guess_domains,
    guess_fields,
    guess_label,
    guess_time,
    reason_to_omit,
    sample_column,
    valid_name,
)
from ctrbench.errors import DataError, SettingError
from ctrbench.readers.base import ReadRequest
from ctrbench.readers.table import TableReader
from ctrbench.storage.files import write_text

SAMPLE_ROWS = 100_000
SEPARATORS = (",", "\t", ";", "|", " ")


def write_card(data: Path, file: Path, *, name: str | None = None) -> None:
    """Write the draft of a card to a new file; raises `SettingError` if the file exists."""
    if file.exists():
        raise SettingError("a new card must not overwrite a file", value=file, remedy="choose another --out")
    write_text(file, draft_card(data, name=name, folder=file.parent))


def draft_card(data: Path, *, name: str | None = None, folder: Path | None = None) -> str:
    """Return the text of a card for a CSV (also .gz) or parquet file or a folder of them.

    The path of data within `folder`, the folder of the card, is relative to it; otherwise it is absolute.
    Raises `DataError` if no column can be the label or a domain feature.
    """
    separator = _guess_separator(data)
    sample = _read_sample(data, separator)
    columns = [sample_column(sample[column]) for column in sample.columns]
    label, threshold = guess_label(columns)
    time = guess_time([column for column in columns if column is not label])
    features = [column for column in columns if column not in (label, time)]
    omitted = {
        column.name: reason for column in features if (reason := reason_to_omit(column, sample.height))
    }
    fields = guess_fields([column for column in features if column.name not in omitted])
    domains = guess_domains(fields, sample)
    lines = [
        f"# Drafted from the first {sample.height:,} rows of {data.name}. Check each guess below.",
        *_name_lines(name or valid_name(data.name.split(".")[0])),
        *_path_lines(data, folder),
        *([f"separator = {_quoted(separator)}"] if separator != "," else []),
        *_time_lines(time),
        *_representative_lines(fields, domains),
        *_label_lines(label, threshold),
        *_domain_set_lines(domains),
        *(f"# omitted: {column}: {reason}" for column, reason in omitted.items()),
        *(line for field in fields for line in _field_lines(field)),
    ]
    return "\n".join(lines) + "\n"


def _guess_separator(data: Path) -> str:
    file = next((path for path in sorted(data.iterdir()) if path.is_file()), data) if data.is_dir() else data
    if not file.is_file() or ".parquet" in file.suffixes:
        return ","
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw:
            header = raw.readline(1 << 20).decode(errors="replace")
    except (OSError, EOFError):
        return ","
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _read_sample(data: Path, separator: str) -> pl.DataFrame:
    with TemporaryDirectory() as scratch:
        request = ReadRequest(paths=(data,), separator=separator, scratch=Path(scratch))
        sample = TableReader().read(request).frame.head(SAMPLE_ROWS).collect()
    if sample.is_empty():
        raise DataError("the data must have rows", value=data)
    return sample


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _name_lines(name: str) -> list[str]:
    return [f"name = {_quoted(valid_name(name))}", f"title = {_quoted(name)}"]


def _path_lines(data: Path, folder: Path | None) -> list[str]:
    path = data.resolve()
    if folder is not None and path.is_relative_to(folder.resolve()):
        return [f"path = {_quoted(path.relative_to(folder.resolve()).as_posix())}"]
    reason = (
        "the folder of the card is unknown"
        if folder is None
        else "the data are outside the folder of the card"
    )
    return [
        f"# Absolute, since {reason}; a relative path starts at that folder.",
        f"path = {_quoted(str(path))}",
    ]


def _time_lines(time: SampledColumn | None) -> list[str]:
    if time is None:
        return [
            "# No timestamp found, so rows are split by a hash. If there is one, name it and remove the split:",
            '# timestamp = "COLUMN"',
            '# To keep all rows of a user in one split: split = { by = "hash", key = "COLUMN" }',
            'split = { by = "hash" }',
        ]
    return [
        f"# Guessed to be the time of the impression: {time.description}. Rows are split 4:1:1 by it.",
        f"timestamp = {_quoted(time.name)}",
    ]


def _representative_lines(fields: Sequence[GuessedField], domains: Sequence[GuessedField]) -> list[str]:
    user = next(
        (field.name for field in fields if USER.match(field.name) and field.kind == "categorical"), None
    )
    scenario = next((field for field in domains if SCENARIO.search(field.name)), None)
    representative = scenario or max(domains, key=lambda field: field.column.distinct)
    return [
        "# The domain feature that indexes per-domain parameters.",
        f"representative = {_quoted(representative.name)}",
        *(["# Groups rows by user in metrics.", f"user = {_quoted(user)}"] if user else []),
    ]


def _label_lines(label: SampledColumn, threshold: float | None) -> list[str]:
    lines = [
        "",
        "# Check first: is this the outcome to predict?",
        f"# {label.name}: {label.description}",
        "[label]",
        f"column = {_quoted(label.name)}",
    ]
    if threshold is not None:
        lines += [
            "# Graded: rows with this value or a higher one are positive.",
            f"positive_from = {threshold}",
        ]
    return lines


def _domain_set_lines(domains: Sequence[GuessedField]) -> list[str]:
    sizes = " x ".join(str(field.column.distinct) for field in domains)
    return [
        "",
        f"# Guessed: fields of scenario, user or context with few values ({sizes}).",
        "# Any fields with one id per row can be domain features.",
        "[domain_sets]",
        f"default = [{', '.join(_quoted(field.name) for field in domains)}]",
        "",
    ]


def _field_lines(field: GuessedField) -> list[str]:
    column = field.column
    missing = f", {column.missing:.0%} missing" if column.missing else ""
    return [
        "",
        "[[fields]]",
        f"# {column.form}: {_printable(column.description)}{missing}",
        f"name = {_quoted(field.name)}",
        *([f"column = {_quoted(column.name)}"] if column.name != field.name else []),
        *([f"kind = {_quoted(field.kind)}"] if field.kind != "categorical" else []),
        f"role = {_quoted(field.role)}",
        *([f"separator = {_quoted(field.separator)}"] if field.separator is not None else []),
        *([f"buckets = {field.buckets}"] if field.buckets is not None else []),
    ]


def _printable(text: str) -> str:
    """Replace line ends and control characters, which would end a comment."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
