"""Guesses about unknown data from a sample of their rows: label, timestamp, fields and domain features.

Every guess follows a rule over names and values that is defined here, so that `ctrbench.data.draft` can explain it in
the card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import polars as pl

from ctrbench.data.card import RESERVED
from ctrbench.data.card_values import MAX_NAME, Kind, Role
from ctrbench.data.staged_columns import describe_type, is_readable
from ctrbench.errors import DataError, shorten

LIST_SEPARATORS = ("|", ";", "^", ",")
MAX_DOMAIN_VALUES = 60
MAX_DOMAIN_FEATURES = 3
MIN_ROWS_PER_DOMAIN = 20
BUCKETS = 20
GRADED_SHARE = 0.8
"""Share of the highest grade from which a graded label counts as positive."""

OUTCOME = re.compile(
    r"^(is_|has_)?(click(s|ed)?|label|target|y|trade|purchase[d]?|buy|bought|conversion|converted|like[ds]?"
    r"|long_view|follow|forward|share[d]?|order(ed)?|cart|favou?rite|pay)$",
    re.IGNORECASE,
)
LABEL_NAMES = ("click", "is_click", "clicked", "label", "target", "y")
"""Preferred names of labels, best first."""
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
"""Roles by the names of columns; the first match counts."""
DOMAIN_ROLES: tuple[Role, ...] = ("user", "context")
"""Roles of domain features, best first."""

Form = Literal["text", "integer", "float", "list", "time", "empty", "other"]


@dataclass(frozen=True, kw_only=True)
class SampledColumn:
    """A raw column of the sample, with its form and its distinct and missing values."""

    name: str
    form: Form
    values: pl.Series
    """Values that are not missing: text, or lists and times in their own type."""
    distinct: int
    """Number of distinct values."""
    missing: float
    """Share of missing values."""

    @property
    def is_binary(self) -> bool:
        """Whether all values are 0 and 1, or true and false."""
        if self.form in ("list", "other") or not 1 <= self.distinct <= 2:
            return False
        return set(self.values.unique().to_list()) <= {
            "0",
            "1",
            "0.0",
            "1.0",
            "true",
            "false",
            "True",
            "False",
        }

    @property
    def description(self) -> str:
        """Number of distinct values and some examples."""
        values = ", ".join(str(value) for value in self.values.head(3).to_list())
        return f"{self.distinct} values in the sample, such as {values[:60]}"


@dataclass(frozen=True, kw_only=True)
class GuessedField:
    """A field of the drafted card."""

    column: SampledColumn
    name: str
    kind: Kind
    role: Role
    separator: str | None = None
    buckets: int | None = None

    @property
    def can_be_domain(self) -> bool:
        """Whether the field has few enough values for a domain feature."""
        return self.kind == "categorical" and 2 <= self.column.distinct <= MAX_DOMAIN_VALUES


def sample_column(raw: pl.Series) -> SampledColumn:
    """Describe one column of the sample."""
    if raw.dtype == pl.Binary or not is_readable(raw.dtype):
        return SampledColumn(name=raw.name, form="other", values=raw, distinct=0, missing=0.0)
    if isinstance(raw.dtype, pl.List | pl.Array):
        return _describe_column(raw, raw.drop_nulls(), "list")
    if raw.dtype.is_temporal():
        return _describe_column(raw, raw.drop_nulls(), "time")
    text = raw.cast(pl.String).str.strip_chars()
    values = text.filter(text.is_not_null() & (text != ""))
    return _describe_column(raw, values, _form_of(values))


def _describe_column(raw: pl.Series, values: pl.Series, form: Form) -> SampledColumn:
    distinct = values.n_unique() if len(values) else 0
    missing = 1 - len(values) / len(raw)
    return SampledColumn(name=raw.name, form=form, values=values, distinct=distinct, missing=missing)


def _form_of(text: pl.Series) -> Form:
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


def guess_label(columns: Sequence[SampledColumn]) -> tuple[SampledColumn, float | None]:
    """Return the label's column and, for a graded label, the lowest positive value.

    Raises `DataError` if no column can be a label.
    """
    binary = [column for column in columns if column.is_binary]
    named = [column for column in binary if OUTCOME.match(column.name)]
    preferred = [column for name in LABEL_NAMES for column in named if column.name.lower() == name]
    # Without a typical name both values must occur, and the last such column is the likeliest.
    unnamed = [column for column in reversed(binary) if column.distinct == 2]
    if candidates := (*preferred, *named, *unnamed):
        return candidates[0], None
    for column in columns:
        if GRADED.search(column.name) and column.form in ("integer", "float") and column.distinct > 1:
            top = float(column.values.cast(pl.Float64).max())  # type: ignore[arg-type]
            return column, float(f"{GRADED_SHARE * top:.3g}")
    names = shorten(", ".join(column.name for column in columns))
    raise DataError(
        "no column looks like a label: none contains only 0 and 1",
        value=names,
        remedy="write the card by hand, with a label.column and, for a graded label, label.positive_from",
    )


def guess_time(columns: Sequence[SampledColumn]) -> SampledColumn | None:
    """Return the column with the most distinct values among those that look like a timestamp."""
    candidates = [column for column in columns if _looks_like_time(column)]
    return max(candidates, key=lambda column: column.distinct, default=None)


def _looks_like_time(column: SampledColumn) -> bool:
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


def reason_to_omit(column: SampledColumn, rows: int) -> str | None:
    """Return why a column of a sample of `rows` rows cannot be a field, or None."""
    if not column.name:
        return "its name is empty"
    if column.form == "other":
        return f"a field cannot hold {describe_type(column.values.dtype)}"
    if column.form == "empty":
        return "no value in the sample"
    if column.distinct == 1 and not column.missing:
        return "only one value"
    if OUTCOME.match(column.name):
        return "its name denotes another outcome, which is known only after the impression"
    if column.form == "time":
        return "a date or time; derive an hour or a weekday from it if it matters"
    if column.distinct == rows and rows > 10 and ROW_ID.search(column.name.lower()):
        return "a different value in each row"
    return None


def guess_fields(columns: Sequence[SampledColumn]) -> list[GuessedField]:
    """Return one field per column, with distinct names."""
    fields: list[GuessedField] = []
    for column in columns:
        name = valid_name(column.name)
        names = {field.name for field in fields}
        if name in RESERVED or name in names:
            suffixed = (f"{name[: MAX_NAME - 8]}_{number or ''}" for number in count())
            name = next(other for other in suffixed if other not in RESERVED | names)
        fields.append(_guess_field(column, name))
    return fields


def valid_name(name: str) -> str:
    """Return a name that a card accepts.

    >>> valid_name("_user id")
    'user_id'
    """
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).lstrip("_.+-")[:MAX_NAME] or "data"


def _guess_field(column: SampledColumn, name: str) -> GuessedField:
    role: Role = next((role for role, pattern in ROLES if pattern.search(column.name)), "other")
    list_kind: Kind = "sequence" if HISTORY.search(column.name) else "multi_valued"
    if column.form == "list":
        return GuessedField(column=column, name=name, kind=list_kind, role=role)
    if column.form == "text" and (separator := _list_separator(column)) is not None:
        return GuessedField(column=column, name=name, kind=list_kind, role=role, separator=separator)
    if column.form == "float":
        return GuessedField(column=column, name=name, kind="numeric", role=role)
    if column.form == "integer" and QUANTITY.search(column.name) and column.distinct > MAX_DOMAIN_VALUES:
        return GuessedField(column=column, name=name, kind="numeric", role=role, buckets=BUCKETS)
    return GuessedField(column=column, name=name, kind="categorical", role=role)


def _list_separator(column: SampledColumn) -> str | None:
    """Return a separator that many values contain and whose parts recur in other values, or None."""
    for separator in LIST_SEPARATORS:
        share = column.values.str.contains(separator, literal=True).mean()
        parts = column.values.str.split(separator).explode(empty_as_null=False)
        if float(share or 0.0) >= 0.2 and parts.n_unique() <= len(parts) / 2:  # type: ignore[arg-type]
            return separator
    return None


def guess_domains(fields: Sequence[GuessedField], sample: pl.DataFrame) -> list[GuessedField]:
    """Return up to three domain features: scenarios first, then users and contexts, with enough rows per domain.

    Raises `DataError` if no field can be a domain feature.
    """
    candidates = sorted((field for field in fields if field.can_be_domain), key=_domain_rank)
    if not candidates:
        candidates = sorted(
            (field for field in fields if field.kind == "categorical" or field.buckets is not None),
            key=lambda field: field.column.distinct,
        )[:1]
    if not candidates:
        raise DataError(
            "no column can be a domain feature: none has one id per row",
            value=", ".join(field.name for field in fields) or "no field is left",
            remedy="write the card by hand; a numeric field becomes a domain feature with buckets",
        )
    chosen = candidates[:1]
    for field in candidates[1:]:
        columns = [part.column.name for part in (*chosen, field)]
        is_enough = sample.select(columns).n_unique() * MIN_ROWS_PER_DOMAIN <= sample.height
        if is_enough and len(chosen) < MAX_DOMAIN_FEATURES and _domain_rank(field)[0] < len(DOMAIN_ROLES):
            chosen.append(field)
    return chosen


def _domain_rank(field: GuessedField) -> tuple[int, int]:
    if SCENARIO.search(field.column.name):
        return -1, field.column.distinct
    rank = DOMAIN_ROLES.index(field.role) if field.role in DOMAIN_ROLES else len(DOMAIN_ROLES)
    return rank, field.column.distinct
