"""Staging: one pass over the raw data that writes flat columns of numbers to disk.

Every value is read once, checked, and written as a number to one file per column; texts become codes in the order of
their first occurrence. Later steps read one column at a time and no raw data. Memory is bounded by a batch of raw rows,
the distinct values and a few columns of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctrbench.data.card import DatasetCard, FieldCard
from ctrbench.errors import CardError, DataError, did_you_mean
from ctrbench.names import Column

BATCH_ROWS = 1 << 17
LIST_SEPARATOR = "\x1f"
"""Joins the elements of list columns; does not occur in text."""
KEY = "split key"

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
class FlatColumn:
    """Numbers of one type, one per row, in a file without a header."""

    path: Path
    dtype: np.dtype[Any]

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return the values of a range of rows."""
        count = -1 if stop is None else stop - start
        return np.fromfile(self.path, self.dtype, count, offset=start * self.dtype.itemsize)

    def map(self) -> NDArray[Any]:
        """Return all values, memory-mapped."""
        if not self.path.stat().st_size:
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.path, self.dtype, mode="r")


def write_flat(path: Path, values: NDArray[Any]) -> FlatColumn:
    """Write an array and return the column; a full disk raises `OSError` with its error number."""
    with path.open("wb") as file:
        append_values(file, values)
    return FlatColumn(path=path, dtype=values.dtype)


def append_values(file: BinaryIO, values: NDArray[Any]) -> None:
    """Append an array to an open file as raw numbers."""
    # `tofile` raises an error without the error number of a full disk.
    file.write(np.ascontiguousarray(values).data.cast("B") if len(values) else b"")


@dataclass(frozen=True, kw_only=True)
class Staged:
    """The raw data as flat columns; `texts` holds the distinct values of columns of codes."""

    rows: int
    columns: dict[str, FlatColumn]
    lengths: dict[str, FlatColumn]
    """List lengths of sequences, whose columns hold the elements of all rows."""
    texts: dict[str, pl.Series]
    separators: dict[str, str]
    """Separator of the texts of each multi-valued field."""


@dataclass(frozen=True, kw_only=True)
class _ColumnPlan:
    """How one staged column is computed from the raw frame."""

    name: str
    column: str
    values: pl.Expr
    dtype: np.dtype[Any]
    kind: Literal["one", "list"] = "one"
    texts: Texts | None = None
    rule: Rule | None = None
    """Broken by the rows in which `bad` is true."""
    bad: pl.Expr | None = None
    separator: str | None = None

    @property
    def expressions(self) -> list[pl.Expr]:
        """Expressions of the raw frame: the values and, if there is a rule, whether rows break it."""
        bad = [] if self.bad is None else [self.bad.alias(f"bad {self.name}")]
        return [self.values.alias(self.name), *bad]


def field_column(name: str) -> str:
    """Return the name of a field's staged column, which no other staged column has."""
    return f"field {name}"


def stage(frame: pl.LazyFrame, card: DatasetCard, *, folder: Path, progress: Callable[[int], None]) -> Staged:
    """Write the columns that the card names to `folder`; `progress` receives the number of rows done.

    Raises `CardError` for a missing column, and `DataError` with the row of the first value that breaks a rule.
    """
    schema = frame.collect_schema()
    plans = _plans(frame, card, schema)
    writer = _Writer(folder=folder, plans=plans)
    rows = 0
    with writer:
        expressions = [expression for plan in plans for expression in plan.expressions]
        for batch in _batches(frame.select(expressions)):
            for plan in plans:
                _check(plan, batch, frame, rows)
                writer.append(plan, batch[plan.name])
            rows += batch.height
            progress(rows)
    if rows == 0:
        raise DataError("the data have no rows", remedy="check the files and the card's separator")
    return writer.staged(rows)


def _batches(frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    return iter(frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True, engine="streaming"))


def _check(plan: _ColumnPlan, batch: pl.DataFrame, frame: pl.LazyFrame, before: int) -> None:
    if plan.rule is None or not batch[f"bad {plan.name}"].any():
        return
    row = before + int(batch[f"bad {plan.name}"].arg_true()[0])
    value = frame.select(plan.column).slice(row, 1).collect().item()
    shown = "no value" if value is None else repr(value)
    rule, remedy = plan.rule
    raise DataError(rule, value=f"column {plan.column!r} has {shown} in row {row + 1}", remedy=remedy)


@dataclass(kw_only=True)
class _Writer:
    """The open files of a staging."""

    folder: Path
    plans: list[_ColumnPlan]
    files: dict[str, BinaryIO] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, plan in enumerate(self.plans):
            self.files[plan.name] = self.stack.enter_context((self.folder / f"{index}.values").open("wb"))
            if plan.kind == "list":
                lengths = self.stack.enter_context((self.folder / f"{index}.lengths").open("wb"))
                self.files[f"lengths of {plan.name}"] = lengths

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def append(self, plan: _ColumnPlan, values: pl.Series) -> None:
        if plan.kind == "one":
            append_values(self.files[plan.name], values.to_numpy().astype(plan.dtype, copy=False))
            return
        lists = values.to_arrow()
        append_values(
            self.files[f"lengths of {plan.name}"], _numpy(pc.list_value_length(lists)).astype(np.int32)
        )
        append_values(self.files[plan.name], _numpy(pc.list_flatten(lists)).astype(plan.dtype, copy=False))

    def staged(self, rows: int) -> Staged:
        return Staged(
            rows=rows,
            columns={plan.name: self._flat(plan.name, plan.dtype) for plan in self.plans},
            lengths={
                plan.name: self._flat(f"lengths of {plan.name}", np.dtype(np.int32))
                for plan in self.plans
                if plan.kind == "list"
            },
            texts={plan.name: plan.texts.values() for plan in self.plans if plan.texts is not None},
            separators={plan.name: plan.separator for plan in self.plans if plan.separator is not None},
        )

    def _flat(self, name: str, dtype: np.dtype[Any]) -> FlatColumn:
        return FlatColumn(path=Path(self.files[name].name), dtype=dtype)


def _numpy(values: pa.Array) -> NDArray[Any]:
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _plans(frame: pl.LazyFrame, card: DatasetCard, schema: pl.Schema) -> list[_ColumnPlan]:
    columns = {"label.column": card.label.column, "timestamp": card.timestamp, "split.key": card.split.key}
    columns["probability"] = card.probability
    columns |= {f"field {field.name!r}": field.source_column for field in card.fields}
    for key, column in columns.items():
        if column is not None and column not in schema:
            raise CardError(
                f"the data lack a column of the card ({key})",
                value=repr(column),
                remedy=did_you_mean(column, schema.names()),
            )
    plans = [_label(card, schema)]
    if card.timestamp is not None:
        plans.append(_time(frame, card.timestamp, schema))
    if (probability := probability_column(card, schema)) is not None:
        plans.append(_number(Column.PROBABILITY, probability, schema))
    if card.split.key is not None:
        plans.append(_text(KEY, card.split.key, schema))
    return plans + [_field(field, schema) for field in card.fields]


def probability_column(card: DatasetCard, schema: pl.Schema) -> str | None:
    """Return the column with the true probability, named by the card or added by the reader."""
    return card.probability or (Column.PROBABILITY if Column.PROBABILITY in schema else None)


def _label(card: DatasetCard, schema: pl.Schema) -> _ColumnPlan:
    column, threshold = card.label.column, card.label.positive_from
    number = _as_float(pl.col(column), schema[column])
    if schema[column] == pl.String:
        text = pl.col(column).str.to_lowercase()
        number = pl.coalesce(number, pl.when(text == "true").then(1.0).when(text == "false").then(0.0))
    if threshold is None:
        good, value = number.is_in([0.0, 1.0]), number
        rule = "a label is 0 or 1"
        remedy = "for a graded label, set the threshold in the card: label.positive_from"
    else:
        good, value = number.is_finite(), number >= threshold
        rule, remedy = "a label with positive_from is a number", "correct the row or remove it"
    return _ColumnPlan(
        name=Column.LABEL,
        column=column,
        # `bad` reports wrong values with their row; casting them could overflow.
        values=pl.when(good).then(value).otherwise(0).cast(pl.Int8),
        dtype=np.dtype(np.int8),
        bad=~good.fill_null(value=False),
        rule=(rule, remedy),
    )


def _time(frame: pl.LazyFrame, column: str, schema: pl.Schema) -> _ColumnPlan:
    dtype, time = schema[column], pl.col(column)
    if dtype == pl.String:
        time = _time_of_text(frame, column)
    elif dtype.is_float():
        time = time.floor()
    return _ColumnPlan(
        name=Column.TIME,
        column=column,
        values=time.cast(pl.Int64, strict=False).fill_null(0),
        dtype=np.dtype(np.int64),
        bad=time.cast(pl.Int64, strict=False).is_null(),
        rule=("a timestamp is an integer or a datetime in every row", "correct the row or remove it"),
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


def _number(name: str, column: str, schema: pl.Schema) -> _ColumnPlan:
    number, raw = _as_float(pl.col(column), schema[column]), pl.col(column)
    missing = raw.is_null() | raw.is_nan() if schema[column].is_float() else raw.is_null()
    if schema[column] == pl.String:
        missing = raw.is_null() | raw.str.to_lowercase().is_in(["", "nan", "na", "null", "none"])
    return _ColumnPlan(
        name=name,
        column=column,
        values=number.fill_null(float("nan")),
        dtype=np.dtype(np.float64),
        bad=~missing & ~number.is_finite().fill_null(value=False),
        rule=(
            "a numeric column holds finite numbers",
            "correct the value, or make the field categorical in the card",
        ),
    )


def _text(name: str, column: str, schema: pl.Schema) -> _ColumnPlan:
    if isinstance(schema[column], pl.List | pl.Array):
        raise CardError(
            "a list column needs a field of kind multi_valued or sequence",
            value=repr(column),
            remedy="set the field's kind in the card",
        )
    return _coded(name, column, pl.col(column).cast(pl.String).fill_null(""))


def _coded(name: str, column: str, text: pl.Expr, separator: str | None = None) -> _ColumnPlan:
    texts = Texts()
    return _ColumnPlan(
        name=name,
        column=column,
        values=text.cast(texts.dtype).to_physical(),
        dtype=np.dtype(np.uint32),
        texts=texts,
        separator=separator,
    )


def _field(field: FieldCard, schema: pl.Schema) -> _ColumnPlan:
    name, column = field_column(field.name), field.source_column
    if field.kind == "numeric":
        return _number(name, column, schema)
    if field.kind == "categorical":
        return _text(name, column, schema)
    is_list = isinstance(schema[column], pl.List | pl.Array)
    if field.kind == "sequence":
        return _sequence(name, field, is_list=is_list)
    # The same list often recurs (the properties of an item), so each distinct list gets one code.
    if is_list:
        text = pl.col(column).cast(pl.List(pl.String)).list.join(LIST_SEPARATOR, ignore_nulls=True)
        return _coded(name, column, text.fill_null(""), LIST_SEPARATOR)
    return _coded(name, column, pl.col(column).cast(pl.String).fill_null(""), field.separator)


def _sequence(name: str, field: FieldCard, *, is_list: bool) -> _ColumnPlan:
    # Histories differ from row to row, so their elements get codes.
    column, texts = pl.col(field.source_column), Texts()
    lists = column.cast(pl.List(pl.String)) if is_list else column.cast(pl.String).str.split(field.separator)
    elements = without_empty(lists.fill_null([]))
    kept = elements if field.max_length is None else elements.list.tail(field.max_length)
    return _ColumnPlan(
        name=name,
        column=field.source_column,
        values=kept.cast(pl.List(texts.dtype)).to_physical(),
        dtype=np.dtype(np.uint32),
        kind="list",
        texts=texts,
    )


def without_empty(lists: pl.Expr) -> pl.Expr:
    """Drop missing and empty elements, such as the element of a split empty text."""
    return lists.list.eval(pl.element().filter(pl.element().fill_null("") != ""))
