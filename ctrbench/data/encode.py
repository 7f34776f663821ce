"""Encoding of staged columns as ids and standardized numbers, fitted on the training rows.

Vocabularies, bucket edges, means and standard deviations come from training rows only. Ids 1, 2, … are assigned by
training rows, descending, with ties in the order of the text, so they do not depend on the order of rows in a file.
Each field becomes a column that returns any range of rows in the order of the shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ctrbench.data.card import FieldCard
from ctrbench.data.staged_columns import Texts, field_column, without_empty
from ctrbench.data.staging import FlatColumn, Staged, write_flat
from ctrbench.errors import DataError
from ctrbench.names import UNSEEN

VALUE, ROWS, ID = "value", "rows", "id"
"""Columns of a vocabulary file."""
MAX_SCALED = 1e30
BLOCK = 1 << 20
"""Number of list elements, or distinct texts, processed at a time."""


class Encoded(Protocol):
    """A column of the shards that returns any range of rows."""

    def take(self, start: int, stop: int) -> pa.Array:
        """Return the rows `start` to `stop - 1` in the order of the shards."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """One number per row."""

    flat: FlatColumn

    def take(self, start: int, stop: int) -> pa.Array:
        """Return the rows start..stop-1 in the order of the shards."""
        return pa.array(self.flat.read(start, stop))


@dataclass(frozen=True, kw_only=True)
class Lists:
    """One list of ids per row, stored as the index of the row's list."""

    list_index: FlatColumn
    lists: pa.LargeListArray

    def take(self, start: int, stop: int) -> pa.Array:
        """Return the rows start..stop-1 in the order of the shards."""
        return self.lists.take(pa.array(self.list_index.read(start, stop))).cast(pa.list_(pa.int32()))


@dataclass(frozen=True, kw_only=True)
class EncodedField:
    """The column of a field, and what was fitted on its training rows."""

    column: Encoded
    size: int
    vocabulary: pl.DataFrame | None = None
    mean: float | None = None
    std: float | None = None
    edges: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """Row numbers of the raw data in the order of the shards; the first `num_train` are training rows."""

    order: NDArray[np.int64]
    num_train: int

    def arrange(self, flat: FlatColumn) -> NDArray[Any]:
        """Return a staged column in the order of the shards."""
        return np.take(flat.read(), self.order)


def encode_field(
    card: FieldCard, staged: Staged, rows: RowOrder, folder: Path, *, target: FieldCard | None = None
) -> EncodedField:
    """Encode one field and write its numbers to `folder`; a sequence with a `target` uses that field's ids."""
    name = field_column(card.name)
    if card.kind == "numeric":
        values = rows.arrange(staged.columns[name])
        return (_encode_numeric if card.buckets is None else _encode_buckets)(
            card, values, rows.num_train, folder
        )
    if card.kind == "categorical":
        return _encode_categorical(card, staged, rows, folder)
    if name not in staged.lengths:
        return _encode_multi_valued(card, staged, rows, folder)
    vocabulary = (
        None
        if target is None
        else _count_vocabulary(target, staged, _codes_of_rows(target, staged, rows), rows)
    )
    return _encode_sequence(card, staged, rows, folder, vocabulary)


def make_vocabulary(texts: pl.Series, counts: NDArray[np.integer[Any]], min_count: int = 1) -> pl.DataFrame:
    """Return a vocabulary: id, value, rows and code (index in `texts`) of the values with at least `min_count` rows.

    >>> make_vocabulary(pl.Series(["b", "a", "c"]), np.array([2, 2, 0]))["value"].to_list()
    ['a', 'b']
    """
    frame = pl.DataFrame({VALUE: texts, ROWS: counts.astype(np.int64)}).with_row_index("code")
    frame = frame.filter(pl.col(ROWS) >= min_count).sort([ROWS, VALUE], descending=[True, False])
    return frame.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias(ID), VALUE, ROWS, "code")


def _ids_by_code(vocabulary: pl.DataFrame, num_codes: int) -> NDArray[np.int32]:
    ids = np.full(num_codes, UNSEEN, dtype=np.int32)
    ids[vocabulary["code"].to_numpy()] = vocabulary[ID].to_numpy()
    return ids


def _encode_categorical(card: FieldCard, staged: Staged, rows: RowOrder, folder: Path) -> EncodedField:
    codes = _codes_of_rows(card, staged, rows)
    vocabulary = _count_vocabulary(card, staged, codes, rows)
    ids = np.take(_ids_by_code(vocabulary, len(staged.texts[field_column(card.name)])), codes)
    column = Numbers(flat=write_flat(folder / f"{card.name}.ids", ids))
    return EncodedField(column=column, size=vocabulary.height + 1, vocabulary=vocabulary.drop("code"))


def _codes_of_rows(card: FieldCard, staged: Staged, rows: RowOrder) -> NDArray[np.uint32]:
    return rows.arrange(staged.columns[field_column(card.name)])


def _count_vocabulary(
    card: FieldCard, staged: Staged, codes: NDArray[np.uint32], rows: RowOrder
) -> pl.DataFrame:
    """Return the vocabulary of a categorical field."""
    texts = staged.texts[field_column(card.name)]
    counts = np.bincount(codes[: rows.num_train], minlength=len(texts))
    return make_vocabulary(texts, counts, card.min_count)


def moments(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return mean and standard deviation of the values without NaN, rounded to nine digits.

    Rounding hides the order of additions, which differs between machines.
    """
    values = values[~np.isnan(values)]
    mean = _mean_in_blocks(values, lambda block: block)
    std = math.sqrt(_mean_in_blocks(values, lambda block: (block - mean) ** 2))
    return float(f"{mean:.9g}"), float(f"{std:.9g}")


def _mean_in_blocks(
    values: NDArray[np.float64], function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> float:
    blocks = (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))
    return math.fsum(float(np.sum(function(block))) for block in blocks) / len(values)


def _encode_numeric(
    card: FieldCard, values: NDArray[np.float64], num_train: int, folder: Path
) -> EncodedField:
    mean, std = moments(_without_nan(card, values[:num_train]))
    scaled = np.nan_to_num((values - mean) / (std or 1.0), copy=False, nan=0.0)
    _check_scaled(card, scaled, values)
    scaled = scaled.astype(np.float32)
    column = Numbers(flat=write_flat(folder / f"{card.name}.values", scaled))
    return EncodedField(column=column, size=0, mean=mean, std=std)


def _check_scaled(card: FieldCard, scaled: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    """Raise `DataError` for a value that is no finite number after standardization, in single precision."""
    largest = int(np.abs(scaled).argmax())
    if abs(scaled[largest]) > MAX_SCALED:
        raise DataError(
            f"the values of a numeric field must be within {MAX_SCALED:.0e} standard deviations of training",
            value=f"{card.name} has {values[largest]:g}",
            remedy="correct the value, or set buckets for the field",
        )


def _without_nan(card: FieldCard, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values without NaN; raises `DataError` if none is left."""
    present = values[~np.isnan(values)]
    if not len(present):
        raise DataError(
            "a numeric field has no value in the training rows",
            value=card.name,
            remedy="remove the field from the card",
        )
    return present


def bucket_edges(values: NDArray[np.float64], buckets: int) -> tuple[float, ...]:
    """Return the inner edges of quantile buckets: distinct values of the data, ascending.

    A value equal to an edge belongs to the bucket above it, so an edge at the minimum would leave a bucket empty and is
    omitted.
    """
    ranks = [len(values) * part // buckets for part in range(1, buckets)]
    edges = np.unique(np.partition(values, ranks)[ranks])
    return tuple(float(edge) for edge in edges[edges > values.min()])


def _encode_buckets(
    card: FieldCard, values: NDArray[np.float64], num_train: int, folder: Path
) -> EncodedField:
    edges = bucket_edges(_without_nan(card, values[:num_train]), card.buckets or 2)
    missing = np.isnan(values)
    ids = np.searchsorted(np.array(edges), values, side="right").astype(np.int32) + 1
    # Missing values have their own bucket if a training row has one; otherwise they are unseen.
    any_missing = bool(missing[:num_train].any())
    ids[missing] = len(edges) + 2 if any_missing else UNSEEN
    size = len(edges) + 2 + any_missing
    bounds = ["-inf", *(f"{edge:.12g}" for edge in edges), "inf"]
    names = [f"[{low}, {high})" for low, high in pairwise(bounds)]
    vocabulary = pl.DataFrame(
        {
            ID: np.arange(1, size, dtype=np.int32),
            VALUE: names + [""] * any_missing,
            ROWS: np.bincount(ids[:num_train], minlength=size)[1:],
        }
    )
    column = Numbers(flat=write_flat(folder / f"{card.name}.ids", ids))
    return EncodedField(column=column, size=size, vocabulary=vocabulary, edges=edges)


def _encode_multi_valued(card: FieldCard, staged: Staged, rows: RowOrder, folder: Path) -> EncodedField:
    """Split each distinct text once; a row holds the index of its text."""
    name = field_column(card.name)
    text_index = rows.arrange(staged.columns[name])
    weights = np.bincount(text_index[: rows.num_train], minlength=len(staged.texts[name]))
    lengths, codes, texts = _split_texts(staged.texts[name], staged.separators[name], card.max_length)
    list_index = write_flat(folder / f"{card.name}.index", text_index)
    return _encode_lists(
        card, ListElements(lengths=lengths, codes=codes, texts=texts, weights=weights), list_index
    )


def _encode_sequence(
    card: FieldCard, staged: Staged, rows: RowOrder, folder: Path, vocabulary: pl.DataFrame | None
) -> EncodedField:
    """Encode by the target's vocabulary, or by a vocabulary of the lists if there is no target."""
    name = field_column(card.name)
    weights = np.zeros(staged.rows, dtype=np.int64)
    weights[rows.order[: rows.num_train]] = 1
    elements = ListElements(
        lengths=staged.lengths[name].read(),
        codes=staged.columns[name].map(),
        texts=staged.texts[name],
        weights=weights,
    )
    list_index = write_flat(folder / f"{card.name}.index", rows.order)
    if vocabulary is None:
        return _encode_lists(card, elements, list_index)
    ids = _ids_by_text(vocabulary, elements.texts)
    return EncodedField(column=_write_lists(elements, ids, list_index), size=vocabulary.height + 1)


def _ids_by_text(vocabulary: pl.DataFrame, texts: pl.Series) -> NDArray[np.int32]:
    joined = texts.alias(VALUE).to_frame().join(vocabulary, on=VALUE, how="left", maintain_order="left")
    return joined[ID].fill_null(UNSEEN).to_numpy()


def _split_texts(
    texts: pl.Series, separator: str, max_length: int | None
) -> tuple[NDArray[np.int32], NDArray[np.uint32], pl.Series]:
    """Return the number of elements per text, the codes of all elements, and the elements by code."""
    element_texts = Texts()
    elements = without_empty(pl.col(VALUE).str.split(separator))
    if max_length is not None:
        elements = elements.list.head(max_length)
    lengths, codes = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.uint32)]
    for start in range(0, len(texts), BLOCK // 16):
        frame = texts.slice(start, BLOCK // 16).alias(VALUE).to_frame()
        lists = frame.select(elements.cast(pl.List(element_texts.dtype)).to_physical()).to_series()
        lengths.append(lists.list.len().to_numpy().astype(np.int32))
        codes.append(lists.explode(empty_as_null=False).to_numpy().astype(np.uint32))
    return np.concatenate(lengths), np.concatenate(codes), element_texts.values()


@dataclass(frozen=True, kw_only=True)
class ListElements:
    """Lists of codes; `weights` is the number of training rows per list."""

    lengths: NDArray[np.int32]
    codes: NDArray[np.uint32]
    texts: pl.Series
    weights: NDArray[np.int64]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Index of the first code of each list, and the number of codes at the end."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def counts(self) -> NDArray[np.int64]:
        """Return the number of training rows per code; a code that occurs twice in a list counts once."""
        offsets, radix = self.offsets, max(1, len(self.texts))
        counts = np.zeros(len(self.texts), dtype=np.int64)
        for start, stop in _list_ranges(offsets):
            owners = np.repeat(np.arange(start, stop), self.lengths[start:stop])
            pairs = np.unique(owners * radix + self.codes[offsets[start] : offsets[stop]])
            rows = np.bincount(pairs % radix, self.weights[pairs // radix], minlength=len(counts))
            counts += rows.astype(np.int64)
        return counts


def _list_ranges(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Return ranges of lists with about `BLOCK` elements each, or with one longer list."""
    bounds = np.unique(np.searchsorted(offsets, np.arange(0, offsets[-1], BLOCK)))
    ends = [*bounds.tolist(), len(offsets) - 1]
    return ((start, stop) for start, stop in pairwise(ends) if stop > start)


def _encode_lists(card: FieldCard, elements: ListElements, list_index: FlatColumn) -> EncodedField:
    vocabulary = make_vocabulary(elements.texts, elements.counts(), card.min_count)
    column = _write_lists(elements, _ids_by_code(vocabulary, len(elements.texts)), list_index)
    return EncodedField(column=column, size=vocabulary.height + 1, vocabulary=vocabulary.drop("code"))


def _write_lists(elements: ListElements, id_by_code: NDArray[np.int32], list_index: FlatColumn) -> Lists:
    ids = write_blocks(list_index.path.with_suffix(".ids"), id_by_code, elements.codes)
    lists = pa.LargeListArray.from_arrays(pa.array(elements.offsets), pa.array(ids.map()))
    return Lists(list_index=list_index, lists=lists)


def write_blocks(path: Path, table: NDArray[np.int32], codes: NDArray[np.uint32]) -> FlatColumn:
    """Write `table[codes]` block by block."""
    with path.open("wb") as file:
        for start in range(0, len(codes), BLOCK):
            file.write(np.take(table, codes[start : start + BLOCK]).data.cast("B"))
    return FlatColumn(path=path, dtype=table.dtype)
