"""A first card for data that nobody described yet, drafted by looking at a sample of the rows.

Every guess is a rule over names and values that stands in a table here, and each is told in a comment of the card with
what to check, because a wrong label or a column that knows the outcome makes all later numbers worthless. The card
loads and prepares as it is.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import polars as pl

from ctrbench.data.card import RESERVED, Kind, Role
from ctrbench.errors import DataError, SettingError
from ctrbench.readers.base import ReadRequest
from ctrbench.readers.table import TableReader
from ctrbench.storage.files import write_text

SAMPLE_ROWS = 100_000
SEPARATORS = (",", "\t", ";", "|", " ")
LIST_SEPARATORS = ("|", ";", "^", ",")
MAX_DOMAIN_VALUES = 60
MAX_DOMAIN_FEATURES = 3
MIN_ROWS_PER_DOMAIN = 20
BUCKETS = 20

OUTCOME = re.compile(
    r"^(is_|has_)?(click(s|ed)?|label|target|y|trade|purchase[d]?|buy|bought|conversion|converted|like[ds]?"
    r"|long_view|follow|forward|share[d]?|order(ed)?|cart|favou?rite|pay)$",
    re.IGNORECASE,
)
LABEL_FIRST = ("click", "is_click", "clicked", "label", "target", "y")
GRADED = re.compile(r"rating|stars|grade", re.IGNORECASE)
TIME = re.compile(r"(^|_)(time|timestamp|ts|datetime|date|time_ms|created_at|day)($|_)", re.IGNORECASE)
HISTORY = re.compile(r"hist|seq|recent|last_", re.IGNORECASE)
QUANTITY = re.compile(
    r"(^|_)(count|cnt|num|price|amount|duration|score|rate|length|fans|level_num)($|_)", re.I
)
ROW_ID = re.compile(
    r"^(id|index|row|uuid|unnamed.*|column_1)$|(instance|impression|request|session|event|row)_?id"
)
USER = re.compile(r"^(user|uid|user_?id|member_?id|customer_?id|visitor_?id|userid)$", re.IGNORECASE)
SCENARIO = re.compile(
    r"scenario|scene|domain|(^|_)(tab|channel|site|pid|page|position|country|market)($|_)", re.I
)
ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    (
        "user",
        re.compile(r"^(user|uid|member|customer|visitor|u_)|(^|_)(gender|sex|age|occupation)($|_)", re.I),
    ),
    ("shop", re.compile(r"^(shop|seller|store|merchant)", re.I)),
    ("ad", re.compile(r"^(ad|ads|adgroup|campaign|creative|advertiser)(_|$|id)", re.I)),
    ("query", re.compile(r"^(query|keyword|search|predict)", re.I)),
    (
        "item",
        re.compile(r"^(item|iid|video|movie|product|goods|sku|cate|category|brand|author|music|i_)", re.I),
    ),
    ("context", re.compile(r"^(context|hour|week|day|device|os|network|browser|c_)", re.I)),
    ("context", SCENARIO),
)

Form = Literal["text", "integer", "float", "list", "time", "empty"]


@dataclass(frozen=True, kw_only=True)
class _Column:
    """What a sample shows of one raw column."""

    name: str
    form: Form
    values: pl.Series
    """The values that are there, as text; for lists and times as they are."""
    distinct: int
    missing: float

    @property
    def is_binary(self) -> bool:
        found = set(self.values.unique().to_list()) if 1 <= self.distinct <= 2 else {""}
        return self.form != "list" and found <= {"0", "1", "0.0", "1.0", "true", "false", "True", "False"}

    @property
    def shown(self) -> str:
        values = ", ".join(str(value) for value in self.values.head(3).to_list())
        return f"{self.distinct} values in the sample, such as {values[:60]}"


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A field of the drafted card."""

    column: _Column
    name: str
    kind: Kind
    role: Role
    separator: str | None = None
    buckets: int | None = None

    @property
    def can_be_domain(self) -> bool:
        return self.kind == "categorical" and 2 <= self.column.distinct <= MAX_DOMAIN_VALUES


def write_card(data: Path, file: Path, *, name: str | None = None) -> None:
    """Write the draft of a card to a new file; raises `SettingError` if the file exists."""
    if file.exists():
        raise SettingError("a card is never overwritten", value=file, remedy="choose another --out")
    write_text(file, draft_card(data, name=name))


def draft_card(data: Path, *, name: str | None = None) -> str:
    """Return the text of a card for a CSV (also .gz) or parquet file or a folder of them.

    Raises `DataError` if nothing in the data can be the label or a domain feature.
    """
    separator = _guess_separator(data)
    with TemporaryDirectory() as scratch:
        request = ReadRequest(paths=(data,), separator=separator, scratch=Path(scratch))
        frame = TableReader().read(request).frame
        sample = frame.head(SAMPLE_ROWS).collect()
    if sample.is_empty():
        raise DataError("the data have no rows", value=data)
    columns = [_look_at(sample[column]) for column in sample.columns]
    label, threshold = _guess_label(columns)
    time = _guess_time([column for column in columns if column is not label])
    rest = [column for column in columns if column not in (label, time)]
    left_out = {column.name: reason for column in rest if (reason := _why_no_field(column, sample.height))}
    fields = _fields([column for column in rest if column.name not in left_out])
    domains = _guess_domains(fields, sample)
    lines = [
        *_head(data, name or _plain_name(data.name.split(".")[0]), separator, sample.height),
        *_time_lines(time),
        *_domain_lines(fields, domains),
        *_label_lines(label, threshold),
        *_set_lines(domains),
        *(f"# left out: {column}: {reason}" for column, reason in left_out.items()),
        *(line for field in fields for line in _field_lines(field)),
    ]
    return "\n".join(lines) + "\n"


# Looking --------------------------------------------------------------------------------------------------------


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


def _look_at(raw: pl.Series) -> _Column:
    if isinstance(raw.dtype, pl.List | pl.Array):
        kept = raw.drop_nulls()
        return _column(raw, kept, "list")
    if raw.dtype.is_temporal():
        return _column(raw, raw.drop_nulls(), "time")
    text = raw.cast(pl.String).str.strip_chars()
    kept = text.filter(text.is_not_null() & (text != ""))
    return _column(raw, kept, _form(kept))


def _column(raw: pl.Series, kept: pl.Series, form: Form) -> _Column:
    distinct = kept.n_unique() if len(kept) else 0
    missing = 1 - len(kept) / len(raw)
    return _Column(name=raw.name, form=form, values=kept, distinct=distinct, missing=missing)


def _form(text: pl.Series) -> Form:
    if text.is_empty():
        return "empty"
    if not text.cast(pl.Int64, strict=False).null_count():
        return "integer"
    if not text.cast(pl.Float64, strict=False).null_count():
        return "float"
    return "time" if _is_date(text) else "text"


def _is_date(text: pl.Series) -> bool:
    if not text.head(10).str.contains(r"^\d{4}[-/]\d\d?[-/]\d\d?").all():
        return False
    try:
        return text.str.to_datetime(strict=False).null_count() == 0
    except pl.exceptions.PolarsError:
        return False


def _guess_label(columns: Sequence[_Column]) -> tuple[_Column, float | None]:
    binary = [column for column in columns if column.is_binary]
    named = [column for column in binary if OUTCOME.match(column.name)]
    first = [column for name in LABEL_FIRST for column in named if column.name.lower() == name]
    # Without a telling name both values must be there, and the last such column is the likeliest.
    unnamed = [column for column in reversed(binary) if column.distinct == 2]
    if found := (*first, *named, *unnamed):
        return found[0], None
    for column in columns:
        if GRADED.search(column.name) and column.form in ("integer", "float") and column.distinct > 1:
            top = float(column.values.cast(pl.Float64).max())  # type: ignore[arg-type]
            return column, float(f"{0.8 * top:.3g}")
    names = ", ".join(column.name for column in columns)
    raise DataError(
        "no column looks like a label: none holds 0 and 1 only",
        value=names,
        remedy="write the card by hand, with a label.column and, for a graded one, label.positive_from",
    )


def _guess_time(columns: Sequence[_Column]) -> _Column | None:
    """The finest of the columns that look like one."""
    found = [column for column in columns if _looks_like_time(column)]
    return max(found, key=lambda column: column.distinct, default=None)


def _looks_like_time(column: _Column) -> bool:
    if column.missing or column.distinct < 3:
        return False
    if column.form == "time":
        return True
    if column.form not in ("integer", "float"):
        return False
    numbers = column.values.cast(pl.Float64)
    low, high = float(numbers.min()), float(numbers.max())  # type: ignore[arg-type]
    is_unix = any(6e8 * unit <= low and high <= 4e9 * unit for unit in (1, 1e3, 1e6))
    is_day = low >= 19_000_101 and high <= 21_001_231
    return bool(TIME.search(column.name)) and (is_unix or is_day)


def _why_no_field(column: _Column, rows: int) -> str | None:
    if column.form == "empty":
        return "no value in the sample"
    if column.distinct == 1 and not column.missing:
        return "one value only"
    if OUTCOME.match(column.name):
        return "its name says that it is another outcome, known only after the fact"
    if column.form == "time":
        return "a date or time; derive an hour or a weekday from it if it matters"
    if column.distinct == rows and rows > 10 and ROW_ID.search(column.name.lower()):
        return "a different value in each row"
    return None


def _fields(columns: Sequence[_Column]) -> list[_Field]:
    fields: list[_Field] = []
    for column in columns:
        name = _plain_name(column.name)
        while name in RESERVED or name in {field.name for field in fields}:
            name += "_"
        fields.append(_field(column, name))
    return fields


def _plain_name(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).lstrip("_.+-")
    return plain or "data"


def _field(column: _Column, name: str) -> _Field:
    role: Role = next((role for role, pattern in ROLES if pattern.search(column.name)), "other")
    list_kind: Kind = "sequence" if HISTORY.search(column.name) else "multi_valued"
    if column.form == "list":
        return _Field(column=column, name=name, kind=list_kind, role=role)
    if column.form == "text" and (separator := _list_separator(column)) is not None:
        return _Field(column=column, name=name, kind=list_kind, role=role, separator=separator)
    if column.form == "float":
        return _Field(column=column, name=name, kind="numeric", role=role)
    if column.form == "integer" and QUANTITY.search(column.name) and column.distinct > MAX_DOMAIN_VALUES:
        return _Field(column=column, name=name, kind="numeric", role=role, buckets=BUCKETS)
    return _Field(column=column, name=name, kind="categorical", role=role)


def _list_separator(column: _Column) -> str | None:
    """A separator inside many of the values, whose parts come back in other values."""
    for separator in LIST_SEPARATORS:
        holding = column.values.str.contains(separator, literal=True).mean()
        parts = column.values.str.split(separator).explode(empty_as_null=False)
        if float(holding or 0.0) >= 0.2 and parts.n_unique() <= len(parts) / 2:  # type: ignore[arg-type]
            return separator
    return None


def _guess_domains(fields: Sequence[_Field], sample: pl.DataFrame) -> list[_Field]:
    """Up to three: scenarios first, then users' and contexts' columns, while domains keep rows enough."""
    able = sorted((field for field in fields if field.can_be_domain), key=_domain_rank)
    if not able:
        able = sorted(
            (field for field in fields if field.kind == "categorical" or field.buckets is not None),
            key=lambda field: field.column.distinct,
        )[:1]
    if not able:
        raise DataError(
            "no column can be a domain feature: none holds one id a row",
            value=", ".join(field.name for field in fields) or "no field is left",
            remedy="write the card by hand; a numeric field becomes one with buckets",
        )
    chosen = able[:1]
    for field in able[1:]:
        columns = [part.column.name for part in (*chosen, field)]
        enough = sample.select(columns).n_unique() * MIN_ROWS_PER_DOMAIN <= sample.height
        if enough and len(chosen) < MAX_DOMAIN_FEATURES and _domain_rank(field)[0] < len(DOMAIN_ROLES):
            chosen.append(field)
    return chosen


DOMAIN_ROLES: tuple[Role, ...] = ("user", "context")


def _domain_rank(field: _Field) -> tuple[int, int]:
    if SCENARIO.search(field.column.name):
        return -1, field.column.distinct
    place = DOMAIN_ROLES.index(field.role) if field.role in DOMAIN_ROLES else len(DOMAIN_ROLES)
    return place, field.column.distinct


# Writing --------------------------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _head(data: Path, name: str, separator: str, rows: int) -> list[str]:
    return [
        f"# Drafted from the first {rows:,} rows of {data.name}. Each guess says what to check.",
        f"name = {_quoted(_plain_name(name))}",
        f"title = {_quoted(name)}",
        f"path = {_quoted(str(data.resolve()))}",
        *([f"separator = {_quoted(separator)}"] if separator != "," else []),
    ]


def _time_lines(time: _Column | None) -> list[str]:
    if time is None:
        return [
            "# No timestamp was found, so rows are split by a hash. If there is one, name it and remove the split:",
            '# timestamp = "COLUMN"',
            '# To keep all rows of one user together: split = { by = "hash", key = "COLUMN" }',
            'split = { by = "hash" }',
        ]
    return [
        f"# Guessed as the time of the impression: {time.shown}. Rows are split 4:1:1 by it.",
        f"timestamp = {_quoted(time.name)}",
    ]


def _domain_lines(fields: Sequence[_Field], domains: Sequence[_Field]) -> list[str]:
    user = next(
        (field.name for field in fields if USER.match(field.name) and field.kind == "categorical"), None
    )
    named = next((field for field in domains if SCENARIO.search(field.name)), None)
    most = named or max(domains, key=lambda field: field.column.distinct)
    return [
        "# The one domain feature that methods with parameters of their own for each domain go by.",
        f"representative = {_quoted(most.name)}",
        *(["# Groups rows in metrics by user.", f"user = {_quoted(user)}"] if user else []),
    ]


def _label_lines(label: _Column, threshold: float | None) -> list[str]:
    lines = [
        "",
        "# Check first: is this what is to be predicted?",
        f"# {label.name}: {label.shown}",
        "[label]",
    ]
    lines.append(f"column = {_quoted(label.name)}")
    if threshold is not None:
        lines += ["# Graded: from this value on a row is positive.", f"positive_from = {threshold}"]
    return lines


def _set_lines(domains: Sequence[_Field]) -> list[str]:
    sizes = " x ".join(str(field.column.distinct) for field in domains)
    return [
        "",
        f"# Guessed: few values, of scenario, user or context ({sizes}). Any fields with one id a row will do.",
        "[domain_sets]",
        f"default = [{', '.join(_quoted(field.name) for field in domains)}]",
        "",
    ]


def _field_lines(field: _Field) -> list[str]:
    column = field.column
    missing = f", {column.missing:.0%} missing" if column.missing else ""
    return [
        "",
        "[[fields]]",
        f"# {column.form}: {_one_line(column.shown)}{missing}",
        f"name = {_quoted(field.name)}",
        *([f"column = {_quoted(column.name)}"] if column.name != field.name else []),
        *([f"kind = {_quoted(field.kind)}"] if field.kind != "categorical" else []),
        f"role = {_quoted(field.role)}",
        *([f"separator = {_quoted(field.separator)}"] if field.separator is not None else []),
        *([f"buckets = {field.buckets}"] if field.buckets is not None else []),
    ]


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
