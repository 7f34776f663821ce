from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctrbench.data import encode
from ctrbench.data.card import FieldCard
from ctrbench.data.encode import RowOrder, bucket_edges, encode_field, make_vocabulary, moments
from ctrbench.data.staged_columns import field_column
from ctrbench.data.staging import Staged, write_flat
from ctrbench.errors import DataError

NAN = float("nan")


def numbers(folder: Path, values: list[float]) -> Staged:
    column = write_flat(folder / "raw", np.array(values, dtype=np.float64))
    return Staged(rows=len(values), columns={field_column("f"): column}, lengths={}, texts={}, separators={})


def in_order(count: int, num_train: int) -> RowOrder:
    return RowOrder(order=np.arange(count), num_train=num_train)


def encoded(folder: Path, values: list[float], num_train: int, **card: object) -> encode.EncodedField:
    field = FieldCard.model_validate({"name": "f", "kind": "numeric", **card})
    return encode_field(field, numbers(folder, values), in_order(len(values), num_train), folder)


def test_a_vocabulary_is_ordered_by_rows_then_text() -> None:
    vocabulary = make_vocabulary(pl.Series(["10", "9", "b", "a"]), np.array([2, 2, 5, 0]))
    assert vocabulary.select("id", "value", "rows").rows() == [(1, "b", 5), (2, "10", 2), (3, "9", 2)]


def test_rare_values_are_omitted() -> None:
    vocabulary = make_vocabulary(pl.Series(["a", "b"]), np.array([2, 3]), min_count=3)
    assert vocabulary["value"].to_list() == ["b"]


def test_moments_ignore_missing_values() -> None:
    assert moments(np.array([1, 2, 3, NAN, 4, 5, 6, 7])) == (4.0, 2.0)


def test_moments_do_not_depend_on_the_order_of_additions() -> None:
    values = np.random.default_rng(0).lognormal(size=100_000)
    assert moments(values) == moments(np.sort(values)[::-1])


def test_edges_are_distinct_quantiles() -> None:
    assert bucket_edges(np.arange(8.0), 4) == (2.0, 4.0, 6.0)
    assert bucket_edges(np.array([1.0, 5, 5, 5, 5, 5, 5, 9]), 4) == (5.0,)


def test_an_edge_at_the_minimum_is_omitted() -> None:
    assert bucket_edges(np.array([0.0, 0, 0, 0, 0, 0, 1, 2]), 4) == (1.0,)
    assert bucket_edges(np.zeros(5), 4) == ()


def test_buckets_are_fitted_on_training_rows_and_include_their_lower_edge(tmp_path: Path) -> None:
    field = encoded(tmp_path, [1, 2, 3, 4, -50, 3, 99], 4, buckets=2)
    assert field.edges == (3.0,)
    assert field.column.take(0, 7).to_pylist() == [1, 1, 2, 2, 1, 2, 2]
    assert field.vocabulary is not None
    assert field.vocabulary.rows() == [(1, "[-inf, 3)", 2), (2, "[3, inf)", 2)]
    assert field.size == 3


def test_missing_numbers_have_their_own_bucket(tmp_path: Path) -> None:
    field = encoded(tmp_path, [1, 2, 3, 4, NAN, 5, NAN], 5, buckets=2)
    assert field.column.take(0, 7).to_pylist() == [1, 1, 2, 2, 3, 2, 3]
    assert field.size == 4


def test_missing_numbers_are_unseen_if_training_has_none(tmp_path: Path) -> None:
    field = encoded(tmp_path, [1, 2, 3, 4, NAN], 4, buckets=2)
    assert field.column.take(4, 5).to_pylist() == [0]
    assert field.size == 3


def test_numbers_are_standardized_on_training_rows_and_missing_ones_are_the_mean(tmp_path: Path) -> None:
    field = encoded(tmp_path, [1, 3, NAN, 100], 2)
    assert (field.mean, field.std, field.size) == (2.0, 1.0, 0)
    column = field.column.take(0, 4)
    assert column.to_pylist() == [-1.0, 1.0, 0.0, 98.0]
    assert str(column.type) == "float"


def test_a_constant_is_not_divided_by_zero(tmp_path: Path) -> None:
    assert encoded(tmp_path, [5, 5, 6], 2).column.take(0, 3).to_pylist() == [0.0, 0.0, 1.0]


def test_a_numeric_field_without_training_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no value in the training rows: f"):
        encoded(tmp_path, [NAN, 1], 1)


@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_counts_of_list_elements_do_not_depend_on_the_block_size(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "BLOCK", block)
    elements = encode.ListElements(
        lengths=np.array([2, 0, 3, 1], dtype=np.int32),
        codes=np.array([0, 1, 2, 2, 0, 1], dtype=np.uint32),
        texts=pl.Series(["a", "b", "c"]),
        weights=np.array([10, 5, 1, 0]),
    )
    # a: lists 0 and 2; b: lists 0 and 3, of which 3 is in no training row; c: twice in list 2, which counts as one row.
    assert elements.counts().tolist() == [11, 10, 1]
