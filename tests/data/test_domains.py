from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa

from ctrbench.data.domains import count_tuples, domain_ids, make_domain_table, merge_counts
from ctrbench.names import Split

Columns = dict[str, np.ndarray]


def columns(**values: list[int]) -> Columns:
    return {name: np.array(ids, dtype=np.int32) for name, ids in values.items()}


def table_of(train: Columns, labels: list[int], values: dict[str, list[str]]) -> pl.DataFrame:
    rows = pa.table({**train, "label": np.array(labels, np.int8)})
    features = list(train)
    # In two parts, as from two shards.
    parts = [count_tuples(rows.slice(0, 3), features), count_tuples(rows.slice(3), features)]
    none = merge_counts([], features)
    counts = {Split.TRAIN: merge_counts(parts, features), Split.DEV: none, Split.TEST: none}
    return make_domain_table(counts, {name: pl.Series(text) for name, text in values.items()})


TRAIN = columns(a=[1, 2, 1, 1, 2, 0], b=[1, 1, 1, 2, 1, 1])
VALUES = {"a": ["x", "y"], "b": ["p", "q"]}


def test_domains_are_ordered_by_training_rows_then_ids() -> None:
    table = table_of(TRAIN, [1, 0, 1, 0, 1, 1], VALUES)
    assert table.select("domain", "key", "a", "b", "rows_train", "positives_train").rows() == [
        (0, "unseen", 0, 0, 1, 1),
        (1, "x · p", 1, 1, 2, 2),
        (2, "y · p", 2, 1, 2, 1),
        (3, "x · q", 1, 2, 1, 0),
    ]


def test_unseen_tuples_and_tuples_with_an_unseen_value_are_domain_0() -> None:
    table = table_of(TRAIN, [0] * 6, VALUES)
    ids = domain_ids(columns(a=[2, 2, 0, 1, 0, 1], b=[1, 2, 1, 0, 0, 2]), table)
    assert ids.tolist() == [2, 0, 0, 0, 0, 3]
    assert ids.dtype == np.int32


def test_ids_beyond_the_table_are_unseen() -> None:
    table = table_of(TRAIN, [0] * 6, VALUES)
    assert domain_ids(columns(a=[1, 9_000_000, 1], b=[9_000_000, 1, 1]), table).tolist() == [0, 0, 1]


def test_data_of_unseen_rows_have_only_domain_0() -> None:
    table = table_of(columns(a=[0, 0]), [1, 0], {"a": []})
    assert table["rows_train"].to_list() == [2]
    assert domain_ids(columns(a=[0, 1]), table).tolist() == [0, 0]


def test_domain_tables_equal_a_tuple_by_tuple_count() -> None:
    generator = np.random.default_rng(3)
    train = {name: generator.integers(0, 6, 500).astype(np.int32) for name in "abc"}
    other = {name: generator.integers(0, 7, 300).astype(np.int32) for name in "abc"}
    table = table_of(train, [0] * 500, {name: list("12345") for name in "abc"})
    tuples = [row for row in zip(*(ids.tolist() for ids in train.values()), strict=True) if 0 not in row]
    expected = sorted(Counter(tuples).items(), key=lambda item: (-item[1], item[0]))
    assert table.select("a", "b", "c").rows()[1:] == [key for key, _ in expected]
    assert table["rows_train"].to_list()[1:] == [count for _, count in expected]
    domains = {key: domain for domain, (key, _) in enumerate(expected, start=1)}
    rows = zip(*(ids.tolist() for ids in other.values()), strict=True)
    assert domain_ids(other, table).tolist() == [domains.get(row, 0) for row in rows]


def test_many_features_with_huge_ids_do_not_overflow() -> None:
    names = [f"f{i}" for i in range(6)]
    generator = np.random.default_rng(4)
    rows = generator.integers(1, 2_000_000_000, (50, 6)).astype(np.int32)
    table = pl.DataFrame({"domain": np.arange(51, dtype=np.int32)}).with_columns(
        pl.Series(name, np.concatenate([[0], rows[:, i]])) for i, name in enumerate(names)
    )
    ids = domain_ids({name: rows[::-1, i] for i, name in enumerate(names)}, table)
    assert ids.tolist() == list(range(50, 0, -1))
