from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ctrbench.errors import DataError, SettingError
from ctrbench.eval.longtail import assign_bins, bin_gauc, bin_metrics

TABLE = {"domain": [0, 1, 2, 3, 4, 5, 6], "rows_train": [0, 10, 20, 20, 10, 20, 20]}
"""Sorted: 2, 3, 5, 6 of 20 rows, 1 and 4 of 10; midpoints .1 .3 .5 .7 .85 .95, times five .5 1.5 2.5 3.5 4.25 4.75."""


def predictions(num_rows: int = 600) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    return pl.DataFrame(
        {
            "domain": rng.integers(0, 7, num_rows).astype(np.int32),
            "label": (rng.random(num_rows) < 0.3).astype(np.int8),
            "score": rng.normal(size=num_rows).round(1).astype(np.float32),
        }
    )


def test_bins_by_hand() -> None:
    assert assign_bins(TABLE["rows_train"], 5).tolist() == [0, 5, 1, 2, 5, 3, 4]


def test_two_bins_by_hand() -> None:
    assert assign_bins(TABLE["rows_train"], 2).tolist() == [0, 2, 1, 1, 2, 2, 2]


def test_midpoint_on_a_border_belongs_to_the_next_bin() -> None:
    # 40 of 100 rows: midpoint .2, times five exactly 1.
    assert assign_bins([0, 40, 30, 30], 5).tolist() == [0, 2, 3, 5]


def test_one_bin_holds_every_trained_domain() -> None:
    assert assign_bins([0, 5, 0, 1], 1).tolist() == [0, 1, 0, 1]


def test_without_training_rows_nothing_is_binned() -> None:
    assert assign_bins([0, 0, 0], 5).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("num_domains", "sizes"), [(5_000, [18, 127, 484, 1_340, 3_031]), (5_040, [18, 128, 488, 1_350, 3_056])]
)
def test_bins_of_the_paper(num_domains: int, sizes: list[int]) -> None:
    rows = np.round(2.2e9 * np.arange(1, num_domains + 1) ** -0.805).astype(np.int64)
    bins = assign_bins(np.concatenate(([0], rows)), 5)
    assert np.bincount(bins).tolist() == [1, *sizes]


def test_bins_of_the_paper_hold_equal_shares() -> None:
    rows = np.round(2.2e9 * np.arange(1, 5_001) ** -0.805)
    share = np.bincount(assign_bins(rows, 5), weights=rows)[1:] / rows.sum()
    assert share.round(4).tolist() == [0.2003, 0.1999, 0.1996, 0.2001, 0.2000]


def test_number_of_bins_is_positive() -> None:
    with pytest.raises(SettingError, match="at least 1: 0"):
        assign_bins([1], 0)


def test_bin_metrics_are_a_loop_over_scikit_learn() -> None:
    rows = predictions()
    for found in bin_metrics(rows, **TABLE, num_bins=5):
        members = {1: [2], 2: [3], 3: [5], 4: [6], 5: [1, 4]}[found.bin]
        inside = rows.filter(pl.col("domain").is_in(members))
        parts = [part for _, part in inside.group_by("domain")]
        aucs = [roc_auc_score(part["label"], part["score"]) for part in parts]
        assert found.auc == pytest.approx(roc_auc_score(inside["label"], inside["score"]))
        assert found.gauc == pytest.approx(np.average(aucs, weights=[part.height for part in parts]))
        assert (found.domains, found.rows) == (len(members), inside.height)
        assert (found.positives, found.rows_train) == (inside["label"].sum(), 20)


def test_domain_table_may_come_in_any_order() -> None:
    turned = {name: values[::-1] for name, values in TABLE.items()}
    found = bin_metrics(predictions(), **turned, num_bins=3)
    for one, other in zip(found, bin_metrics(predictions(), **TABLE, num_bins=3), strict=True):
        assert replace(one, gauc=None) == replace(other, gauc=None)
        assert one.gauc == pytest.approx(other.gauc)


def test_rows_of_the_unseen_domain_are_in_no_bin() -> None:
    rows = predictions()
    found = bin_metrics(rows, **TABLE, num_bins=4)
    assert sum(one.rows for one in found) == rows.filter(pl.col("domain") != 0).height


def test_bin_without_test_rows_is_undefined() -> None:
    rows = predictions().filter(pl.col("domain") != 2)
    first = bin_metrics(rows, **TABLE, num_bins=5)[0]
    assert (first.domains, first.rows, first.auc, first.gauc, first.gauc_coverage) == (1, 0, None, None, 0.0)


def test_bin_without_any_domain_is_there() -> None:
    found = bin_metrics(
        predictions().filter(pl.col("domain") == 1), domain=[0, 1], rows_train=[0, 9], num_bins=2
    )
    assert [one.domains for one in found] == [0, 1]


def test_single_class_domain_lowers_coverage() -> None:
    table = {"domain": [1, 2], "rows_train": [5, 5], "rows": [30, 10], "positives": [3, 0]}
    (found,) = bin_gauc(**table, auc=[0.75, None], num_bins=1)
    assert (found.auc, found.gauc, found.gauc_coverage, found.rows) == (None, 0.75, 0.75, 40)


def test_domain_that_the_table_lacks_is_refused() -> None:
    with pytest.raises(DataError, match="1 unknown, the first is 6"):
        bin_metrics(predictions(), domain=range(6), rows_train=[0, 1, 1, 1, 1, 1], num_bins=2)
