"""Staged columns: the expression, type and rule of each column that a card reads from the raw frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import polars as pl

from ctrbench.data.card import DatasetCard, FieldCard
from ctrbench.errors import CardError
from ctrbench.names import Column

LIST_SEPARATOR = "\x1f"
"""Joins the elements of list columns; does not occur in text."""
KEY = "split key"
MAX_NUMBER = 1e100
"""Largest number of numeric fields, whose squares are added up."""

Rule = tuple[str, str]
"""A rule about the values of a column, and the remedy for values that break it."""


class Texts:
    """Codes of texts in the order of their first occurrence, shared by all threads of polars."""

    def __init__(self) -> None:
        self._categories = pl.Categories.random()
        self.dtype = pl.Categorical(self._categories)
        # Polars drops the codes when no column of the type exists.
        self._anchor = pl.Series(dtype=self.dtype)

    def values(self) -> pl.Series:
        """Return the texts so far, indexed by code."""
        return self._categories.to_series()


@dataclass(frozen=True, kw_only=True)
class StagedColumn:
    """One column of the staged data, and the expression that computes it from the raw frame."""

    name: str
    source: str
    """Column of the raw frame."""
    values: pl.Expr
    dtype: np.dtype[Any]
    kind: Literal["single", "list"] = "single"
    texts: Texts | None = None
    rule: Rule | None = None
    """Broken by the rows in which `bad` is true."""
    bad: pl.Expr | None = None
    separator: str | None = None

    @property
    def expressions(self) -> list[pl.Expr]:
        """Expressions of the raw frame: the values and, if there is a rule, whether rows break it."""
        is_bad = [] if self.bad is None else [self.bad.alias(f"bad {self.name}")]
        return [self.values.alias(self.name), *is_bad]


def field_column(name: str) -> str:
    """Return the name of a field's staged column, which no other staged column has."""
    return f"field {name}"


def staged_columns(frame: pl.LazyFrame, card: DatasetCard) -> list[StagedColumn]:
    """Return all columns that the card names; raises `CardError` for a missing column."""
    schema = frame.collect_schema()
    _check_source_columns(card, schema.names())
    _check_types(card, schema)
    columns = [_staged_label(card, schema)]
    if card.timestamp is not None:
        columns.append(_staged_time(frame, card.timestamp, schema))
    if (probability := probability_column(card, schema)) is not None:
        columns.append(_staged_number(Column.PROBABILITY, probability, schema))
    if card.split.key is not None:
        columns.append(_staged_text(KEY, card.split.key, schema))
    return columns + [_staged_field(field, schema) for field in card.fields]


def _check_source_columns(card: DatasetCard, names: Sequence[str]) -> None:
    """Raise `CardError` with all columns of the card that the raw frame lacks."""
    source_columns = _row_columns(card)
    source_columns |= {f"field {field.name!r}": field.source_column for field in card.fields}
    missing = {key: column for key, column in source_columns.items() if column not in names}
    if not missing:
        return
    similar = [get_close_matches(column, names, n=1, cutoff=0.5) for column in missing.values()]
    suggested = ", ".join(dict.fromkeys(repr(name) for matches in similar for name in matches))
    columns = f"the data have: {', '.join(names)}"
    raise CardError(
        "the data must have the columns of the card",
        value=", ".join(f"no {column!r} ({key})" for key, column in missing.items()),
        remedy=f"did you mean {suggested}? {columns}" if suggested else columns,
    )


def _check_types(card: DatasetCard, schema: pl.Schema) -> None:
    """Raise `CardError` for a column of a type that its key does not read."""
    sources = [(key, column, False) for key, column in _row_columns(card).items()]
    sources += [(f"field {field.name!r}", field.source_column, True) for field in card.fields]
    for key, column, is_field in sources:
        dtype = schema[column]
        if not is_readable(dtype) or (isinstance(dtype, pl.List | pl.Array) and not is_field):
            raise CardError(
                "a column must hold texts, numbers, times or, for a field, lists of them",
                value=f"{column!r} ({key}) holds {describe_type(dtype)}",
                remedy="convert the column, or remove it from the card",
            )


def _row_columns(card: DatasetCard) -> dict[str, str]:
    """Return the columns of the card besides those of fields, by key."""
    columns = {"label.column": card.label.column, "timestamp": card.timestamp}
    columns |= {"split.key": card.split.key, "probability": card.probability}
    return {key: column for key, column in columns.items() if column is not None}


def is_readable(dtype: pl.DataType) -> bool:
    """Return whether a field can hold the values of a type: texts, numbers, times or lists of them."""
    element = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return not isinstance(element, pl.List | pl.Array | pl.Struct | pl.Object | pl.Duration)


def describe_type(dtype: pl.DataType) -> str:
    """Return the name of a type for messages.

    >>> describe_type(pl.List(pl.Struct({"key": pl.String, "value": pl.String})))
    'a list or map of structs'
    """
    if isinstance(dtype, pl.List | pl.Array):
        is_nested = isinstance(dtype.inner, pl.Struct)
        return "a list or map of structs" if is_nested else f"lists of {dtype.inner}"
    return "structs" if isinstance(dtype, pl.Struct) else f"values of the type {dtype}"


def decode_binary(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Return the frame with binary columns as text, as some programs write text; it must be UTF-8."""
    binary = [name for name, dtype in frame.collect_schema().items() if dtype == pl.Binary]
    return frame.with_columns(pl.col(binary).cast(pl.String)) if binary else frame


def probability_column(card: DatasetCard, schema: pl.Schema) -> str | None:
    """Return the column with the true probability, named by the card or added by the reader."""
    return card.probability or (Column.PROBABILITY if Column.PROBABILITY in schema else None)


def _staged_label(card: DatasetCard, schema: pl.Schema) -> StagedColumn:
    column, threshold = card.label.column, card.label.positive_from
    number = _as_float(pl.col(column), schema[column])
    if schema[column] == pl.String:
        text = pl.col(column).str.to_lowercase()
        number = pl.coalesce(number, pl.when(text == "true").then(1.0).when(text == "false").then(0.0))
    if threshold is None:
        is_valid, value = number.is_in([0.0, 1.0]), number
        rule = "a label must be 0 or 1"
        remedy = "for a graded label, set label.positive_from in the card to the lowest positive value"
    else:
        is_valid, value = number.is_finite(), number >= threshold
        rule, remedy = "a label with positive_from must be a number", "correct the row or remove it"
    return StagedColumn(
        name=Column.LABEL,
        source=column,
        # `bad` reports wrong values with their row; casting them could overflow.
        values=pl.when(is_valid).then(value).otherwise(0).cast(pl.Int8),
        dtype=np.dtype(np.int8),
        bad=~is_valid.fill_null(value=False),
        rule=(rule, remedy),
    )


def _staged_time(frame: pl.LazyFrame, column: str, schema: pl.Schema) -> StagedColumn:
    dtype, time = schema[column], pl.col(column)
    if dtype == pl.String:
        time = _time_of_text(frame, column)
    elif dtype.is_float():
        time = time.floor()
    return StagedColumn(
        name=Column.TIME,
        source=column,
        values=time.cast(pl.Int64, strict=False).fill_null(0),
        dtype=np.dtype(np.int64),
        bad=time.cast(pl.Int64, strict=False).is_null(),
        rule=("a timestamp must be an integer or a datetime in every row", "correct the row or remove it"),
    )


def _time_of_text(frame: pl.LazyFrame, column: str) -> pl.Expr:
    """Parse texts as numbers if the first one is a number, else as datetimes in the format of the first."""
    first = frame.select(column).head(1).collect().to_series()
    number = pl.col(column).cast(pl.Float64, strict=False).floor()
    if not first.is_empty() and first.cast(pl.Float64, strict=False).null_count():
        return pl.col(column).str.to_datetime(strict=False, time_unit="us", time_zone="UTC")
    # Integers past 2**53 are not floats; the float only serves texts such as "978300760.0".
    return pl.coalesce(pl.col(column).cast(pl.Int64, strict=False), number.cast(pl.Int64, strict=False))


def _as_float(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Cast to float; null for other texts and for NaN."""
    return column.cast(pl.Float64, strict=False).fill_nan(None)


def _staged_number(name: str, column: str, schema: pl.Schema) -> StagedColumn:
    number, raw = _as_float(pl.col(column), schema[column]), pl.col(column)
    missing = raw.is_null() | raw.is_nan() if schema[column].is_float() else raw.is_null()
    if schema[column] == pl.String:
        missing = raw.is_null() | raw.str.to_lowercase().is_in(["", "nan", "na", "null", "none"])
    return StagedColumn(
        name=name,
        source=column,
        values=number.fill_null(float("nan")),
        dtype=np.dtype(np.float64),
        bad=~missing & ~(number.abs() <= MAX_NUMBER).fill_null(value=False),
        rule=(
            "a numeric column must hold finite numbers",
            f"correct the value (at most {MAX_NUMBER:.0e}), or make the field categorical in the card",
        ),
    )


def _staged_text(name: str, column: str, schema: pl.Schema) -> StagedColumn:
    if isinstance(schema[column], pl.List | pl.Array):
        raise CardError(
            "the field of a list column must have the kind multi_valued or sequence",
            value=repr(column),
            remedy="set the field's kind in the card",
        )
    return _staged_codes(name, column, pl.col(column).cast(pl.String).fill_null(""))


def _staged_codes(name: str, column: str, text: pl.Expr, separator: str | None = None) -> StagedColumn:
    texts = Texts()
    return StagedColumn(
        name=name,
        source=column,
        values=text.cast(texts.dtype).to_physical(),
        dtype=np.dtype(np.uint32),
        texts=texts,
        separator=separator,
    )


def _staged_field(field: FieldCard, schema: pl.Schema) -> StagedColumn:
    name, column = field_column(field.name), field.source_column
    if field.kind == "numeric":
        return _staged_number(name, column, schema)
    if field.kind == "categorical":
        return _staged_text(name, column, schema)
    is_list = isinstance(schema[column], pl.List | pl.Array)
    if field.kind == "sequence":
        return _staged_sequence(name, field, is_list=is_list)
    # The same list often recurs (the properties of an item), so each distinct list gets one code.
    if is_list:
        text = pl.col(column).cast(pl.List(pl.String)).list.join(LIST_SEPARATOR, ignore_nulls=True)
        return _staged_codes(name, column, text.fill_null(""), LIST_SEPARATOR)
    return _staged_codes(name, column, pl.col(column).cast(pl.String).fill_null(""), field.separator)


def _staged_sequence(name: str, field: FieldCard, *, is_list: bool) -> StagedColumn:
    # Histories differ from row to row, so their elements get codes.
    column, texts = pl.col(field.source_column), Texts()
    lists = column.cast(pl.List(pl.String)) if is_list else column.cast(pl.String).str.split(field.separator)
    elements = without_empty(lists.fill_null([]))
    last_elements = elements if field.max_length is None else elements.list.tail(field.max_length)
    return StagedColumn(
        name=name,
        source=field.source_column,
        values=last_elements.cast(pl.List(texts.dtype)).to_physical(),
        dtype=np.dtype(np.uint32),
        kind="list",
        texts=texts,
    )


def without_empty(lists: pl.Expr) -> pl.Expr:
    """Drop missing and empty elements, such as the element of a split empty text."""
    return lists.list.eval(pl.element().filter(pl.element().fill_null("") != ""))
