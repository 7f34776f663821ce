from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ctrbench.errors import DataError, SettingError
from ctrbench.eval.evaluate import bins_of_frame
from ctrbench.eval.grouped import GroupMetrics
from ctrbench.eval.longtail import assign_bins, bin_metrics
from ctrbench.eval.measures import DomainTable
from ctrbench.eval.metrics.registry import builtin_metrics

DOMAIN = [0, 1, 2, 3, 4, 5, 6]
ROWS_TRAIN = [0, 10, 20, 20, 10, 20, 20]
"""Sorted: 2, 3, 5, 6 of 20 rows, 1 and 4 of 10; midpoints .1 .3 .5 .7 .85 .95, times five .5 1.5 2.5 3.5 4.25 4.75."""


def table(num_bins: int) -> DomainTable:
    return DomainTable(domain=DOMAIN, rows_train=ROWS_TRAIN, num_bins=num_bins)


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
    assert assign_bins(ROWS_TRAIN, 5).tolist() == [0, 5, 1, 2, 5, 3, 4]


def test_two_bins_by_hand() -> None:
    assert assign_bins(ROWS_TRAIN, 2).tolist() == [0, 2, 1, 1, 2, 2, 2]


def test_a_midpoint_on_a_border_belongs_to_the_next_bin() -> None:
    # 40 of 100 rows: midpoint .2, times five exactly 1.
    assert assign_bins([0, 40, 30, 30], 5).tolist() == [0, 2, 3, 5]


def test_one_bin_holds_every_domain_with_training_rows() -> None:
    assert assign_bins([0, 5, 0, 1], 1).tolist() == [0, 1, 0, 1]


def test_domains_without_training_rows_are_in_no_bin() -> None:
    assert assign_bins([0, 0, 0], 5).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("num_domains", "sizes"), [(5_000, [18, 127, 484, 1_340, 3_031]), (5_040, [18, 128, 488, 1_350, 3_056])]
)
def test_bins_have_the_sizes_of_the_paper(num_domains: int, sizes: list[int]) -> None:
    rows = np.round(2.2e9 * np.arange(1, num_domains + 1) ** -0.805).astype(np.int64)
    bins = assign_bins(np.concatenate(([0], rows)), 5)
    assert np.bincount(bins).tolist() == [1, *sizes]


def test_bins_of_the_paper_have_equal_shares() -> None:
    rows = np.round(2.2e9 * np.arange(1, 5_001) ** -0.805)
    share = np.bincount(assign_bins(rows, 5), weights=rows)[1:] / rows.sum()
    assert share.round(4).tolist() == [0.2003, 0.1999, 0.1996, 0.2001, 0.2000]


def test_the_number_of_bins_must_be_positive() -> None:
    with pytest.raises(SettingError, match="at least 1: 0"):
        assign_bins([1], 0)


def test_bin_metrics_equal_a_loop_over_scikit_learn() -> None:
    rows = predictions()
    for part in bins_of_frame(rows, table=table(5)):
        members = {1: [2], 2: [3], 3: [5], 4: [6], 5: [1, 4]}[part.bin]
        inside = rows.filter(pl.col("domain").is_in(members))
        domains = [domain for _, domain in inside.group_by("domain")]
        aucs = [roc_auc_score(domain["label"], domain["score"]) for domain in domains]
        assert part.metrics["auc"] == pytest.approx(roc_auc_score(inside["label"], inside["score"]))
        expected = np.average(aucs, weights=[domain.height for domain in domains])
        assert part.metrics["gauc"] == pytest.approx(expected)
        assert (part.domains, part.rows) == (len(members), inside.height)
        assert (part.positives, part.rows_train) == (inside["label"].sum(), 20)


def test_the_domain_table_may_be_in_any_order() -> None:
    reverse = DomainTable(domain=DOMAIN[::-1], rows_train=ROWS_TRAIN[::-1], num_bins=3)
    expected = bins_of_frame(predictions(), table=table(3))
    for part, other in zip(bins_of_frame(predictions(), table=reverse), expected, strict=True):
        assert part.model_copy(update={"metrics": {}}) == other.model_copy(update={"metrics": {}})
        assert part.metrics == pytest.approx(other.metrics)


def test_rows_of_the_unseen_domain_are_in_no_bin() -> None:
    rows = predictions()
    bins = bins_of_frame(rows, table=table(4))
    assert sum(part.rows for part in bins) == rows.filter(pl.col("domain") != 0).height


def test_metrics_of_a_bin_without_test_rows_are_undefined() -> None:
    rows = predictions().filter(pl.col("domain") != 2)
    first = bins_of_frame(rows, table=table(5))[0]
    assert (first.domains, first.rows) == (1, 0)
    assert first.metrics.items() >= {"auc": None, "gauc": None, "gauc_coverage": 0.0}.items()


def test_bins_without_domains_are_included() -> None:
    small = DomainTable(domain=[0, 1], rows_train=[0, 9], num_bins=2)
    bins = bins_of_frame(predictions().filter(pl.col("domain") == 1), table=small)
    assert [part.domains for part in bins] == [0, 1]


def test_without_predictions_bins_have_means_over_domains_alone() -> None:
    domains = GroupMetrics(
        group=np.array([1, 2]),
        rows=np.array([30, 10]),
        positives=np.array([3, 0]),
        values={"auc": np.array([0.75, np.nan])},
    )
    small = DomainTable(domain=[1, 2], rows_train=[5, 5], num_bins=1)
    (part,) = bin_metrics(domains, None, table=small, metrics=builtin_metrics())
    assert part.metrics.items() >= {"auc": None, "gauc": 0.75, "gauc_coverage": 0.75}.items()
    assert part.rows == 40


def test_a_domain_that_the_table_lacks_is_refused() -> None:
    small = DomainTable(domain=range(6), rows_train=[0, 1, 1, 1, 1, 1], num_bins=2)
    with pytest.raises(DataError, match="1 unknown, the first is 6"):
        bins_of_frame(predictions(), table=small)
