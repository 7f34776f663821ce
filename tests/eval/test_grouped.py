from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from ctrbench.errors import CtrbenchError, DataError
from ctrbench.eval.arrays import auc
from ctrbench.eval.grouped import average, group_metrics, overall
from ctrbench.eval.metrics.base import GroupTotals
from ctrbench.eval.metrics.registry import builtin_metrics
from ctrbench.names import Column

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.integers(-6, 6).map(lambda n: n / 4)),
    min_size=1,
    max_size=60,
)


def frame(**columns: object) -> pl.DataFrame:
    types = {Column.LABEL: pl.Int8, Column.DOMAIN: pl.Int32, Column.USER: pl.Int32, Column.SCORE: pl.Float32}
    return pl.DataFrame(columns, schema_overrides={name: types[name] for name in columns if name in types})


def random_rows(num_rows: int = 3_000, num_groups: int = 300, *, decimals: int = 1) -> pl.DataFrame:
    """Return few rows per domain and few distinct scores, so that single-class domains and ties are common."""
    rng = np.random.default_rng(7)
    score = rng.normal(-1.5, 1.0, num_rows).round(decimals).astype(np.float32)
    return frame(
        domain=rng.integers(0, num_groups, num_rows),
        user=rng.integers(0, 50, num_rows),
        label=rng.random(num_rows) < expit(score),
        score=score,
    )


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_metrics_of_a_group_are_those_of_its_rows_alone(rows: list[tuple[int, bool, float]]) -> None:
    group, label, score = (np.array(column) for column in zip(*rows, strict=True))
    groups = group_metrics(group, label, score)
    alone = [auc(label[group == id_], score[group == id_]) for id_ in groups.group]
    expected = [np.nan if value is None else value for value in alone]
    assert groups.group.tolist() == sorted(set(group.tolist()))
    assert groups.values["auc"].tolist() == pytest.approx(expected, nan_ok=True)


def test_gauc_equals_a_loop_over_scikit_learn() -> None:
    rows = random_rows()
    parts = [part for _, part in rows.group_by("domain") if part["label"].n_unique() == 2]
    aucs = [roc_auc_score(part["label"], part["score"]) for part in parts]
    sizes = [part.height for part in parts]
    values = overall(rows)
    assert 0 < len(parts) < rows["domain"].n_unique()
    assert values["gauc"] == pytest.approx(np.average(aucs, weights=sizes), abs=1e-12)
    assert values["gauc_unweighted"] == pytest.approx(np.mean(aucs), abs=1e-12)
    assert values["gauc_coverage"] == pytest.approx(sum(sizes) / rows.height, abs=1e-12)


def test_gauc_by_hand() -> None:
    # Domain 1: 4 rows, AUC 2.5 / 4. Domain 2: 2 rows, AUC 0. Domain 3: one class, 4 rows.
    rows = frame(
        domain=[1] * 4 + [2] * 2 + [3] * 4,
        label=[0, 1, 0, 1, 1, 0, 0, 0, 0, 0],
        score=[1, 1, 4, 8, 0, 1, 5, 6, 7, 8],
    )
    values = overall(rows)
    assert values["gauc"] == pytest.approx((4 * 0.625 + 2 * 0.0) / 6)
    assert (values["gauc_unweighted"], values["gauc_coverage"]) == (0.3125, 0.6)


def test_gauc_without_a_domain_of_both_classes_is_undefined() -> None:
    values = overall(frame(domain=[1, 2], label=[0, 1], score=[0, 0]))
    assert (values["gauc"], values["gauc_unweighted"], values["gauc_coverage"]) == (None, None, 0.0)


@pytest.mark.parametrize(("low", "high"), [(-5, 3), (3, 2**60)])
def test_groups_may_have_any_ids(low: int, high: int) -> None:
    groups = group_metrics([high, low, high, low], [1, 0, 0, 1], [1.0, 2.0, 0.0, 1.0])
    assert (groups.group.tolist(), groups.values["auc"].tolist()) == ([low, high], [0.0, 1.0])


def test_auc_is_independent_of_the_order_of_rows() -> None:
    rows = random_rows(decimals=7)
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=3)
    first, second = (
        group_metrics(part["domain"], part["label"], part["score"]).values["auc"] for part in (rows, shuffled)
    )
    assert first.tobytes() == second.tobytes()
    assert auc(rows["label"], rows["score"]) == auc(shuffled["label"], shuffled["score"])


def test_logloss_of_a_group_is_the_mean_of_its_rows() -> None:
    groups = group_metrics([4, 9, 9], [1, 0, 1], [0.0, np.log(3), np.log(3)])
    assert groups.values["logloss"].tolist() == pytest.approx([np.log(2), (np.log(4) + np.log(4 / 3)) / 2])


def test_pcoc_is_predicted_over_observed_clicks() -> None:
    # Predicted 0.5 + 0.75 against one click, 0.25 against none, 0.5 against one.
    rows = frame(domain=[1, 1, 2, 3], label=[1, 0, 0, 1], score=[0.0, np.log(3), -np.log(3), 0.0])
    groups = group_metrics(rows["domain"], rows["label"], rows["score"])
    values = overall(rows)
    assert groups.values["pcoc"].tolist() == pytest.approx([1.25, np.nan, 0.5], nan_ok=True)
    assert values["pcoc"] == pytest.approx(2.0 / 2)
    assert values["pcoc_error"] == pytest.approx((2 * 0.25 + 1 * 0.5) / 3)
    assert values["pcoc_coverage"] == 0.75


def test_ne_of_the_base_rate_is_one() -> None:
    rows = frame(domain=[1, 1, 1, 1], label=[0, 0, 0, 1], score=[logit(0.25)] * 4)
    assert overall(rows)["ne"] == pytest.approx(1.0)


def test_user_gauc_leaves_out_rows_of_unseen_users() -> None:
    rows = frame(domain=[1] * 6, user=[0, 0, 7, 7, 8, 8], label=[1, 0, 0, 1, 0, 0], score=[0, 1, 0, 1, 0, 1])
    values = overall(rows)
    assert (values["user_gauc"], values["user_gauc_coverage"]) == (1.0, pytest.approx(2 / 6))


def test_user_gauc_without_seen_users_is_undefined() -> None:
    values = overall(frame(domain=[1, 1], user=[0, 0], label=[1, 0], score=[0, 1]))
    assert (values["user_gauc"], values["user_gauc_coverage"]) == (None, 0.0)


def test_the_unseen_domain_is_a_group() -> None:
    values = overall(frame(domain=[0, 0, 1, 1], label=[1, 0, 0, 1], score=[0, 1, 0, 1]))
    assert (values["gauc"], values["gauc_coverage"]) == (0.5, 1.0)


def test_metrics_are_left_out_without_the_columns_that_they_need() -> None:
    bare = frame(domain=[1, 1], label=[0, 1], score=[0, 1])
    full = bare.with_columns(user=pl.lit(1), probability=pl.lit(0.5))
    every = builtin_metrics().by_name.keys()
    assert overall(bare).keys() == every - {"user_gauc", "user_gauc_coverage", "expected_logloss"}
    assert overall(full).keys() == every


def test_undefined_metrics_are_none() -> None:
    values = overall(frame(domain=[1, 1], label=[0, 0], score=[0, 1]))
    undefined = {name for name, value in values.items() if value is None}
    assert undefined == {"ne", "auc", "gauc", "gauc_unweighted", "pcoc", "pcoc_error"}
    assert values["pcoc_coverage"] == 0.0


def test_without_rows_every_metric_is_undefined() -> None:
    values = overall(random_rows().clear().with_columns(probability=pl.lit(0.5)))
    assert {value for name, value in values.items() if not name.endswith("coverage")} == {None}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(bad: float) -> None:
    with pytest.raises(CtrbenchError, match="finite numbers: 2 of 3 are NaN or infinite"):
        overall(frame(domain=[1, 1, 1], label=[0, 1, 1], score=[bad, 0.0, bad]))


def test_expected_logloss_is_cross_entropy_against_the_probability() -> None:
    p = np.array([0.1, 0.6])
    rows = frame(domain=[1, 1], label=[0, 1], score=[0.5, -1.0], probability=p)
    guess = expit([0.5, -1.0])
    expected = np.mean(-p * np.log(guess) - (1 - p) * np.log(1 - guess))
    assert overall(rows)["expected_logloss"] == pytest.approx(expected)


def test_totals_of_disjoint_groups_add_up() -> None:
    rows = random_rows()
    groups = group_metrics(rows["domain"], rows["label"], rows["score"])
    parts = [groups.select(groups.group % 3 == remainder) for remainder in range(3)]
    total = sum((GroupTotals.of(part.values["auc"], part.rows) for part in parts), GroupTotals())
    assert vars(total) == pytest.approx(vars(GroupTotals.of(groups.values["auc"], groups.rows)), rel=1e-12)


def test_average_over_seeds_keeps_undefined_groups() -> None:
    first = group_metrics([1, 1, 2], [0, 1, 0], [0.0, 1.0, 0.0])
    second = group_metrics([1, 1, 2], [0, 1, 0], [1.0, 0.0, 0.0])
    assert average([first, second]).values["auc"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)


def test_average_needs_the_same_rows() -> None:
    first = group_metrics([1, 1, 2], [0, 1, 0], [0.0, 1.0, 0.0])
    with pytest.raises(DataError, match="same test rows: 3 rows in 2 domains against 4 in 2"):
        average([first, replace(first, rows=np.array([2, 2]))])


def test_select_keeps_marked_groups() -> None:
    groups = group_metrics([1, 2, 3], [0, 1, 0], [0.0, 0.0, 0.0]).select(np.array([True, False, True]))
    assert (groups.group.tolist(), groups.positives.tolist()) == ([1, 3], [0, 0])
    assert groups.values["logloss"].tolist() == pytest.approx([np.log(2)] * 2)
