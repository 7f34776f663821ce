"""Draft of a card for undescribed data, from a sample of their rows.

The card loads and prepares unchanged. A comment explains each guess and names what to check, because a wrong label or
a column that knows the outcome makes all results worthless.
"""

from __future__ import annotations

import csv
import gzip
import json
import tomllib
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from ctrbench.data.card import check_card
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
from ctrbench.data.raw_errors import (
    READ_ERRORS,
    check_classes,
    no_rows_error,
    read_error,
)
from ctrbench.data.staged_columns import decode_binary, staged_columns
from ctrbench.data.staging import check_rule
from ctrbench.errors import SettingError
from ctrbench.readers.base import RawData, ReadRequest
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
    with TemporaryDirectory() as scratch:
        raw = TableReader().read(ReadRequest(paths=(data,), separator=separator, scratch=Path(scratch)))
        try:
            sample = raw.frame.head(SAMPLE_ROWS).collect()
            if sample.is_empty():
                raise no_rows_error(raw.files)
            head = [*_name_lines(name or data.name.split(".")[0]), *_path_lines(data, folder)]
            head += [f"separator = {_quoted(separator)}"] if separator != "," else []
            text = _draft_text(data, head, _decode_binary(sample))
            _check_draft(text, (folder or data.parent) / "card.toml", raw, sample)
        except READ_ERRORS as error:
            raise read_error(raw, error) from None
    return text


def _draft_text(data: Path, head: Sequence[str], sample: pl.DataFrame) -> str:
    """Return the text of a card; `head` holds its lines about name and location."""
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
        f"# Drafted from the first {sample.height:,} rows of {_printable(data.name)}. Check each guess below.",
        "# `ctrbench prepare` checks all rows and names the row of a value that breaks a rule.",
        *head,
        *_time_lines(time),
        *_representative_lines(fields, domains),
        *_label_lines(label, threshold),
        *_domain_set_lines(domains),
        *(f"# omitted: {column}: {reason}" for column, reason in omitted.items()),
        *(line for field in fields for line in _field_lines(field)),
    ]
    return "\n".join(lines) + "\n"


def _decode_binary(sample: pl.DataFrame) -> pl.DataFrame:
    """Return the sample with binary columns as text where they are text."""
    for name in [name for name, dtype in sample.schema.items() if dtype == pl.Binary]:
        with suppress(pl.exceptions.PolarsError):
            sample = sample.with_columns(pl.col(name).cast(pl.String))
    return sample


def _check_draft(text: str, file: Path, raw: RawData, sample: pl.DataFrame) -> None:
    """Raise the errors that `prepare` would raise for the card, from the rows of the sample."""
    card = check_card(tomllib.loads(text), file)
    frame = decode_binary(sample.lazy())
    columns = staged_columns(frame, card)
    batch = frame.select([expression for column in columns for expression in column.expressions]).collect()
    for column in columns:
        check_rule(column, batch, raw)
    label, rows = batch[columns[0].name], batch.height
    positives = int(label.sum())
    if not 0 < positives < rows == SAMPLE_ROWS:
        # The sample may be the beginning of sorted rows.
        values = columns[0].values
        counts = decode_binary(raw.frame).select(values.cast(pl.Int64).sum().alias("sum"), pl.len()).collect()
        positives, rows = int(counts["sum"][0]), int(counts["len"][0])
    check_classes(card.label.column, rows, positives)


def _guess_separator(data: Path) -> str:
    file = next((path for path in sorted(data.iterdir()) if path.is_file()), data) if data.is_dir() else data
    if not file.is_file() or ".parquet" in file.suffixes:
        return ","
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as raw:
            header = raw.readline(1 << 20).decode(errors="replace")
    except (OSError, EOFError, zlib.error):
        return ","
    return max(SEPARATORS, key=lambda separator: _count_fields(header, separator))


def _count_fields(header: str, separator: str) -> int:
    try:
        return len(next(csv.reader([header], delimiter=separator), []))
    except csv.Error:
        return 0


def _quoted(text: str) -> str:
    # TOML does not allow this control character, which JSON does.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _name_lines(name: str) -> list[str]:
    return [f"name = {_quoted(valid_name(name))}", f"title = {_quoted(_printable(name))}"]


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
        f"# Guessed to be the time of the impression: {_printable(time.description)}. Rows are split 4:1:1 by it.",
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
        f"# {_printable(f'{label.name}: {label.description}')}",
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
